#!/bin/sh
# Builds calculator.wasm. Debian: apt-get install clang lld
set -e
cd "$(dirname "$0")"
clang --target=wasm64 -O2 -nostdlib -ffreestanding -fno-builtin -Wall -Wextra \
    -Wl,--no-entry -Wl,-z,stack-size=16384 -Wl,--strip-all \
    -o calculator.wasm calculator.c
