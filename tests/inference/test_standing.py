"""What a node keeps for disputes, and what several threads may share."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hyperpy.errors import Busy, NotFound, ParameterError, SizeError
from hyperpy.inference import reference, standing, tables, weights
from hyperpy.inference.engines import toy_model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.standing import Disputed, Standing

REFERENCE = "ab" * 32
WEIGHTS = weights.weight_root(dict(toy_model().weights))


@pytest.fixture
def kept() -> Iterator[Standing]:
    made = Standing()
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine() -> reference.Engine:
    return reference.Engine(toy_model())


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def asked(*ids: int) -> Disputed:
    return Disputed(REFERENCE, ids, len(ids), Sampling())


def soon() -> float:
    return time.monotonic() + 60


def test_a_name_says_all_that_is_asked() -> None:
    one = Disputed(REFERENCE, (1, 2, 3), 2, Sampling())
    others = [
        Disputed("cd" * 32, (1, 2, 3), 2, Sampling()),
        Disputed(REFERENCE, (1, 2, 4), 2, Sampling()),
        Disputed(REFERENCE, (1, 2, 3), 3, Sampling()),
        Disputed(REFERENCE, (1, 2, 3), 2, Sampling(t16=656)),
        Disputed(REFERENCE, (1, 2, 3), 2, Sampling(top_k=1)),
        Disputed(REFERENCE, (1, 2, 3), 2, Sampling(p16=1)),
        Disputed(REFERENCE, (1, 2, 3), 2, Sampling(seed=bytes([1]) * 32)),
    ]
    assert len({one.name, *(other.name for other in others)}) == 8
    assert Disputed(REFERENCE, (1, 2, 3), 2, Sampling()).name == one.name


def test_the_same_is_made_once(kept: Standing, engine: reference.Engine) -> None:
    one = kept.of(asked(5, 6, 7), lambda: engine, WEIGHTS, soon())
    assert kept.of(asked(5, 6, 7), lambda: engine, WEIGHTS, soon()) is one
    assert kept.known(asked(5, 6, 7).name) is one
    with pytest.raises(NotFound):
        kept.known(asked(5, 6).name)


def test_what_was_asked_about_longest_ago_goes(
    kept: Standing, engine: reference.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "ROOM", 20)
    monkeypatch.setattr(standing, "PROTECTED", 0.0)
    for number in range(3):
        kept.of(asked(*range(6), number), lambda: engine, WEIGHTS, soon())
    with pytest.raises(NotFound):
        kept.known(asked(*range(6), 0).name)
    kept.known(asked(*range(6), 1).name)
    kept.of(asked(*range(30)), lambda: engine, WEIGHTS, soon())
    assert kept.known(asked(*range(30)).name).tokens, "one alone may have more"
    with pytest.raises(NotFound):
        kept.known(asked(*range(6), 2).name)


def test_who_comes_too_early_is_told_to_come_again(kept: Standing, engine: reference.Engine) -> None:
    with pytest.raises(Busy, match="being computed") as error:
        kept.of(asked(*range(200)), lambda: engine, WEIGHTS, time.monotonic())
    assert error.value.retry_after
    assert len(kept.of(asked(*range(200)), lambda: engine, WEIGHTS, soon()).tokens) == 200


def test_a_dispute_in_progress_is_not_driven_out(
    kept: Standing, engine: reference.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later waits, in number and in positions."""
    kept.of(asked(*range(20), 7), lambda: engine, WEIGHTS, soon())
    for number in range(standing.KEPT - 1):
        kept.of(asked(number), lambda: engine, WEIGHTS, soon())
    with pytest.raises(Busy, match="held") as error:
        kept.of(asked(99), lambda: engine, WEIGHTS, soon())
    assert error.value.status == 503
    assert error.value.retry_after
    assert len(kept.known(asked(*range(20), 7).name).tokens) == 21
    monkeypatch.setattr(standing, "LONGEST", 0.0)
    kept.of(asked(99), lambda: engine, WEIGHTS, soon())
    assert len(kept._made) == standing.KEPT, "nobody holds a place for ever"


class Slow(reference.Engine):
    """Waits for leave before each piece, and counts them."""

    def __init__(self) -> None:
        super().__init__(toy_model())
        self.leave, self.pieces, self.begun = threading.Event(), 0, threading.Event()

    def forward(self, *args: Any, **more: Any) -> Any:
        self.pieces += 1
        self.begun.set()
        assert self.leave.wait(60)
        return super().forward(*args, **more)


def test_what_is_being_made_takes_its_room(kept: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "ROOM", 20)
    slow = Slow()
    with pytest.raises(Busy, match="being computed"):
        kept.of(asked(*range(15)), lambda: slow, WEIGHTS, time.monotonic())
    with pytest.raises(Busy, match="held"):
        kept.of(asked(*range(6)), lambda: slow, WEIGHTS, soon())
    slow.leave.set()
    assert len(kept.of(asked(*range(5)), lambda: slow, WEIGHTS, soon()).tokens) == 5
    assert len(kept.of(asked(*range(15)), lambda: slow, WEIGHTS, soon()).tokens) == 15


def test_no_more_wait_than_the_queue_holds() -> None:
    slow, kept = Slow(), Standing(queue=1)
    for number in range(2):
        with pytest.raises(Busy, match="the sequence is being computed"):
            kept.of(asked(number), lambda: slow, WEIGHTS, time.monotonic())
    with pytest.raises(Busy, match="other disputes are being computed"):
        kept.of(asked(9), lambda: slow, WEIGHTS, soon())
    slow.leave.set()
    kept.close()


def test_no_longer_answers_than_the_node_makes(engine: reference.Engine) -> None:
    kept, ids = Standing(tokens=4), tuple(range(9))
    with pytest.raises(Busy, match="at most 4 tokens"):
        kept.of(Disputed(REFERENCE, ids, 5, Sampling()), lambda: engine, WEIGHTS, soon())
    assert len(kept.of(Disputed(REFERENCE, ids, 9, Sampling()), lambda: engine, WEIGHTS, soon()).tokens) == 9
    kept.close()


def test_nobody_waits_and_computing_stops(kept: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next piece; what did not begin is let go of. Who comes again begins anew."""
    slow, long = Slow(), tuple(range(200))
    for ids in (long, (5,)):
        with pytest.raises(Busy, match="being computed"):
            kept.of(asked(*ids), lambda: slow, WEIGHTS, time.monotonic())
    assert slow.begun.wait(60)
    waiting = kept._made[asked(5).name].future
    running = kept._made[asked(*long).name].future
    monkeypatch.setattr(standing, "GRACE", -1e9)
    with pytest.raises(Busy, match="being computed"):
        kept.of(asked(6), lambda: slow, WEIGHTS, time.monotonic())
    assert waiting.cancelled()
    slow.leave.set()
    assert isinstance(running.exception(60), Busy)
    assert slow.pieces == 1
    monkeypatch.undo()
    assert len(kept.of(asked(*long), lambda: slow, WEIGHTS, soon()).tokens) == 200


def test_what_cannot_be_computed_is_not_kept(kept: Standing, engine: reference.Engine) -> None:
    for ids, kind in (((1, 264), ParameterError), ((1,) * 2048, SizeError)):
        for _ in range(2):
            with pytest.raises(kind):
                kept.of(asked(*ids), lambda: engine, WEIGHTS, soon())
        with pytest.raises(NotFound):
            kept.known(asked(*ids).name)


def test_questions_from_many_threads(kept: Standing, engine: reference.Engine, switching: None) -> None:
    """Each gets the answer to its own question: what a node signs must not be mixed up."""
    trace = kept.of(asked(*range(40)), lambda: engine, WEIGHTS, soon())
    alone = [trace.answer({"ask": "token", "token": at}) for at in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: trace.answer({"ask": "token", "token": at % 40}), range(240)))
    assert all(one == alone[at % 40] for at, one in enumerate(found))


def test_one_question_at_a_time_on_one_copy_of_the_cache(
    kept: Standing, engine: reference.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the cache that are there at once, and their bytes, where eight ask about different tokens."""
    one = asked(*(at % 264 for at in range(150)))
    trace = kept.of(one, lambda: engine, WEIGHTS, soon())
    assert trace.cache.k.shape[2] == 150, "the cache kept has no room to spare"
    counting, now, most, true = threading.Lock(), [0], [0], engine.forward

    def counted(ids: Any, cache: Any, **more: Any) -> Any:
        with counting:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        made = true(ids, cache, **more)
        assert cache.nbytes <= trace.cache.nbytes
        with counting:
            now[0] -= 1
        return made

    monkeypatch.setattr(engine, "forward", counted)
    told: list[str] = []

    def ask(at: int) -> None:
        try:
            kept.answer(one.name, {"ask": "token", "token": 149 - at}, soon())
        except Busy:
            told.append("busy")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(16)))
    assert (most[0], told) == (1, [])


def test_who_asks_waits_no_longer_than_it_may(kept: Standing, engine: reference.Engine) -> None:
    one = asked(*range(9))
    kept.of(one, lambda: engine, WEIGHTS, soon())
    question = {"ask": "token", "token": 3}
    with kept._opening, pytest.raises(Busy, match="others ask"):
        kept.answer(one.name, question, time.monotonic())
    kept._queue = -1
    with pytest.raises(Busy, match="many ask"):
        kept.answer(one.name, question, soon())
    kept._queue = 0
    assert kept.answer(one.name, question, soon())
    with pytest.raises(ParameterError):
        kept.answer(one.name, {"ask": "nothing"}, soon())
    assert kept.answer(one.name, question, soon()), "an error lets the next one in"


def test_rotations_grown_by_many_threads(switching: None) -> None:
    wanted = tables.Rope(10000.0, 8).upto(400)
    for _ in range(6):
        shared = tables.Rope(10000.0, 8)
        with ThreadPoolExecutor(8) as pool:
            for rows in pool.map(shared.upto, [n * 10 for n in range(1, 40)]):
                assert (rows == wanted[: len(rows)]).all() if len(rows) <= 400 else (rows[:400] == wanted).all()
