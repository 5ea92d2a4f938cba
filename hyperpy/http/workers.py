"""Threads that answer requests: one that computes, and more only while it waits.

Python runs one thread at a time, so threads that compute side by side gain nothing and pay for
every turn they take. Here one thread takes job after job, and its results go back to the event
loop together. Every :data:`PULSE` seconds in which jobs wait, the loop looks whether another
thread is needed; it is

* when the process used less than half of one core since the last look: the threads wait for a
  disk, a peer, an actor, or sleep;
* when every thread at work has been on its job for :data:`LONG` seconds: a slow device holds up
  nobody else;
* up to the number of cores, when all have been on theirs for :data:`SIGNING` seconds: long sums
  release the interpreter, and what two threads lose by taking turns is little beside them.

What is ready is handed over at the next look at the latest, whatever the thread does then.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from hyperpy.errors import Busy, DeviceTimeout

_A = TypeVar("_A")
_R = TypeVar("_R")

PULSE: Final = 0.002
LONG: Final = 0.02
SIGNING: Final = 0.001
_CORES: Final = os.cpu_count() or 1
_BATCH: Final = 0.001
"""Seconds in which results are collected while more jobs wait."""
_SWEEP: Final = 0.1
"""Seconds between two looks for jobs whose caller has waited too long."""


class _Job(Generic[_A, _R]):
    __slots__ = ("argument", "begun", "expires", "future", "result")

    result: _R

    def __init__(self, argument: _A, expires: float, future: asyncio.Future[_R]) -> None:
        self.argument = argument
        self.begun = False
        self.expires = expires
        self.future = future


class _Thread:
    """One thread: ``since`` is when its job began, ``turn`` lets it go on from where it rests."""

    __slots__ = ("since", "turn")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.turn = threading.Lock()
        self.turn.acquire()


class Workers(Generic[_A, _R]):
    """At most ``threads`` threads that run ``work``, for one event loop at a time.

    Args:
        work: answers one job; called in a thread, never raises.
        queue: jobs that may wait for a thread.
        patience: seconds a caller waits at most.
    """

    def __init__(self, work: Callable[[_A], _R], *, threads: int, queue: int, patience: float) -> None:
        self._work = work
        self._most = threads
        self._room = threads + queue
        self._patience = patience
        self._count = 0  # jobs whose thread has not ended them
        self._todo: deque[_Job[_A, _R]] = deque()
        self._done: deque[_Job[_A, _R]] = deque()
        self._called = False  # whether the loop knows of what is done
        self._told = 0.0
        self._lock = threading.Lock()
        self._resting: list[_Thread] = []
        self._running: list[_Thread] = []
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[_Job[_A, _R], None] = {}  # jobs with a caller, oldest first
        self._pulsing = self._sweeping = False
        self._looked, self._used = 0.0, 0.0

    async def ask(self, argument: _A) -> _R:
        """Return what ``work`` makes of the argument.

        Raises:
            Busy: too many wait, the workers are closed, or ``patience`` ended before a thread was free.
            DeviceTimeout: ``patience`` ended later; the thread may still finish, and keep what it computed.
        """
        if self._closed:
            raise Busy("the node is stopping")
        if self._count >= self._room:
            raise Busy("the node has no free worker")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first one, or one after the other has ended
            self._loop, self._called, self._pulsing, self._sweeping = loop, False, False, False
        job = _Job[_A, _R](argument, time.monotonic() + self._patience, loop.create_future())
        self._count += 1
        self._open[job] = None
        self._todo.append(job)
        with self._lock:
            if not self._running:
                self._one_more()
        if not self._pulsing:
            self._pulsing = True
            self._looked, self._used = time.monotonic(), time.process_time()
            loop.call_later(PULSE, self._pulse, loop)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP, self._sweep, loop)
        return await job.future

    def close(self) -> None:
        """Let running jobs end, and take no more; whoever waits for a thread is told."""
        with self._lock:
            self._closed = True
            waiting = list(self._todo)
            self._todo.clear()
            for thread in self._resting:
                thread.turn.release()
            self._resting = []
        for job in waiting:
            self._threadsafe(partial(_fail, job, Busy("the node is stopping")))

    # -- in the event loop -----------------------------------------------------------------

    def _pulse(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand over what is done; have one more thread if none gets on."""
        if self._done:
            self._deliver()
        if not self._todo:
            self._pulsing = False
            return
        now, used = time.monotonic(), time.process_time()
        with self._lock:
            since = max([thread.since for thread in self._running], default=0.0)
            waits = used - self._used < 0.5 * (now - self._looked)
            if waits or now - since > (SIGNING if len(self._running) < _CORES else LONG):
                self._one_more()
        self._looked, self._used = now, used
        loop.call_later(PULSE, self._pulse, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell callers who have waited too long."""
        now = time.monotonic()
        while self._open:
            job = next(iter(self._open))
            if job.expires > now:
                loop.call_later(_SWEEP, self._sweep, loop)
                return
            del self._open[job]
            _fail(job, DeviceTimeout("the request's deadline passed") if job.begun else waited())
        self._sweeping = False

    def _deliver(self) -> None:
        self._called = False
        done = self._done
        while done:
            job = done.popleft()
            self._count -= 1
            self._open.pop(job, None)
            if not job.future.done():
                job.future.set_result(job.result)

    def _one_more(self) -> None:
        """Let one more thread run, if there may be one. The lock is held."""
        if self._resting:
            thread = self._resting.pop()
            thread.since = time.monotonic()
            self._running.append(thread)
            thread.turn.release()
        elif len(self._running) < self._most:
            thread = _Thread()
            made = threading.Thread(target=self._run, args=(thread,), name="hyperpy-http", daemon=True)
            self._running.append(thread)
            try:
                made.start()
            except RuntimeError:  # the system has no thread for us: the next look tries again
                self._running.remove(thread)

    # -- in a thread -----------------------------------------------------------------------

    def _run(self, thread: _Thread) -> None:
        todo, done = self._todo, self._done
        while True:
            try:
                job = todo.popleft()
            except IndexError:
                if self._rest(thread):
                    continue
                return
            job.begun = True
            now = thread.since = time.monotonic()
            job.result = self._work(job.argument)
            done.append(job)
            if not self._called and (not todo or now - self._told > _BATCH):
                self._called = True
                self._told = now
                self._threadsafe(self._deliver)

    def _rest(self, thread: _Thread) -> bool:
        """Wait until there is a job; say whether there may be one."""
        with self._lock:
            if self._todo:
                return True
            self._running.remove(thread)
            if self._closed:
                return False
            self._resting.append(thread)
        thread.turn.acquire()
        return not self._closed

    def _threadsafe(self, call: Callable[[], Any]) -> None:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass


def waited() -> Busy:
    """Return the error of a request that no thread began in its time: the node is too busy, nothing was done."""
    return Busy("the request waited for a worker until its deadline")


def _fail(job: _Job[Any, Any], error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
