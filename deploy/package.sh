#!/usr/bin/env bash
# Makes what is installed of a build: target/dist/stentor, stripped, and target/dist/stentor.debug, its debug information.
#
#   deploy/package.sh [PROGRAM]     the program: target/release/stentor
#
# `strip` in the profile would throw the line tables away; here they are kept in a file that is found by the program's debug link.
# docs/operations.md says how backtraces use it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
program=${1:-$target/release/stentor}
dist=$target/dist
[ -x "$program" ] || { echo "there is no $program: cargo build --release makes it" >&2; exit 1; }
mkdir -p "$dist"
objcopy --only-keep-debug --compress-debug-sections=zlib "$program" "$dist/stentor.debug"
chmod 644 "$dist/stentor.debug"
# Symbols stay: they are the names in a backtrace when the debug file is not there.
objcopy --strip-debug "$program" "$dist/stentor"
(cd "$dist" && objcopy --add-gnu-debuglink=stentor.debug stentor)
du -h --apparent-size "$dist/stentor" "$dist/stentor.debug"
