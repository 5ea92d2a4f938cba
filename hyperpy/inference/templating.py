"""The processes that fill in chat templates: kept, lent to one request at a time, replaced when they end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from hyperpy.errors import Busy

SCRIPT: Final = Path(__file__).with_name("chat_child.py")
AT_ONCE: Final = 4
PATIENCE_S: Final = 20.0
"""Seconds that an answer may take, waiting for a process included. They are no part of a template's result."""
_CHUNK: Final = 1 << 16


class _Ended(Exception):
    """The process is gone."""


class _Process:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-B", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        weakref.finalize(self, _end, self._process)

    def ask(self, data: bytes, deadline: float) -> bytes:
        """Return the answer to a request.

        Raises:
            _Ended: the process is gone.
            TimeoutError: the deadline (monotonic seconds) passed.
        """
        left, found = memoryview(len(data).to_bytes(4, "little") + data), bytearray()
        while len(found) < 4 or len(found) < 4 + int.from_bytes(found[:4], "little"):
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise TimeoutError
            ready = select.poll()  # select() takes no number above 1,023, and a node has more connections than that
            ready.register(self._out, select.POLLIN)
            if left:
                ready.register(self._in, select.POLLOUT)
            told = dict(ready.poll(1000 * wait))
            try:
                if self._in in told:
                    left = left[os.write(self._in, left[:_CHUNK]) :]
                if self._out in told:
                    piece = os.read(self._out, _CHUNK)
                    if not piece:
                        raise _Ended
                    found += piece
            except BlockingIOError:
                continue
            except OSError:
                raise _Ended from None
        return bytes(found[4:])

    def kill(self) -> None:
        """End it, with what it started."""
        _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


_idle: deque[_Process] = deque()
_turns = threading.BoundedSemaphore(AT_ONCE)


def filled(data: bytes) -> bytes:
    """Return what a process answers to a request; see ``chat_child.py``.

    Raises:
        Busy: there was no answer in time, or its process ended twice.
    """
    deadline = time.monotonic() + PATIENCE_S
    if not _turns.acquire(timeout=PATIENCE_S):
        raise Busy("too many conversations are being read")
    try:
        for _ in range(2):
            try:
                process = _idle.pop()
            except IndexError:
                process = _Process()
            try:
                found = process.ask(data, deadline)
            except _Ended:
                process.kill()
                continue
            except BaseException as error:
                process.kill()
                if isinstance(error, TimeoutError):
                    raise Busy("the chat template was not filled in in time") from None
                raise
            _idle.append(process)
            return found
        raise Busy("the process for chat templates ends again and again")
    finally:
        _turns.release()
