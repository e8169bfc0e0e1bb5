#!/usr/bin/env bash
# Makes `cargo build --target wasm32-wasip2` possible on this machine. Running it again does nothing.
#
#   guest-target.sh [DIR]      DIR keeps what had to be built; default: .guest-toolchain
#
# In this order:
#   1. rustc has the target already                         nothing to do
#   2. rustup can add it                                    rustup target add      (not with MCPP_NO_RUSTUP=1)
#   3. Debian or Ubuntu with apt and nothing else           a compiler and the standard library's source from the distribution, std built once into
#                                                           a sysroot of our own, libc from the first suite whose wasi-libc knows the target
# DIR/guest-env.sh then sets what a build of guests needs; it is empty after 1 and 2.
set -euo pipefail

TARGET=wasm32-wasip2
DIR=$(mkdir -p "${1:-.guest-toolchain}" && cd "${1:-.guest-toolchain}" && pwd)
ENVIRONMENT=$DIR/guest-env.sh

say() { echo "guest target: $*" >&2; }
fail() { say "$*"; exit 1; }
has_target() { compgen -G "$("$1" --print target-libdir --target "$TARGET" 2>/dev/null)/libstd-*.rlib" >/dev/null; }

# Only one of several builds that start at once does the work.
exec 9>"$DIR/lock"
command -v flock >/dev/null && flock 9

if has_target rustc; then
  : >"$ENVIRONMENT"
  exit 0
fi
if [ "${MCPP_NO_RUSTUP:-}" != 1 ] && command -v rustup >/dev/null; then
  say "adding $TARGET with rustup"
  if timeout 300 rustup target add "$TARGET" >&2 && has_target rustc; then
    : >"$ENVIRONMENT"
    exit 0
  fi
fi
if [ -s "$ENVIRONMENT" ] && (. "$ENVIRONMENT" && [ -x "$RUSTC" ] && [ -d "$MCPP_GUEST_SYSROOT" ] && [ "$("$RUSTC" -V)" = "$MCPP_GUEST_RUSTC_VERSION" ]); then
  exit 0
fi

command -v apt-get >/dev/null || fail "no way to get $TARGET here; type: rustup target add $TARGET"
say "no rustup target; building the standard library from the distribution's compiler (two minutes, once)"
TOOLCHAIN_BIN=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
[ -x "$TOOLCHAIN_BIN/wasm-component-ld" ] || fail "this Rust has no wasm-component-ld; type: rustup target add $TARGET"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if ! [ -x /usr/bin/rustc ] || ! [ -d /usr/lib/rustlib/src/rust/library ]; then
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustc-web rust-web-src >/dev/null ||
    fail "could not install rustc-web and rust-web-src; type: rustup target add $TARGET"
fi
GUEST_RUSTC=/usr/bin/rustc
VERSION=$("$GUEST_RUSTC" -vV | sed -n 's/^release: //p')
SYSROOT=$DIR/sysroot-$VERSION
LIBRARIES=$SYSROOT/lib/rustlib/$TARGET/lib

# The libc for the target is newer than the oldest suites: look through later suites of the mirror that apt uses already, apart from the system's own lists.
fetch_libc() {
  local apt=$DIR/apt uri suite
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc,prefs}
  : >"$apt/status"
  uri=$(awk '$1=="URIs:"{u=$2} $1=="Suites:"&&!done{print u; done=1}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
  [ -n "$uri" ] || uri=$(awk '$1=="deb"{for(i=2;i<=NF;i++) if($i ~ /^https?:/ && $i ~ /debian\/?$/){print $i; exit}}' /etc/apt/sources.list)
  cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/etc";
Dir::Etc::preferencesparts "$apt/prefs";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
CONF
  for suite in trixie trixie-backports forky; do
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
      "$uri" "$suite" >"$apt/etc/later.sources"
    rm -rf "$apt/unpacked" && mkdir -p "$apt/unpacked"
    if apt-get -qq -c "$apt/apt.conf" update 2>/dev/null &&
      (cd "$apt/unpacked" && apt-get -qq -c "$apt/apt.conf" download wasi-libc 2>/dev/null) &&
      dpkg -x "$apt"/unpacked/wasi-libc_*.deb "$apt/unpacked" && [ -e "$apt/unpacked/usr/lib/$TARGET/libc.a" ]; then
      cp "$apt/unpacked/usr/lib/$TARGET"/{libc.a,crt1-command.o,crt1-reactor.o} "$LIBRARIES/self-contained/"
      rm -rf "$apt"
      return 0
    fi
  done
  return 1
}

build_std() {
  local build=$DIR/std-build remap="--remap-path-prefix=$DIR=guest-toolchain" registry
  # A component should say nothing of the machine that built it.
  for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do remap+=" --remap-path-prefix=${registry%/}=deps"; done
  rm -rf "$build" && mkdir -p "$build/src"
  : >"$build/src/lib.rs"
  printf '[package]\nname = "std_build"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$build/Cargo.toml"
  (cd "$build" && env -u CARGO_BUILD_TARGET -u CARGO_ENCODED_RUSTFLAGS RUSTC="$GUEST_RUSTC" RUSTC_BOOTSTRAP=1 \
    RUSTFLAGS="-Cembed-bitcode=yes -Cdebuginfo=0 $remap" PATH="$TOOLCHAIN_BIN/gcc-ld:$PATH" CARGO_TARGET_DIR="$build/target" \
    cargo build -q --release -Zbuild-std=std,panic_abort --target "$TARGET" >&2)
  for library in "$build/target/$TARGET/release/deps"/*.rlib; do
    case $library in *std_build*) ;; *) cp "$library" "$LIBRARIES/" ;; esac
  done
  rm -rf "$build"
}

if ! [ -e "$SYSROOT/.done" ]; then
  rm -rf "$SYSROOT" && mkdir -p "$LIBRARIES/self-contained"
  fetch_libc || fail "found no wasi-libc for $TARGET; type: rustup target add $TARGET"
  ln -s "/usr/lib/rustlib/$("$GUEST_RUSTC" -vV | sed -n 's/^host: //p')" "$SYSROOT/lib/rustlib/"
  build_std
  touch "$SYSROOT/.done"
fi
cat >"$ENVIRONMENT" <<ENV
export RUSTC=$GUEST_RUSTC
export MCPP_GUEST_SYSROOT=$SYSROOT
export MCPP_GUEST_RUSTC_VERSION="$("$GUEST_RUSTC" -V)"
export CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="--sysroot=$SYSROOT"
export CARGO_TARGET_WASM32_WASIP2_LINKER=$TOOLCHAIN_BIN/wasm-component-ld
export PATH=$TOOLCHAIN_BIN/gcc-ld:\$PATH
ENV
say "ready: std $VERSION in $SYSROOT"
