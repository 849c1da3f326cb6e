# syntax=docker/dockerfile:1
#
#   docker build -t sekisho .
#   docker run -d --name sekisho -p 127.0.0.1:8080:8080 -v sekisho:/var/lib/sekisho \
#       -e SEKISHO_SERVER__PUBLIC_ORIGIN=https://app.example.org sekisho
#   docker exec -i sekisho sekisho user create --email ada@example.org --password-stdin <password.txt
#
# The public origin is what browsers see, so only the operator knows it; it is required. Routes come
# from a file: add -v ./sekisho.toml:/etc/sekisho/sekisho.toml:ro. The image settles server.listen, which
# the file can't change; database and keys are below /var/lib/sekisho/data unless the file says otherwise.

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The crates fetched and compiled outlive the layer, so that a change of ours compiles ours alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --bin sekisho && \
    install target/dist/sekisho /usr/local/bin/sekisho

FROM debian:bookworm-slim
# The authorities that https upstreams and PostgreSQL over TLS are checked against.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/sekisho /usr/local/bin/sekisho
# A number, not a name, so that an orchestrator can see that it isn't root. A new volume takes over
# the owner of the folder.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/sekisho
USER 10001:10001
WORKDIR /var/lib/sekisho
VOLUME /var/lib/sekisho
# No more than this: the environment wins over a mounted file, so a database named here would be used
# instead of the file's.
ENV SEKISHO_SERVER__LISTEN=0.0.0.0:8080
EXPOSE 8080
# Asks the admin listener, which stays inside.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["sekisho", "healthcheck"]
ENTRYPOINT ["sekisho"]
CMD ["serve"]
