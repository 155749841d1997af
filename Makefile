# `make` alone lists what there is. Only a Rust toolchain and a C compiler are needed for `demo`; `test` installs what
# it misses.

CARGO ?= cargo

.PHONY: help demo test lint scale soak image-check

help:
	@echo 'make demo          sign up, call, log out, be refused: the whole story on this machine'
	@echo 'make test          every test (installs python3-venv on Debian when it is missing)'
	@echo 'make lint          format, clippy, documentation, shell syntax; warnings are errors'
	@echo 'make scale         what docs/performance.md promises, measured on this machine: some fifteen minutes, 10 GB of disk'
	@echo 'make soak          a fleet under random faults, its history checked: half an hour (SOAK_SECONDS=900 on each of the engines)'
	@echo 'make image-check   build the Dockerfile and run the image, without a container engine (root, Debian)'

demo:
	$(CARGO) run --quiet --locked -- demo

test:
	scripts/test-needs
	scripts/test

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --locked --no-deps
	for script in .ci/run scripts/*; do bash -n "$$script" || exit 1; done

# In parts, or at other sizes: cargo bench --bench scale -- durable lines --seconds 5
scale:
	$(CARGO) bench --locked --bench scale
	$(CARGO) bench --locked --bench live
	$(CARGO) bench --locked --bench refresh

# The short run of it is part of `make test`. The seed is printed; PORTCULLIS_TEST_SEED has it again.
SOAK_SECONDS ?= 900
soak:
	scripts/test-needs
	PORTCULLIS_SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test faults -- history:: --nocapture --test-threads=1

image-check:
	scripts/image-check
