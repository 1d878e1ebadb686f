#!/usr/bin/env bash
# Builds static binaries: static.sh NAME…, into target/$TARGET/$PROFILE/. Static, because the operator puts its
# own binary into proxy images of any distribution.
source "$(dirname "$0")/lib.sh"
have cargo || die "the Rust toolchain is missing: https://rustup.rs"
need cc=gcc
TARGET=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
arguments=()
for name in "$@"; do arguments+=(--bin "$name"); done
# The target is named so that the flag reaches no build script, and so that a developer's own build is left alone.
RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --locked --profile "${PROFILE:-image}" --target "$TARGET" "${arguments[@]}"
