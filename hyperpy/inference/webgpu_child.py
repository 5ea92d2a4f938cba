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
from hyperpy.inference.sampler import Sampling
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
        from hyperpy.inference import webgpu_adapter

        return [[webgpu_adapter.named(one), one.info["adapter_type"]] for one in webgpu_adapter.adapters()]

    def weight(self, name: str, found: list[Any]) -> Any:
        """Take one weight."""
        self._weights[name] = unpacked(found)
        return None

    def ready(self, config: dict[str, Any], ident: bytes, adapter: str) -> Any:
        """Check the adapter on a toy of the model's kind, then load the weights; return the adapter's name and type."""
        from hyperpy.inference import engines, webgpu_adapter, webgpu_device

        found = webgpu_adapter.pick(adapter)
        gpu, model = webgpu_adapter.Gpu(found), Model(Config(**config), self._weights, ident)
        for split in (False, True):
            toy = engines.toy_model(engines.kind(model))
            engines.self_test(webgpu_device.Forward(toy, gpu, (split, split)))
        self._forward = webgpu_device.Forward(model, gpu)
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

    def prefix(self, number: int, length: int, positions: int) -> Any:
        """Return the number of a new session that begins as another."""
        self._numbers += 1
        self._caches[self._numbers] = self._session(number, length).prefix(positions)
        return self._numbers

    def forward(self, number: int, length: int, ids: list[int], every: bool) -> Any:
        """Read tokens after the first ``length`` of a session; return the logits as i32 LE."""
        return self._forward.forward(ids, self._session(number, length), every).astype("<i4").tobytes()

    def forward_many(self, ids: list[int], sessions: list[list[int]]) -> Any:
        """Read one token of each session; return the logits as i32 LE."""
        return self._forward.forward_many(ids, [self._session(*one) for one in sessions]).astype("<i4").tobytes()

    def forward_ahead(
        self, number: int, length: int, ident: int, sampling: list[Any], position: int, count: int
    ) -> Any:
        """Read a token and those chosen after it; return the logits as i32 LE, and the tokens."""
        cache = self._session(number, length)
        rows, chosen = self._forward.forward_ahead(ident, cache, Sampling(*sampling), position, count)
        return [rows.astype("<i4").tobytes(), chosen]

    def _session(self, number: int, length: int) -> Any:
        """Return a session cut to what the other side knows of it: a pass that failed may have left more."""
        cache = self._caches[number]
        cache.truncate(length)
        if cache.length != length:
            raise HyperpyError("the session is shorter than it should be")
        return cache


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
