"""The watchdog interrupts device code past its deadline, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hyperpy.watchdog import Interrupted, Watchdog


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    made = Watchdog(grace_s=0.1)
    made.start()
    yield made
    made.stop()


def run(dog: Watchdog, deadline: float | None, work: Callable[[], None]) -> str:
    """Run work in a thread marked with a deadline; return how it ended."""
    ended: list[str] = []

    def body() -> None:
        ident = threading.get_ident()
        try:
            dog.running[ident] = deadline
            work()
            dog.running[ident] = None
            ended.append("done")
        except Interrupted:
            dog.running[ident] = None
            ended.append("interrupted")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return ended[0]


def spin(seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def stubborn() -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            spin()
        except Exception:
            continue


def test_late_code_is_interrupted(dog: Watchdog) -> None:
    started = time.monotonic()
    assert run(dog, time.monotonic(), spin) == "interrupted"
    assert time.monotonic() - started < 2
    assert dog.stopped >= 1


def test_catching_exceptions_does_not_help(dog: Watchdog) -> None:
    assert run(dog, time.monotonic(), stubborn) == "interrupted"


def test_code_in_time_is_left_alone(dog: Watchdog) -> None:
    assert run(dog, time.monotonic() + 60, lambda: spin(0.5)) == "done"
    assert dog.stopped == 0


def test_the_nodes_own_code_is_left_alone(dog: Watchdog) -> None:
    assert run(dog, None, lambda: spin(0.5)) == "done"
    assert dog.stopped == 0


def test_a_thread_that_is_gone_hurts_nobody(dog: Watchdog) -> None:
    dog.running[2**40] = time.monotonic() - 5
    assert run(dog, time.monotonic() + 60, lambda: spin(0.5)) == "done"


def test_stopping_twice_and_without_a_start() -> None:
    dog = Watchdog()
    dog.stop()
    dog = Watchdog()
    dog.start()
    dog.stop()
    dog.stop()


def test_stopping_ends_what_still_runs() -> None:
    dog = Watchdog()
    dog.start()
    threading.Timer(0.2, dog.stop).start()
    started = time.monotonic()
    assert run(dog, time.monotonic() + 3600, spin) == "interrupted"
    assert time.monotonic() - started < 3
