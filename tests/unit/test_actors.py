"""Actors. First the eight faults of plain pykka, each shown and then absent; then the rest of the promises.

No test measures time; bounds are "does not hang".
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any

import pykka
import pytest

from hyperpy.actors import ActorSystem, chain, current_deadline, inherit
from hyperpy.actors.chain import WaitGraph
from hyperpy.actors.mailbox import Mailbox
from hyperpy.errors import Busy, DeviceError, DeviceReentered, DeviceTimeout, KeyNotFound, MessageNotFound

A, B, C = ("a@1.0", "1"), ("b@1.0", "2"), ("c@1.0", "3")


class Box:
    """A hosted object that remembers."""

    restart_on: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.thread = threading.get_ident()


class Fragile(Box):
    restart_on = (ZeroDivisionError,)


@pytest.fixture
def system() -> Iterator[ActorSystem]:
    made = ActorSystem()
    yield made
    made.stop(5)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made


def soon(seconds: float = 10.0) -> float:
    return monotonic() + seconds


def append(item: Any) -> Callable[[Box], int]:
    def work(box: Box) -> int:
        box.items.append(item)
        return len(box.items)

    return work


def raising(error: BaseException) -> Callable[[Any], None]:
    def work(_: Any) -> None:
        raise error

    return work


class Hold:
    """Keeps an actor at work until let go."""

    def __init__(self, system: ActorSystem, name: tuple[str, str], pool: ThreadPoolExecutor, make: Any = Box) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

        def work(_: Any) -> str:
            self.entered.set()
            assert self.go.wait(20)
            return "held"

        self.future: Future[str] = pool.submit(system.call, name, make, work, deadline=soon(20))
        assert self.entered.wait(10)

    def end(self) -> str:
        self.go.set()
        return self.future.result(10)


def until(condition: Callable[[], bool]) -> None:
    end = soon()
    while not condition():
        assert monotonic() < end, "never came true"
        sleep(0.002)


# -- the eight faults (pykka 4.5) ------------------------------------------------------------------


class Plain(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message: Any) -> Any:
        return message() if callable(message) else message


def test_fault_1_call_while_the_target_stops(system: ActorSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = Plain.start()
    put = ref.actor_inbox.put

    def stop_first(envelope: Any) -> None:
        monkeypatch.setattr(ref.actor_inbox, "put", put)
        ref.stop(timeout=5)  # the asker has seen it alive; now it is gone
        put(envelope)

    monkeypatch.setattr(ref.actor_inbox, "put", stop_first)
    with pytest.raises(pykka.Timeout):
        ref.ask("hello", timeout=0.3)  # without the timeout: for ever

    assert system.call(A, Box, append(1), deadline=soon()) == 1
    old = system._actors[A]
    old.slow = True
    offer = Mailbox.offer

    def retire_first(mailbox: Mailbox, call: Any) -> Any:
        monkeypatch.setattr(Mailbox, "offer", offer)
        system.retire(lambda name: name == A)
        assert old.actor_stopped.wait(5)
        return offer(mailbox, call)

    monkeypatch.setattr(Mailbox, "offer", retire_first)
    assert system.call(A, Box, append(2), deadline=soon()) == 1  # answered by a new object


def test_fault_1_thread_dies_between_calls(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    system.call(A, Box, append(1), deadline=soon())
    actor = system._actors[A]
    hold = Hold(system, A, pool)  # borrowed: the actor's own thread sleeps
    waiting = pool.submit(system.call, A, Box, append(2), deadline=soon())
    until(lambda: len(actor.mailbox) == 1)
    assert actor._thread is not None
    assert actor._thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(actor._thread.ident), ctypes.py_object(SystemExit))
    assert hold.end() == "held"
    with pytest.raises(DeviceError):
        waiting.result(10)
    assert system.call(A, Box, append(3), deadline=soon()) == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), ValueError("x")])
@pytest.mark.parametrize("queued", [False, True])
def test_fault_2_base_exceptions_fail_one_call(
    system: ActorSystem, pool: ThreadPoolExecutor, error: BaseException, queued: bool, caplog: pytest.LogCaptureFixture
) -> None:
    system.call(A, Box, append(1), deadline=soon())
    system.call(B, Box, append(1), deadline=soon())
    system._actors[A].slow = queued
    with caplog.at_level(logging.ERROR, "hyperpy.actors"), pytest.raises(DeviceError) as caught:
        pool.submit(system.call, A, Box, raising(error), deadline=soon()).result(10)
    assert caught.value.incident
    assert caught.value.incident in caplog.text
    assert "Traceback" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert system.call(A, Box, append(2), deadline=soon()) == 2
    assert system.call(B, Box, append(2), deadline=soon()) == 2


def test_fault_2_in_plain_pykka() -> None:
    bystander, culprit = Plain.start(), Plain.start()
    with pytest.raises(pykka.Timeout):
        culprit.ask(lambda: raising(SystemExit())(None), timeout=0.3)
    assert bystander.actor_stopped.wait(5)


def test_fault_2_users_own_interrupt_passes(system: ActorSystem) -> None:
    system.call(A, Box, append(1), deadline=soon())
    with pytest.raises(KeyboardInterrupt):
        system.call(A, Box, raising(KeyboardInterrupt()), deadline=soon())
    assert system.call(A, Box, append(2), deadline=soon()) == 2


def test_fault_3_start_errors_are_told(pool: ThreadPoolExecutor) -> None:
    class Silent(Plain):
        def on_start(self) -> None:
            raise ValueError("never told")

    ref = Silent.start()  # no error here
    assert ref.actor_stopped.wait(5)

    def start(_: Box) -> None:
        raise ValueError("told")

    system = ActorSystem(start=start)
    with pytest.raises(DeviceError, match="incident"):
        system.call(A, Box, append(1), deadline=soon())
    assert system.stats()["actors"] == 0
    system.stop()


def test_fault_3_start_is_the_first_message_and_has_a_deadline(pool: ThreadPoolExecutor) -> None:
    go = threading.Event()
    system = ActorSystem(start=lambda _: go.wait(20), start_s=0.3)
    calls = [pool.submit(system.call, A, Box, append(n), deadline=soon()) for n in range(3)]
    for call in calls:
        with pytest.raises(DeviceTimeout):
            call.result(10)
    assert A not in system._actors
    go.set()
    assert pool.submit(system.call, A, Box, append(9), deadline=soon()).result(10) == 1
    system.stop()


def test_fault_3_errors_of_ours_pass_unchanged() -> None:
    def make() -> Box:
        raise MessageNotFound("no such process")

    system = ActorSystem(restarts=0)
    for _ in range(3):
        with pytest.raises(MessageNotFound):
            system.call(A, make, append(1), deadline=soon())
    assert system.stats()["crashes"] == 0
    system.stop()


def half(box: Box) -> None:
    box.items.append("half")
    raise ZeroDivisionError


def test_fault_4_declared_errors_restart(system: ActorSystem) -> None:
    state = Box()
    ref = Plain.start()
    with pytest.raises(ZeroDivisionError):
        ref.ask(lambda: half(state), timeout=5)
    assert ref.ask(lambda: state.items, timeout=5) == ["half"]  # goes on with half a change
    ref.tell(lambda: half(state))
    assert ref.actor_stopped.wait(5)  # and the same error in a tell kills

    for queued in (False, True, True):
        system.call(A, Fragile, append(1), deadline=soon())
        system._actors[A].slow = queued
        with pytest.raises(DeviceError):
            system.call(A, Fragile, half, deadline=soon())
        assert system.call(A, Fragile, lambda box: list(box.items), deadline=soon()) == []
    assert system.stats()["restarts"] == 3
    system.call(B, Box, append(1), deadline=soon())
    with pytest.raises(DeviceError):
        system.call(B, Box, half, deadline=soon())
    assert system.call(B, Box, lambda box: list(box.items), deadline=soon()) == [1, "half"]  # not declared: goes on


def test_fault_4_errors_of_ours_pass_and_may_restart(system: ActorSystem) -> None:
    class Strict(Box):
        restart_on = (KeyNotFound,)

    error = KeyNotFound("k")
    system.call(A, Strict, append(1), deadline=soon())
    with pytest.raises(KeyNotFound) as caught:
        system.call(A, Strict, raising(error), deadline=soon())
    assert caught.value is error
    assert system.call(A, Strict, append(1), deadline=soon()) == 1


def test_fault_5_plain_pykka_deadlocks() -> None:
    first, second = Plain.start(), Plain.start()
    with pytest.raises(pykka.Timeout):
        first.ask(lambda: second.ask(lambda: first.ask("back", timeout=2), timeout=2), timeout=0.3)
    with pytest.raises(pykka.Timeout):
        second.ask(lambda: second.ask("self", timeout=0.2), timeout=5)


@pytest.mark.parametrize("queued", [False, True])
def test_fault_5_coming_back_is_answered(system: ActorSystem, queued: bool) -> None:
    for name in (A, B):
        system.call(name, Box, append(0), deadline=soon())
        system._actors[name].slow = queued

    def back(reentrant: bool) -> Callable[[Box], Any]:
        return lambda _: system.call(A, Box, append("in"), deadline=soon(), reentrant=reentrant)

    def round_trip(reentrant: bool) -> Any:
        inner = back(reentrant)
        return system.call(A, Box, lambda _: system.call(B, Box, inner, deadline=soon()), deadline=soon())

    with pytest.raises(DeviceReentered, match=r"a@1.0\[1\] -> b@1.0\[2\] -> a@1.0\[1\]"):
        round_trip(False)
    with pytest.raises(DeviceReentered, match=r"a@1.0\[1\] -> a@1.0\[1\]"):
        system.call(A, Box, back(False), deadline=soon())
    assert round_trip(True) == 2
    assert system.call(A, Box, back(True), deadline=soon()) == 3
    assert chain() == ()


def test_fault_5_two_chains_that_wait_for_each_other(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)

    def cross(other: tuple[str, str]) -> Callable[[Box], str]:
        def work(_: Box) -> str:
            both.wait(10)
            return system.call(other, Box, lambda _: "through", deadline=soon(30))

        return work

    for _ in range(20):
        calls = [pool.submit(system.call, me, Box, cross(other), deadline=soon(30)) for me, other in ((A, B), (B, A))]
        outcomes = [call.exception(10) for call in calls]
        lost = [error for error in outcomes if error is not None]
        assert len(lost) >= 1
        assert all(isinstance(error, DeviceReentered) for error in lost)
    assert len(system.waits) == 0


def test_fault_5_three_chains_in_a_ring(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    ready = threading.Barrier(3)

    def work(other: tuple[str, str]) -> Callable[[Box], str]:
        def run(_: Box) -> str:
            ready.wait(10)
            return system.call(other, Box, lambda _: "through", deadline=soon(30))

        return run

    ring = [(A, B), (B, C), (C, A)]
    calls = [pool.submit(system.call, me, Box, work(other), deadline=soon(30)) for me, other in ring]
    errors = [call.exception(10) for call in calls]
    assert any(isinstance(error, DeviceReentered) for error in errors)
    assert all(error is None or isinstance(error, DeviceReentered) for error in errors)


def test_fault_6_mailboxes_are_bounded_and_stop_overtakes(pool: ThreadPoolExecutor) -> None:
    ref, go = Plain.start(), threading.Event()
    ref.tell(lambda: go.wait(10))
    for n in range(5_000):
        ref.tell(n)  # nothing ever says no
    stopped = ref.stop(block=False)
    with pytest.raises(pykka.Timeout):
        stopped.get(timeout=0.2)
    go.set()

    system = ActorSystem(mailbox=2)
    hold = Hold(system, A, pool)
    waiting = [pool.submit(system.call, A, Box, append(n), deadline=soon()) for n in range(2)]
    until(lambda: system.stats()["waiting"] == 2)
    with pytest.raises(Busy) as caught:
        system.call(A, Box, append(3), deadline=soon())
    assert caught.value.status == 503
    assert caught.value.retry_after
    stop = pool.submit(system.stop, 10)
    for call in waiting:
        with pytest.raises(Busy):
            call.result(10)
    assert hold.end() == "held"
    assert stop.result(10) == ()


def test_fault_6_a_caller_that_gave_up_frees_its_place(pool: ThreadPoolExecutor) -> None:
    system = ActorSystem(mailbox=1)
    hold = Hold(system, A, pool)
    with pytest.raises(DeviceTimeout):
        system.call(A, Box, append("never"), deadline=soon(0.1))
    later = pool.submit(system.call, A, Box, append("later"), deadline=soon())
    until(lambda: system.stats()["waiting"] == 1)
    hold.end()
    assert later.result(10) == 1
    system.stop()


def test_fault_7_names_cost_no_search(system: ActorSystem) -> None:
    compared = 0

    class Key(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str(self) == other

        __hash__ = str.__hash__

    class Ref:
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = object.__hash__

    refs: list[Any] = [Ref() for _ in range(300)]
    for ref in refs:
        pykka.ActorRegistry.register(ref)
    for ref in reversed(refs):
        pykka.ActorRegistry.unregister(ref)
    assert compared > 300 * 100  # a list, searched for each stop

    known = len(pykka.ActorRegistry.get_all())
    names = [("n@1.0", Key(n)) for n in range(300)]
    compared = 0
    for name in names:
        system.call(name, Box, append(1), deadline=soon())
        system.call(("n@1.0", str(name[1])), Box, append(1), deadline=soon())
    assert system.stop() == ()
    assert compared < 300 * 40
    assert len(pykka.ActorRegistry.get_all()) == known


def test_fault_7_strangers_are_left_alone() -> None:
    system, stranger, other = ActorSystem(), Plain.start(), ActorSystem()
    system.call(A, Box, append(1), deadline=soon())
    other.call(A, Box, append(1), deadline=soon())
    system.stop()
    assert stranger.is_alive()
    assert other.call(A, Box, append(2), deadline=soon()) == 2
    pykka.ActorRegistry.stop_all()
    assert other.call(A, Box, append(3), deadline=soon()) == 3
    other.stop()


def test_fault_8_the_event_loop_goes_on() -> None:
    async def ours() -> bool:
        system, gone_on = ActorSystem(), threading.Event()

        async def tick() -> None:
            await asyncio.sleep(0.01)
            gone_on.set()

        ticking = asyncio.create_task(tick())
        try:
            return await asyncio.to_thread(system.call, A, Box, lambda _: gone_on.wait(10), deadline=soon())
        finally:
            await ticking
            await asyncio.to_thread(system.stop)

    async def plain() -> bool:
        gone_on = threading.Event()

        async def tick() -> None:
            await asyncio.sleep(0.01)
            gone_on.set()

        ticking = asyncio.create_task(tick())
        result = await Plain.start().ask(lambda: gone_on.wait(0.3), block=False)
        await ticking
        return bool(result)

    assert asyncio.run(plain()) is False  # the loop stood still while it "awaited"
    assert asyncio.run(ours()) is True


# -- borrowing -------------------------------------------------------------------------------------


def test_idle_actors_are_borrowed_and_busy_ones_are_not(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    def where(_: Box) -> int:
        return threading.get_ident()

    own = system.call(A, Box, where, deadline=soon())
    assert own != threading.get_ident()  # the first call waits for the start
    assert system.call(A, Box, lambda box: box.thread, deadline=soon()) == own  # made in the actor's thread
    assert system.call(A, Box, where, deadline=soon()) == threading.get_ident()
    hold = Hold(system, A, pool)
    waiting = pool.submit(system.call, A, Box, where, deadline=soon())
    until(lambda: system.stats()["waiting"] == 1)
    hold.end()
    assert waiting.result(10) == own


def test_a_call_that_was_taken_out_is_not_idle(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    system.call(A, Box, append(0), deadline=soon())
    system._actors[A].slow = True
    hold = Hold(system, A, pool)  # on the actor's thread
    assert len(system._actors[A].mailbox) == 0
    assert not system._actors[A].mailbox.idle
    second = pool.submit(system.call, A, Box, append(1), deadline=soon())
    until(lambda: system.stats()["waiting"] == 1)
    hold.end()
    assert second.result(10) == 2
    mailbox = system._actors[A].mailbox
    until(lambda: mailbox.accepted == mailbox.finished)


def test_one_call_at_a_time(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    inside = 0

    def work(box: Box) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        count = len(box.items)
        sleep(0)
        box.items.append(count)
        inside -= 1

    for call in [pool.submit(system.call, A, Box, work, deadline=soon(30)) for _ in range(500)]:
        call.result(30)
    assert system.call(A, Box, lambda box: box.items, deadline=soon()) == list(range(500))
    stats = system.stats()
    assert stats["borrowed"] + stats["queued"] == 501


def test_slow_actors_are_not_borrowed_the_next_time(pool: ThreadPoolExecutor) -> None:
    system = ActorSystem(slow_s=0.0)
    system.call(A, Box, append(1), deadline=soon())
    go = threading.Event()
    with pytest.raises(DeviceTimeout):  # kept, although the work does not end
        system.call(A, Box, lambda _: go.wait(10), deadline=soon(0.2))
    go.set()
    system.stop()


# -- deadlines, context ----------------------------------------------------------------------------


def test_a_passed_deadline_runs_nothing(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    system.call(A, Box, append(1), deadline=soon())
    with pytest.raises(DeviceTimeout):
        system.call(A, Box, append(2), deadline=monotonic() - 1)
    with pytest.raises(DeviceTimeout):
        system.call(B, Box, append(2), deadline=monotonic() - 1)
    assert system.call(A, Box, lambda box: box.items, deadline=soon()) == [1]
    assert B not in system._actors


def test_deadlines_are_checked_when_taken_out(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    hold = Hold(system, A, pool)
    with pytest.raises(DeviceTimeout) as caught:
        system.call(A, Box, append("late"), deadline=soon(0.1))
    assert caught.value.status == 504
    hold.end()
    assert system.call(A, Box, lambda box: box.items, deadline=soon()) == []
    assert system.stats()["timeouts"] == 1


def test_deadlines_are_inherited(system: ActorSystem) -> None:
    deadline = soon()

    def outer(_: Box) -> tuple[float | None, float | None, float | None]:
        inner = system.call(B, Box, lambda _: current_deadline(), deadline=deadline + 100)
        earlier = system.call(C, Box, lambda _: current_deadline(), deadline=deadline - 1)
        return current_deadline(), inner, earlier

    for _ in range(2):  # queued, then borrowed
        assert system.call(A, Box, outer, deadline=deadline) == (deadline, deadline, deadline - 1)
    assert current_deadline() is None


def test_late_results_are_dropped(system: ActorSystem) -> None:
    system.call(A, Box, append(1), deadline=soon())
    for queued in (False, True):
        system._actors[A].slow = queued
        with pytest.raises(DeviceTimeout):
            system.call(A, Box, lambda _: sleep(0.2), deadline=soon(0.05))
    assert system.call(A, Box, append(2), deadline=soon()) == 2


def test_queued_calls_see_the_callers_context(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    mark: ContextVar[str] = ContextVar("mark", default="none")

    def caller() -> tuple[Any, ...]:
        mark.set("mine")

        def work(_: Box) -> tuple[Any, ...]:
            return mark.get(), chain(), system.call(B, Box, lambda _: (mark.get(), chain()), deadline=soon())

        return system.call(A, Box, work, deadline=soon())

    for _ in range(2):
        assert pool.submit(caller).result(10) == ("mine", (A,), ("mine", (A, B)))
    assert mark.get() == "none"


def test_threads_inherit_the_chain(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    def ask_back() -> Any:
        return system.call(A, Box, append(1), deadline=soon(5))

    def work(_: Box) -> Any:
        return pool.submit(inherit(ask_back)).result(10)

    with pytest.raises(DeviceReentered):
        system.call(A, Box, work, deadline=soon())

    later: list[Callable[[], Any]] = []
    system.call(A, Box, lambda _: later.append(inherit(ask_back)), deadline=soon())
    assert later[0]() == 1  # the call it was made in has ended: nothing to come back to


# -- restart, eviction, stop -----------------------------------------------------------------------


def test_too_many_crashes_shut_the_name() -> None:
    made = 0

    def make() -> Fragile:
        nonlocal made
        made += 1
        return Fragile()

    system = ActorSystem(restarts=2, period_s=1.0)
    for _ in range(3):
        with pytest.raises(DeviceError, match="incident"):
            system.call(A, make, half, deadline=soon())
    with pytest.raises(DeviceError, match="shut for now") as caught:
        system.call(A, make, append(1), deadline=soon())
    assert caught.value.retry_after
    assert made == 3
    assert system.call(B, make, append(1), deadline=soon()) == 1  # one for one
    end = soon()
    while True:
        try:
            assert system.call(A, make, append(1), deadline=soon()) == 1
            break
        except DeviceError:
            assert monotonic() < end
            sleep(0.05)
    system.stop()


def test_crashes_in_start_shut_the_name() -> None:
    made = 0

    def start(_: Any) -> None:
        nonlocal made
        made += 1
        raise SystemExit

    system = ActorSystem(restarts=1, period_s=60, start=start)
    for _ in range(5):
        with pytest.raises(DeviceError):
            system.call(A, Box, append(1), deadline=soon())
    assert made == 2
    system.stop()


def test_a_restart_that_fails_is_tried_again_by_the_next_call() -> None:
    broken = False

    def make() -> Fragile:
        if broken:
            raise OSError("gone")
        return Fragile()

    system = ActorSystem()
    system.call(A, make, append(1), deadline=soon())
    broken = True
    with pytest.raises(DeviceError):
        system.call(A, make, half, deadline=soon())
    with pytest.raises(DeviceError):
        system.call(A, make, append(1), deadline=soon())
    broken = False
    until(lambda: system.stats()["stopping"] == 0)
    assert system.call(A, make, append(1), deadline=soon()) == 1
    system.stop()


class Logged(Box):
    log: list[str] = []

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag
        self.log.append(f"make {tag}")

    def start(self) -> None:
        self.log.append(f"start {self.tag}")
        assert threading.get_ident() == self.thread

    def stop(self) -> None:
        self.log.append(f"stop {self.tag}")
        assert threading.get_ident() == self.thread
        raise ValueError("only logged")


def test_hooks_run_in_the_actors_thread_and_stop_in_reverse_order() -> None:
    Logged.log.clear()
    system = ActorSystem(start=Logged.start)
    for tag in "abc":
        system.call(("l@1.0", tag), lambda tag=tag: Logged(tag), append(1), deadline=soon())  # type: ignore[misc]
    assert system.stop() == ()
    made = [f"{word} {tag}" for tag in "abc" for word in ("make", "start")]
    assert Logged.log == [*made, "stop c", "stop b", "stop a"]
    with pytest.raises(Busy):
        system.call(A, Box, append(1), deadline=soon())
    assert system.stop() == ()


def test_stop_is_bounded(pool: ThreadPoolExecutor) -> None:
    system = ActorSystem()
    hold = Hold(system, A, pool)
    system.call(B, Box, append(1), deadline=soon())
    assert system.stop(0.2) == (A,)
    hold.end()
    until(lambda: system.stats()["stopping"] == 0)


def test_stop_from_inside_an_actor_does_not_wait_for_itself(pool: ThreadPoolExecutor) -> None:
    system = ActorSystem()
    assert system.call(A, Box, lambda _: system.stop(5), deadline=soon()) == (A,)
    until(lambda: system.stats()["stopping"] == 0)


def test_old_actors_are_evicted() -> None:
    system = ActorSystem(idle_s=0.05)
    system.call(A, Box, append(1), deadline=soon())
    until(lambda: system.stats()["evicted"] == 1 and system.stats()["stopping"] == 0)
    assert system.call(A, Box, append(1), deadline=soon()) == 1
    system.stop()


def test_the_one_idle_longest_makes_room(pool: ThreadPoolExecutor) -> None:
    system = ActorSystem(max_actors=2)
    for name in (A, B, A):
        system.call(name, Box, append(1), deadline=soon())
    system.call(C, Box, append(1), deadline=soon())
    assert set(system._actors) == {A, C}
    holds = [Hold(system, name, pool) for name in (A, C)]
    with pytest.raises(Busy, match="all 2 actors"):
        system.call(B, Box, append(1), deadline=soon())
    for hold in holds:
        hold.end()
    assert system.call(B, Box, append(1), deadline=soon()) == 1
    system.stop()


def test_a_new_object_waits_until_the_old_one_has_stopped(pool: ThreadPoolExecutor) -> None:
    alive, most, go = 0, 0, threading.Event()

    class Single(Box):
        def __init__(self) -> None:
            nonlocal alive, most
            super().__init__()
            alive += 1
            most = max(most, alive)

        def stop(self) -> None:
            nonlocal alive
            go.wait(10)
            alive -= 1

    system = ActorSystem()
    system.call(A, Single, append(1), deadline=soon())
    assert system.retire(lambda name: name[0] == "a@1.0") == 1
    again = pool.submit(system.call, A, Single, append(1), deadline=soon())
    with pytest.raises(DeviceTimeout):
        system.call(A, Single, append(1), deadline=soon(0.1))
    go.set()
    assert again.result(10) == 1
    assert most == 1
    system.stop()


def test_retire_serves_what_waits(system: ActorSystem, pool: ThreadPoolExecutor) -> None:
    hold = Hold(system, A, pool)
    waiting = pool.submit(system.call, A, Box, append(1), deadline=soon())
    until(lambda: system.stats()["waiting"] == 1)
    assert system.retire(lambda name: name == A) == 1
    hold.end()
    assert waiting.result(10) == 1
    assert system.call(A, Box, append(1), deadline=soon()) == 1


def test_pykkas_own_stop_works(system: ActorSystem) -> None:
    system.call(A, Box, append(1), deadline=soon())
    actor = system._actors[A]
    actor.actor_ref.stop(timeout=5)
    assert actor.actor_stopped.wait(5)
    assert system.call(A, Box, append(1), deadline=soon()) == 1


def test_no_thread_left_is_busy(system: ActorSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Busy):
            system.call(A, Box, append(1), deadline=soon())
    assert system.call(A, Box, append(1), deadline=soon()) == 1


def test_names_from_outside_stay_printable(system: ActorSystem) -> None:
    name = ("a@1.0", "x\r\ninjected: 1\x00\udc80" + "y" * 500)
    with pytest.raises(DeviceTimeout) as caught:
        system.call(name, Box, append(1), deadline=monotonic() - 1)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


class _Ticket:
    def __init__(self, holders: tuple[Any, ...], target: Any) -> None:
        self.holders: Any = holders
        self.target = target


def test_wait_graph() -> None:
    graph = WaitGraph()
    one, two, three, four = (object() for _ in range(4))
    waits = [_Ticket((one,), two), _Ticket((two,), three), _Ticket((one,), two), _Ticket((four,), two)]
    assert [graph.add(wait) for wait in waits] == [(), (), (), ()]
    assert graph.add(_Ticket((three, four), one)) == (one, two, three)
    assert graph.add(_Ticket((one,), one)) == (one,)
    graph.remove(waits[0])
    graph.remove(waits[0])
    assert graph.add(_Ticket((three,), one)) == (one, two, three)  # the same wait by another call
    for wait in waits:
        graph.remove(wait)
    assert len(graph) == 0
