# syntax=docker/dockerfile:1
# The worker and nothing else: not root, nothing to write to. `docker compose up --build` builds and shows it.
FROM rust:1.89.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin qris-cancel-worker && cp target/release/qris-cancel-worker /usr/local/bin/

# For the health checks: one static file that is only called as wget.
FROM busybox:1.37.0-musl AS busybox

# Debian 12's C library and the public certificate authorities, without a shell or a package manager. It has no versions but digests.
FROM gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
COPY --from=busybox /bin/busybox /usr/local/bin/wget
COPY --from=build /usr/local/bin/qris-cancel-worker /usr/local/bin/qris-cancel-worker
USER 65532:65532
# Settings, keys and secrets are mounted, logs go to standard error, all state is in RabbitMQ.
ENV QRIS_CANCEL_CONFIG=/etc/qris-cancel/worker.toml
EXPOSE 9464
# Alive, not ready: to start a worker anew mends no broker.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["/usr/local/bin/wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9464/livez"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/qris-cancel-worker"]
CMD ["run"]
