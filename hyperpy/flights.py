"""Equal computations under way at the same time: one runs, the others wait for it (resolver, stage 4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast

from hyperpy.errors import Busy, DeviceReentered, DeviceTimeout, HyperpyError, SizeError

T = TypeVar("T")
_OWN = (Busy, DeviceTimeout, DeviceReentered, SizeError)
"""Errors that come from limits of the request that ran, and say nothing about those that waited."""


class Flights(Generic[T]):
    """The computations under way, by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[bytes, Future[T]] = {}

    def run(self, key: bytes, work: Callable[[], T], deadline: float) -> tuple[T, bool]:
        """Return what ``work`` returns, and whether it ran here rather than in another thread.

        Args:
            deadline: monotonic seconds; waiting ends then, running work does not.

        Raises:
            DeviceTimeout: the deadline passed while waiting.
            HyperpyError: what the work raised, wherever it ran. An error that comes from the limits of
                another request is not passed on: the work runs here instead.
        """
        with self._lock:
            flight = self._running.get(key)
            if flight is None:
                mine: Future[T] = Future()
                self._running[key] = mine
        if flight is None:
            return self._lead(key, mine, work), True
        try:
            return flight.result(max(0.0, deadline - time.monotonic())), False
        except TimeoutError:
            raise DeviceTimeout("the deadline passed while waiting for an equal computation") from None
        except _OWN:
            return work(), True

    def _lead(self, key: bytes, mine: Future[T], work: Callable[[], T]) -> T:
        try:
            made = work()
            mine.set_result(made)
            return made
        except BaseException as error:
            mine.set_exception(error if isinstance(error, HyperpyError) else Busy("an equal computation was stopped"))
            cast(Any, mine.exception)()
            raise
        finally:
            with self._lock:
                del self._running[key]
