"""The eight faults of plain pykka 4.5, each shown and then absent.

No test measures time; bounds are "does not hang".
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pykka
import pytest

from hyperpy.actors import ActorSystem, chain
from hyperpy.actors.mailbox import Mailbox
from hyperpy.errors import Busy, DeviceError, DeviceReentered, DeviceTimeout, KeyNotFound, MessageNotFound
from tests.unit.actor_parts import A, B, Box, C, Fragile, Hold, append, half, raising, soon, until


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
    system = ActorSystem(start=lambda _: go.wait(20), start_s=2)
    calls = [pool.submit(system.call, A, Box, append(n), deadline=soon()) for n in range(7)]
    until(lambda: system.stats()["waiting"] == 7)
    for call in calls:
        with pytest.raises(DeviceTimeout):
            call.result(10)
    assert A not in system._actors
    assert system.stats()["crashes"] == 1  # however many waited for it
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
