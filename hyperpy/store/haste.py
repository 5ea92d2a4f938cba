"""Threads that must never wait, and what happens where they would.

The event loop answers small requests itself (:mod:`hyperpy.http.brief`). Whether the store would make it
wait is asked before, and may be otherwise a moment later. So each place of the store that waits, for another
thread or for the disk, calls :func:`may_wait` first: on such a thread it raises, and a worker does it all again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HERE = threading.local()


class WouldWait(BaseException):
    """A thread in haste came to where it would wait. No error: nothing that handles errors handles it."""


@contextmanager
def haste() -> Iterator[None]:
    """Let nothing that this thread does inside wait for the store; it raises WouldWait instead."""
    before = getattr(_HERE, "haste", False)
    _HERE.haste = True
    try:
        yield
    finally:
        _HERE.haste = before


def may_wait() -> None:
    """Raise WouldWait if this thread must not wait."""
    if getattr(_HERE, "haste", False):
        raise WouldWait
