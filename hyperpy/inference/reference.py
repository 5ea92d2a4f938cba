"""The reference engine: HPI-1 in NumPy. This file is the specification in code; every other engine equals it.

Section numbers are those of HPI-1. Arrays are i64 and hold i32 values; the only floats are the exact products of
``linear`` and ``attention``: float64 matrix products of integers whose sums stay below 2**53, so that neither order
nor fused multiply-add can change a bit (section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpy.inference import tables
from hyperpy.inference.arith import Ints, bit_length, exp2n, isqrt16, quantise, rsr, sat, sigmoid
from hyperpy.inference.model import Model
from hyperpy.inference.tables import FA, FG, FH, FL, FN, FQ, FV, PB
from hyperpy.inference.weights import Matrix, Norm

Trace = Callable[[str, Any], None]
Floats = npt.NDArray[np.float64]


def product(a: Any, b: Any) -> Ints:
    """Multiply integer matrices exactly, through floats: every partial sum is below 2**53."""
    made: Ints = (np.asarray(a, np.float64) @ np.asarray(b, np.float64)).astype(np.int64)
    return made


def normed(x: Ints, weight: Norm, eps: int, cn: int, kn: int, fout: int) -> Ints:
    """Return rows over their root mean square, times the norm's weights, with ``fout`` fraction bits (5.2)."""
    a = np.maximum(bit_length(np.abs(x).max(axis=1)) - 15, 0)
    s = np.square(rsr(x, a[:, None])).sum(axis=1) + (eps >> np.minimum(2 * a, 62))
    s = np.maximum(s, 1)
    k = 31 - bit_length(s)
    k -= k & 1
    k += np.where(bit_length(s) + k < 31, 2, 0)
    v = np.where(k > 0, s << np.maximum(k, 0), s >> np.maximum(-k, 0))
    r = cn // isqrt16(v)
    g = rsr(weight.g.astype(np.int64) * r[:, None], 16)
    return sat(rsr(x * g, (weight.eg - 16 + kn - (k >> 1) + a - fout)[:, None]))


class Cache:
    """Keys and values of one session (5.6): per layer and kv head, the digits and shift of k, and the digits of v."""

    def __init__(self, model: Model, room: int = 64) -> None:
        c = model.config
        self.length = 0
        self.k = np.zeros((c.layers, c.kv_heads, room, c.head), np.int16)
        self.ks = np.zeros((c.layers, c.kv_heads, room), np.int32)
        self.v = np.zeros((c.layers, c.kv_heads, room, c.head), np.int16)

    def reserve(self, positions: int) -> None:
        """Make room for that many positions in all."""
        have = self.k.shape[2]
        if positions > have:
            more = max(positions, 2 * have) - have
            self.k, self.v = (np.pad(a, ((0, 0), (0, 0), (0, more), (0, 0))) for a in (self.k, self.v))
            self.ks = np.pad(self.ks, ((0, 0), (0, 0), (0, more)))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.k.nbytes + self.ks.nbytes + self.v.nbytes

    def prefix(self, positions: int, more: int = 0) -> Cache:
        """Return a cache of another session that begins with the same ``positions``, and has room for ``more``."""
        made = copy(self)
        made.k, made.ks, made.v = (_begun(part, positions, more) for part in (self.k, self.ks, self.v))
        made.length = positions
        return made

    def truncate(self, positions: int) -> None:
        """Forget everything after the first ``positions``: what a cancelled or shared prefix needs."""
        self.length = min(self.length, positions)


def _begun(part: Any, positions: int, more: int) -> Any:
    """Return a copy of the first positions with room for more."""
    made = np.zeros((*part.shape[:2], positions + more, *part.shape[3:]), part.dtype)
    made[:, :, :positions] = part[:, :, :positions]
    return made


class Engine:
    """One model, ready to compute. Sessions differ only in their :class:`Cache`."""

    name = "reference"

    def __init__(self, model: Model) -> None:
        tables.check()
        self.model, self.config = model, model.config
        self._rope = tables.Rope(self.config.rope_base, self.config.head // 2, self.config.rope_factors)
        self._eps = tables.epsilon(self.config.width, self.config.eps, self.config.fr)
        self._cn, self._kn = tables.norm_constants(self.config.width)
        self._head = (tables.epsilon(self.config.head, self.config.eps, FQ), *tables.norm_constants(self.config.head))
        self._c2 = tables.c2(self.config.head)
        self._dense: dict[int, Floats] = {}

    def cache(self) -> Cache:
        """Return the empty cache of a new session."""
        return Cache(self.model)

    def forward(self, ids: Sequence[int], cache: Cache, every: bool = False, trace: Trace | None = None) -> Ints:
        """Read tokens after those in the cache, and return the logits (i32, Q.16) of the last one, or of every one.

        However a prompt is split over calls, the results are the same bits.
        """
        note = trace or (lambda name, value: None)
        cache.reserve(cache.length + len(ids))
        x = self.embed(ids)
        note("embed", x)
        for layer in range(self.config.layers):
            x = self.layer(layer, x, cache, note)
        cache.length += len(ids)
        x = self.rms_norm(x if every else x[-1:], self.model.norm("output_norm"))
        note("output_norm", x)
        logits = self.linear(*quantise(x), self.model.head, FN, FL)
        note("logits", logits)
        return logits if every else logits[0]

    def embed(self, ids: Sequence[int]) -> Ints:
        """Return the residual stream of tokens (5.1), [token][width]."""
        table, rows = self.model.matrix("token_embd"), np.asarray(ids, np.int64)
        scaled = table.integers(rows).astype(np.int64) * table.rm[rows, None]
        return sat(rsr(scaled, table.re[rows, None].astype(np.int64) - self.config.fr))

    def layer(self, layer: int, x: Ints, cache: Cache, note: Trace) -> Ints:
        """Return the residual stream after one layer (5.9), and add its keys and values to the cache."""
        fr = self.config.fr
        matrix, norm = partial(self._named, layer), self.model.norm
        h = self.rms_norm(x, norm(f"blk.{layer}.attn_norm"))
        note(f"{layer}.attn_norm", h)
        digits = quantise(h)
        note(f"{layer}.attn_norm.digits", digits)
        q, k, v = (self.project(f"blk.{layer}.{name}", *digits) for name in ("attn_q", "attn_k", "attn_v"))
        note(f"{layer}.qkv", (q, k, v))
        if self.config.head_norms:
            q, k = (self.head_norm(x, norm(f"blk.{layer}.attn_{name}_norm")) for x, name in ((q, "q"), (k, "k")))
            note(f"{layer}.head_norms", (q, k))
        o = self.attention(layer, q, k, v, cache, note)
        note(f"{layer}.attention", o)
        o = self.linear(*quantise(o), matrix("attn_output"), FA, fr)
        note(f"{layer}.attn_output", o)
        x = sat(x + o)
        note(f"{layer}.residual1", x)
        h = self.rms_norm(x, norm(f"blk.{layer}.ffn_norm"))
        note(f"{layer}.ffn_norm", h)
        g, u = (self.linear(*quantise(h), matrix(name), FN, FG) for name in ("ffn_gate", "ffn_up"))
        note(f"{layer}.gate_up", (g, u))
        a = sat(rsr(sat(rsr(g * sigmoid(g), 30)) * u, 2 * FG - FH))
        note(f"{layer}.swiglu", a)
        down = self.linear(*quantise(a), matrix("ffn_down"), FH, fr)
        note(f"{layer}.ffn_down", down)
        x = sat(x + down)
        note(f"{layer}.residual2", x)
        return x

    def _named(self, layer: int, name: str) -> Matrix:
        return self.model.matrix(f"blk.{layer}.{name}")

    def project(self, name: str, digits: Ints, shift: Ints) -> Ints:
        """Return q, k or v of a layer, with its bias where the model has one (5.4)."""
        made, bias = self.linear(digits, shift, self.model.matrix(name), FN, FQ), self.model.bias(name)
        return made if bias is None else sat(made + bias.g)

    def rms_norm(self, x: Ints, weight: Norm) -> Ints:
        """Return x over its root mean square, times the norm's weights, in Q.18 (5.2)."""
        return normed(x, weight, self._eps, self._cn, self._kn, FN)

    def head_norm(self, x: Ints, weight: Norm) -> Ints:
        """Norm each head of q or k by itself: 5.2 on a head's width, from Q.16 to Q.16."""
        heads = x.reshape(-1, self.config.head)
        return normed(heads, weight, *self._head, FQ).reshape(x.shape)

    def linear(self, digits: Ints, shift: Ints, matrix: Matrix, fin: int, fout: int) -> Ints:
        """Return W times the input, rescaled from ``fin`` to ``fout`` fraction bits (5.4), [token][row]."""
        total = product(digits, self.dense(matrix).T)
        s = matrix.re.astype(np.int64) + fin - fout - shift[:, None]
        return sat(rsr(total * matrix.rm.astype(np.int64), np.minimum(s, 62)))

    def dense(self, matrix: Matrix) -> Floats:
        """Return W as floats, kept for the next call."""
        found = self._dense.get(id(matrix))
        if found is None:
            found = self._dense[id(matrix)] = matrix.integers(slice(None)).astype(np.float64)
        return found

    def rope(self, x: Ints, first: int) -> Ints:
        """Turn the pairs of [token][head][hd], the first token standing at position ``first`` (5.5)."""
        turn = self._rope.upto(first + len(x))[first : first + len(x), None]
        cos, sin = turn[..., 0], turn[..., 1]
        half = self.config.head // 2
        one, other = (slice(half), slice(half, None)) if self.config.neox else (slice(0, None, 2), slice(1, None, 2))
        a, b = x[..., one], x[..., other]
        made = np.empty_like(x)
        made[..., one] = sat(rsr(a * cos - b * sin, 30))
        made[..., other] = sat(rsr(a * sin + b * cos, 30))
        return made

    def attention(self, layer: int, q: Ints, k: Ints, v: Ints, cache: Cache, note: Trace) -> Ints:
        """Rotate, add k and v to the cache, and return what each query head sees (5.5 to 5.7), [token][heads * hd]."""
        c, first, count = self.config, cache.length, len(q)
        q = self.rope(q.reshape(count, c.heads, c.head), first)
        k = self.rope(k.reshape(count, c.kv_heads, c.head), first)
        note(f"{layer}.rope", (q.reshape(count, -1), k.reshape(count, -1)))
        k15, ks = quantise(k)
        here = slice(first, first + count)
        cache.k[layer, :, here] = k15.transpose(1, 0, 2)
        cache.ks[layer, :, here] = ks.T
        v10 = np.clip(rsr(v, FQ - FV), -32639, 32639)
        cache.v[layer, :, here] = v10.reshape(count, c.kv_heads, c.head).transpose(1, 0, 2)
        q15, qs = quantise(q)
        heads = [self.head(layer, h, q15[:, h], qs[:, h], cache, first) for h in range(c.heads)]
        return np.stack(heads, axis=1).reshape(count, c.heads * c.head)

    def head(self, layer: int, head: int, q15: Ints, qs: Ints, cache: Cache, first: int) -> Ints:
        """Return what one query head sees (5.7), [token][hd]."""
        kv, upto = head * self.config.kv_heads // self.config.heads, first + len(q15)
        dot = product(q15, cache.k[layer, kv, :upto].T)
        shift = (30 + 2 * FQ - 16 - 8) - qs[:, None] - cache.ks[layer, kv, :upto].astype(np.int64)
        scores = sat(rsr(rsr(dot, 8) * self._c2, shift))
        hidden = np.arange(upto) > np.arange(first, upto)[:, None]
        top = np.where(hidden, -(2**31), scores).max(axis=1, keepdims=True)
        e = rsr(exp2n(np.clip(top - scores, 0, 40 * 65536)), 30 - PB)
        e[hidden] = 0
        z = e.sum(axis=1, keepdims=True)
        bits = bit_length(z)
        reciprocal = (1 << 31) // rsr(z, bits - 16)
        seen = product(e, cache.v[layer, kv, :upto])
        return sat(rsr(rsr(seen, 8) * reciprocal, 31 - 16 + bits + FV - FA - 8))
