"""HPI-1 a second time: forward pass (sections 3 to 5) and commitments (12), written from the specification's text.

Nothing of hyperpy is imported. Everything is Python's own integers but the long dot products, which are NumPy's i64.
It is slow, and meant to be read beside the specification, letter by letter.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, getcontext
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np

getcontext().prec = 80
FN, FQ, FG, FH, FA, FL, FV, PB = 18, 16, 16, 14, 16, 16, 10, 22


# -- section 1 and 3 --------------------------------------------------------------------------------


def rsr(v: int, s: int) -> int:
    return (v + (1 << (s - 1))) >> s if s > 0 else v << -s


def sat(v: int) -> int:
    return max(-(2**31), min(2**31 - 1, v))


LOG2E = int((Decimal(2**31) / Decimal(2).ln()).to_integral_value())
EXP2 = [int((Decimal(2**30) * Decimal(2) ** (Decimal(-i) / 256)).to_integral_value()) for i in range(257)]


def exp2n(t: int) -> int:
    n, f = t >> 16, t & 0xFFFF
    i, r = f >> 8, f & 255
    return 0 if n >= 31 else (EXP2[i] - (((EXP2[i] - EXP2[i + 1]) * r + 128) >> 8)) >> n


def sigm(g: int) -> int:
    z = min(abs(g), 24 * 65536)
    e = exp2n((2 * z * LOG2E) >> 32)
    sp = (2**31 // ((2**30 + e) >> 15)) << 14
    return sp if g >= 0 else ((4 * e) * sp) >> 32


def rope_table(base: float, hd: int, positions: int) -> list[list[tuple[int, int]]]:
    """Return [position][pair] = (COS, SIN)."""
    table: list[list[tuple[int, int]]] = [[] for _ in range(positions)]
    for j in range(hd // 2):
        theta = (Decimal(base).ln() * (-2 * j) / hd).exp()
        cos, sin, term, n = Decimal(0), Decimal(0), Decimal(1), 0
        while n < 60:
            cos, sin = (cos + term * (1 - n % 4), sin) if n % 2 == 0 else (cos, sin + term * (2 - n % 4))
            n += 1
            term *= theta / n
        c, s = int(cos * 2**160), int(sin * 2**160)
        a, b = 2**160, 0
        for p in range(positions):
            table[p].append(((a + 2**129) // 2**130, (b + 2**129) // 2**130))
            a, b = (a * c - b * s) // 2**160, (a * s + b * c) // 2**160
    return table


# -- section 4: weights as they are hashed -----------------------------------------------------------


@dataclass
class Rows:
    """A matrix: q, D, M, Rm, Re."""

    q: Any
    d: Any
    m: Any
    rm: Any
    re: Any
    _wide: Any = field(default=None, repr=False)

    def wide(self) -> Any:
        """Return W, i64."""
        if self._wide is None:
            each = self.q.shape[1] // self.d.shape[1]
            d, m = (np.repeat(part.astype(np.int64), each, axis=1) for part in (self.d, self.m))
            self._wide = d * self.q.astype(np.int64) + m
        return self._wide


@dataclass
class Vector:
    """The weights of a norm."""

    g: list[int]
    eg: int


@dataclass
class Shape:
    """The numbers of a model of the architecture ``llama``."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    eps: float
    rope_base: float
    fr: int = 14

    @property
    def head(self) -> int:
        return self.width // self.heads


# -- section 5 ----------------------------------------------------------------------------------------


def rms_norm(x: Sequence[int], weight: Vector, eps: float, fr: int) -> list[int]:
    n = len(x)
    kn = 0
    while isqrt(n * 4**kn) < 2**31:
        kn += 1
    cn = isqrt(n * 4**kn)
    epsilon = int(Fraction(eps) * n * 2 ** (2 * fr) + Fraction(1, 2))
    a = max(max(abs(v) for v in x).bit_length() - 15, 0)
    s = sum(rsr(v, a) ** 2 for v in x) + (epsilon >> (2 * a)) or 1
    k = 31 - s.bit_length()
    k -= k & 1
    if s.bit_length() + k < 31:
        k += 2
    r = cn // isqrt(s << k if k >= 0 else s >> -k)
    return [
        sat(rsr(v * rsr(g * r, 16), weight.eg - 16 + kn - (k >> 1) + a - FN)) for v, g in zip(x, weight.g, strict=True)
    ]


def quantise(v: Sequence[int]) -> tuple[list[int], int]:
    sh = max(abs(one) for one in v).bit_length() - 14
    return [rsr(one, sh) for one in v], sh


def linear(x: Sequence[int], matrix: Rows, fin: int, fout: int) -> list[int]:
    x15, sh = quantise(x)
    acc = (matrix.wide() @ np.array(x15, np.int64)).tolist()
    scales = zip(matrix.rm.tolist(), matrix.re.tolist(), strict=True)
    return [sat(rsr(a * rm, min(re + fin - fout - sh, 62))) for a, (rm, re) in zip(acc, scales, strict=True)]


def turn(x: Sequence[int], table: Sequence[tuple[int, int]]) -> list[int]:
    made: list[int] = []
    for at in range(0, len(x), 2):
        a, b = x[at], x[at + 1]
        cos, sin = table[at // 2 % len(table)]
        made += [sat(rsr(a * cos - b * sin, 30)), sat(rsr(a * sin + b * cos, 30))]
    return made


class Session:
    """Reads tokens one after another, and keeps the op outputs of the last."""

    def __init__(self, weights: dict[str, Any], shape: Shape, positions: int) -> None:
        self.w, self.c = weights, shape
        self.rope = rope_table(shape.rope_base, shape.head, positions)
        self.c2 = int((Decimal(2**30) / Decimal(2).ln() / Decimal(shape.head).sqrt()).to_integral_value())
        self.cache: list[list[list[tuple[list[int], int, list[int]]]]] = [
            [[] for _ in range(shape.kv_heads)] for _ in range(shape.layers)
        ]
        self.ops: list[list[list[int]]] = []
        self.embedding: list[int] = []
        self.ids: list[int] = []

    def read(self, ident: int) -> list[int]:
        """Read one token; return the residual stream after the last layer."""
        table, c = self.w["token_embd.weight"], self.c
        row = table.wide()[ident].tolist()
        x = [sat(rsr(v * int(table.rm[ident]), int(table.re[ident]) - c.fr)) for v in row]
        self.embedding, self.ops = x, []
        for layer in range(c.layers):
            x = self._layer(layer, x, len(self.ids))
        self.ids.append(ident)
        return x

    def end(self, x: list[int]) -> tuple[list[int], list[int]]:
        """Return the final norm and the logits."""
        y = rms_norm(x, self.w["output_norm.weight"], self.c.eps, self.c.fr)
        return y, linear(y, self.w.get("output.weight", self.w["token_embd.weight"]), FN, FL)

    def _layer(self, layer: int, x: list[int], p: int) -> list[int]:
        c, w = self.c, {name: self.w.get(f"blk.{layer}.{name}.weight") for name in NAMES}
        h = rms_norm(x, w["attn_norm"], c.eps, c.fr)
        q, k, v = (linear(h, w[name], FN, FQ) for name in ("attn_q", "attn_k", "attn_v"))
        q, k = turn(q, self.rope[p]), turn(k, self.rope[p])
        for head in range(c.kv_heads):
            here = slice(head * c.head, (head + 1) * c.head)
            v10 = [max(-32639, min(32639, rsr(one, FQ - FV))) for one in v[here]]
            self.cache[layer][head].append((*quantise(k[here]), v10))
        o = [one for head in range(c.heads) for one in self._see(layer, head, q[head * c.head : (head + 1) * c.head])]
        wo = linear(o, w["attn_output"], FA, c.fr)
        one = [sat(a + b) for a, b in zip(x, wo, strict=True)]
        f = rms_norm(one, w["ffn_norm"], c.eps, c.fr)
        g, u = linear(f, w["ffn_gate"], FN, FG), linear(f, w["ffn_up"], FN, FG)
        a = [sat(rsr(sat(rsr(gi * sigm(gi), 30)) * ui, 2 * FG - FH)) for gi, ui in zip(g, u, strict=True)]
        down = linear(a, w["ffn_down"], FH, c.fr)
        two = [sat(a + b) for a, b in zip(one, down, strict=True)]
        self.ops.append([h, q, k, v, o, wo, one, f, g, u, a, down, two])
        return two

    def _see(self, layer: int, head: int, q: list[int]) -> list[int]:
        seen = self.cache[layer][head * self.c.kv_heads // self.c.heads]
        q15, qs = quantise(q)
        keys = np.array([one[0] for one in seen], np.int64)
        dots = (keys @ np.array(q15, np.int64)).tolist()
        s = [
            sat(rsr(rsr(d, 8) * self.c2, 30 + 2 * FQ - 16 - 8 - qs - one[1])) for d, one in zip(dots, seen, strict=True)
        ]
        e = [rsr(exp2n(min(max(s) - st, 40 * 65536)), 30 - PB) for st in s]
        num = (np.array([one[2] for one in seen], np.int64).T @ np.array(e, np.int64)).tolist()
        zb = sum(e).bit_length()
        rec = 2**31 // rsr(sum(e), zb - 16)
        return [sat(rsr(rsr(n, 8) * rec, 31 - 16 + zb + FV - FA - 8)) for n in num]


NAMES = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


# -- section 12 ----------------------------------------------------------------------------------------


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def tree(level: list[bytes]) -> bytes:
    if len(level) == 1:
        return level[0]
    pairs = [sha(b"\x01", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return tree(pairs + ([level[-1]] if len(level) % 2 else []))


def tensor_root(row: Sequence[int]) -> bytes:
    data = struct.pack(f"<{len(row)}i", *row)
    return tree([sha(b"\x00", data[i : i + 1024]) for i in range(0, len(data), 1024)])


def over_roots(roots: Sequence[bytes]) -> bytes:
    return tree([sha(b"\x00", one) for one in roots])


def mountain(entries: list[bytes]) -> bytes:
    """Return the bagged peaks: the largest perfect trees from the left, folded from the right."""
    peaks, at = [], 0
    while at < len(entries):
        size = 1
        while 2 * size <= len(entries) - at:
            size *= 2
        peaks.append(tree(entries[at : at + size]))
        at += size
    made = peaks.pop()
    while peaks:
        made = sha(b"\x01", peaks.pop(), made)
    return made


def cache_root(session: Session) -> bytes:
    bags = []
    for layer in session.cache:
        for head in layer:
            entries = [
                sha(
                    b"\x02",
                    struct.pack(f"<{len(k15)}h", *k15),
                    struct.pack("<i", ks),
                    struct.pack(f"<{len(v10)}h", *v10),
                )
                for k15, ks, v10 in head
            ]
            bags.append(mountain(entries))
    return over_roots(bags)


def commitments(session: Session, x: list[int], model_id: bytes, chosen: int) -> dict[str, Any]:
    """Return all levels after the tokens that a session has read, the last of which left ``x``."""
    norm, logits = session.end(x)
    ops = [[tensor_root(op) for op in layer] for layer in session.ops]
    layers = [over_roots(one) for one in ops]
    embedding, last, rows = tensor_root(session.embedding), tensor_root(norm), tensor_root(logits)
    token = over_roots([embedding, *layers, last, rows, sha(struct.pack("<I", chosen))])
    cache = cache_root(session)
    ids = sha(struct.pack(f"<{len(session.ids)}I", *session.ids))
    s1 = sha(b"\x03", model_id, ids, sha(struct.pack(f"<{len(logits)}i", *logits)))
    return {
        "state": s1.hex(),
        "session": sha(b"\x04", s1, token, cache).hex(),
        "token": token.hex(),
        "cache": cache.hex(),
        "embedding": embedding.hex(),
        "layers": [one.hex() for one in layers],
        "norm": last.hex(),
        "logits": rows.hex(),
        "ops": [[one.hex() for one in layer] for layer in ops],
    }
