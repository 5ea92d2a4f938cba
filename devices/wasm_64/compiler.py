"""Compiling in processes of their own: bounded in processor time and memory, smaller images first.

The engine reads back what such a process made: machine code, which nobody else may hand in.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from hyperpy.errors import Busy, DeviceStopped

SCRIPT: Final = Path(__file__).with_name("compile_child.py")
SMALL: Final = 1 << 20
"""Bytes of an image that the first place is kept for; the second takes any."""
_WAITING: Final = 64
_LEAST_S, _PER_BYTE_S, _MOST_S = 3, 15 / (1 << 20), 120
"""Processor seconds: an image may take the first, and so many for each byte. Real ones take a fifth of that."""
_WALL: Final = 10
"""How many times its processor seconds an image may take where the machine is busy."""
_MOST_BYTES: Final = 1 << 30


class Refused(Exception):
    """The engine does not take the image; the text is its own."""


def seconds(size: int) -> int:
    """Return the processor seconds that compiling an image of so many bytes may take."""
    return min(_MOST_S, _LEAST_S + int(size * _PER_BYTE_S))


class Compiler:
    """The two places where images are compiled; thread-safe."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._queue: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        self._busy = [False, False]
        self._children: list[subprocess.Popen[bytes] | None] = [None, None]

    def compile(self, image: bytes) -> bytes:
        """Return an image's serialised module.

        Raises:
            Refused: the engine does not take it.
            DeviceStopped: it takes too much processor time or memory.
            Busy: too many wait.
        """
        place = self._take(len(image))
        try:
            return self._on(place, image)
        finally:
            with self._change:
                self._busy[place] = False
                self._change.notify_all()

    def pids(self) -> list[int]:
        """Return the process numbers of the children that live."""
        return [child.pid for child in self._children if child is not None and child.poll() is None]

    def _take(self, size: int) -> int:
        with self._change:
            if len(self._queue) >= _WAITING:
                raise Busy("too many WebAssembly images wait to be compiled")
            mine = (size, next(self._numbers))
            heapq.heappush(self._queue, mine)
            while (place := self._free(mine)) is None:
                self._change.wait()
            self._queue.remove(mine)
            heapq.heapify(self._queue)
            self._busy[place] = True
            self._change.notify_all()
            return place

    def _free(self, mine: tuple[int, int]) -> int | None:
        """Return a place for the one that waits, if it is its turn."""
        if mine[0] <= SMALL and not self._busy[0] and mine == self._queue[0]:
            return 0
        first = self._queue[0] if self._busy[0] else min(self._queue, key=lambda one: (one[0] <= SMALL, one))
        return 1 if not self._busy[1] and mine == first else None

    def _on(self, place: int, image: bytes) -> bytes:
        allowed = seconds(len(image))
        frame = len(image).to_bytes(4, "big") + allowed.to_bytes(4, "big") + image
        for last in (False, True):
            child = self._child(place)
            timer = threading.Timer(allowed * _WALL, child.kill)
            timer.daemon = True
            timer.start()
            try:
                found = _asked(child, frame)
            finally:
                timer.cancel()
            if found is None:
                self._end(place)
                if not last and child.returncode == 0:
                    continue  # it was about to end, as nobody had asked for a while
                raise DeviceStopped(
                    f"compiling the image takes more than {allowed} s of processor time, or too much memory",
                    hint="Make the image smaller, or its functions.",
                )
            if len(image) > SMALL:
                self._end(place)  # so much memory is not kept
            if found[:1] == b"E":
                raise Refused(found[1:].decode("utf-8", "replace"))
            return found[1:]
        raise Busy("the process that compiles WebAssembly does not start")

    def _child(self, place: int) -> subprocess.Popen[bytes]:
        child = self._children[place]
        if child is None or child.poll() is not None:
            self._end(place)
            child = self._children[place] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-B", str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C", "MALLOC_ARENA_MAX": "2"},
                cwd="/",
                start_new_session=True,
            )
        return child

    def _end(self, place: int) -> None:
        child, self._children[place] = self._children[place], None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _asked(child: subprocess.Popen[bytes], frame: bytes) -> bytes | None:
    """Return a child's answer; None if it ended."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(frame)
        child.stdin.flush()
        size = int.from_bytes(child.stdout.read(4), "big")
        found = child.stdout.read(size) if 0 < size <= _MOST_BYTES else b""
    except (OSError, ValueError):
        return None
    return found if found and len(found) == size else None


COMPILER = Compiler()
