# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Installs the Debian packages that provide the given commands, as "command:package". Asks nothing; does nothing when all are there.
need() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" -eq 0 ] || die "needs the packages ${missing[*]}: run as root, or: apt-get install ${missing[*]}"
    command -v apt-get >/dev/null || die "needs ${missing[*]}: install them with this system's package manager"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Whoever called sudo: what root built in a person's tree or cargo cache, that person could not replace or clean any more.
builder=$(id -un)
if [ "$(id -u)" -eq 0 ]; then builder=${SUDO_USER:-$builder}; fi
builder_home=$(getent passwd "$builder" | cut -d: -f6)

as_builder() {
    if [ "$builder" = "$(id -un)" ]; then "$@"; else runuser -u "$builder" -- env HOME="$builder_home" "$@"; fi
}

# Cargo as the builder has it: `sudo` drops the PATH that rustup set.
find_cargo() {
    [ "$builder" = "$(id -un)" ] && command -v cargo >/dev/null && return 0
    if [ -x "$builder_home/.cargo/bin/cargo" ]; then
        export CARGO_HOME="${CARGO_HOME:-$builder_home/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$builder_home/.rustup}"
        export PATH="$builder_home/.cargo/bin:$PATH"
    fi
    as_builder cargo --version >/dev/null 2>&1 ||
        die "needs the Rust toolchain named in rust-toolchain.toml (rustup installs it) for user $builder"
}

# What the demonstration runs.
build_release() { as_builder cargo build --quiet --locked --release --workspace --bins; }

# Where builds go: beside the sources for a person, in a cache outside the tree for CI.
if [ -n "${CI:-}" ] && [ -z "${CARGO_TARGET_DIR:-}" ]; then
    export CARGO_TARGET_DIR="${XDG_CACHE_HOME:-/var/tmp}/adit-target"
fi
target_dir=${CARGO_TARGET_DIR:-$root/target}
