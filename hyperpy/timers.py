"""Runs paths later or at an interval, for cron@1.0. One thread waits; runs happen on their own threads.

A task that is still running when its next turn comes is not started twice. With a store, tasks outlive
the process: what was asked for is on the disk before its ID is returned, a repeated task goes on after
a restart, and a single one whose run had not ended begins again.
"""

from __future__ import annotations

import heapq
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, key_bytes, key_text
from hyperpy.errors import Busy, CodecError, ParameterError, StoreError
from hyperpy.message import Message
from hyperpy.store.base import Store

MIN_INTERVAL_S = 0.01
MAX_RUNNING = 64
"""Tasks that run at the same time; others wait their turn."""
_PATIENCE_S = 0.05

log = logging.getLogger("hyperpy.device")


@dataclass(slots=True)
class _Task:
    id: str
    path: str
    interval_s: float | None
    owner: str = ""
    group: str = ""
    runs: int = 0
    busy: bool = False
    stopped: bool = field(default=False)


class Timers:
    """Implements the ``timers`` capability. ``run`` gets the path and must not raise.

    Args:
        run: resolves a path on the node's own account.
        limit: most tasks at a time; one more is refused with Busy.
        store: keeps the tasks; None keeps them in memory.
    """

    def __init__(self, run: Callable[[str], None], *, limit: int = 1000, store: Store | None = None) -> None:
        self._run = run
        self._limit = limit
        self._store = store
        self._tasks: dict[str, _Task] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._running = 0
        self._thread: threading.Thread | None = None

    def resume(self) -> int:
        """Take up the tasks that the store kept from before; return how many. Called once, by who serves."""
        if self._store is None:
            return 0
        count = 0
        for key, data in list(self._store.scan("timers")):
            try:
                task, next_s = _read(key_text(key), data)
            except CodecError as error:
                log.error("a stored timer is damaged and was not started: %s", error.message)
                continue
            with self._changed:
                if task.id not in self._tasks and not self._closed:
                    self._start(task, max(0.0, min(next_s - time.time(), task.interval_s or next_s)))
                    count += 1
        return count

    def once(
        self, path: str, delay_s: float = 0.0, *, task: str | None = None, owner: str = "", group: str = ""
    ) -> str:
        """Run a path once, ``delay_s`` seconds from now; return the task's ID.

        Args:
            task: the ID; a task that runs under it already is left as it is. Default: a new one.
            owner: address of who may stop it; anybody if empty.
            group: whom it counts for in :meth:`count`; not kept.
        """
        return self._add(_Task(task or _new(), path, None, owner, group), max(0.0, delay_s))

    def every(self, path: str, interval_s: float, *, task: str | None = None, owner: str = "", group: str = "") -> str:
        """Run a path every ``interval_s`` seconds, first after one interval; return the task's ID.

        Raises:
            ParameterError: the interval is shorter than 10 ms.
        """
        if not interval_s >= MIN_INTERVAL_S:
            raise ParameterError(f"the interval must be at least {MIN_INTERVAL_S} seconds", name="interval")
        return self._add(_Task(task or _new(), path, interval_s, owner, group), interval_s)

    def count(self, group: str | None = None) -> int:
        """Return how many tasks there are, or those of one group."""
        with self._changed:
            return sum(group is None or task.group == group for task in self._tasks.values())

    def owner(self, task: str) -> str | None:
        """Return the address of who may stop a task, empty for anybody; None if there is no such task."""
        found = self._tasks.get(task)
        return None if found is None else found.owner

    def _add(self, task: _Task, delay_s: float) -> str:
        with self._changed:
            if task.id in self._tasks and not self._closed:
                return task.id
            if self._closed or len(self._tasks) >= self._limit:
                raise Busy(f"this node runs {self._limit} timed tasks already")
            self._tasks[task.id] = task
        try:
            if self._store is not None:
                self._store.write([("timers", key_bytes(task.id), _written(task, time.time() + delay_s))], durable=True)
        except BaseException:
            with self._changed:
                self._tasks.pop(task.id, None)
            raise
        with self._changed:
            if self._tasks.get(task.id) is task:
                self._start(task, delay_s)
        return task.id

    def _start(self, task: _Task, delay_s: float) -> None:
        self._tasks[task.id] = task
        heapq.heappush(self._due, (time.monotonic() + delay_s, task.id))
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="hyperpy-timers", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _forget(self, task: str) -> None:
        if self._store is not None and not self._closed:
            try:
                self._store.write([], [("timers", key_bytes(task))], durable=True)
            except StoreError as error:
                log.error("the timer %s may start again: %s", task, error.message)

    def stop(self, task: str) -> bool:
        """Stop a task; False if there is none of that ID. A run under way ends by itself."""
        with self._changed:
            found = self._tasks.pop(task, None)
            if found is not None:
                found.stopped = True
            self._changed.notify()
        if found is not None:
            self._forget(task)
        return found is not None

    def list(self) -> Mapping[str, Message]:
        """Return the tasks by ID: ``path``, ``runs`` and, if it repeats, ``interval`` in seconds."""
        with self._changed:
            return {
                task.id: Message(
                    {"path": task.path, "runs": task.runs}
                    | ({} if task.interval_s is None else {"interval": float(task.interval_s)})
                )
                for task in self._tasks.values()
            }

    def close(self) -> None:
        """Stop all tasks and the thread; what the store keeps stays there."""
        with self._changed:
            self._closed = True
            self._tasks.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(5)

    def _loop(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    due, name = heapq.heappop(self._due)
                    task = self._tasks.get(name)
                    if task is not None:
                        self._turn(task, due, now)
                    continue
                self._changed.wait(self._due[0][0] - now if self._due else None)

    def _turn(self, task: _Task, due: float, now: float) -> None:
        if self._running >= MAX_RUNNING:
            heapq.heappush(self._due, (now + _PATIENCE_S, task.id))
            return
        if task.interval_s is not None:
            heapq.heappush(self._due, (max(due + task.interval_s, now), task.id))
        if not task.busy:
            task.busy = True
            self._running += 1
            threading.Thread(target=self._once, args=(task,), name="hyperpy-timer-run", daemon=True).start()

    def _once(self, task: _Task) -> None:
        try:
            self._run(task.path)
        finally:
            with self._changed:
                self._running -= 1
                task.runs += 1
                task.busy = False
                ended = task.interval_s is None and not self._closed
            if ended:
                self._forget(task.id)
                with self._changed:
                    if self._tasks.get(task.id) is task:
                        del self._tasks[task.id]


def _new() -> str:
    return b64u(secrets.token_bytes(32))


def _written(task: _Task, next_s: float) -> bytes:
    """Return a task as the store keeps it; times in whole milliseconds, the interval -1 if it has none."""
    interval = -1 if task.interval_s is None else round(task.interval_s * 1000)
    return canonical.encode(
        Message({"path": task.path, "interval": interval, "next": round(next_s * 1000), "owner": task.owner})
    )


def _read(name: str, data: bytes) -> tuple[_Task, float]:
    found = canonical.decode(data)
    if not isinstance(found, Message):
        raise CodecError("a timer must be a message")
    interval, due, path = found.get("interval"), found.get("next"), found.get("path")
    if type(interval) is not int or type(due) is not int or not isinstance(path, bytes):
        raise CodecError("a timer's fields are wrong")
    every = None if interval < 0 else max(interval / 1000, MIN_INTERVAL_S)
    return _Task(name, key_text(path), every, found.text("owner", "")), due / 1000
