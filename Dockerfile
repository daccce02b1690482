# Selvedge in one image, for every role: the binary, and `nft` for `selvedge redirect`. No shell.
#
#   docker build -t selvedge .
#
# Runs as nobody with a read-only root; only the init container of redirection needs more
# (docs/kubernetes.md).

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p selvedge \
    && cp target/release/selvedge /selvedge

FROM debian:12-slim AS nft
RUN apt-get update && apt-get install -y --no-install-recommends nftables
COPY deploy/closure /closure
RUN /closure /image /usr/sbin/nft

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=nft /image/ /
COPY --from=build /selvedge /selvedge
USER 65532:65532
# Health, readiness and metrics; 15000 (admin) answers to its own machine only.
EXPOSE 15020
# Sidecars and gateways; orchestrators with probes of their own ignore it.
HEALTHCHECK --interval=5s --timeout=2s --start-period=30s CMD ["/selvedge", "ready"]
ENTRYPOINT ["/selvedge"]
