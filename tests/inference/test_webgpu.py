"""WebGPU gives the reference's integers for whole models; and a GPU's process may die.

Needs a Vulkan adapter; software is enough (Debian: mesa-vulkan-drivers).
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from hyperpy.errors import Busy, Corrupt, HyperpyError, NotFound
from hyperpy.inference import engines, reference, webgpu
from hyperpy.inference.batching import Batcher
from hyperpy.inference.generation import generate
from hyperpy.inference.sampler import Sampling

wgpu = pytest.importorskip("wgpu")
from hyperpy.inference import webgpu_adapter as adapter  # noqa: E402
from hyperpy.inference import webgpu_device as device  # noqa: E402


@pytest.fixture(scope="module")
def gpu() -> adapter.Gpu:
    if not adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    return adapter.Gpu(adapter.pick())


@pytest.fixture(scope="module")
def engine() -> Iterator[webgpu.Engine]:
    if not adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    made = webgpu.Engine(engines.toy_model())
    yield made
    made.close()


# -- whole models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(300,), (1, 63, 64, 65, 107), (256, 1, 43)])
def test_a_prompt_in_any_pieces(engine: webgpu.Engine, pieces: tuple[int, ...]) -> None:
    judge = reference.Engine(engine.model)
    ids = [(7 * n * n + 3 * n) % engine.config.vocabulary for n in range(300)]
    wanted = judge.forward(ids, judge.cache(), every=True)
    cache, at, got = engine.cache(), 0, []
    for piece in pieces:
        got.append(engine.forward(ids[at : at + piece], cache, every=True))
        at += piece
    assert np.array_equal(np.concatenate(got), wanted)
    cache.truncate(100)
    assert np.array_equal(engine.forward(ids[100:105], cache, every=True), wanted[100:105])


def test_sessions_side_by_side(engine: webgpu.Engine) -> None:
    batcher = Batcher(engine)
    judge = reference.Engine(engine.model)
    cases = [([n + 3] * (5 * n + 1), Sampling(t16=30 * 65536, seed=bytes([n] * 32)), 12) for n in range(6)]
    sessions = [batcher.submit(*case) for case in cases]
    for case, session in zip(cases, sessions, strict=True):
        wanted = [(one.ident, one.state) for one in generate(judge, *case)]
        assert [(one.ident, one.state) for one in session] == wanted
    batcher.close()


def test_embedding_and_head_in_parts(gpu: adapter.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices beyond one binding are split by rows."""
    monkeypatch.setattr(adapter, "LARGEST", 64 * 64)
    forward = device.Forward(engines.toy_model(), gpu)
    assert len(forward._embedding.parts) > 3
    judge = reference.Engine(forward.model)
    ids = list(range(0, 264, 5))
    assert np.array_equal(forward.forward(ids, forward.cache()), judge.forward(ids, judge.cache()))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_every_kind_of_model(gpu: adapter.Gpu, architecture: str, halves: bool, split: bool) -> None:
    """Biases (qwen2), head norms (qwen3), groups of 16 beside nibbles in one layer (Q4_K_M's Q6_K)."""
    kind = engines.Kind(architecture, halves)
    forward = device.Forward(engines.toy_model(kind), gpu, (split, not split))
    assert engines.kind(forward.model) == kind
    engines.self_test(forward)
    judge = reference.Engine(forward.model)
    ids = [(5 * n * n + n) % judge.config.vocabulary for n in range(150)]
    wanted = judge.forward(ids, judge.cache(), every=True)
    assert np.array_equal(forward.forward(ids, forward.cache(), every=True), wanted)


@pytest.mark.parametrize("changed", ["out[at.y * matrix.out_stride + at.x] = sums[at.x];", "gain[weights + i]"])
def test_the_self_test_sees_a_models_kind(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that is wrong about biases or head norms alone is refused for the models that have them."""
    name = "linear.wgsl" if "sums" in changed else "norm.wgsl"
    honest = adapter.source(name)
    assert honest.count(changed) == 1
    wrong = honest.replace(changed, changed.replace("sums[at.x]", "sums[at.x] + 1").replace("+ i]", "+ i] + 64"))
    monkeypatch.setattr(adapter, "source", lambda asked: wrong if asked == name else _text(asked))
    gpu = adapter.Gpu(adapter.pick())
    engines.self_test(device.Forward(engines.toy_model(), gpu))
    kind = engines.Kind("qwen2" if "sums" in changed else "qwen3")
    with pytest.raises(Corrupt):
        engines.self_test(device.Forward(engines.toy_model(kind), gpu))


def test_the_faster_way_is_taken(gpu: adapter.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one token and for many by themselves, whatever the clock says; no bit depends on it."""
    for one, many in product((False, True), repeat=2):

        def timed(self: Any, cache: Any, count: int, layers: int, fast: tuple[bool, bool] = (one, many)) -> float:
            return 1.0 if self.tuning[count > 1] == fast[count > 1] else 2.0

        monkeypatch.setattr(device.Forward, "_timed", timed)
        assert device.Forward(engines.toy_model(), gpu).tuning == (one, many)


def test_many_sessions_at_once(engine: webgpu.Engine) -> None:
    """forward_many on caches of many lengths, more than a pass takes; prefixes of caches."""
    judge = reference.Engine(engine.model)
    rng = random.Random(2)
    caches, wanted, lengths = [], [], [0, 1, 63, 64, 65, 255, 256, 257, 500]
    ids = [rng.randrange(250) for _ in range(500)]
    longest, whole = engine.cache(), judge.cache()
    engine.forward(ids, longest)
    judge.forward(ids, whole)
    for length in (*lengths, *(rng.randrange(500) for _ in range(61))):
        caches.append(longest.prefix(length))
        wanted.append(judge.forward([length % 250], whole.prefix(length)))
    got = engine.forward_many([cache.length % 250 for cache in caches], caches)
    assert np.array_equal(got, np.array(wanted))
    assert np.array_equal(engine.forward([7], longest), judge.forward([7], whole))


@pytest.mark.parametrize("t16", [0, 30 * 65536])
def test_tokens_chosen_on_the_adapter(engine: webgpu.Engine, t16: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session alone: several tokens in one submission, and every state is the reference's."""
    asked: list[int] = []
    inner = engine.forward_ahead

    def counted(*args: Any) -> Any:
        rows, chosen = inner(*args)
        asked.append(len(rows))
        return rows, chosen

    monkeypatch.setattr(engine, "forward_ahead", counted)
    sampling = Sampling(t16=t16, seed=b"7" * 32)
    batcher = Batcher(engine)
    wanted = [(one.ident, one.state) for one in generate(reference.Engine(engine.model), [9, 8, 7], sampling, 50)]
    assert [(one.ident, one.state) for one in batcher.submit([9, 8, 7], sampling, 50)] == wanted
    batcher.close()
    assert max(asked) > 1
    assert sum(asked) <= 50


def test_an_adapter_that_chooses_wrongly_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are chosen here as well; what was read behind a wrong one is dropped."""
    wrong = _text("choose.wgsl").replace("ids[0] = found;", "ids[0] = (found + 1u) % choice.vocabulary;")
    assert wrong != _text("choose.wgsl")
    monkeypatch.setattr(adapter, "source", lambda asked: wrong if asked == "choose.wgsl" else _text(asked))
    liar: Any = device.Forward(engines.toy_model(), adapter.Gpu(adapter.pick()))
    with pytest.raises(Corrupt):
        engines.self_test(liar)
    batcher = Batcher(liar)
    wanted = [(one.ident, one.state) for one in generate(reference.Engine(liar.model), [9, 8], Sampling(), 30)]
    assert [(one.ident, one.state) for one in batcher.submit([9, 8], Sampling(), 30)] == wanted
    batcher.close()


def test_a_pass_that_failed_leaves_nothing(engine: webgpu.Engine) -> None:
    """What the GPU's process read and its answer did not reach us is not taken for read."""
    judge = reference.Engine(engine.model)
    cache = engine.cache()
    engine.forward([5, 6, 7], cache)
    cache.length -= 1  # as if the last token's answer had been lost
    assert np.array_equal(engine.forward([9], cache), judge.forward([5, 6, 9], judge.cache()))
    cache.length += 1
    with pytest.raises(HyperpyError, match="shorter"):
        engine.forward([9], cache)


def test_an_adapter_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no WebGPU adapter 'Voodoo'") as found:
        webgpu.Engine(engines.toy_model(), "Voodoo")
    assert found.value.hint


def test_adapters_are_listed() -> None:
    found = webgpu.adapters()
    assert found
    assert all(name and kind for name, kind in found)


def test_an_adapter_with_one_wrong_bit_is_refused(gpu: adapter.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shader changed by one unit in one rounding does not pass the self-test."""
    honest = adapter.source("integers.wgsl")
    changed = honest.replace("s - 1u)), s);", "s - 1u)), s + select(0u, 1u, s > 20u));")
    assert changed != honest
    monkeypatch.setattr(adapter, "source", lambda name: changed if name == "integers.wgsl" else (_text(name)))
    liar = device.Forward(engines.toy_model(), adapter.Gpu(adapter.pick()))
    with pytest.raises(Corrupt):
        engines.self_test(liar)


def _text(name: str) -> str:
    from pathlib import Path

    return (Path(__file__).parents[2] / "shaders" / name).read_text("utf-8")


# -- the process -----------------------------------------------------------------------------------------


def test_a_killed_process_costs_its_sessions_alone() -> None:
    engine = webgpu.Engine(engines.toy_model())
    batcher = Batcher(engine)
    session = batcher.submit([5, 6], Sampling(), 1000)
    next(session)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(Busy, match="process of the GPU") as found:
        list(session)
    assert found.value.status == 503
    wanted = [one.ident for one in generate(reference.Engine(engine.model), [5, 6], Sampling(), 20)]
    assert [one.ident for one in batcher.submit([5, 6], Sampling(), 20)] == wanted
    batcher.close()
    engine.close()


def test_sessions_that_are_left_are_freed(engine: webgpu.Engine) -> None:
    before = len(engine.dropped)
    for _ in range(3):
        engine.forward([1], engine.cache())
    assert len(engine.dropped) - before <= 3
    engine.cache()
    assert len(engine.dropped) <= 1
