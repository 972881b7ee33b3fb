# Outrigger's images, for people who have Docker:
#
#   docker build --target operator -t outrigger/operator:0.1.0 .
#
# and likewise gateway, sidecar, engine-sim. Each is a static program (the sidecar: two) at the root of an empty file
# system, run as nobody in particular. `cargo xtask images` makes them without Docker, from the same programs built in the
# same way; a test compares the stages below with what it packs.

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# The target is named, so that build scripts and macros are not built static too.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    target=$(rustc -vV | sed -n 's/^host: //p') && \
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=true \
      cargo build --locked --release --bins --target "$target" \
      -p outrigger-operator -p outrigger-gateway -p outrigger-sidecar -p outrigger-helper -p outrigger-engine-sim && \
    mkdir /programs && \
    for name in operator gateway sidecar helper engine-sim; do \
      cp "target/$target/release/outrigger-$name" /programs/; \
    done

FROM scratch AS operator
COPY --from=build /programs/outrigger-operator /
USER 65532:65532
ENTRYPOINT ["/outrigger-operator"]

FROM scratch AS gateway
COPY --from=build /programs/outrigger-gateway /
USER 65532:65532
ENTRYPOINT ["/outrigger-gateway"]

FROM scratch AS sidecar
COPY --from=build /programs/outrigger-sidecar /programs/outrigger-helper /
USER 65532:65532
ENTRYPOINT ["/outrigger-sidecar"]

FROM scratch AS engine-sim
COPY --from=build /programs/outrigger-engine-sim /
USER 65532:65532
ENTRYPOINT ["/outrigger-engine-sim"]
