"""What tests of actors share: hosted objects, and calls that keep an actor at work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

from hyperpy.actors import ActorSystem

A, B, C = ("a@1.0", "1"), ("b@1.0", "2"), ("c@1.0", "3")


class Box:
    """A hosted object that remembers."""

    restart_on: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.thread = threading.get_ident()


class Fragile(Box):
    restart_on = (ZeroDivisionError,)


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


def half(box: Box) -> None:
    box.items.append("half")
    raise ZeroDivisionError
