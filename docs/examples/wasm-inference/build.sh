#!/bin/sh
# Builds answerer.wasm, or the file named as first argument. Debian: apt-get install clang lld
set -e
here=$(cd "$(dirname "$0")" && pwd)
clang --target="${TARGET:-wasm64}" -O2 -nostdlib -ffreestanding -fno-builtin -Wall -Wextra \
    -Wl,--no-entry -Wl,-z,stack-size=16384 -Wl,--strip-all \
    -o "${1:-$here/answerer.wasm}" "$here/answerer.c"
