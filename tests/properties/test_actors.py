"""The actor layer as a state machine: calls, crashes, slow handlers, stops, re-entries, races.

Each object keeps its state in memory and commits to a journal as the last act of a call; a restart
reads the journal. Invariants: every call returns within its deadline, what was answered happened
exactly once, what was refused never happened, and state equals the committed calls in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hyperpy.actors import ActorSystem
from hyperpy.errors import Busy, DeviceError, DeviceReentered, DeviceTimeout, HyperpyError

NAMES = [("p@1.0", key) for key in "abc"]
HANGS_S = 20.0  # a call that needs so much longer than its deadline hangs
POOL = ThreadPoolExecutor(24)

names = st.sampled_from(NAMES)


class Kept:
    """Counts what it was given; its journal outlives it."""

    restart_on = (ZeroDivisionError, SystemExit)

    def __init__(self, journal: list[int]) -> None:
        self.journal = journal
        self.items = list(journal)
        self.inside = 0

    def add(self, item: int) -> list[int]:
        self.items.append(item)
        self.journal.append(item)
        return list(self.items)

    def crash(self, error: BaseException) -> None:
        self.items.append(-1)
        raise error


class Actors(RuleBasedStateMachine):
    """One system, three names, threads that call it."""

    def __init__(self) -> None:
        super().__init__()
        self.journals: dict[tuple[str, str], list[int]] = {name: [] for name in NAMES}
        self.next = 0
        self.refused: set[int] = set()
        self.may: set[int] = set()
        self.done: set[int] = set()
        self.lock = threading.Lock()

    @initialize(
        mailbox=st.sampled_from([1, 4, 64]), most=st.sampled_from([2, 3, 100]), slow=st.sampled_from([0.0, 0.02])
    )
    def build(self, mailbox: int, most: int, slow: float) -> None:
        """Queue everything (slow 0), or borrow what can be borrowed."""
        self.options: dict[str, Any] = {"mailbox": mailbox, "max_actors": most, "slow_s": slow, "restarts": 1000}
        self.system = ActorSystem(**self.options)

    def call(self, name: tuple[str, str], work: Callable[[Kept], Any], patience_s: float = 30, **more: Any) -> Any:
        journal = self.journals[name]
        deadline = monotonic() + patience_s
        try:
            return self.system.call(name, lambda: Kept(journal), work, deadline=deadline, **more)
        finally:
            assert monotonic() < deadline + HANGS_S

    def fresh(self) -> int:
        with self.lock:
            self.next += 1
            return self.next

    def add(self, name: tuple[str, str], patience_s: float = 30) -> HyperpyError | None:
        item = self.fresh()
        try:
            assert self.call(name, lambda kept: kept.add(item), patience_s)[-1] == item
        except DeviceTimeout as error:
            with self.lock:
                self.may.add(item)
            return error
        except HyperpyError as error:
            with self.lock:
                self.refused.add(item)
            return error
        with self.lock:
            self.done.add(item)
        return None

    @rule(name=names)
    def add_one(self, name: tuple[str, str]) -> None:
        """A call to an idle system succeeds."""
        assert self.add(name) is None

    @rule(name=names, error=st.sampled_from([ZeroDivisionError, SystemExit]))
    def crash(self, name: tuple[str, str], error: type[BaseException]) -> None:
        """A crash takes the half-done change with it."""
        with pytest.raises(DeviceError, match="incident"):
            self.call(name, lambda kept: kept.crash(error()))

    @rule(chosen=st.lists(names, min_size=2, max_size=16), patience_s=st.sampled_from([0.0005, 30.0]))
    def burst(self, chosen: list[tuple[str, str]], patience_s: float) -> None:
        """Many threads at once; each gets an answer, Busy, or the deadline."""
        outcomes = [task.result(60) for task in [POOL.submit(self.add, name, patience_s) for name in chosen]]
        assert all(error is None or isinstance(error, (Busy, DeviceTimeout)) for error in outcomes)

    @rule(name=names, crash=st.booleans(), stop=st.booleans(), waiting=st.integers(1, 4))
    def held(self, name: tuple[str, str], crash: bool, stop: bool, waiting: int) -> None:
        """While a call runs, others wait; then it ends or crashes, and the actor may be retired."""
        entered, go = threading.Event(), threading.Event()

        def work(kept: Kept) -> None:
            entered.set()
            go.wait(30)
            if crash:
                kept.crash(ZeroDivisionError())

        holding = POOL.submit(self.call, name, work)
        assert entered.wait(30)
        late = self.add(name, 0.002)
        assert isinstance(late, (DeviceTimeout, Busy))
        self.refused.add(self.next)  # it never ran, and never will
        others: list[Future[Any]] = [POOL.submit(self.add, name) for _ in range(waiting)]
        if stop:
            self.system.retire(lambda one: one == name)
        go.set()
        assert isinstance(holding.exception(60), DeviceError) == crash
        for other in others:
            error = other.result(60)
            assert error is None or isinstance(error, Busy)

    @rule(outer=names, inner=names, reentrant=st.booleans())
    def come_back(self, outer: tuple[str, str], inner: tuple[str, str], reentrant: bool) -> None:
        """outer -> inner -> outer: refused with 508, or run inside the waiting call."""
        item = self.fresh()

        def back(_: Kept) -> Any:
            return self.call(outer, lambda kept: kept.add(item), reentrant=reentrant)

        try:
            self.call(outer, lambda kept: back(kept) if inner == outer else self.call(inner, back))
            assert reentrant
            self.done.add(item)
        except DeviceReentered:
            assert not reentrant
            self.refused.add(item)

    @rule(one=names, two=names)
    def race(self, one: tuple[str, str], two: tuple[str, str]) -> None:
        """Two chains that wait for each other: one at least is refused, none hangs."""
        if one == two:
            return
        both = threading.Barrier(2)

        def cross(me: tuple[str, str], other: tuple[str, str]) -> HyperpyError | None:
            def work(_: Kept) -> HyperpyError | None:
                both.wait(30)
                return self.add(other)

            result = self.call(me, work)
            assert result is None or isinstance(result, HyperpyError)
            return result

        tasks = [POOL.submit(cross, one, two), POOL.submit(cross, two, one)]
        outcomes = [task.result(60) for task in tasks]
        assert any(isinstance(error, DeviceReentered) for error in outcomes)
        assert all(error is None or isinstance(error, DeviceReentered) for error in outcomes)

    @rule()
    def stop_and_begin_again(self) -> None:
        """Everything stops; a new system finds what was committed."""
        assert self.system.stop(30) == ()
        assert isinstance(self.add(NAMES[0]), Busy)
        self.system = ActorSystem(**self.options)

    @invariant()
    def state_is_what_was_committed(self) -> None:
        """No lost, doubled or invented execution; state equals the journal."""
        if not hasattr(self, "system"):
            return
        end = monotonic() + HANGS_S
        while any(self.system.stats()[state] for state in ("waiting", "stopping", "starting")) or self.running():
            assert monotonic() < end
            sleep(0.001)
        happened = [item for journal in self.journals.values() for item in journal]
        assert len(happened) == len(set(happened))
        assert self.done <= set(happened) <= self.done | self.may
        assert not self.refused & set(happened)
        assert len(self.system.waits) == 0
        for name, journal in self.journals.items():
            assert self.call(name, lambda kept: list(kept.items)) == journal

    def running(self) -> bool:
        """Whether a call, a restart or a stop is still going on somewhere."""
        return not all(actor.mailbox.idle for actor in list(self.system._actors.values()))

    def teardown(self) -> None:
        """Nothing is left running."""
        if hasattr(self, "system"):
            assert self.system.stop(30) == ()


TestActors = Actors.TestCase
TestActors.settings = settings(max_examples=60, stateful_step_count=20, deadline=None, derandomize=True)
