"""Tables, rounding and the operators, each against plain Python integers written from the specification."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.errors import ParameterError
from hyperpy.inference import arith, tables
from hyperpy.inference.model import Model
from hyperpy.inference.reference import Engine
from hyperpy.inference.sampler import Sampling, sampling
from hyperpy.inference.weights import Matrix, Norm

I32 = st.integers(-(2**31), 2**31 - 1)
EXTREMES = [0, 1, -1, 2**31 - 1, -(2**31), 2**14, -(2**14), 12345]


def rsr(v: int, s: int) -> int:
    return (v + (1 << (s - 1))) >> s if s > 0 else v << -s


def sat(v: int) -> int:
    return max(-(2**31), min(2**31 - 1, v))


def exp2n(t: int) -> int:
    table = tables.exp2().tolist()
    n, f = t >> 16, t & 0xFFFF
    i, r = f >> 8, f & 255
    return 0 if n >= 31 else (table[i] - (((table[i] - table[i + 1]) * r + 128) >> 8)) >> n


def quantise(v: list[int]) -> tuple[list[int], int]:
    shift = max(abs(x) for x in v).bit_length() - 14
    return [rsr(x, shift) for x in v], shift


def test_tables_are_the_specification() -> None:
    tables.check()
    table = tables.exp2()
    assert hashlib.sha256(table.astype("<u4").tobytes()).hexdigest() == tables.EXP2_SHA256
    assert (table[0], table[1], table[255], table[256]) == (2**30, 1070838486, 538326517, 2**29)
    assert tables.sha256_i32(tables.Rope(100000.0, 32).upto(8192)[:8192]) == tables.ROPE_SHA256
    assert tables.epsilon(576, float(np.float32(1e-5))) == 1546188
    assert Decimal(2).ln() * tables.LOG2E / 2**31 - 1 < Decimal("1e-9")


def test_a_rotation_table_grows_to_the_same_numbers() -> None:
    whole, grown = tables.Rope(10000.0, 16), tables.Rope(10000.0, 16)
    for size in (1, 2, 7, 300, 301):
        grown.upto(size)
    assert np.array_equal(whole.upto(301)[:301], grown.upto(301)[:301])


@given(st.integers(-(2**62), 2**62), st.integers(-70, 90))
def test_rounding_shift(v: int, s: int) -> None:
    assert sat(int(arith.rsr(v, s))) == sat(rsr(v, s))
    assert int(arith.sat(arith.rsr(v, s))) == sat(rsr(v, s))


@given(st.lists(I32, min_size=1, max_size=9))
def test_quantise(v: list[int]) -> None:
    digits, shift = arith.quantise(np.array([v]))
    assert (digits[0].tolist(), int(shift[0])) == quantise(v)
    assert max(map(abs, digits[0].tolist())) <= 2**14


@given(st.integers(0, 2**32 - 1))
def test_scalar_functions(u: int) -> None:
    assert int(arith.isqrt16(u)) == isqrt(u)
    assert int(arith.bit_length(u)) == u.bit_length()
    assert int(arith.exp2n(u >> 8)) == exp2n(u >> 8)
    g = u - 2**31
    z = min(abs(g), 24 * 65536)
    e = exp2n((2 * z * tables.LOG2E) >> 32)
    positive = ((2**31) // ((2**30 + e) >> 15)) << 14
    assert int(arith.sigmoid(g)) == (positive if g >= 0 else ((4 * e) * positive) >> 32)


def one_norm(x: list[int], g: list[int], eg: int, eps: int) -> list[int]:
    n = len(x)
    cn, kn = tables.norm_constants(n)
    a = max(max(map(abs, x)).bit_length() - 15, 0)
    s = sum(rsr(v, a) ** 2 for v in x) + (eps >> 2 * a) or 1
    k = 31 - s.bit_length()
    k -= k & 1
    k += 2 if s.bit_length() + k < 31 else 0
    r = cn // isqrt(s << k if k >= 0 else s >> -k)
    return [sat(rsr(v * rsr(w * r, 16), eg - 16 + kn - (k >> 1) + a - tables.FN)) for v, w in zip(x, g, strict=True)]


def one_attention(engine: Engine, q: list[int], keys: list[Any], values: list[list[int]], top: int) -> list[int]:
    q15, qs = quantise(q)
    scores = []
    for key in keys[: top + 1]:
        k15, ks = quantise(key)
        dot = sum(a * b for a, b in zip(q15, k15, strict=True))
        scores.append(sat(rsr(rsr(dot, 8) * tables.c2(len(q)), 30 + 32 - 16 - 8 - qs - ks)))
    e = [rsr(exp2n(min(max(scores) - s, 40 * 65536)), 8) for s in scores]
    z, v10 = sum(e), [[max(-32639, min(32639, rsr(v, 6))) for v in row] for row in values]
    bits = z.bit_length()
    reciprocal = 2**31 // rsr(z, bits - 16)
    seen = [sum(w * row[i] for w, row in zip(e, v10, strict=False)) for i in range(len(q))]
    return [sat(rsr(rsr(n, 8) * reciprocal, 31 - 16 + bits + 10 - 16 - 8)) for n in seen]


@pytest.fixture(scope="module")
def engine(toy_model: Model) -> Engine:
    return Engine(toy_model)


@given(st.data())
def test_rms_norm(engine: Engine, data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([1, 300, 2**20, 2**31 - 1]))
    x = data.draw(st.lists(st.integers(-scale, scale), min_size=64, max_size=64))
    g = data.draw(st.lists(st.integers(-(2**24), 2**24), min_size=64, max_size=64))
    eg = data.draw(st.integers(10, 30))
    got = engine.rms_norm(np.array([x], np.int64), Norm(np.array(g, np.int32), eg))
    assert got[0].tolist() == one_norm(x, g, eg, tables.epsilon(64, engine.config.eps))


@given(st.data())
def test_linear(engine: Engine, data: st.DataObject) -> None:
    signed = data.draw(st.booleans())
    pick = st.sampled_from([-128, 127, 0, -1] if signed else [0, 15, 7])
    q = np.array(data.draw(st.lists(pick, min_size=192, max_size=192)), np.int8 if signed else np.uint8).reshape(3, 64)
    d = np.array(data.draw(st.lists(st.sampled_from([-4095, 4095, 0, 17]), min_size=6, max_size=6)), np.int16)
    m = np.array(data.draw(st.lists(st.sampled_from([-32767, 32767, 0]), min_size=6, max_size=6)), np.int16)
    re = np.array([24, 40, data.draw(st.integers(0, 255))], np.uint8)
    matrix = Matrix(q, d.reshape(3, 2), m.reshape(3, 2), np.array([32768, 65535, 40000], np.uint16), re)
    x = data.draw(st.lists(st.sampled_from([16384, -16384, 0, 5]), min_size=64, max_size=64))
    shift = data.draw(st.integers(-14, 17))
    engine._dense.clear()
    got = engine.linear(np.array([x], np.int64), np.array([shift]), matrix, tables.FN, tables.FQ)[0]
    for row in range(3):
        w = [int(matrix.d[row, i // 32]) * int(q[row, i]) + int(matrix.m[row, i // 32]) for i in range(64)]
        acc = sum(a * b for a, b in zip(w, x, strict=True))
        assert got[row] == sat(rsr(acc * int(matrix.rm[row]), min(int(re[row]) + 2 - shift, 62)))


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_attention(engine: Engine, seed: int, count: int) -> None:
    """Whole attention of one layer, rotation included, with the largest numbers that fit among the inputs."""
    random = np.random.default_rng(seed)
    heads, kv, head = engine.config.heads, engine.config.kv_heads, engine.config.head
    q, k, v = (random.integers(-(2**20), 2**20, (count, n * head)) for n in (heads, kv, kv))
    for part in (q, k, v):
        part.flat[random.integers(0, part.size, 4)] = random.choice(EXTREMES, 4)
    cache = engine.cache()
    cache.reserve(count)
    got = engine.attention(0, q, k, v, cache, lambda name, value: None)
    turned_q, turned_k = (engine.rope(part.reshape(count, -1, head), 0) for part in (q, k))
    for at in range(count):
        for h in range(heads):
            keys = turned_k[:, h * kv // heads].tolist()
            values = v.reshape(count, kv, head)[:, h * kv // heads].tolist()
            expected = one_attention(engine, turned_q[at, h].tolist(), keys, values, at)
            assert got[at].reshape(heads, head)[h].tolist() == expected


@given(st.lists(I32, min_size=64, max_size=64), st.integers(0, 900))
def test_rope(engine: Engine, x: list[int], position: int) -> None:
    got = engine.rope(np.array(x, np.int64).reshape(1, 2, 32), position).reshape(2, 16, 2)
    for j in range(16):
        c, s = engine._rope.upto(position + 1)[position, j].tolist()
        for h in range(2):
            a, b = x[32 * h + 2 * j], x[32 * h + 2 * j + 1]
            assert got[h, j].tolist() == [sat(rsr(a * c - b * s, 30)), sat(rsr(a * s + b * c, 30))]


def one_choice(chosen: Sampling, logits: list[int], position: int) -> int:
    order = sorted(range(len(logits)), key=lambda n: (-logits[n], n))
    order = order[: chosen.top_k] if chosen.top_k else order
    inverse = (tables.LOG2E * 65536 + chosen.t16 // 2) // chosen.t16
    weight = {
        n: exp2n(min((min(logits[order[0]] - logits[n], 40 * chosen.t16) * inverse) >> 31, 31 * 65536)) for n in order
    }
    needed, kept, running = -(-chosen.p16 * sum(weight.values()) // 65536), [], 0
    for n in order:
        kept.append(n)
        running += weight[n]
        if running >= needed:
            break
    drawn = hashlib.sha256(b"hpi1-sample" + chosen.seed + position.to_bytes(8, "big")).digest()[:8]
    target, running = (int.from_bytes(drawn, "big") * sum(weight[n] for n in kept)) >> 64, 0
    for n in sorted(kept):
        running += weight[n]
        if running > target:
            return n
    raise AssertionError("no id")


@given(
    st.lists(st.integers(-(10**6), 10**6) | st.sampled_from([5, -(2**31), 2**31 - 1]), min_size=1, max_size=40),
    st.integers(656, 2**18),
    st.integers(0, 50),
    st.integers(1, 65536),
    st.integers(0, 2**20),
)
def test_sampler(logits: list[int], t16: int, top_k: int, p16: int, position: int) -> None:
    seed = hashlib.sha256(str(logits).encode()).digest()
    chosen = Sampling(t16, top_k, p16, seed)
    assert chosen.choose(np.array(logits), position) == one_choice(chosen, logits, position)
    assert Sampling().choose(np.array(logits), position) == logits.index(max(logits))


def test_sampling_takes_decimals_exactly() -> None:
    made = sampling("0.8", "0.95", 40)
    assert (made.t16, made.p16) == (52429, 62259)
    assert sampling("0.5000076293945313").t16 == int(65536 * Fraction("0.5000076293945313") + Fraction(1, 2))
    for bad in ("0.001", "-1", "NaN", "1e-30", "1e999999999", "x", "101", ""):
        with pytest.raises(ParameterError):
            sampling(bad)
    for bad_p in ("0", "1.1", "-0.1"):
        with pytest.raises(ParameterError):
            sampling("1", bad_p)
    with pytest.raises(ParameterError):
        sampling(seed=b"short")
