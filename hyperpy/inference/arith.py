"""Integer arithmetic of HPI-1 on NumPy arrays: rounding shifts, saturation, bit lengths (sections 1 and 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.inference import tables

Ints = npt.NDArray[np.int64]
"""Values between operators: i32 in meaning, held as i64 so that nothing wraps on the way."""

LOW, HIGH = -(2**31), 2**31 - 1


def sat(v: Any) -> Ints:
    """Clamp to i32: every store saturates, none wraps."""
    made: Ints = np.clip(v, LOW, HIGH)
    return made


def rsr(v: Any, s: Any) -> Ints:
    """Shift right by ``s`` bits, rounding halves up; shift left, saturated beyond i32, where ``s`` is negative.

    Exact for ``abs(v) <= 2**62``. A left shift past i32 is only ever stored through :func:`sat`, so clamping
    its operand first changes no result and keeps i64 from wrapping.
    """
    v, s = np.asarray(v, np.int64), np.asarray(s, np.int64)
    right = np.clip(s, 1, 62)
    down = np.where(s > 62, 0, (v + (np.int64(1) << (right - 1))) >> right)
    up = np.clip(v, LOW, 2**31) << np.clip(-s, 0, 31)
    return np.where(s > 0, down, np.where(s == 0, v, up))


def bit_length(u: Any) -> Ints:
    """Return the bit length of integers from 0 to 2**53 (a float's exponent is exact there)."""
    return np.frexp(np.asarray(u, np.float64))[1].astype(np.int64)


def isqrt16(u: Any) -> Ints:
    """Return floor(sqrt(u)) for u32 ``u``: IEEE square roots are correctly rounded, so this is exact below 2**52."""
    return np.sqrt(np.asarray(u, np.float64)).astype(np.int64)


def exp2n(t: Any) -> Ints:
    """Return 2**-t in Q.30 for ``t >= 0`` in Q.16, from the table with linear interpolation."""
    t = np.asarray(t, np.int64)
    table = tables.exp2()
    i, r = (t & 0xFFFF) >> 8, t & 255
    between = table[i] - (((table[i] - table[i + 1]) * r + 128) >> 8)
    n = t >> 16
    return np.where(n >= 31, 0, between >> np.minimum(n, 31))


def sigmoid(g: Any) -> Ints:
    """Return the logistic function in Q.30 of ``g`` in Q.16 (SIGM of section 3.1)."""
    g = np.asarray(g, np.int64)
    z = np.minimum(np.abs(g), 24 << 16)
    e = exp2n((2 * z * tables.LOG2E) >> 32)
    positive = ((1 << 31) // (((1 << 30) + e) >> 15)) << 14
    return np.where(g >= 0, positive, ((4 * e) * positive) >> 32)


def quantise(v: Any) -> tuple[Ints, Ints]:
    """Return 15-bit digits of each row of the last axis, and each row's shift (section 5.3)."""
    v = np.asarray(v, np.int64)
    shift = bit_length(np.abs(v).max(axis=-1)) - 14
    return rsr(v, shift[..., None]), shift
