"""Many sessions on one engine: every bit is that of the session alone, whatever else goes on."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hyperpy.errors import Busy, DeviceTimeout, HyperpyError, ParameterError, SizeError
from hyperpy.inference import reference, webgpu
from hyperpy.inference.batching import Batcher, Session
from hyperpy.inference.engines import build
from hyperpy.inference.generation import Backend, Token, generate
from hyperpy.inference.model import Model
from hyperpy.inference.sampler import Sampling

WILD = Sampling(t16=30 * 65536)
Made = list[tuple[int, bytes]]


@pytest.fixture(scope="module", params=["reference", "cpu", "webgpu"])
def engine(request: pytest.FixtureRequest, toy_model: Model) -> Iterator[Backend]:
    if request.param == "webgpu" and not any_adapter():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    made = build(request.param, toy_model)
    yield made
    if isinstance(made, webgpu.Engine):
        made.close()


def any_adapter() -> bool:
    try:
        return bool(webgpu.adapters())
    except HyperpyError:
        return False


@pytest.fixture
def batcher(engine: Backend) -> Iterator[Batcher]:
    made = Batcher(engine, most=64, waiting=64)
    yield made
    made.close()
    assert not [one for one in threading.enumerate() if one.name == "hyperpy-inference"]


def told(tokens: Any) -> Made:
    return [(one.ident, one.state) for one in tokens]


def drawn(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, 250) for _ in range(length)]


def test_64_sessions_cancelled_and_resumed(engine: Backend, batcher: Batcher, toy_model: Model) -> None:
    """Sessions of many lengths, some cut off and begun again: states equal those of the session alone."""
    rng = random.Random(17)
    alike = drawn(rng, 40)
    cases: list[tuple[list[int], Sampling, int]] = []
    for number in range(64):
        prompt = alike[: rng.randrange(41)] + drawn(rng, rng.randrange(1, 90))
        seed = number.to_bytes(32, "big")
        cases.append((prompt, Sampling(t16=rng.choice((0, 30 * 65536)), seed=seed), rng.randrange(1, 30)))
    open_sessions: list[tuple[int, Session, Made]] = [(n, batcher.submit(*case), []) for n, case in enumerate(cases)]
    done: dict[int, Made] = {}
    while open_sessions:
        number, session, made = open_sessions.pop(rng.randrange(len(open_sessions)))
        if rng.random() < 0.05:
            session.cancel()
            open_sessions.append((number, batcher.submit(*cases[number], draft=[one for one, _ in made]), []))
            continue
        token = next(session, None)
        if token is None:
            done[number] = made
        else:
            made.append((token.ident, token.state))
            open_sessions.append((number, session, made))
    judge = reference.Engine(toy_model)
    for number, (prompt, sampling, limit) in enumerate(cases):
        assert done[number] == told(generate(judge, prompt, sampling, limit)), number
    assert batcher.stats().reused > 0


@pytest.mark.parametrize("wrong", [None, 0, 1, 17, 39])
def test_a_claimed_answer_changes_nothing(batcher: Batcher, engine: Backend, wrong: int | None) -> None:
    """A right one, one that differs at a place, one that is too short: the tokens are those of the engine."""
    honest = told(generate(engine, [5, 6, 7], WILD, 40))
    claimed = [one for one, _ in honest]
    if wrong is not None:
        claimed[wrong] = (claimed[wrong] + 1) % 250
    for draft in (claimed, claimed[:20], [*claimed, 1, 2, 3], []):
        assert told(batcher.submit([5, 6, 7], WILD, 40, draft=draft)) == honest


def test_a_claimed_answer_longer_than_a_piece(engine: Backend, batcher: Batcher) -> None:
    honest = told(generate(engine, [9, 8], WILD, 200))
    claimed = [one for one, _ in honest]
    assert told(batcher.submit([9, 8], WILD, 200, draft=claimed)) == honest
    for no_token in (-1, engine.config.vocabulary, 2**40):
        assert told(batcher.submit([9, 8], WILD, 200, draft=[*claimed[:100], no_token, *claimed[101:]])) == honest
    claimed[150] += 1
    assert told(batcher.submit([9, 8], WILD, 200, draft=claimed)) == honest


def test_stop_tokens_end_a_session(engine: Backend, batcher: Batcher) -> None:
    whole = told(generate(engine, [5, 6], WILD, 30))
    stop = whole[7][0]
    first = next(n for n, (ident, _) in enumerate(whole) if ident == stop)
    assert told(batcher.submit([5, 6], WILD, 30, frozenset({stop}))) == whole[: first + 1]
    assert told(batcher.submit([5, 6], WILD, 30, frozenset({stop}), draft=[i for i, _ in whole])) == whole[: first + 1]


def test_what_was_read_is_not_read_again(engine: Backend) -> None:
    with_reuse, without = Batcher(engine), Batcher(engine, reuse=False)
    prompt = drawn(random.Random(3), 100)
    wanted = told(generate(engine, [*prompt, 7], WILD, 5))
    for batcher, reused in ((with_reuse, 100), (without, 0)):
        list(batcher.submit(prompt, WILD, 1))
        assert told(batcher.submit([*prompt, 7], WILD, 5)) == wanted
        assert batcher.stats().reused == reused
        batcher.close()


def test_kept_beginnings_are_bounded(engine: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.inference import batching

    batcher = Batcher(engine)
    rng = random.Random(5)
    list(batcher.submit(drawn(rng, 60), WILD, 1))
    size = batcher._kept[0][1].nbytes
    monkeypatch.setattr(batching, "KEPT", 3 * size + size // 2)
    prompts = [drawn(rng, 60) for _ in range(6)]
    for prompt in prompts:
        list(batcher.submit(prompt, WILD, 1))
    assert [ids[:60] for ids, _ in batcher._kept] == prompts[3:]
    list(batcher.submit(drawn(rng, 600), WILD, 1))
    assert len(batcher._kept) == 3, "what is too large to keep drives nothing out"
    longer = [*prompts[3], 7, 8]
    list(batcher.submit(longer, WILD, 1))
    assert [ids[:62] for ids, _ in batcher._kept] == [*prompts[4:], longer], "the longer stands for the shorter"
    batcher.close()


def test_running_sessions_lend_what_they_read(engine: Backend) -> None:
    """Ten with the same long beginning at once: it is read about once, and no bit changes."""
    batcher = Batcher(engine)
    alike = drawn(random.Random(4), 300)
    sessions = [batcher.submit([*alike, n], WILD, 3) for n in range(5, 15)]
    made = [told(one) for one in sessions]
    assert made == [told(generate(engine, [*alike, n], WILD, 3)) for n in range(5, 15)]
    assert batcher.stats().reused > 2000
    batcher.close()


# -- limits and failures ----------------------------------------------------------------------------


class Slow:
    """An engine that waits for the test before each pass, and fails where it is told to."""

    name = "slow"

    def __init__(self, inner: Backend) -> None:
        self.inner, self.model, self.config = inner, inner.model, inner.config
        self.go = threading.Event()
        self.fails: Exception | None = None
        self.lost: Any = None

    def cache(self) -> Any:
        return self.inner.cache()

    def forward(self, ids: Any, cache: Any, every: bool = False) -> Any:
        self.go.wait(20)
        if self.fails is not None and (ids[0] == 66 or cache is self.lost):
            raise self.fails
        return self.inner.forward(ids, cache, every)


def test_too_many_are_refused_and_the_rest_served(toy_model: Model) -> None:
    slow = Slow(reference.Engine(toy_model))
    batcher = Batcher(slow, most=4, waiting=6)
    sessions: list[Session] = []
    refused = 0
    for _ in range(1000):
        try:
            sessions.append(batcher.submit([5, 6], WILD, 3))
        except Busy:
            refused += 1
    assert (len(sessions), refused) == (10, 990)
    slow.go.set()
    wanted = told(generate(slow.inner, [5, 6], WILD, 3))
    assert [told(one) for one in sessions] == [wanted] * len(sessions)
    batcher.close()


@pytest.mark.parametrize("error", [Busy("the device is gone"), RuntimeError("adapter lost")])
def test_a_failing_engine_ends_only_what_it_was_for(toy_model: Model, error: Exception) -> None:
    slow = Slow(reference.Engine(toy_model))
    slow.go.set()
    slow.fails = error
    batcher = Batcher(slow)
    good = batcher.submit([5, 6, 7], WILD, 5)
    with pytest.raises(HyperpyError, match=str(error)):
        list(batcher.submit([66, 6, 7], WILD, 5))
    assert told(good) == told(generate(slow.inner, [5, 6, 7], WILD, 5))
    slow.fails = None
    assert told(batcher.submit([66, 6, 7], WILD, 5)) == told(generate(slow.inner, [66, 6, 7], WILD, 5))
    batcher.close()


def test_a_session_lost_while_others_write(toy_model: Model) -> None:
    """Engines that make one token at a time: the session whose pass fails ends, those beside it go on."""
    slow = Slow(reference.Engine(toy_model))
    slow.go.set()
    batcher = Batcher(slow)
    sessions = [batcher.submit([5, 6, n], WILD, 12) for n in (7, 8, 9)]
    first = [next(one) for one in sessions]
    slow.fails, slow.lost = Busy("the session is lost"), batcher._running[1].cache
    made = [[(token.ident, token.state)] for token in first]
    with pytest.raises(Busy, match="is lost"):
        list(sessions[1])
    for n in (0, 2):
        assert made[n] + told(sessions[n]) == told(generate(slow.inner, [5, 6, 7 + n], WILD, 12))
    batcher.close()


def test_readers_do_not_share_an_error(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build("cpu", toy_model)
    gone = Busy("the device is gone", hint="Wait.")

    def lost(*_: Any) -> Any:
        raise gone

    monkeypatch.setattr(engine, "forward_many", lost)
    batcher = Batcher(engine)
    sessions = [batcher.submit([5, 6, n], WILD, 500) for n in (7, 8)]
    for session in sessions:
        next(session)
    monkeypatch.setattr(engine, "forward", lost)
    errors = []
    for session in sessions:
        with pytest.raises(Busy, match="is gone") as told_of:
            list(session)
        errors.append(told_of.value)
    assert len({id(one) for one in (gone, *errors)}) == 3
    assert [one.hint for one in errors] == ["Wait.", "Wait."]
    batcher.close()


def test_a_pass_for_all_that_fails_is_made_for_each(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build("cpu", toy_model)
    honest: Any = engine.forward_many  # type: ignore[attr-defined]

    def fails_with_many(ids: Any, caches: Any) -> Any:
        if len(ids) > 2:
            raise MemoryError
        return honest(ids, caches)

    monkeypatch.setattr(engine, "forward_many", fails_with_many)
    batcher = Batcher(engine)
    sessions = [batcher.submit([5, 6, n], WILD, 20) for n in (7, 8, 9)]
    for n, session in zip((7, 8, 9), sessions, strict=True):
        assert told(session) == told(generate(reference.Engine(toy_model), [5, 6, n], WILD, 20))
    batcher.close()


def until_idle(batcher: Batcher) -> None:
    end = time.monotonic() + 20
    while not batcher.idle:
        assert time.monotonic() < end, "a session is left"
        time.sleep(0.01)


def test_a_session_nobody_holds_ends(toy_model: Model) -> None:
    batcher = Batcher(reference.Engine(toy_model))
    session = batcher.submit([5], WILD, 500)
    next(session)
    del session
    gc.collect()
    until_idle(batcher)
    batcher.close()


def test_who_waits_no_longer_holds_no_place(toy_model: Model) -> None:
    slow = Slow(reference.Engine(toy_model))
    batcher = Batcher(slow, most=1, waiting=2)
    running = batcher.submit([5], WILD, 3)
    for _ in range(20):
        waiting = [batcher.submit([6], WILD, 3) for _ in range(2)]
        with pytest.raises(Busy):
            batcher.submit([7], WILD, 3)
        for one in waiting:
            one.cancel()
    slow.go.set()
    assert len(list(running)) == 3
    batcher.close()


def test_a_reader_who_stopped_reading_is_ended_at_the_deadline(toy_model: Model) -> None:
    batcher = Batcher(reference.Engine(toy_model), most=1)
    stalled = batcher.submit([5], WILD, 500, deadline=time.monotonic() + 0.3)
    next(stalled)
    assert len(list(batcher.submit([6], WILD, 5))) == 5, "its place is free"
    with pytest.raises(DeviceTimeout):
        list(stalled)
    batcher.close()


def test_one_thread_enters_compiled_loops(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks: a second thread in them, once alive, would make each token take four times as long."""
    from hyperpy.inference import cpu_kernels

    entered: set[int] = set()
    inner = cpu_kernels.embed

    def embed(*args: Any) -> Any:
        entered.add(threading.get_ident())
        return inner(*args)

    monkeypatch.setattr(cpu_kernels, "embed", embed)
    engine = build("cpu", toy_model)
    engine.forward([5, 6], engine.cache())
    batcher = Batcher(engine)
    for session in [batcher.submit([5, n], WILD, 3) for n in (6, 7)]:
        list(session)
    batcher.close()
    assert len(entered - {threading.get_ident()}) == len(entered) == 1


def test_time_runs_out_for_its_reader_alone(toy_model: Model) -> None:
    slow = Slow(reference.Engine(toy_model))
    batcher = Batcher(slow)
    with pytest.raises(DeviceTimeout, match="after 0 tokens"):
        next(batcher.submit([5], WILD, 5, deadline=time.monotonic() + 0.05))
    slow.go.set()
    assert len(list(batcher.submit([5], WILD, 5))) == 5
    batcher.close()


def test_nobody_computes_for_a_reader_who_does_not_read(toy_model: Model) -> None:
    engine = Slow(reference.Engine(toy_model))
    engine.go.set()
    batcher = Batcher(engine)
    session = batcher.submit([5], WILD, 500)
    assert isinstance(next(session), Token)
    other = list(batcher.submit([6], WILD, 50))
    assert len(other) == 50
    assert batcher.stats().made < 50 + 10
    session.cancel()
    while not batcher.idle:
        time.sleep(0.01)
    batcher.close()


def test_closing_tells_the_readers(toy_model: Model) -> None:
    batcher = Batcher(reference.Engine(toy_model))
    session = batcher.submit([5], WILD, 500)
    next(session)
    batcher.close()
    with pytest.raises(Busy, match="stopping"):
        list(session)
    with pytest.raises(Busy):
        batcher.submit([5], WILD, 5)


@pytest.mark.parametrize(
    ("prompt", "limit", "error"),
    [([], 5, ParameterError), ([-1], 5, ParameterError), ([99999], 5, ParameterError), ([5], 2048, SizeError)],
)
def test_prompts_that_are_none(batcher: Batcher, prompt: list[int], limit: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        batcher.submit(prompt, WILD, limit)


def test_side_by_side_is_the_same(toy_model: Model) -> None:
    """forward_many of the CPU engine, on caches of many lengths, beside forward of the reference."""
    engine, judge = build("cpu", toy_model), reference.Engine(toy_model)
    rng = random.Random(1)
    prompts = [drawn(rng, length) for length in (0, 1, 63, 64, 65, 255, 256, 257, 1000)] * 8
    caches, wanted = [], []
    for prompt in prompts:
        ours, theirs = engine.cache(), judge.cache()
        if prompt:
            engine.forward(prompt, ours)
            judge.forward(prompt, theirs)
        caches.append(ours)
        wanted.append(judge.forward([7], theirs))
    got = engine.forward_many([7] * len(caches), caches)  # type: ignore[attr-defined]
    assert np.array_equal(got, np.array(wanted))
