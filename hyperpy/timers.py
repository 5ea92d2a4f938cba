"""Runs paths later or at an interval, for cron@1.0. One thread waits; runs happen on their own threads.

A task that is still running when its next turn comes is not started twice.
"""

from __future__ import annotations

import heapq
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperpy.encoding import b64u
from hyperpy.errors import Busy, ParameterError
from hyperpy.message import Message

MIN_INTERVAL_S = 0.01


@dataclass(slots=True)
class _Task:
    id: str
    path: str
    interval_s: float | None
    runs: int = 0
    busy: bool = False
    stopped: bool = field(default=False)


class Timers:
    """Implements the ``timers`` capability. ``run`` gets the path and must not raise.

    Args:
        run: resolves a path on the node's own account.
        limit: most tasks at a time; one more is refused with Busy.
    """

    def __init__(self, run: Callable[[str], None], *, limit: int = 1000) -> None:
        self._run = run
        self._limit = limit
        self._tasks: dict[str, _Task] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def once(self, path: str, delay_s: float = 0.0) -> str:
        """Run a path once, ``delay_s`` seconds from now; return the task's ID."""
        return self._add(_Task(b64u(secrets.token_bytes(32)), path, None), max(0.0, delay_s))

    def every(self, path: str, interval_s: float) -> str:
        """Run a path every ``interval_s`` seconds, first after one interval; return the task's ID.

        Raises:
            ParameterError: the interval is shorter than 10 ms.
        """
        if not interval_s >= MIN_INTERVAL_S:
            raise ParameterError(f"the interval must be at least {MIN_INTERVAL_S} seconds", name="interval")
        return self._add(_Task(b64u(secrets.token_bytes(32)), path, interval_s), interval_s)

    def _add(self, task: _Task, delay_s: float) -> str:
        with self._changed:
            if self._closed or len(self._tasks) >= self._limit:
                raise Busy(f"this node runs {self._limit} timed tasks already")
            self._tasks[task.id] = task
            heapq.heappush(self._due, (time.monotonic() + delay_s, task.id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="hyperpy-timers", daemon=True)
                self._thread.start()
            self._changed.notify()
        return task.id

    def stop(self, task: str) -> bool:
        """Stop a task; False if there is none of that ID. A run under way ends by itself."""
        with self._changed:
            found = self._tasks.pop(task, None)
            if found is not None:
                found.stopped = True
            self._changed.notify()
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
        """Stop all tasks and the thread."""
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
        if task.interval_s is not None:
            heapq.heappush(self._due, (max(due + task.interval_s, now), task.id))
        if not task.busy:
            task.busy = True
            threading.Thread(target=self._once, args=(task,), name="hyperpy-timer-run", daemon=True).start()

    def _once(self, task: _Task) -> None:
        try:
            self._run(task.path)
        finally:
            with self._changed:
                task.runs += 1
                task.busy = False
                if task.interval_s is None:
                    self._tasks.pop(task.id, None)
