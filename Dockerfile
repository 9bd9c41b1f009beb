# One image for every role: `roundtrip serve` runs them all, `serve --role dispatcher` one.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The builder caches the crates and the target folder between builds; only the executable is copied
# out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --package roundtrip \
    && cp target/dist/roundtrip /usr/local/bin/roundtrip \
    && mkdir /data

# What the executable needs and nothing else: the C library of the same Debian, libgcc, and the root
# certificates for https, amqps and MongoDB with TLS. It has no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
# The commit: docker build --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=
LABEL org.opencontainers.image.title="Roundtrip" \
    org.opencontainers.image.description="A channel-webhook gateway" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
COPY --from=build /usr/local/bin/roundtrip /usr/local/bin/roundtrip
# The embedded engines keep their files in data/ below the working folder.
COPY --from=build --chown=10001:10001 /data /var/lib/roundtrip/data
# A numeric id, so that Kubernetes can verify that it is not root.
USER 10001:10001
WORKDIR /var/lib/roundtrip
VOLUME /var/lib/roundtrip/data
# 8000: the API. 8001: /healthz, /readyz and /metrics.
EXPOSE 8000 8001
# It ends by itself within 5 s.
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s --retries=3 CMD ["roundtrip", "healthcheck"]
ENTRYPOINT ["roundtrip"]
CMD ["serve"]
