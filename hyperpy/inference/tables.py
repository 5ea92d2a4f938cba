"""Constant tables of HPI-1 (section 3): exact integers or 90-digit decimals, never the C library's floats.

:func:`check` compares them with the specification's hashes; engines call it before they compute anything.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.errors import Corrupt

FR, FN, FQ, FG, FH, FA, FL, FV, PB = 14, 18, 16, 16, 14, 16, 16, 10, 22
"""Fraction bits of section 2: residual, norm, q/k/v, gate/up, SwiGLU product, attention, logits, V cache, softmax."""

LOG2E = 3098164009
"""Nearest integer to 2**31 * log2(e)."""

EXP2_SHA256 = "21c50821b132c0a124613b2ee76cac286c1cb8148ed63fb62a3763910318da50"
ROPE_SHA256 = "7878ae046d8d3dff2b8b91596b88ceafae7307e9b9af5d24553b713e9574ce4f"
"""Of the table for base 100000, 32 pairs, 8,192 positions."""

_DIGITS = 90
_BITS = 160


@lru_cache(maxsize=1)
def exp2() -> npt.NDArray[np.int64]:
    """Return EXP2[i] = round(2**30 * 2**(-i/256)), i = 0 .. 256."""
    with localcontext() as context:
        context.prec = _DIGITS
        step = (Decimal(2).ln() / 256).copy_negate()
        made = [int((Decimal(2**30) * (step * i).exp()).to_integral_value()) for i in range(257)]
    table = np.array(made, np.int64)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def c2(head: int) -> int:
    """Return round(2**30 * log2(e) / sqrt(head)), the scale of attention scores."""
    with localcontext() as context:
        context.prec = _DIGITS
        return int((Decimal(2**30) / (Decimal(2).ln() * Decimal(head).sqrt())).to_integral_value())


@lru_cache(maxsize=256)
def norm_constants(n: int) -> tuple[int, int]:
    """Return (CN, KN): CN = isqrt(n * 4**KN) with the least KN that makes it at least 2**31."""
    k = 0
    while math.isqrt(n << (2 * k)) < 2**31:
        k += 1
    return math.isqrt(n << (2 * k)), k


@lru_cache(maxsize=256)
def epsilon(n: int, eps: float, fr: int = FR) -> int:
    """Return EPS: the norm's epsilon, an f32 taken exactly, times n, in squared residual units."""
    return int(Fraction(eps) * n * 4**fr + Fraction(1, 2))  # never negative


def _sin_cos(theta: Decimal) -> tuple[int, int]:
    """Return (sin, cos) of 0 <= theta <= 1 times 2**160, truncated."""
    sine, cosine, term, n = Decimal(0), Decimal(0), Decimal(1), 0
    while abs(term) > Decimal(10) ** -(_DIGITS - 5):
        if n % 2 == 0:
            cosine += term if n % 4 == 0 else -term
        else:
            sine += term if n % 4 == 1 else -term
        n += 1
        term = term * theta / n
    return int(sine * 2**_BITS), int(cosine * 2**_BITS)


class Rope:
    """The table of rotations, grown as contexts grow.

    Args:
        base: frequency base, an f32 taken exactly.
        pairs: half the head width.
        factors: what each pair's angle is divided by, at least 1, f32 taken exactly; none: 1.
    """

    def __init__(self, base: float, pairs: int, factors: Sequence[float] = ()) -> None:
        with localcontext() as context:
            context.prec = _DIGITS
            log = Decimal(base).ln()
            angles = [(log * (-2 * j) / (2 * pairs)).exp() for j in range(pairs)]
            steps = [_sin_cos(angle / Decimal(by)) for angle, by in zip(angles, factors or [1.0] * pairs, strict=True)]
        self._steps = steps
        self._at = [(1 << _BITS, 0)] * pairs
        self._rows = np.empty((0, pairs, 2), np.int64)
        self._growing = threading.Lock()

    def upto(self, positions: int) -> npt.NDArray[np.int64]:
        """Return [position][pair][cos, sin] in Q.30 for at least that many positions; from any thread."""
        if positions > len(self._rows):
            with self._growing:
                have = len(self._rows)
                if positions > have:
                    made = [self._next() for _ in range(max(positions, min(2 * have, have + 1024)) - have)]
                    self._rows = np.concatenate([self._rows, np.array(made, np.int64)])
        return self._rows

    def _next(self) -> list[tuple[int, int]]:
        """Return the row of the next position and turn every pair by its angle, in 160-bit integers."""
        half, drop = 1 << (_BITS - 31), _BITS - 30
        row = [((a + half) >> drop, (b + half) >> drop) for a, b in self._at]
        self._at = [
            ((a * c - b * s) >> _BITS, (a * s + b * c) >> _BITS)
            for (a, b), (s, c) in zip(self._at, self._steps, strict=True)
        ]
        return row


@lru_cache(maxsize=4096)
def _step(base: float, pairs: int, factor: float, pair: int) -> tuple[int, int]:
    """Return (sin, cos) of one pair's angle times 2**160, truncated: a member of ``Rope``'s steps."""
    with localcontext() as context:
        context.prec = _DIGITS
        return _sin_cos((Decimal(base).ln() * (-2 * pair) / (2 * pairs)).exp() / Decimal(factor))


def rope_entry(base: float, pairs: int, factor: float, pair: int, position: int) -> tuple[int, int]:
    """Return (cos, sin) in Q.30 of one pair at one position, as :class:`Rope` has them, without those before it.

    The angle's power is taken with 96 more bits by squaring. ``Rope`` drops less than two units of 2**-160 at each
    turn, so unless a rounding lies that near, both give the same; where one does, the turns are made one by one.
    """
    s, c = _step(base, pairs, factor, pair)
    more, bits = 96, _BITS + 96
    a, b, x, y, left = 1 << bits, 0, c << more, s << more, position
    while left:
        if left & 1:
            a, b = (a * x - b * y) >> bits, (a * y + b * x) >> bits
        x, y, left = (x * x - y * y) >> bits, (2 * x * y) >> bits, left >> 1
    half, drop, margin = 1 << (bits - 31), bits - 30, (2 * position + 4) << more
    low = tuple((part + half - margin) >> drop for part in (a, b))
    if low == tuple((part + half + margin) >> drop for part in (a, b)):
        return low[0], low[1]
    a, b = 1 << _BITS, 0
    for _ in range(position):
        a, b = (a * c - b * s) >> _BITS, (a * s + b * c) >> _BITS
    return (a + (1 << (_BITS - 31))) >> (_BITS - 30), (b + (1 << (_BITS - 31))) >> (_BITS - 30)


_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534")


def llama3_factors(base: float, pairs: int, scaling: tuple[float, float, float, float]) -> list[float]:
    """Return the factors of Llama 3.1's RoPE scaling, each rounded to an f32.

    Args:
        base: frequency base.
        pairs: half the head width.
        scaling: factor, low and high frequency factor, and the context that the model was first trained with.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        factor, low, high, old = map(Decimal, scaling)
        log, made = Decimal(base).ln(), []
        for j in range(pairs):
            waves = old / (2 * _PI * (log * (2 * j) / (2 * pairs)).exp())
            smooth = min(max((waves - low) / (high - low), Decimal(0)), Decimal(1))
            made.append(float(np.float32(1 / ((1 - smooth) / factor + smooth))))
        return made


def sha256_i32(array: Any) -> str:
    """Return the SHA-256 of an integer array as i32 little-endian, row-major."""
    return hashlib.sha256(np.ascontiguousarray(array).astype("<i4").tobytes()).hexdigest()


@lru_cache(maxsize=1)
def check() -> None:
    """Compare the tables with the specification.

    Raises:
        Corrupt: this Python or NumPy does not compute them right; nothing may be inferred here.
    """
    got = hashlib.sha256(exp2().astype("<u4").tobytes()).hexdigest()
    if got != EXP2_SHA256 or c2(64) != 193635251 or norm_constants(576) != (3221225472, 27):
        raise Corrupt("the tables of HPI-1 came out wrong on this machine", expected=EXP2_SHA256, got=got)
    if Rope(100000.0, 32).upto(2)[1, 0].tolist() != [580145183, 903522590]:
        raise Corrupt("the rotation table of HPI-1 came out wrong on this machine", expected=ROPE_SHA256)
