#!/usr/bin/env bash
# Builds guests of this workspace: `build-guest.sh PACKAGE…`. Sets up the target first where it is missing. Guests have a target folder of their own, as they may
# be built with another compiler than the host. Prints the folder with the components.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
GUESTS=${MCPP_GUEST_TARGET_DIR:-$ROOT/target/guests}
"$ROOT/tool-sdk/guest-target.sh" "$ROOT/target/guest-toolchain"
# shellcheck disable=SC1091
. "$ROOT/target/guest-toolchain/guest-env.sh"
# The variables that an outer cargo sets for its own children are not for this build.
for variable in $(compgen -e | grep -E '^(CARGO_(PKG|CFG|FEATURE|MANIFEST|MAKEFLAGS|ENCODED|PRIMARY|BIN|CRATE)|RUSTC_WRAPPER|RUSTC_WORKSPACE_WRAPPER|RUSTDOC$|RUSTFLAGS$|OUT_DIR|TARGET$|HOST$|PROFILE$|OPT_LEVEL$|DEBUG$|NUM_JOBS$|RUSTUP_TOOLCHAIN$)' || true); do
  unset "$variable"
done
# A component should say nothing of the machine that built it.
remap="--remap-path-prefix=$ROOT=mcpp"
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do remap+=" --remap-path-prefix=${registry%/}=deps"; done
# Memory that need not grow: for the host, a fresh instance whose memory grows costs two changes of page protection.
memory="-Clink-arg=--initial-memory=3145728"
export CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="${CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS:-} $remap $memory"
packages=()
for package in "$@"; do packages+=(--package "$package"); done
(cd "$ROOT" && CARGO_TARGET_DIR=$GUESTS cargo build --quiet --profile guest --target wasm32-wasip2 "${packages[@]}" >&2)
echo "$GUESTS/wasm32-wasip2/guest"
