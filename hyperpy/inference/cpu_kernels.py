"""HPI-1's operators as compiled loops over all cores. Section numbers are HPI-1's; ``reference.py`` explains them.

Integers only, so that threads and vector units may sum in any order. Numbers are i64 except the 15-bit digits
(i16) and sums inside a group of weights (i32: at most 32 * 128 * 2**14). Compiled code is kept on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, codegen
from numba.extending import intrinsic

_tools: Any = cgutils  # untyped

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
"""How long threads wait awake for the next loop, read when the first one runs. GCC's own 300,000, some milliseconds,
keep cores from others that need them, and so from us; with 0, every loop waits for the system to wake a thread."""

PARTS = 32
"""Pieces that a matrix is cut into for the cores."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function that calls no threads."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def threaded(function: F) -> F:
    """Compile a function whose ``prange`` loops run on all cores."""
    return cast(F, numba.njit(cache=True, nogil=True, parallel=True)(function))


def use_threads(count: int) -> None:
    """Let the loops of this thread run in so many threads; 0 means all."""
    numba.set_num_threads(count or numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


@compiled
def sat(v: Any) -> Any:
    return min(max(v, -2147483648), 2147483647)


@compiled
def rsr(v: Any, s: Any) -> Any:
    """Section 1; left shifts saturate beyond i32, which only :func:`sat` follows."""
    if s > 62:
        return 0
    if s > 0:
        return (v + (np.int64(1) << (s - 1))) >> s
    return min(max(v, -2147483648), 2147483648) << min(-s, 31) if s < 0 else v


@compiled
def bit_length(u: Any) -> Any:
    return math.frexp(float(u))[1]


@compiled
def exp2n(t: Any, table: Any) -> Any:
    n, i, r = t >> 16, (t & 0xFFFF) >> 8, t & 255
    return 0 if n >= 31 else (table[i] - (((table[i] - table[i + 1]) * r + 128) >> 8)) >> n


@compiled
def sigmoid(g: Any, table: Any) -> Any:
    e = exp2n((2 * min(abs(g), 1572864) * 3098164009) >> 32, table)
    positive = (2147483648 // ((1073741824 + e) >> 15)) << 14
    return positive if g >= 0 else ((4 * e) * positive) >> 32


@compiled
def quantise_row(v: Any, digits: Any) -> Any:
    """Section 5.3 for one vector; returns its shift."""
    top = 0
    for i in range(len(v)):
        top = max(top, abs(v[i]))
    shift = bit_length(top) - 14
    for i in range(len(v)):
        digits[i] = rsr(v[i], shift)
    return shift


@threaded
def quantise(v: Any) -> Any:
    digits, shift = np.empty(v.shape, np.int16), np.empty(len(v), np.int64)
    for t in prange(len(v)):
        shift[t] = quantise_row(v[t], digits[t])
    return digits, shift


@compiled
def norm_row(x: Any, g: Any, eg: Any, eps: Any, cn: Any, kn: Any, fout: Any, y: Any) -> None:
    """Section 5.2 for one vector, with ``fout`` fraction bits; ``y`` may be ``x``."""
    top = 0
    for i in range(len(x)):
        top = max(top, abs(x[i]))
    a = max(bit_length(top) - 15, 0)
    s = eps >> min(2 * a, 62)
    for i in range(len(x)):
        s += rsr(x[i], a) ** 2
    s = max(s, 1)
    k = 31 - bit_length(s)
    k -= k & 1
    if bit_length(s) + k < 31:
        k += 2
    v = s << k if k > 0 else s >> -k
    r = cn // np.int64(math.sqrt(float(v)))
    for i in range(len(x)):
        y[i] = sat(rsr(x[i] * rsr(g[i] * r, 16), eg - 16 + kn - (k >> 1) + a - fout))


@threaded
def rms_norm(x: Any, g: Any, eg: Any, eps: Any, cn: Any, kn: Any) -> Any:
    """Sections 5.2 and 5.3: norm, then digits."""
    digits, shift = np.empty(x.shape, np.int16), np.empty(len(x), np.int64)
    for t in prange(len(x)):
        y = np.empty(x.shape[1], np.int64)
        norm_row(x[t], g, eg, eps, cn, kn, 18, y)
        shift[t] = quantise_row(y, digits[t])
    return digits, shift


@threaded
def head_norm(x: Any, g: Any, eg: Any, eps: Any, cn: Any, kn: Any) -> None:
    """Section 5.2 on each head of q or k, in place, from Q.16 to Q.16."""
    head = len(g)
    for t in prange(len(x)):
        for at in range(0, x.shape[1], head):
            one = x[t, at : at + head]
            norm_row(one, g, eg, eps, cn, kn, 16, one)


NEAR = 1 << 14
"""Weights that stay in the nearest cache while the tokens pass by."""

TOGETHER = 8
"""Tokens whose products with one row are computed together: the row's weights are then widened once for all."""


@compiled
def group_sums(x: Any, out: Any) -> None:
    """Add up each group of the digits of a block of tokens: [group][token of the block]."""
    group = x.shape[1] // len(out)
    for t in range(len(x)):
        for g in range(len(out)):
            total = np.int32(0)
            for i in range(g * group, (g + 1) * group):
                total += np.int32(x[t, i])
            out[g, t] = total


def _lanes(count: Any, bits: Any) -> Any:
    """Return a compiled function: the product of ``count`` integers of two arrays from given places on.

    Written as vector instructions, because compilers unroll so short a loop instead of using them. Products are
    i32; their sum has ``bits`` bits. Any order of the sum gives the same integer.
    """

    def typed(context: Any, a: Any, at: Any, b: Any, other: Any) -> Any:
        return types.int64(a, types.int64, b, types.int64), generate

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, total = ir.VectorType(ir.IntType(32), count), ir.IntType(bits)
        a = _load(context, builder, signature.args[0], args[0], args[1], wide)
        b = _load(context, builder, signature.args[2], args[2], args[3], wide)
        product = builder.mul(a, b)
        if bits != 32:
            product = builder.sext(product, ir.VectorType(total, count))
        kind = ir.FunctionType(total, [ir.VectorType(total, count)])
        name = f"llvm.vector.reduce.add.v{count}i{bits}"
        summed = builder.call(_tools.get_or_insert_function(builder.module, kind, name), [product])
        return summed if bits == 64 else builder.sext(summed, ir.IntType(64))

    return intrinsic(typed)


def _load(context: Any, builder: Any, array: Any, value: Any, at: Any, wide: Any) -> Any:
    """Load integers from place ``at`` of an array's memory, which is contiguous, and widen them."""
    element = ir.IntType(array.dtype.bitwidth)
    narrow = ir.VectorType(element, wide.count)
    place = builder.gep(context.make_array(array)(context, builder, value).data, [at], source_etype=element)
    found = builder.load(builder.bitcast(place, narrow.as_pointer()), align=array.dtype.bitwidth // 8, typ=narrow)
    return builder.sext(found, wide) if array.dtype.signed else builder.zext(found, wide)


dot32, dot16, dot32_wide = _lanes(32, 32), _lanes(16, 32), _lanes(32, 64)


def _tile(group: Any) -> Any:
    """Return a compiled function: the products of one row of weights with eight tokens, as a tuple.

    Its arguments: the weights and the place of the row; the digits, the place of the first token and the distance to
    the next; scales, offsets and the row's place in them; the sums of groups and the block's place; how many groups.
    Pairs of products are added first, which processors do in one instruction; any order gives the same integers.
    """

    def typed(
        context: Any,
        q: Any,
        row: Any,
        x: Any,
        token: Any,
        apart: Any,
        d: Any,
        m: Any,
        first: Any,
        sums: Any,
        block: Any,
        groups: Any,
    ) -> Any:
        place = types.int64
        given = (q, place, x, place, place, d, m, place, sums, place, place)
        made: Any = types.UniTuple
        return made(types.int64, TOGETHER)(*given), generate

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds, wide = signature.args, ir.VectorType(ir.IntType(64), TOGETHER)
        total = _tools.alloca_once_value(builder, ir.Constant(wide, [0] * TOGETHER))
        with _tools.for_range(builder, args[10]) as loop:
            g = loop.index
            step = builder.mul(g, ir.Constant(g.type, group))
            weights = _short(builder, _vector(context, builder, kinds[0], args[0], [args[1], step], group), kinds[0])
            dots = []
            for t in range(TOGETHER):
                at = [args[3], builder.mul(args[4], ir.Constant(g.type, t)), step]
                digits = _vector(context, builder, kinds[2], args[2], at, group)
                dots.append(_products(builder, weights, digits))
            added = _transposed(builder, dots)
            scales = [_splat(context, builder, kinds[n], args[n], [args[7], g]) for n in (5, 6)]
            here = builder.mul(g, ir.Constant(g.type, TOGETHER))
            offsets = _vector(context, builder, kinds[8], args[8], [args[9], here], TOGETHER)
            made = builder.load(total)
            for vector, scale in zip((added, offsets), scales, strict=True):
                made = builder.add(made, builder.mul(builder.sext(vector, wide), scale))
            builder.store(made, total)
        made = builder.load(total)
        lanes = [builder.extract_element(made, ir.Constant(ir.IntType(32), t)) for t in range(TOGETHER)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return intrinsic(typed)


def _vector(context: Any, builder: Any, array: Any, value: Any, at: Any, count: Any) -> Any:
    """Load integers of a contiguous array from the place that the sum of ``at`` is."""
    place, element = at[0], ir.IntType(array.dtype.bitwidth)
    for more in at[1:]:
        place = builder.add(place, more)
    kind = ir.VectorType(element, count)
    where = builder.gep(context.make_array(array)(context, builder, value).data, [place], source_etype=element)
    return builder.load(builder.bitcast(where, kind.as_pointer()), align=array.dtype.bitwidth // 8, typ=kind)


def _short(builder: Any, vector: Any, array: Any) -> Any:
    """Widen bytes to i16."""
    kind = ir.VectorType(ir.IntType(16), vector.type.count)
    return (builder.sext if array.dtype.signed else builder.zext)(vector, kind)


def _avx2() -> bool:
    """Return whether code is compiled for processors with AVX2."""
    settings: Any = numba.config
    host: Any = codegen.get_host_cpu_features
    told = settings.CPU_FEATURES
    return "+avx2" in (host() if told is None else told)


def _products(builder: Any, a: Any, b: Any) -> Any:
    """Return the products of two vectors of i16 as i32, pairs added; compilers do not find the instruction for it."""
    pieces = []
    for at in range(0, a.type.count, 16):
        x, y = (_pick(builder, v, v, range(at, at + 16)) for v in (a, b))
        if _avx2():
            kind = ir.FunctionType(ir.VectorType(ir.IntType(32), 8), [x.type, x.type])
            called = _tools.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pmadd.wd")
            pieces.append(builder.call(called, [x, y]))
        else:
            wide = ir.VectorType(ir.IntType(32), 8)
            even, odd = (
                builder.mul(*(builder.sext(_pick(builder, v, v, range(first, 16, 2)), wide) for v in (x, y)))
                for first in (0, 1)
            )
            pieces.append(builder.add(even, odd))
    return pieces[0] if len(pieces) == 1 else builder.add(*pieces)


def _pick(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(a, b, ir.Constant(kind, list(lanes)))


def _transposed(builder: Any, eight: Any) -> Any:
    """Return the sums of eight vectors of eight lanes, as one vector; pairs are added as processors do it."""

    def pairs(a: Any, b: Any) -> Any:
        even = [0, 2, 8, 10, 4, 6, 12, 14]
        return builder.add(_pick(builder, a, b, even), _pick(builder, a, b, [lane + 1 for lane in even]))

    twos = [pairs(eight[n], eight[n + 1]) for n in range(0, 8, 2)]
    first, second = pairs(twos[0], twos[1]), pairs(twos[2], twos[3])
    low = [0, 1, 2, 3, 8, 9, 10, 11]
    return builder.add(_pick(builder, first, second, low), _pick(builder, first, second, [lane + 4 for lane in low]))


def _splat(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    """Return a number of an array in all lanes."""
    one = _vector(context, builder, array, value, at, 1)
    wide = builder.sext(one, ir.VectorType(ir.IntType(64), 1))
    return _pick(builder, wide, wide, [0] * TOGETHER)


tile32, tile16 = _tile(32), _tile(16)


@compiled
def _finished(total: Any, rm: Any, re: Any, scale: Any, shift: Any) -> Any:
    """Section 5.4: from the exact sum to the output's format."""
    return sat(rsr(total * np.int64(rm), min(np.int64(re) + scale - shift, 62)))


@compiled
def _one(
    x: Any, shift: Any, q: Any, d: Any, m: Any, rm: Any, re: Any, scale: Any, sums: Any, out: Any, first: Any, last: Any
) -> None:
    """Compute some rows of :func:`linear` for one token."""
    groups, columns = d.shape[1], q.shape[1]
    group = columns // groups
    for o in range(first, last):
        total = np.int64(0)
        for g in range(groups):
            at, here = o * columns + group * g, group * g
            part = dot32(q, at, x, here) if group == 32 else dot16(q, at, x, here)
            total += np.int64(d[o, g]) * part + np.int64(m[o, g]) * np.int64(sums[0, g, 0])
        out[0, o] = _finished(total, rm[o], re[o], scale, shift[0])


@compiled
def _rows(
    x: Any, shift: Any, q: Any, d: Any, m: Any, rm: Any, re: Any, scale: Any, sums: Any, out: Any, first: Any, last: Any
) -> None:
    """Compute some rows of :func:`linear` for whole blocks of tokens."""
    groups, columns = d.shape[1], q.shape[1]
    group, block = columns // groups, groups * TOGETHER
    some = max(1, NEAR // columns)
    for start in range(first, last, some):
        for t in range(0, len(shift), TOGETHER):
            for o in range(start, min(start + some, last)):
                at, here, place = o * columns, t * columns, t // TOGETHER * block
                if group == 32:
                    totals = tile32(q, at, x, here, columns, d, m, o * groups, sums, place, groups)
                else:
                    totals = tile16(q, at, x, here, columns, d, m, o * groups, sums, place, groups)
                for n in range(min(TOGETHER, len(shift) - t)):
                    out[t + n, o] = _finished(totals[n], rm[o], re[o], scale, shift[t + n])


@threaded
def linear(digits: Any, shift: Any, q: Any, d: Any, m: Any, rm: Any, re: Any, scale: Any, base: Any, add: bool) -> Any:
    """Section 5.4; ``scale`` is Fin - Fout; with ``add`` the result is added to ``base`` (5.9). Groups: 16 or 32."""
    rows, count, columns = len(q), len(digits), q.shape[1]
    blocks = (count + TOGETHER - 1) // TOGETHER
    sums = np.zeros((blocks, d.shape[1], TOGETHER), np.int32)
    if count <= TOGETHER:
        group_sums(digits, sums[0])
    else:
        for b in prange(blocks):
            group_sums(digits[b * TOGETHER : (b + 1) * TOGETHER], sums[b])
    if count > 1 and count % TOGETHER:
        padded = np.zeros((blocks * TOGETHER, columns), np.int16)
        padded[:count] = digits
        digits = padded
    out = np.empty((count, rows), np.int64)
    for part in prange(PARTS):
        first, last = rows * part // PARTS, rows * (part + 1) // PARTS
        if count == 1:
            _one(digits, shift, q, d, m, rm, re, scale, sums, out, first, last)
        else:
            _rows(digits, shift, q, d, m, rm, re, scale, sums, out, first, last)
        if add:
            for t in range(count):
                for o in range(first, last):
                    out[t, o] = sat(base[t, o] + out[t, o])
    return out


@threaded
def embed(ids: Any, q: Any, d: Any, m: Any, rm: Any, re: Any, fr: Any) -> Any:
    """Section 5.1."""
    group = q.shape[1] // d.shape[1]
    out = np.empty((len(ids), q.shape[1]), np.int64)
    for t in prange(len(ids)):
        o = ids[t]
        for i in range(q.shape[1]):
            w = np.int64(d[o, i // group]) * q[o, i] + m[o, i // group]
            out[t, i] = sat(rsr(w * np.int64(rm[o]), np.int64(re[o]) - fr))
    return out


@compiled
def turn(x: Any, rope: Any, neox: bool) -> None:
    """Section 5.5 on one head, in place."""
    half = len(x) // 2
    for j in range(half):
        one, other = (j, j + half) if neox else (2 * j, 2 * j + 1)
        a, b, cos, sin = x[one], x[other], rope[j, 0], rope[j, 1]
        x[one] = sat(rsr(a * cos - b * sin, 30))
        x[other] = sat(rsr(a * sin + b * cos, 30))


@threaded
def store(k: Any, v: Any, rope: Any, neox: bool, first: Any, keys: Any, shifts: Any, values: Any) -> None:
    """Sections 5.5 and 5.6: rotate k and keep it with v; the caches are one layer's [kv head][position]."""
    heads, head = len(keys), keys.shape[2]
    for t in prange(len(k)):
        for h in range(heads):
            one = k[t, h * head : (h + 1) * head]
            turn(one, rope[first + t], neox)
            shifts[h, first + t] = quantise_row(one, keys[h, first + t])
            for i in range(head):
                values[h, first + t, i] = min(max(rsr(v[t, h * head + i], 6), -32639), 32639)


@threaded
def attention(
    q: Any, rope: Any, neox: bool, first: Any, keys: Any, shifts: Any, values: Any, c2: Any, table: Any
) -> Any:
    """Sections 5.5 and 5.7 for all query heads of all tokens."""
    count, head = len(q), keys.shape[2]
    heads = q.shape[1] // head
    out = np.empty(q.shape, np.int64)
    for at in prange(count * heads):
        t, h = at // heads, at % heads
        kv, seen = h * len(keys) // heads, first + t + 1
        one, q15 = q[t, h * head : (h + 1) * head], np.empty(head, np.int16)
        turn(one, rope[first + t], neox)
        qs = quantise_row(one, q15)
        scores, top = np.empty(seen, np.int64), np.int64(-2147483648)
        for p in range(seen):
            total = np.int64(0)
            for i in range(0, head, 32):
                total += dot32_wide(q15, i, keys, (kv * keys.shape[1] + p) * head + i)
            scores[p] = sat(rsr(rsr(total, 8) * c2, 38 - qs - shifts[kv, p]))
            top = max(top, scores[p])
        z, mix = np.int64(0), np.zeros(head, np.int64)
        for p in range(seen):
            e = rsr(exp2n(min(top - scores[p], 2621440), table), 8)
            z += e
            for i in range(head):
                mix[i] += e * np.int64(values[kv, p, i])
        bits = bit_length(z)
        reciprocal = 2147483648 // rsr(z, bits - 16)
        for i in range(head):
            out[t, h * head + i] = sat(rsr(rsr(mix[i], 8) * reciprocal, 1 + bits))
    return out


@threaded
def swiglu(gate: Any, up: Any, table: Any) -> Any:
    """Sections 5.8 and 5.3: SwiGLU, then digits."""
    digits, shift = np.empty(gate.shape, np.int16), np.empty(len(gate), np.int64)
    for t in prange(len(gate)):
        a = np.empty(gate.shape[1], np.int64)
        for i in range(gate.shape[1]):
            g = gate[t, i]
            a[i] = sat(rsr(sat(rsr(g * sigmoid(g, table), 30)) * up[t, i], 18))
        shift[t] = quantise_row(a, digits[t])
    return digits, shift
