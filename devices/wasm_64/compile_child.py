"""The process that compiles images. Started as a script of its own, it imports nothing of hyperpy.

Frames on the standard input are four bytes of length, four of processor seconds allowed, and an image; on the
standard output a length and one byte, ``M`` before a serialised module or ``E`` before why there is none. What
takes too much ends the process, which the other side sees. It ends too when nobody asked for a while, and when the
other side closes the input, whatever it is doing.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wasmtime import Config

STACK = 512 << 10
"""Bytes of a guest's call stack."""
ADDRESS_SPACE = 2 << 30
"""Bytes that compiling may take."""
IDLE_S = 30


def config() -> Config:
    """Return what every engine here is made with: 64-bit memory, counted steps, one NaN, no threads."""
    from wasmtime import Config

    made = Config()
    made.wasm_memory64 = True
    made.wasm_exceptions = True
    made.wasm_threads = False
    made.wasm_multi_memory = False
    made.wasm_relaxed_simd_deterministic = True
    made.cranelift_nan_canonicalization = True
    made.consume_fuel = True
    made.epoch_interruption = True
    made.max_wasm_stack = STACK
    return made


def main() -> None:
    """Compile what comes, until nothing does."""
    from wasmtime import Engine, Module, WasmtimeError

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    os.nice(5)
    threading.Thread(target=_end_with_host, daemon=True).start()
    engine = Engine(config())
    while select.select([0], [], [], IDLE_S)[0]:
        size, seconds = int.from_bytes(_exactly(4), "big"), int.from_bytes(_exactly(4), "big")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(usage.ru_utime + usage.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, resource.RLIM_INFINITY))
        try:
            found = b"M" + Module(engine, _exactly(size)).serialize()
        except WasmtimeError as error:
            found = b"E" + str(error).encode()
        view = memoryview(len(found).to_bytes(4, "big") + found)
        while view:
            view = view[os.write(1, view) :]


def _end_with_host() -> None:
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    os._exit(0)


def _exactly(size: int) -> bytes:
    made = bytearray()
    while len(made) < size:
        part = os.read(0, min(1 << 20, size - len(made)))
        if not part:
            sys.exit(0)
        made += part
    return bytes(made)


if __name__ == "__main__":
    main()
