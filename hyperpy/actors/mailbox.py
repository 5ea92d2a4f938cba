"""A bounded mailbox with a system lane, and the gate that lets one caller at a time into an actor.

*Waiting* calls are those in the normal lane; the one that runs is not among them. Every call and
order is counted when accepted and when finished: only ``accepted == finished`` means idle, since an
empty lane says nothing about the call that was just taken out of it.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from time import monotonic
from typing import Any

from hyperpy.actors.chain import Named
from hyperpy.errors import HyperpyError


class Order(enum.Enum):
    """What the system tells an actor; orders overtake calls."""

    START = enum.auto()
    RESTART = enum.auto()
    STOP = enum.auto()


class Offer(enum.Enum):
    """What became of a call that was offered to a mailbox."""

    ACCEPTED = enum.auto()
    FULL = enum.auto()
    CLOSED = enum.auto()


class Call:
    """One queued call: the work, who waits for whom, and room for the answer.

    ``answered`` is a lock that is free once the answer is there; the answering thread frees it.
    """

    __slots__ = ("answered", "context", "deadline", "error", "holders", "target", "value", "work")

    def __init__(
        self, work: Callable[[Any], Any], context: Context, deadline: float, holders: Sequence[Named], target: Named
    ) -> None:
        self.work = work
        self.context = context
        self.deadline = deadline
        self.holders = holders
        self.target = target
        self.value: Any = None
        self.error: BaseException | None = None
        self.answered = threading.Lock()
        self.answered.acquire()

    def fail(self, error: HyperpyError) -> None:
        """Answer with ``error``, unless there is an answer already."""
        if self.answered.locked():
            self.error = error
            self.answered.release()


class Mailbox:
    """The calls that wait for one actor. Only the actor's own thread may :meth:`get`."""

    __slots__ = ("_asleep", "_calls", "_mutex", "_open", "_orders", "_signal", "accepted", "finished", "gate", "idle",
                 "limit")  # fmt: skip

    def __init__(self) -> None:
        self.limit = 0
        self.accepted = 0
        self.finished = 0
        self.idle = True
        self.gate = threading.Lock()
        self._mutex = threading.Lock()
        self._signal = threading.Lock()
        self._signal.acquire()
        self._asleep = False
        self._open = True
        self._calls: deque[Call | Order] = deque()
        self._orders: deque[Order] = deque()

    def offer(self, call: Call) -> Offer:
        """Append a call, unless the mailbox is full or closed."""
        with self._mutex:
            if not self._open:
                return Offer.CLOSED
            if len(self._calls) >= self.limit:
                return Offer.FULL
            self._append(self._calls, call)
            return Offer.ACCEPTED

    def order(self, order: Order, *, last: bool = False) -> None:
        """Append an order to the system lane, or (``last``) behind the waiting calls, even when closed."""
        with self._mutex:
            self._append(self._calls if last else self._orders, order)

    def _append(self, lane: deque[Any], job: Call | Order) -> None:
        lane.append(job)
        self.accepted += 1
        self.idle = False
        if self._asleep:
            self._asleep = False
            self._signal.release()

    def get(self, patience_s: float) -> Call | Order | None:
        """Return the next order or call with the gate held, or None when none came for ``patience_s``."""
        until = monotonic() + patience_s
        while True:
            with self._mutex:
                self._asleep = not self._orders and not self._calls
                asleep = self._asleep
            if asleep and not self._signal.acquire(timeout=min(max(0.0, until - monotonic()), threading.TIMEOUT_MAX)):
                with self._mutex:
                    if self._asleep:
                        self._asleep = False
                        return None
                self._signal.acquire()  # somebody woke us at the last moment
            self.gate.acquire()
            with self._mutex:
                if self._orders:
                    return self._orders.popleft()
                if self._calls:
                    return self._calls.popleft()
            self.gate.release()  # its caller took it back meanwhile

    def finish(self) -> None:
        """Count what :meth:`get` returned as finished, and open the gate."""
        with self._mutex:
            self.finished += 1
            self.gate.release()
            self.idle = self._open and self.accepted == self.finished

    def withdraw(self, call: Call) -> bool:
        """Take back a call that nobody wants any more; False when it is running or done."""
        with self._mutex:
            try:
                self._calls.remove(call)
            except ValueError:
                return False
            self.finished += 1
            self.idle = self._open and self.accepted == self.finished
            return True

    def close(self) -> list[Call]:
        """Refuse calls from now on, and return those that wait."""
        with self._mutex:
            self._open = self.idle = False
            waiting = [job for job in self._calls if isinstance(job, Call)]
            self._calls.clear()
            return waiting

    def refuse(self) -> None:
        """Refuse calls from now on; those that wait stay."""
        with self._mutex:
            self._open = self.idle = False

    def close_if_idle(self) -> bool:
        """Close when nothing runs or waits; False otherwise."""
        if not self.gate.acquire(blocking=False):
            return False
        try:
            with self._mutex:
                if not self.idle:
                    return False
                self._open = self.idle = False
                return True
        finally:
            self.gate.release()

    def put(self, envelope: Any, /) -> None:
        """Part of pykka's inbox protocol: a stop message becomes a STOP order, nothing else is taken."""
        self.order(Order.STOP)
        if envelope.reply_to is not None:
            envelope.reply_to.set(None)

    def empty(self) -> bool:
        """Part of pykka's inbox protocol: whether no call waits."""
        return not self._calls

    def __len__(self) -> int:
        return len(self._calls)
