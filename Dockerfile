# Two stages: the first has the Rust toolchain, the second only the binary and what it needs to run.
# `make image-check` really builds and runs this file on a machine without a container engine.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# `dev` compiles faster; images that are shipped take the default.
ARG PROFILE=release

# The dependencies alone, over empty sources: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
# The manifest names the benchmarks, so they have to be somewhere; nothing of them is built here.
RUN mkdir -p src benches \
 && for bench in $(sed -n '/^\[\[bench\]\]$/,/^name/s/^name = "\(.*\)"$/\1/p' Cargo.toml); do \
      echo 'fn main() {}' > "benches/$bench.rs"; \
    done \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --locked --profile "$PROFILE" \
 && rm -r src

# `touch`: cargo compares times, and the empty sources are younger than a checkout.
COPY src src
RUN find src -name '*.rs' -exec touch {} + \
 && cargo build --locked --profile "$PROFILE" \
 && case "$PROFILE" in dev) built=debug ;; *) built="$PROFILE" ;; esac \
 && cp "target/$built/portcullis" /build/portcullis

FROM debian:bookworm-slim
# Fixed numbers, so that the owner of a volume can be set from outside.
RUN groupadd --system --gid 10001 portcullis \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/portcullis --shell /usr/sbin/nologin portcullis \
 && install -d -o portcullis -g portcullis -m 0700 /var/lib/portcullis \
 && install -d -m 0755 /etc/portcullis
COPY --from=build /build/portcullis /usr/local/bin/portcullis
COPY --chmod=0644 examples/container/gateway.toml /etc/portcullis/gateway.toml

# Where gateway.toml of this image sends what it lets through; one that is mounted in its place need not use it.
ENV PORTCULLIS_UPSTREAM=http://upstream:8080
# Everything that is written goes to the volume: the root file system may be read-only (`--read-only`).
VOLUME /var/lib/portcullis
EXPOSE 8080
USER 10001:10001
WORKDIR /var/lib/portcullis
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["/usr/local/bin/portcullis", "health", "--config", "/etc/portcullis/gateway.toml"]
# SIGTERM drains: what runs is finished, then the exit status is 0. Give it longer than `drain_timeout`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "--config", "/etc/portcullis/gateway.toml"]
