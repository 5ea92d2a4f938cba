"""Every engine gives the reference's bits, and one that does not is refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpy.errors import ConfigError, Corrupt, ParameterError
from hyperpy.inference import cpu, cpu_kernels, engines, reference, tables
from hyperpy.inference.arith import quantise
from hyperpy.inference.generation import generate
from hyperpy.inference.model import Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.weights import Matrix, Norm

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def both(toy_model: Model) -> tuple[cpu.Engine, reference.Engine]:
    return cpu.Engine(toy_model), reference.Engine(toy_model)


@pytest.mark.parametrize("context", [1, 2, 31, 32, 33, 255, 256, 257, 1024])
def test_contexts(both: tuple[cpu.Engine, reference.Engine], context: int) -> None:
    ids = np.random.default_rng(context).integers(0, 264, context + 1).tolist()
    fast, judge = both
    ours, theirs = fast.cache(), judge.cache()
    assert np.array_equal(fast.forward(ids[:-1], ours), judge.forward(ids[:-1], theirs))
    assert np.array_equal(fast.forward(ids[-1:], ours), judge.forward(ids[-1:], theirs))
    assert np.array_equal(ours.k[:, :, :context], theirs.k[:, :, :context])
    assert np.array_equal(ours.v[:, :, :context], theirs.v[:, :, :context])


EXTREME = {"u4": (0, 15, 7), "i8": (-128, 127, 0, -127)}


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(["u4", "i8"]), st.sampled_from([16, 32]), st.integers(1, 9))
def test_linear_extremes(seed: int, kind: str, group: int, tokens: int) -> None:
    """Largest scales, offsets, weights and digits, rows of zeros, both group sizes."""
    pick = np.random.default_rng(seed)
    rows, columns = int(pick.integers(1, 70)), 32 * int(pick.integers(1, 9))
    q = pick.choice(EXTREME[kind], (rows, columns)).astype(np.uint8 if kind == "u4" else np.int8)
    d = pick.choice([-4095, 4095, 0, 9], (rows, columns // group)).astype(np.int16)
    m = pick.choice([-32767, 32767, 0, 5], (rows, columns // group)).astype(np.int16)
    d[0], m[0] = 0, 0
    rm = pick.integers(32768, 65536, rows).astype(np.uint16)
    matrix = Matrix(q, d, m, rm, pick.integers(0, 256, rows).astype(np.uint8))
    digits = pick.choice([-16384, 16384, 0, 3], (tokens, columns)).astype(np.int64)
    shift, base = pick.integers(-14, 18, tokens), pick.integers(-(2**31), 2**31, (tokens, rows))
    judge = object.__new__(reference.Engine)
    judge._dense = {}
    expected = judge.linear(digits, shift, matrix, tables.FN, tables.FQ)
    parts = cpu._parts(matrix)
    got = cpu_kernels.linear(digits.astype(np.int16), shift, *parts, 2, np.empty((0, 0), np.int64), False)
    assert np.array_equal(got, expected)
    got = cpu_kernels.linear(digits.astype(np.int16), shift, *parts, 2, base, True)
    assert np.array_equal(got, np.clip(base + expected, -(2**31), 2**31 - 1))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 31), st.integers(-10, 40))
def test_norm_and_swiglu(both: tuple[cpu.Engine, reference.Engine], seed: int, bits: int, eg: int) -> None:
    pick, (_, judge) = np.random.default_rng(seed), both
    x = pick.integers(-(2**bits), 2**bits, (3, 64))
    x.flat[pick.integers(0, 192, 3)] = pick.choice([-(2**31), 2**31 - 1, 0], 3)
    norm = Norm(pick.integers(-(2**24), 2**24, 64).astype(np.int32), eg)
    got = cpu_kernels.rms_norm(x, norm.g, eg, judge._eps, judge._cn, judge._kn)
    for ours, theirs in zip(got, quantise(judge.rms_norm(x, norm)), strict=True):
        assert np.array_equal(ours, theirs)
    ours = cpu_kernels.quantise(x)
    assert all(np.array_equal(a, b) for a, b in zip(ours, quantise(x), strict=True))


def test_sessions_side_by_side(both: tuple[cpu.Engine, reference.Engine]) -> None:
    """Sessions of different lengths that take turns at random, some cut back: each is as if alone."""
    fast, judge = both
    order = random.Random(3)
    ids = [np.random.default_rng(n).integers(0, 264, 20 + 9 * n).tolist() for n in range(8)]
    caches, at, last = [fast.cache() for _ in ids], [0] * 8, [np.empty(0)] * 8
    while any(at[n] < len(ids[n]) for n in range(8)):
        n = order.choice([n for n in range(8) if at[n] < len(ids[n])])
        if at[n] > 10 and order.random() < 0.2:
            caches[n].truncate(at[n] - 10)
            at[n] -= 10
        step = order.randint(1, 40)
        last[n] = fast.forward(ids[n][at[n] : at[n] + step], caches[n])
        at[n] = min(at[n] + step, len(ids[n]))
    for n in range(8):
        assert np.array_equal(last[n], judge.forward(ids[n], judge.cache()))


def test_generations_agree(both: tuple[cpu.Engine, reference.Engine]) -> None:
    made = [list(generate(engine, [1, 5, 9], Sampling(65536, 0, 65536, b"s" * 32), 30)) for engine in both]
    assert [(t.ident, t.state) for t in made[0]] == [(t.ident, t.state) for t in made[1]]


def test_ids_are_checked_before_memory_is_read(both: tuple[cpu.Engine, reference.Engine]) -> None:
    for bad in ([], [-1], [264]):
        with pytest.raises(ParameterError):
            both[0].forward(bad, both[0].cache())


def test_a_wrong_engine_is_refused(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(cpu.Engine):
        def forward(self, *words: Any, **named: Any) -> Any:
            made = super().forward(*words, **named).copy()
            made.flat[-1] ^= 1
            return made

    with pytest.raises(Corrupt, match="reference's bits"):
        engines.self_test(Wrong(toy_model))
    engines.trusted.cache_clear()
    monkeypatch.setattr(engines, "_plain", lambda name, model: Wrong(model))
    assert engines.choose(toy_model).name == "reference"
    engines.trusted.cache_clear()


def test_the_fastest_engine_is_chosen(toy_model: Model) -> None:
    assert engines.choose(toy_model).name == "cpu"
    with pytest.raises(ConfigError, match="no inference engine"):
        engines.build("gpu9", toy_model)
