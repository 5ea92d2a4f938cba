"""Actors: borrowing, deadlines and context, restart, eviction, stop. Their faults have tests of their own.

No test measures time; bounds are "does not hang".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any

import pytest

from hyperpy.actors import ActorSystem, chain, current_deadline, inherit
from hyperpy.actors.chain import WaitGraph
from hyperpy.errors import Busy, DeviceError, DeviceReentered, DeviceTimeout
from tests.unit.actor_parts import A, B, Box, C, Fragile, Hold, append, half, soon, until

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
