"""Child processes that run Lua: lent one call at a time, in order of asking, and replaced when they end.

A call that itself leads to a Lua call on the same thread runs in the same child, so nested calls need
no second one and cannot wait for each other.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from hyperpy.errors import Busy, DeviceReentered, DeviceTimeout, HyperpyError

SCRIPT: Final = Path(__file__).with_name("child.py")
START_S: Final = 20.0
MOST_WAITING: Final = 256
PATIENCE_S: Final = 0.05
"""How long a call waits for the child that holds its state before it takes another."""
INSIDE: Final = 3
"""Calls of Lua that may wait for each other on one thread."""
CROWDED_S: Final = 0.5
"""How long a call waits for any child before one more is started for it, up to twice the usual number."""
MAX_FRAME: Final = 256 * 1024 * 1024

Asked = Callable[[bytes, bytes, int], tuple[bytes, int]]
"""Answers what Lua asks for: takes a kind, packed values and the instructions left; gives packed values and the
instructions that they took."""
Logged = Callable[[bytes], None]


class ChildEnded(Exception):
    """The child is gone; its state with it."""


class Child:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-B", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "MALLOC_ARENA_MAX": "2"},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._buffer = bytearray()
        self.garbage: list[int] = []
        self.alive = True
        self.busy = False
        self._numbers = 0

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def number(self) -> int:
        """Return a number for a new interpreter."""
        self._numbers += 1
        return self._numbers

    def ended(self) -> bool:
        """Say whether the process is gone; nobody may be using it."""
        if self.alive and self._process.poll() is not None:
            self.kill()
        return not self.alive

    def wait_ready(self) -> None:
        """Wait until the child says that it serves."""
        try:
            if self._read(time.monotonic() + START_S) != ["ready"]:
                raise ChildEnded
        except (ChildEnded, DeviceTimeout):
            self.kill()
            raise Busy("the process for Lua does not start") from None

    def request(self, frame: list[Any], deadline: float, asked: Asked, logged: Logged) -> tuple[str, Any, int]:
        """Send a frame and return its answer: a word, a value and the instructions used.

        Raises:
            ChildEnded: the process ended by itself (it may have used up its processor time).
            DeviceTimeout: the deadline passed; the process is killed.
            HyperpyError: what ``asked`` raised, of the kinds that are no result.
        """
        failure: HyperpyError | None = None
        try:
            if self.garbage:
                garbage, self.garbage = self.garbage, []
                self._write(["drop", garbage], deadline)
            self._write(frame, deadline)
            while True:
                answer = self._read(deadline)
                if answer[0] == "done":
                    break
                if answer[0] == "log":
                    logged(answer[1])
                    continue
                reply: tuple[bytes | None, int] = (None, 0)
                if failure is None:
                    try:
                        reply = asked(answer[1], answer[2], answer[3])
                    except HyperpyError as error:
                        failure = error
                self._write(["reply", *reply], deadline)
        except BaseException:
            self.kill()
            raise
        if failure is not None:
            raise failure
        return answer[1], answer[2], answer[3]

    def signal(self) -> None:
        """End the process; whoever uses it sees the end of its pipe."""
        self.alive = False
        self._process.kill()

    def kill(self) -> None:
        """End the process and let go of its pipes; for the thread that uses it, or when none does."""
        self.signal()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _write(self, frame: list[Any], deadline: float) -> None:
        data = msgpack.packb(frame, use_bin_type=True)
        view = memoryview(len(data).to_bytes(4, "big") + data)
        while view:
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                left = deadline - time.monotonic()
                ready = select.poll()  # select() takes no number above 1,023
                ready.register(self._in, select.POLLOUT)
                if left <= 0 or not ready.poll(1000 * left):
                    raise DeviceTimeout("Lua did not end in time") from None
            except OSError:
                raise ChildEnded from None

    def _read(self, deadline: float) -> list[Any]:
        while True:
            size = int.from_bytes(self._buffer[:4], "big") if len(self._buffer) >= 4 else None
            if size is not None and size > MAX_FRAME:
                raise ChildEnded
            if size is not None and len(self._buffer) >= size + 4:
                frame: list[Any] = msgpack.unpackb(
                    memoryview(self._buffer)[4 : size + 4], raw=False, max_bin_len=MAX_FRAME
                )
                self._buffer = self._buffer[size + 4 :]
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(int(left * 1000) + 1):
                raise DeviceTimeout("Lua did not end in time", hint="Do less in one call.")
            part = os.read(self._out, 1 << 16)
            if not part:
                raise ChildEnded
            self._buffer += part


class _Waiter:
    """One thread that waits for a child, any or a certain one."""

    __slots__ = ("child", "event", "wanted")

    def __init__(self, wanted: Child | None) -> None:
        self.wanted = wanted
        self.child: Child | None = None
        self.event = threading.Event()


class Pool:
    """The children of one node; thread-safe.

    Args:
        size: how many processes there are at once; twice as many while others are held up.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = size or max(2, min(8, os.cpu_count() or 2))
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._starting = 0
        self._waiting: deque[_Waiter] = deque()
        self._here = threading.local()
        self._stopped = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count a call on this thread.

        Raises:
            DeviceReentered: too many are inside one another.
        """
        depth: int = getattr(self._here, "depth", 0)
        if depth >= INSIDE:
            raise DeviceReentered(
                "Lua calls itself too deeply through ao.resolve", hint="Call less inside one another."
            )
        self._here.depth = depth + 1
        try:
            yield
        finally:
            self._here.depth = depth

    @contextmanager
    def lend(self, wanted: Child | None, deadline: float) -> Iterator[Child]:
        """Lend a child to this thread: the one it already uses, the wanted one, or any.

        Raises:
            Busy: too many wait already, none got free in time, or the pool is stopped.
        """
        mine: Child | None = getattr(self._here, "child", None)
        if mine is not None and mine.alive:
            yield mine
            return
        child = self._patiently(wanted, deadline) if wanted is not None else self._acquire(None, deadline)
        self._here.child = child
        try:
            yield child
        finally:
            self._here.child = None
            self._release(child)

    def stop(self) -> None:
        """End all processes; later calls fail."""
        with self._lock:
            self._stopped = True
            children, self._children = self._children, []
            waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.event.set()
        for child in children:
            if child.busy:
                child.signal()
            else:
                child.kill()

    def pids(self) -> list[int]:
        """Return the numbers of the running processes."""
        with self._lock:
            return [child.pid for child in self._children]

    def _patiently(self, wanted: Child, deadline: float) -> Child:
        """Return the wanted child, or any if that one is busy for long: making its state again costs less."""
        soon = time.monotonic() + PATIENCE_S
        if soon >= deadline:
            return self._acquire(wanted, deadline)
        try:
            return self._acquire(wanted, soon)
        except Busy:
            return self._acquire(None, deadline)

    def _acquire(self, wanted: Child | None, deadline: float) -> Child:
        with self._lock:
            self._check()
            child = self._idle(wanted)
            if child is not None:
                return child
            alive = wanted is not None and wanted.alive
            if not alive and len(self._children) + self._starting < self._size:
                self._starting += 1
                waiter = None
            else:
                if len(self._waiting) >= MOST_WAITING:
                    raise Busy("too many calls wait for Lua")
                waiter = _Waiter(wanted if alive else None)
                self._waiting.append(waiter)
        return self._start() if waiter is None else self._wait(waiter, deadline)

    def _check(self) -> None:
        if self._stopped:
            raise Busy("the node is stopping")

    def _idle(self, wanted: Child | None) -> Child | None:
        if wanted is not None and wanted.alive:
            if wanted.busy:
                return None
            if not wanted.ended():
                wanted.busy = True
                return wanted
        for child in tuple(self._children):
            if not child.busy:
                if child.ended():
                    self._children.remove(child)
                    continue
                child.busy = True
                return child
        return None

    def _start(self) -> Child:
        child = None
        try:
            child = Child()
            child.busy = True
            child.wait_ready()
        finally:
            with self._lock:
                self._starting -= 1
                stopped = self._stopped
                if child is not None and child.alive and not stopped:
                    self._children.append(child)
        if stopped:
            child.kill()
            raise Busy("the node is stopping")
        return child

    def _wait(self, waiter: _Waiter, deadline: float) -> Child:
        left = max(0.0, deadline - time.monotonic())
        if not waiter.event.wait(min(left, CROWDED_S)):
            if self._one_more(waiter):
                return self._start()
            waiter.event.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self._check()
            if waiter.child is None:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    raise Busy("no process for Lua got free in time")
                self._starting += 1
        return waiter.child if waiter.child is not None else self._start()

    def _one_more(self, waiter: _Waiter) -> bool:
        """Say whether a call that was held up may start a child of its own; it is then out of the line."""
        with self._lock:
            room = len(self._children) + self._starting < 2 * self._size
            if not room or waiter.wanted is not None or waiter not in self._waiting:
                return False
            self._waiting.remove(waiter)
            self._starting += 1
            return True

    def _release(self, child: Child) -> None:
        """Hand a child to whoever waits longest for it; a dead one makes room, and one too many ends."""
        self._hand_on(child)
        with self._lock:
            spare = child.alive and not child.busy and len(self._children) > self._size
            spare = spare and child in self._children
            if spare:
                self._children.remove(child)
        if spare:
            child.kill()

    def _hand_on(self, child: Child) -> None:
        with self._lock:
            if not child.alive:
                if child in self._children:
                    self._children.remove(child)
                self._wake(child)
                return
            child.busy = False
            for waiter in self._waiting:
                if waiter.wanted is None or waiter.wanted is child:
                    self._waiting.remove(waiter)
                    child.busy, waiter.child = True, child
                    waiter.event.set()
                    return

    def _wake(self, dead: Child) -> None:
        """Those who wanted a dead child take any; the first in line starts a new one."""
        for waiter in self._waiting:
            if waiter.wanted is dead:
                waiter.wanted = None
        if self._waiting and not self._stopped:
            self._waiting.popleft().event.set()
