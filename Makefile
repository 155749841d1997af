# `make` alone lists what there is. Only a Rust toolchain and a C compiler are needed for `demo`; `test` installs what
# it misses.

CARGO ?= cargo

.PHONY: help demo test lint scale soak tuned bench bench-setup bench-guard image-check

help:
	@echo 'make demo          sign up, call, log out, be refused: the whole story on this machine'
	@echo 'make test          every test (installs python3-venv on Debian when it is missing)'
	@echo 'make lint          format, clippy, documentation, shell syntax; warnings are errors'
	@echo 'make scale         what docs/performance.md promises, measured on this machine: some fifteen minutes, 10 GB of disk'
	@echo 'make soak          a fleet under random faults, its history checked: half an hour (SOAK_SECONDS=900 on each of the engines)'
	@echo 'make bench         speed beside HAProxy and NGINX, on this machine alone: the table of docs/performance.md; half an hour'
	@echo 'make tuned         target/tuned/portcullis: the release build, laid out by what it does under load; some twelve minutes'
	@echo 'make bench-guard   instructions a request (valgrind): fails where they have grown by more than 3 %'
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

# Peers from Debian and PyPI, keys and tokens, into ~/.cache/portcullis-bench; once.
bench-setup:
	bench/bench setup --only haproxy,nginx --no-costs

# In parts: bench/bench final --scenario bare,hs256-many; bench/bench log, rate, counts, growth, memory; bench/README.md.
bench: tuned
	bench/bench final --binary target/tuned/portcullis

# The release build, laid out by what it does under load: target/tuned/portcullis; some twelve minutes.
tuned: bench-setup
	scripts/tuned

# Of the profile whose build does not take minutes of link-time optimization: a change shows in either.
bench-guard: bench-setup
	$(CARGO) build --quiet --locked --profile bench-fast
	bench/bench guard --binary target/bench-fast/portcullis

image-check:
	scripts/image-check
