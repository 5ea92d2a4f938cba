"""One WebGPU adapter with the shaders compiled, and matrices in its memory.

Used in a process of its own; see :mod:`hyperpy.inference.webgpu`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import wgpu

from hyperpy.errors import NotFound
from hyperpy.inference.shaders import source
from hyperpy.inference.weights import Matrix

LANES: Final = 64
LARGEST: Final = 128 << 20
"""Bytes of one binding by WebGPU's default limits; larger matrices are split by rows."""
_STORAGE: Final = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
_UNIFORM: Final = wgpu.BufferUsage.UNIFORM | wgpu.BufferUsage.COPY_DST

_BINDINGS: Final = {
    "rms_norm": ("norm.wgsl", (0, 1, 2, 3, 4, 5)),
    "head_norm": ("norm.wgsl", (0, 1, 4)),
    "only_quantise": ("norm.wgsl", (0, 2, 3, 4, 5)),
    "swiglu": ("norm.wgsl", (0, 1, 2, 3, 4, 5)),
    "nibble_rows": ("linear.wgsl", (0, 1, 2, 3, 4, 5, 6)),
    "byte_rows": ("linear.wgsl", (0, 1, 2, 3, 4, 5, 6)),
    "split_rows": ("linear.wgsl", (0, 1, 2, 3, 4, 5, 6)),
    "spread": ("linear.wgsl", (4, 5, 6)),
    "embed_nibbles": ("linear.wgsl", (0, 1, 2, 5, 6, 7)),
    "embed_bytes": ("linear.wgsl", (0, 1, 2, 5, 6, 7)),
    "choose": ("choose.wgsl", (0, 1, 2, 3)),
    "turn": ("attention.wgsl", (0, 1, 2, 3, 6)),
    "look": ("attention.wgsl", (0, 1, 2, 3, 4, 5, 6)),
}
"""Which file an entry point stands in, and which bindings it uses."""


class Form(NamedTuple):
    """How linear.wgsl is told to read a matrix.

    ``nibbles``, or else bytes; columns of a scale; tokens of a workgroup; ``split``: whether four lanes share a row,
    instead of a lane having four rows.
    """

    nibbles: bool = False
    group: int = 32
    tokens: int = 1
    split: bool = False

    @property
    def multiply(self) -> str:
        """Name of the entry point that multiplies."""
        return "split_rows" if self.split else "nibble_rows" if self.nibbles else "byte_rows"

    @property
    def rows(self) -> int:
        """Rows of a workgroup that multiplies."""
        return LANES if self.split else 4 * LANES

    @property
    def embed(self) -> str:
        """Name of the entry point that looks up rows."""
        return "embed_nibbles" if self.nibbles else "embed_bytes"


PLAIN: Final = Form()


def adapters() -> list[Any]:
    """Return the machine's adapters, hardware first."""
    found = wgpu.gpu.enumerate_adapters_sync()
    return sorted(found, key=lambda one: one.info["adapter_type"] == "CPU")


def named(adapter: Any) -> str:
    """Return an adapter's name: device, driver, and API."""
    info = adapter.info
    return f"{info['device']}, {info['description']}, {info['backend_type']}"


def pick(name: str = "") -> Any:
    """Return the first adapter whose name holds a text, hardware before software.

    Raises:
        NotFound: there is none.
    """
    found = adapters()
    for one in found:
        if name.lower() in named(one).lower():
            return one
    known = "; ".join(map(named, found)) or "none"
    raise NotFound(f"there is no WebGPU adapter {name!r}", hint=f"This machine has: {known}.")


class Gpu:
    """One adapter with the shaders compiled, within WebGPU's default limits."""

    def __init__(self, adapter: Any) -> None:
        self.name = named(adapter)
        self.device = adapter.request_device_sync(required_limits={})
        self._pipelines: dict[tuple[str, Form], Any] = {}

    def pipeline(self, entry: str, form: Form = PLAIN) -> Any:
        """Return a compiled entry point."""
        known = entry, form
        found = self._pipelines.get(known)
        if found is None:
            text = source("integers.wgsl") + source(_BINDINGS[entry][0])
            told = ("TOKENS", 1, form.tokens), ("GROUP", 32, form.group), ("WIDTH", 1, 2 - form.nibbles)
            for name, usual, value in told:
                text = text.replace(f"const {name} = {usual}u;", f"const {name} = {value}u;")
            module = self.device.create_shader_module(code=text)
            found = self.device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": entry})
            self._pipelines[known] = found
        return found

    def bind(self, entry: str, buffers: Sequence[Any], form: Form = PLAIN) -> Any:
        """Return a bind group; the buffers are those of the entry point's bindings, in order."""
        layout = self.pipeline(entry, form).get_bind_group_layout(0)
        entries = [
            {"binding": binding, "resource": {"buffer": buffer, "offset": 0, "size": buffer.size}}
            for binding, buffer in zip(_BINDINGS[entry][1], buffers, strict=True)
        ]
        return self.device.create_bind_group(layout=layout, entries=entries)

    def storage(self, data: Any) -> Any:
        """Return a buffer of an array, or of a number of bytes."""
        if isinstance(data, int):
            return self.device.create_buffer(size=max(data, 4), usage=_STORAGE)
        return self.device.create_buffer_with_data(data=np.ascontiguousarray(data), usage=_STORAGE)

    def uniform(self, *values: int) -> Any:
        """Return a uniform buffer of 32-bit integers."""
        made = self.device.create_buffer(size=32, usage=_UNIFORM)
        self.write(made, values)
        return made

    def write(self, buffer: Any, values: Sequence[int], offset: int = 0) -> None:
        """Write 32-bit integers, signed or not."""
        data = struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values))
        self.device.queue.write_buffer(buffer, offset, data)


class Part(NamedTuple):
    """Some rows of matrices that stand one above the other: the first, how many, their form, and their buffers."""

    first: int
    height: int
    form: Form
    weights: Any
    scales: Any
    factors: Any


class Tiles:
    """Matrices of the same input, one above the other, as ``linear.wgsl`` reads them.

    Neighbours of one form are one part; a part has at most :data:`LARGEST` bytes.
    """

    def __init__(self, gpu: Gpu, matrices: Sequence[Matrix]) -> None:
        self.columns = matrices[0].shape[1]
        self.groups = self.columns // 32
        self.rows = 0
        self.parts: list[Part] = []
        for form, alike in groupby(matrices, _form):
            whole = _stacked(list(alike))
            height, step = whole.shape[0], _most(self.columns // (1 + form.nibbles))
            for first in range(0, height, step):
                last = min(first + step, height)
                self.parts.append(Part(self.rows + first, last - first, form, *_tiles(gpu, whole, first, last, form)))
            self.rows += height


def _most(width: int) -> int:
    """Return how many rows of so many bytes a part has."""
    return max(LARGEST // width // LANES, 1) * LANES


def _form(matrix: Matrix) -> Form:
    return Form(matrix.q.dtype == np.uint8 and int(matrix.q.max(initial=0)) < 16, matrix.group)


def _stacked(matrices: Sequence[Matrix]) -> Matrix:
    if len(matrices) == 1:
        return matrices[0]
    parts = zip(*(matrix.parts() for matrix in matrices), strict=True)
    return Matrix(*(np.concatenate(part) for part in parts))


def _tiles(gpu: Gpu, matrix: Matrix, first: int, last: int, form: Form) -> tuple[Any, Any, Any]:
    """Return buffers of weights, scales and row factors of some rows, in tiles of 64."""
    groups = matrix.shape[1] // 32
    tiles = -(-(last - first) // LANES)
    pad = tiles * LANES - (last - first)

    def tiled(part: Any, width: int) -> Any:
        filled = np.concatenate([part, np.zeros((pad, *part.shape[1:]), part.dtype)]) if pad else part
        return filled.reshape(tiles, LANES, groups, width).transpose(0, 2, 1, 3)

    q: Any = matrix.q[first:last].view(np.uint8)
    if form.nibbles:
        q = q[:, ::2] | (q[:, 1::2] << 4)
    weights = np.ascontiguousarray(tiled(q, 16 if form.nibbles else 32))
    d, m = (part[first:last].astype(np.int64) & 0xFFFF for part in (matrix.d, matrix.m))
    both = d[:, ::2] | (d[:, 1::2] << 16) if form.group == 16 else d | (m << 16)
    scales = np.ascontiguousarray(tiled(both.astype(np.uint32), 1))
    factors = matrix.rm[first:last].astype(np.uint32) | (matrix.re[first:last].astype(np.uint32) << 16)
    return gpu.storage(weights), gpu.storage(scales), gpu.storage(factors)
