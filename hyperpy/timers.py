"""Runs paths later or at an interval, for cron@1.0. One thread waits; runs happen on their own threads.

A task that is still running when its next turn comes is not started twice. With a store, tasks outlive
the process: what was asked for is on the disk before its ID is returned, a repeated task goes on after
a restart, and a single one whose run had not ended begins again.
"""

from __future__ import annotations

import heapq
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, key_bytes, key_text
from hyperpy.errors import Busy, CodecError, HyperpyError, ParameterError, SizeError, StoreError, TooManyRequests
from hyperpy.message import Message
from hyperpy.store.base import Store

MIN_INTERVAL_S = 0.01
MAX_INTERVAL_S = 3650 * 86400.0
"""Longest interval: ten years."""
MAX_PATH = 8192
"""Longest path of a task, in bytes."""
MAX_RUNNING = 64
"""Tasks that run at the same time; others wait their turn."""
_PATIENCE_S = 0.05
_LONGEST_WAIT_S = 3600.0
"""No wait of the thread is longer; the clocks of some systems take only so much."""

log = logging.getLogger("hyperpy.device")


@dataclass(slots=True)
class _Task:
    id: str
    path: str
    interval_s: float | None
    owner: str = ""
    group: str = ""
    runs: int = 0
    failures: int = 0
    busy: bool = False
    stopped: bool = field(default=False)


class Timers:
    """Implements the ``timers`` capability. ``run`` gets the path; what it raises is logged.

    Args:
        run: resolves a path on the node's own account.
        limit: most tasks at a time; one more is refused with Busy.
        store: keeps the tasks; None keeps them in memory.
        secret: what groups are made with; the same after a restart, so that tasks go on counting for their group.
    """

    def __init__(
        self, run: Callable[[str], None], *, limit: int = 1000, store: Store | None = None, secret: bytes = b""
    ) -> None:
        self._run = run
        self._limit = limit
        self._store = store
        self._secret = secret or secrets.token_bytes(32)
        self._tasks: dict[str, _Task] = {}
        self._due: list[tuple[float, int, _Task]] = []
        self._turns = 0
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
                    self._start(task, _left(task, next_s - time.time()))
                    count += 1
        return count

    def once(
        self, path: str, delay_s: float = 0.0, *, task: str | None = None, owner: str = "", group: str = ""
    ) -> str:
        """Run a path once, ``delay_s`` seconds from now; return the task's ID.

        Args:
            task: the ID; a task that runs under it already is left as it is. Default: a new one.
            owner: address of who may stop it; anybody if empty.
            group: whom it counts for in :meth:`count`; from :meth:`admit`.
        """
        return self._add(_Task(task or _new(), path, None, owner, group), max(0.0, delay_s))

    def every(self, path: str, interval_s: float, *, task: str | None = None, owner: str = "", group: str = "") -> str:
        """Run a path every ``interval_s`` seconds, first after one interval; return the task's ID.

        Raises:
            ParameterError: the interval is shorter than 10 ms, or longer than ten years.
        """
        if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
            raise ParameterError(
                f"the interval must be at least {MIN_INTERVAL_S} seconds, and at most ten years", name="interval"
            )
        return self._add(_Task(task or _new(), path, interval_s, owner, group), interval_s)

    def count(self, group: str | None = None) -> int:
        """Return how many tasks there are, or those of one group."""
        with self._changed:
            return sum(group is None or task.group == group for task in self._tasks.values())

    def admit(self, peer: str, *, own: int, most: int) -> str:
        """Return the group that a new task of a stranger counts for: a hash of where the request came from.

        Args:
            peer: the client's address; it cannot be had from the group without the node's key.
            own: most tasks of one group.
            most: most tasks of all; a tenth is kept for the operator.

        Raises:
            TooManyRequests: they have enough.
        """
        group = b64u(hmac.digest(self._secret, peer.encode("utf-8", "replace"), "sha256"))
        if self.count(group) >= own or self.count() >= max(1, most - most // 10):
            raise TooManyRequests(
                f"a client may have {own} timed tasks at a time on this node", hint="Stop one, or ask the operator."
            )
        return group

    def owner(self, task: str) -> str | None:
        """Return the address of who may stop a task, empty for anybody; None if there is no such task."""
        found = self._tasks.get(task)
        return None if found is None else found.owner

    def _add(self, task: _Task, delay_s: float) -> str:
        if len(task.path.encode("utf-8", "surrogateescape")) > MAX_PATH:
            raise SizeError(f"the path of a timed task may have {MAX_PATH} bytes", hint="Store it as a message.")
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
        if len(self._due) > 2 * len(self._tasks) + MAX_RUNNING:  # many were stopped
            self._due = [one for one in self._due if self._tasks.get(one[2].id) is one[2]]
            heapq.heapify(self._due)
        self._push(time.monotonic() + min(delay_s, MAX_INTERVAL_S), task)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="hyperpy-timers", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _push(self, due: float, task: _Task) -> None:
        self._turns += 1
        heapq.heappush(self._due, (due, self._turns, task))

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
                    due, _, task = heapq.heappop(self._due)
                    if self._tasks.get(task.id) is task:
                        self._turn(task, due, now)
                    continue
                self._changed.wait(min(self._due[0][0] - now, _LONGEST_WAIT_S) if self._due else None)

    def _turn(self, task: _Task, due: float, now: float) -> None:
        if self._running >= MAX_RUNNING:
            self._push(now + _PATIENCE_S, task)
            return
        if not task.busy:
            task.busy = True
            self._running += 1
            try:
                threading.Thread(target=self._once, args=(task,), name="hyperpy-timer-run", daemon=True).start()
            except (RuntimeError, MemoryError) as error:  # the system has no room for a thread: try again
                log.error("the timer %s waits for a thread: %s", task.id, error)
                task.busy = False
                self._running -= 1
                self._push(now + _PATIENCE_S * 20, task)
                return
        if task.interval_s is not None:
            self._push(max(due + task.interval_s, now), task)

    def _once(self, task: _Task) -> None:
        try:
            self._run(task.path)
        except HyperpyError as error:
            self._failed(task, error)
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

    def _failed(self, task: _Task, error: HyperpyError) -> None:
        """Log a failure: the first, second, fourth, eighth and so on of a task, or a task could fill the disk."""
        task.failures += 1
        if task.failures & (task.failures - 1) == 0:
            times = "" if task.failures == 1 else f" {task.failures} times so far"
            log.warning("the timed task %s failed%s: %.200s (path %.200a)", task.id, times, error.message, task.path)


def _left(task: _Task, seconds: float) -> float:
    """Return how long a stored task still waits.

    Turns of a repeated one that passed while nothing ran are not made up: it keeps its beat.
    """
    if task.interval_s is None:
        return max(0.0, seconds)
    return min(seconds, task.interval_s) if seconds > 0 else seconds % task.interval_s


def _new() -> str:
    return b64u(secrets.token_bytes(32))


def _written(task: _Task, next_s: float) -> bytes:
    """Return a task as the store keeps it; times in whole milliseconds, the interval -1 if it has none."""
    interval = -1 if task.interval_s is None else round(task.interval_s * 1000)
    return canonical.encode(
        Message(
            {
                "path": task.path,
                "interval": interval,
                "next": round(next_s * 1000),
                "owner": task.owner,
                "group": task.group,
            }
        )
    )


def _read(name: str, data: bytes) -> tuple[_Task, float]:
    found = canonical.decode(data)
    if not isinstance(found, Message):
        raise CodecError("a timer must be a message")
    interval, due, path = found.get("interval"), found.get("next"), found.get("path")
    if type(interval) is not int or type(due) is not int or not isinstance(path, bytes):
        raise CodecError("a timer's fields are wrong")
    every = None if interval < 0 else min(max(interval / 1000, MIN_INTERVAL_S), MAX_INTERVAL_S)
    return _Task(name, key_text(path), every, found.text("owner", ""), found.text("group", "")), due / 1000
