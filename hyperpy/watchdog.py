"""Stops device code that runs past its deadline.

A Python thread cannot be killed, but an exception can be raised in it at the next bytecode. The
watchdog does that to threads that are inside *device* code (never inside the resolver or a store)
more than ``grace_s`` after their deadline. Code that blocks in C or in a system call is not
reached; its caller has long been answered, and docs/security.md says so.
"""

from __future__ import annotations

import ctypes
import threading
import time


class Interrupted(BaseException):
    """The device ran past its deadline. No Exception, so that ``except Exception`` in a device does not catch it."""


_LAST_TRIES = 20
"""How often ``stop`` interrupts device code that goes on, 50 ms apart."""


class Watchdog:
    """Knows which threads run device code, and until when they may.

    ``running`` maps a thread's identity to the deadline (monotonic seconds) of the device code it is
    in, or to None while it is in the node's own code. The resolver writes it; nothing else does.
    """

    def __init__(self, grace_s: float = 1.0) -> None:
        self.running: dict[int, float | None] = {}
        self.stopped = 0
        self._grace_s = grace_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the watching thread."""
        self._thread = threading.Thread(target=self._watch, name="hyperpy-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the watching thread, and whatever device code still runs, whether late or not."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
        for _ in range(_LAST_TRIES):
            inside = [ident for ident, deadline in list(self.running.items()) if deadline is not None]
            if not inside:
                break
            for ident in inside:
                _raise_in(ident)
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            late = time.monotonic() - self._grace_s
            for ident, deadline in list(self.running.items()):
                if deadline is not None and deadline < late and self.running.get(ident) == deadline:
                    self.stopped += 1
                    _raise_in(ident)


def _raise_in(ident: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupted))
