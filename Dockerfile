# One image for every role: `roundtrip serve` runs them all, `serve --role dispatcher` one.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The builder caches the crates and the target folder between builds; only the executable is copied
# out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --package roundtrip \
    && cp target/dist/roundtrip /usr/local/bin/roundtrip

FROM debian:bookworm-slim
# The root certificates for https, amqps and MongoDB with TLS; the slim image has none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/roundtrip /usr/local/bin/roundtrip
# A numeric id, so that Kubernetes can verify that it is not root. The embedded engines keep their files
# in data/ below the working folder.
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/roundtrip --create-home roundtrip \
    && install --directory --owner=10001 --group=10001 /var/lib/roundtrip/data
USER 10001:10001
WORKDIR /var/lib/roundtrip
VOLUME /var/lib/roundtrip/data
# 8000: the API. 8001: /healthz, /readyz and /metrics.
EXPOSE 8000 8001
# The image has no HTTP client; bash opens the connection itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8001 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
ENTRYPOINT ["roundtrip"]
CMD ["serve"]
