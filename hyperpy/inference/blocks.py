"""Quantised blocks of a GGUF file as exact integers (sections 4.2 and 4.3).

Each decoder returns, for all rows of a matrix at once, ``q`` [rows][columns] (u8 or i8), and the scale ``d24``
and offset ``m24`` of every group as integers in units of 2**-24: the real weight is ``(d24*q + m24) * 2**-24``.
Every f16 is an integer multiple of 2**-24, so nothing is rounded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.errors import CodecError
from hyperpy.inference.gguf import Tensor

Decoded = tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]
Bytes = npt.NDArray[np.uint8]


def _f16(raw: Bytes, name: str) -> npt.NDArray[np.int64]:
    """Return f16 values (last axis: two bytes each) times 2**24, exactly."""
    value = np.ascontiguousarray(raw).view("<f2").astype(np.float64)
    if not np.isfinite(value).all():
        raise CodecError(f"'{name}' holds a scale that is infinite or not a number")
    return (value * 2**24).astype(np.int64)


def _nibbles(raw: Bytes) -> Bytes:
    """Return the low nibbles of the last axis, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Return 32 bits of the last axis' four bytes as values 0 or 16, lowest bit first."""
    return np.unpackbits(raw, axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(b: Bytes, name: str) -> Decoded:
    d = _f16(b[..., :2], name)[..., 0]
    return _nibbles(b[..., 2:]), d, -8 * d


def _q4_1(b: Bytes, name: str) -> Decoded:
    return _nibbles(b[..., 4:]), _f16(b[..., :2], name)[..., 0], _f16(b[..., 2:4], name)[..., 0]


def _q5_0(b: Bytes, name: str) -> Decoded:
    d = _f16(b[..., :2], name)[..., 0]
    return (_nibbles(b[..., 6:]) | _fifth_bits(b[..., 2:6])).view(np.int8), d, -16 * d


def _q5_1(b: Bytes, name: str) -> Decoded:
    q = (_nibbles(b[..., 8:]) | _fifth_bits(b[..., 4:8])).view(np.int8)
    return q, _f16(b[..., :2], name)[..., 0], _f16(b[..., 2:4], name)[..., 0]


def _q8_0(b: Bytes, name: str) -> Decoded:
    d = _f16(b[..., :2], name)[..., 0]
    return b[..., 2:].view(np.int8), d, np.zeros_like(d)


def _six_bits(raw: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the eight scales and eight minima that Q4_K and Q5_K pack into twelve bytes."""
    low, mid, high = (raw[..., at : at + 4].astype(np.int64) for at in (0, 4, 8))
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minima = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=-1)
    return scales, minima


def _q4_k(b: Bytes, name: str) -> Decoded:
    d, dmin = _f16(b[..., :2], name), _f16(b[..., 2:4], name)
    scales, minima = _six_bits(b[..., 4:16])
    q = _nibbles(b[..., 16:].reshape(*b.shape[:-1], 4, 32)).reshape(*b.shape[:-1], 256)
    return q, d * scales, -dmin * minima


def _q5_k(b: Bytes, name: str) -> Decoded:
    d, dmin = _f16(b[..., :2], name), _f16(b[..., 2:4], name)
    scales, minima = _six_bits(b[..., 4:16])
    low = _nibbles(b[..., 48:].reshape(*b.shape[:-1], 4, 32)).reshape(*b.shape[:-1], 8, 32)
    fifth = (b[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << np.uint8(4)
    return (low | fifth).reshape(*b.shape[:-1], 256).view(np.int8), d * scales, -dmin * minima


def _q6_k(b: Bytes, name: str) -> Decoded:
    low = _nibbles(b[..., :128].reshape(*b.shape[:-1], 2, 64)).reshape(*b.shape[:-1], 2, 4, 32)
    packed = b[..., 128:192].reshape(*b.shape[:-1], 2, 1, 32)
    high = (packed >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3) << np.uint8(4)
    q = ((low | high).astype(np.int16) - 32).astype(np.int8).reshape(*b.shape[:-1], 256)
    d24 = _f16(b[..., 208:210], name) * np.ascontiguousarray(b[..., 192:208]).view(np.int8).astype(np.int64)
    return q, d24, np.zeros_like(d24)


_DECODERS: dict[str, Callable[[Bytes, str], Decoded]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
_SIZES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
FLOATS = ("F32", "F16", "BF16")


def decode(tensor: Tensor, first: int, last: int) -> Decoded:
    """Return (q, d24, m24) of rows ``first`` to ``last`` of a quantised matrix; groups are 32, or 16 for Q6_K."""
    size = _SIZES[tensor.kind]
    bytes_a_row = len(tensor.data) // tensor.shape[0]
    raw = np.frombuffer(tensor.data[first * bytes_a_row : last * bytes_a_row], np.uint8)
    q, d24, m24 = _DECODERS[tensor.kind](raw.reshape(last - first, -1, size), tensor.name)
    rows = last - first
    return q.reshape(rows, -1), d24.reshape(rows, -1), m24.reshape(rows, -1)


def floats(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Return a float tensor's values exactly; f64 holds every F32, F16 and BF16.

    Raises:
        CodecError: the tensor is quantised, or holds an infinity or something that is not a number.
    """
    if tensor.kind == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype("<u4") << np.uint32(16)
        values = wide.view("<f4").astype(np.float64)
    elif tensor.kind in FLOATS:
        values = np.frombuffer(tensor.data, "<f4" if tensor.kind == "F32" else "<f2").astype(np.float64)
    else:
        raise CodecError(f"'{tensor.name}' is {tensor.kind}; it must be F32, F16 or BF16")
    if not np.isfinite(values).all():
        raise CodecError(f"'{tensor.name}' holds an infinity or something that is not a number")
    return values.reshape(tensor.shape)
