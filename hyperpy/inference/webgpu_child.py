"""The process that holds a GPU: reads requests from its standard input, answers on its standard output.

A frame is a length (u32 LE) and msgpack. The first says which adapter and which model; see :class:`Served`.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any, BinaryIO, Final

import msgpack  # type: ignore[import-untyped]
import numpy as np

from hyperpy.errors import HyperpyError
from hyperpy.inference.model import Config, Model
from hyperpy.inference.weights import Matrix, Norm, Weight

MAX_FRAME: Final = 1 << 30


def read(stream: BinaryIO) -> Any:
    """Return the next frame; None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("<I", head)
    data = stream.read(size)
    return msgpack.unpackb(data, max_bin_len=MAX_FRAME, strict_map_key=False) if len(data) == size else None


def write(stream: BinaryIO, value: Any) -> None:
    """Write a frame."""
    data = msgpack.packb(value)
    stream.write(struct.pack("<I", len(data)))
    stream.write(data)
    stream.flush()


def packed(weight: Weight) -> list[Any]:
    """Return a weight as a frame holds it."""
    if isinstance(weight, Norm):
        return ["norm", weight.eg, weight.g.astype("<i4").tobytes()]
    kinds = [part.dtype.str for part in (weight.q, weight.d, weight.m, weight.rm, weight.re)]
    return ["matrix", list(weight.shape), kinds, [part.tobytes() for part in weight.parts()]]


def unpacked(found: list[Any]) -> Weight:
    """Return the weight of a frame."""
    if found[0] == "norm":
        return Norm(np.frombuffer(found[2], "<i4"), found[1])
    (rows, columns), kinds, parts = found[1:]
    q, d, m, rm, re = (np.frombuffer(part, kind) for part, kind in zip(parts, kinds, strict=True))
    return Matrix(q.reshape(rows, columns), d.reshape(rows, -1), m.reshape(rows, -1), rm, re)


class Served:
    """Answers frames. Each request is a list that begins with a word."""

    def __init__(self) -> None:
        self._weights: dict[str, Weight] = {}
        self._caches: dict[int, Any] = {}
        self._forward: Any = None
        self._numbers = 0

    def adapters(self) -> Any:
        """Return [name, type] of each adapter."""
        from hyperpy.inference import webgpu_device

        return [[webgpu_device.named(one), one.info["adapter_type"]] for one in webgpu_device.adapters()]

    def weight(self, name: str, found: list[Any]) -> Any:
        """Take one weight."""
        self._weights[name] = unpacked(found)
        return None

    def ready(self, config: dict[str, Any], ident: bytes, adapter: str) -> Any:
        """Check the adapter on the toy model, then load the weights taken; return the adapter's name and type."""
        from hyperpy.inference import engines, webgpu_device

        found = webgpu_device.pick(adapter)
        gpu = webgpu_device.Gpu(found)
        toy = webgpu_device.Forward(engines.toy_model(), gpu)
        engines.self_test(toy)
        self._forward = webgpu_device.Forward(Model(Config(**config), self._weights, ident), gpu)
        self._weights = {}
        return [gpu.name, found.info["adapter_type"]]

    def new(self) -> Any:
        """Return the number of a new session."""
        self._numbers += 1
        self._caches[self._numbers] = self._forward.cache()
        return self._numbers

    def free(self, numbers: list[int]) -> Any:
        """Forget sessions."""
        for number in numbers:
            self._caches.pop(number, None)
        return None

    def truncate(self, number: int, positions: int) -> Any:
        """Shorten a session."""
        self._caches[number].truncate(positions)
        return None

    def forward(self, number: int, ids: list[int], every: bool) -> Any:
        """Read tokens; return the logits as i32 LE."""
        return self._forward.forward(ids, self._caches[number], every).astype("<i4").tobytes()


def main() -> None:
    """Answer until the other side goes."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    served = Served()
    while (frame := read(sys.stdin.buffer)) is not None:
        try:
            write(out, ["ok", getattr(served, frame[0])(*frame[1:])])
        except HyperpyError as error:
            write(out, ["error", type(error).__name__, error.message, error.hint or ""])
        except Exception as error:
            write(out, ["error", "", f"{type(error).__name__}: {error}"[:500], ""])
