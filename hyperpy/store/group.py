"""Group commit: writers that arrive together share one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from hyperpy.errors import StoreError
from hyperpy.store.haste import may_wait

_T = TypeVar("_T")
MAX_JOINED = 256


class _Waiting(Generic[_T]):
    __slots__ = ("done", "error", "item")

    def __init__(self, item: _T) -> None:
        self.item = item
        self.done = False
        self.error: StoreError | None = None


class Group(Generic[_T]):
    """Hands items to ``commit`` in lists: whoever gets the lock commits for all who wait.

    ``commit`` raises StoreError if it took none of its list; then each item is tried alone, so one
    that cannot be stored fails nobody else's.
    """

    def __init__(self, commit: Callable[[list[_T]], None]) -> None:
        self._commit = commit
        self._queue: deque[_Waiting[_T]] = deque()
        self.lock = threading.Lock()

    def submit(self, item: _T) -> None:
        """Return when the item is committed; raise StoreError if it cannot be."""
        if not self._queue and self.lock.acquire(blocking=False):  # nobody else is here
            try:
                self._commit([item])
            finally:
                self.lock.release()
            return
        may_wait()
        mine = _Waiting(item)
        self._queue.append(mine)
        while not mine.done:
            with self.lock:
                if not mine.done:
                    self._lead()
        if mine.error is not None:
            raise mine.error

    def _lead(self) -> None:
        joined: list[_Waiting[_T]] = []
        while self._queue and len(joined) < MAX_JOINED:
            joined.append(self._queue.popleft())
        try:
            self._commit([one.item for one in joined])
        except StoreError as error:
            if len(joined) == 1:
                joined[0].error = error
            else:
                for one in joined:
                    self._alone(one)
        except BaseException:
            for one in joined:
                one.error = StoreError("the store's writer was interrupted")
                one.done = True
            raise
        for one in joined:
            one.done = True

    def _alone(self, one: _Waiting[_T]) -> None:
        try:
            self._commit([one.item])
        except StoreError as error:
            one.error = error
