"""Integer weights (section 4): conversion from a model file, payload bytes, ``model-id`` and ``weight-root``.

A weight is ``W[o,i] = D[o,g]*q[o,i] + M[o,g]`` with g the group of column i; the real weight is about
``W * Rm[o] * 2**-Re[o]``. Conversion rounds each group's scale and offset once and keeps the file's own ``q``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.errors import CodecError
from hyperpy.inference import blocks, trees
from hyperpy.inference.gguf import Tensor
from hyperpy.inference.tables import FQ

Ints = npt.NDArray[np.int64]
CHUNK = 1 << 22
"""Elements converted at a time, so that a big vocabulary needs little memory."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """R rows of K weights: ``q`` [R][K] u8 or i8, ``d`` ``m`` [R][K/group] i16, ``rm`` ``re`` [R]."""

    q: npt.NDArray[Any]
    d: npt.NDArray[np.int16]
    m: npt.NDArray[np.int16]
    rm: npt.NDArray[np.uint16]
    re: npt.NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        return self.q.shape[0], self.q.shape[1]

    @property
    def group(self) -> int:
        return int(self.q.shape[1]) // int(self.d.shape[1])

    def integers(self, rows: slice | Ints) -> npt.NDArray[np.int32]:
        """Return W of some rows."""
        d, m = (np.repeat(part[rows].astype(np.int32), self.group, axis=1) for part in (self.d, self.m))
        made: npt.NDArray[np.int32] = d * self.q[rows] + m
        return made

    def parts(self) -> tuple[npt.NDArray[Any], ...]:
        return self.q, self.d.astype("<i2"), self.m.astype("<i2"), self.rm.astype("<u2"), self.re

    def payload(self) -> Iterable[memoryview]:
        """Yield the bytes that are hashed and kept (4.5)."""
        for part in self.parts():
            yield np.ascontiguousarray(part).data.cast("B")

    def leaves(self) -> list[bytes]:
        """Return the digest of each row: what a fault proof opens (12, 13)."""
        rows = zip(*self.parts(), strict=True)
        return [hashlib.sha256(b"\0" + b"".join(part.tobytes() for part in row)).digest() for row in rows]


@dataclass(frozen=True, slots=True)
class Norm:
    """The weights of an RMSNorm, or a bias: ``g`` [n] i32, and their fraction bits ``eg``."""

    g: npt.NDArray[np.int32]
    eg: int

    def payload(self) -> Iterable[memoryview]:
        """Yield the bytes that are hashed and kept (4.5)."""
        yield np.ascontiguousarray(self.g.astype("<i4")).data.cast("B")
        yield memoryview(self.eg.to_bytes(4, "little", signed=True))

    def leaves(self) -> list[bytes]:
        """Return the digest of the only leaf."""
        return [hashlib.sha256(b"\0" + b"".join(self.payload())).digest()]


Weight = Matrix | Norm


def convert(tensor: Tensor) -> Weight:
    """Return a tensor of a model file as integer weights.

    Raises:
        CodecError: its shape or type is not one of HPI-1, or its numbers are beyond the bounds of 4.2.
    """
    if len(tensor.shape) == 1 and tensor.name.endswith(".bias"):
        return bias(blocks.floats(tensor).astype(np.float64), tensor.name)
    if len(tensor.shape) == 1:
        return norm(blocks.floats(tensor).astype(np.float64), tensor.name)
    if len(tensor.shape) != 2:
        raise CodecError(f"'{tensor.name}' has {len(tensor.shape)} dimensions; HPI-1 has vectors and matrices")
    rows, columns = tensor.shape
    if columns % 32:
        raise CodecError(f"'{tensor.name}' has {columns} columns, not a multiple of 32")
    step = max(1, CHUNK // columns)
    made: list[Matrix] = []
    for first in range(0, rows, step):
        last = min(rows, first + step)
        if tensor.kind in blocks.FLOATS:
            part = Tensor(tensor.name, tensor.kind, (last - first, columns), _rows(tensor, first, last))
            try:
                made.append(_from_floats(blocks.floats(part), tensor.name))
            except OverflowError:
                raise CodecError(f"'{tensor.name}' has numbers beyond HPI-1", hint="Use another model.") from None
        else:
            made.append(_fit(*blocks.decode(tensor, first, last), 0, 1, tensor.name))
    return Matrix(*(np.concatenate(parts) for parts in zip(*((p.q, p.d, p.m, p.rm, p.re) for p in made), strict=True)))


def _rows(tensor: Tensor, first: int, last: int) -> memoryview:
    size = len(tensor.data) // tensor.shape[0]
    return tensor.data[first * size : last * size]


def norm(values: npt.NDArray[np.float64], name: str) -> Norm:
    """Return norm weights as integers (4.4)."""
    eg = 24 - int(np.frexp(np.abs(values).max())[1])
    if not -100 <= eg <= 100:
        raise CodecError(f"'{name}' holds norm weights of about 2**{24 - eg}, beyond any model's")
    return Norm(_round(np.ldexp(values, eg)).astype(np.int32), eg)


def bias(values: npt.NDArray[np.float64], name: str) -> Norm:
    """Return a bias as integers in Q.16, the format of the projections that have one (5.4)."""
    if not np.abs(values).max() < 2.0 ** (31 - FQ):
        raise CodecError(f"'{name}' holds biases of 2**15 or more, beyond HPI-1")
    return Norm(_round(np.ldexp(values, FQ)).astype(np.int32), FQ)


def _round(x: npt.NDArray[np.float64]) -> Ints:
    """Return floor(x + 1/2), without the rounding that adding 1/2 in floats would do."""
    whole = np.floor(x)
    return whole.astype(np.int64) + (x - whole >= 0.5)


def _from_floats(values: npt.NDArray[np.float64], name: str) -> Matrix:
    """Quantise rows of floats to groups of 32 signed bytes (4.3).

    A group's scale is A * 2**(E-30) / 127. Scales are brought to their row's largest exponent less 28; a group
    below that has a scale under 2**-27 of the largest, so that its D is 0 whatever its bits.
    """
    groups = values.reshape(len(values), -1, 32)
    exponent = np.frexp(np.abs(groups).max(axis=2))[1].astype(np.int64)
    w = _round(np.ldexp(groups, (30 - exponent)[..., None].astype(np.int32)))
    peak = np.abs(w).max(axis=2, keepdims=True)
    q = np.sign(w) * ((254 * np.abs(w) + peak) // np.maximum(2 * peak, 1))
    highest = np.where(peak[..., 0] > 0, exponent, -(10**6)).max(axis=1)
    floor = np.where(highest == -(10**6), 0, highest) - 28
    kept = (peak[..., 0] > 0) & (exponent >= floor[:, None])
    d = np.where(kept, peak[..., 0] << np.clip(exponent - floor[:, None], 0, 28), 0)
    return _fit(q.astype(np.int8).reshape(values.shape), d, np.zeros_like(d), floor - 6, 127, name)


def _fit(q: npt.NDArray[Any], d: Ints, m: Ints, twos: Any, denominator: int, name: str) -> Matrix:
    """Round scales and offsets to i16 with a factor for each row (4.2).

    Args:
        d, m: scale and offset of each group, times ``2**twos / denominator``, in units of 2**-24.
        twos: one exponent, or one for each row.
    """
    twos = np.broadcast_to(np.asarray(twos, np.int64), len(q))
    a, b = np.abs(d).max(axis=1).tolist(), np.abs(m).max(axis=1).tolist()
    fitted = [_factor(*row, denominator) for row in zip(a, b, twos.tolist(), strict=True)]
    rm, re = (np.array(part, np.int64) for part in zip(*fitted, strict=True))
    if re.max() > 255 or re.min() < 0 or rm.max() > 65535:
        raise CodecError(f"'{name}' has a row whose scale is beyond HPI-1", hint="Use another quantisation.")
    shift = (twos + re - 23)[:, None]
    unit = (denominator * rm[:, None]) << np.maximum(-shift, 0)
    d, m = (((part << np.maximum(shift, 0)) + unit) // (2 * unit) for part in (d, m))
    made = Matrix(q, d.astype(np.int16), m.astype(np.int16), rm.astype(np.uint16), re.astype(np.uint8))
    heavy = np.abs(made.integers(slice(None))).sum(axis=1, dtype=np.int64).max() >= 2**32
    if heavy or np.abs(d).max() > 4095 or np.abs(m).max() > 32767:
        raise CodecError(f"'{name}' has a row beyond the bounds of HPI-1", hint="Use another quantisation.")
    return made


@lru_cache(maxsize=1 << 16)
def _factor(a: int, b: int, twos: int, denominator: int) -> tuple[int, int]:
    """Return (Rm, Re) for a row whose largest scale is ``a`` and largest offset ``b`` (4.2)."""
    if a == 0 and b == 0:
        return 32768, 40
    n, by = (a, 4095 * denominator) if a * 32767 >= b * 4095 else (b, 32767 * denominator)
    e = max(24, 24 + 14 - twos - n.bit_length() + by.bit_length())
    while e > 24 and _scaled(n, by, e - 1 - 24 + twos) >= 1 << 15:
        e -= 1
    while _scaled(n, by, e - 24 + twos) < 1 << 15:
        e += 1
    rm = -_scaled(-n, by, e - 24 + twos)
    return (32768, e - 1) if rm == 65536 else (rm, e)


def _scaled(n: int, by: int, twos: int) -> int:
    """Return floor(n * 2**twos / by)."""
    return (n << twos) // by if twos >= 0 else n // (by << -twos)


def tensor_digest(name: str, weight: Weight) -> bytes:
    """Return SHA-256(name || 0x00 || payload), a tensor's part of the model-id."""
    digest = hashlib.sha256(name.encode() + b"\0")
    for part in weight.payload():
        digest.update(part)
    return digest.digest()


def model_id(weights: dict[str, Weight]) -> bytes:
    """Return the identifier of these weights (4.5): the same on every machine, whatever file they came from."""
    digests = [tensor_digest(name, weights[name]) for name in sorted(weights, key=str.encode)]
    return hashlib.sha256(b"".join(digests)).digest()


def weight_root(weights: dict[str, Weight]) -> bytes:
    """Return the root over the trees of all tensors, in ascending order of names; a leaf is one row (13)."""
    roots = [trees.root(weights[name].leaves()) for name in sorted(weights, key=str.encode)]
    return trees.over(roots)
