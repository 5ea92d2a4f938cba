"""Computations that a node stands for in disputes: made when somebody asks, a few kept, found again by name."""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hyperpy.encoding import sha256
from hyperpy.errors import Busy, NotFound, ParameterError

if TYPE_CHECKING:
    from hyperpy.inference.reference import Engine
    from hyperpy.inference.sampler import Sampling
    from hyperpy.inference.traces import Trace

KEPT: Final = 4
"""Computations that are kept."""
ROOM: Final = 16_384
"""Positions of all of them together, unless one alone has more; each takes its part of the model's cache."""
GRACE: Final = 15.0
"""Seconds for which a computation goes on when all callers' time is over: one may come again."""
PROTECTED: Final = 20.0
"""Seconds for which a computation stays that somebody asked about, whoever else begins a dispute."""
LONGEST: Final = 300.0
"""Seconds after which it does not, however often somebody asks."""


@dataclass(frozen=True, slots=True)
class Disputed:
    """What a dispute is about: a prompt and its answer but the last id, and how the answer was chosen.

    ``ids`` are all of them, ``prompt`` of which are the prompt; ``reference`` names the model (hex).
    """

    reference: str
    ids: tuple[int, ...]
    prompt: int
    sampling: Sampling

    @property
    def name(self) -> str:
        """Return the SHA-256 (hex) that the dispute is known by."""
        s = self.sampling
        numbers = struct.pack(f"<{4 + len(self.ids)}q", self.prompt, s.t16, s.top_k, s.p16, *self.ids)
        return sha256(bytes.fromhex(self.reference) + s.seed + numbers).hex()


@dataclass(slots=True)
class _Making:
    """A computation: what it is of, until when somebody waits for it, when it was made and used (monotonic seconds)."""

    asked: Disputed
    until: float
    future: Future[Trace] = field(default_factory=Future)
    made: float = 0.0
    used: float = 0.0

    @property
    def failed(self) -> bool:
        return self.future.cancelled() or (self.future.done() and self.future.exception() is not None)

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return time.monotonic() > self.until + GRACE

    @property
    def in_progress(self) -> bool:
        """Whether it is being made, or a dispute about it goes on."""
        now = time.monotonic()
        return not self.future.done() or now < min(self.used + PROTECTED, self.made + LONGEST)


class Standing:
    """Makes and keeps computations, one at a time, on a thread of its own.

    Args:
        tokens: most tokens of an answer that is disputed.
        queue: computations that may wait for the one that is being made.
    """

    def __init__(self, tokens: int = sys.maxsize, queue: int = KEPT) -> None:
        self._made: OrderedDict[str, _Making] = OrderedDict()
        self._tokens, self._queue = tokens, queue
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._asking = 0
        self._maker = ThreadPoolExecutor(1, "hyperpy-disputes")
        self._closed = False

    def of(self, asked: Disputed, engine: Callable[[], Engine], weights: bytes, deadline: float) -> Trace:
        """Return the computation of a sequence, made if it is not kept.

        Making goes on for :data:`GRACE` seconds when a caller's time is over, so that who asks again gets on.

        Args:
            weights: weight-root of the model.
            deadline: monotonic seconds.

        Raises:
            ParameterError, SizeError: the ids are none of the model's, too many, or not what it answers.
            Busy: it is being made, there is no room for it now, or this node does not make answers so long.
        """
        if len(asked.ids) - asked.prompt + 1 > self._tokens:
            raise Busy(
                f"this node makes at most {self._tokens} tokens of an answer",
                hint="Dispute a shorter beginning of it, or have the operator raise [inference] tokens.",
            )
        with self._lock:
            making = self._made.get(asked.name)
            if making is None or making.failed:
                self._make_room(asked)
                making = self._made[asked.name] = _Making(asked, deadline)
                making.future = self._maker.submit(self._make, making, engine, weights)
            making.until, making.used = max(making.until, deadline), time.monotonic()
            self._made.move_to_end(asked.name)
        while not making.future.done() and time.monotonic() < deadline:
            wait((making.future,), timeout=0.2)
        if making.future.done() and not making.future.cancelled():
            return making.future.result()
        raise _busy("the sequence is being computed", "Ask again in some seconds; computing goes on for some.")

    def known(self, name: str) -> Trace:
        """Return what is kept under a name.

        Raises:
            NotFound: it is not, or not any more.
        """
        with self._lock:
            found = self._made.get(name)
            if found is not None and found.future.done() and not found.failed:
                self._made.move_to_end(name)
                found.used = time.monotonic()
                return found.future.result()
        raise NotFound("no dispute of that name is kept", hint="Begin it again with the key 'dispute'.")

    def answer(self, name: str, question: Mapping[str, Any], deadline: float) -> bytes:
        """Return the answer to a question about what is kept under a name; see :meth:`Trace.answer`.

        One at a time over all disputes: many an answer reads a token again, on a copy of the whole cache.

        Args:
            deadline: monotonic seconds.

        Raises:
            NotFound: nothing is kept under that name.
            ParameterError: there is no such question, or nothing to tell.
            Busy: others ask.
        """
        found = self.known(name)
        with self._lock:
            if self._asking > self._queue:
                raise _busy("many ask about disputes now", "Ask again in some seconds.")
            self._asking += 1
        try:
            if not self._opening.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise _busy("others ask about disputes now", "Ask again in some seconds.")
            try:
                return found.answer(question)
            finally:
                self._opening.release()
        finally:
            with self._lock:
                self._asking -= 1

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _make_room(self, asked: Disputed) -> None:
        """Let go of what was asked about longest ago; what is being made, or was a moment ago, stays.

        Raises:
            Busy: so there is no room.
        """
        self._made.pop(asked.name, None)
        for name, one in list(self._made.items()):
            if one.failed or (one.gone and one.future.cancel()):
                del self._made[name]
        if sum(not one.future.done() for one in self._made.values()) > self._queue:
            raise _busy("other disputes are being computed", "Try again later.")
        for name, one in list(self._made.items()):
            if self._fits(asked):
                return
            if not one.in_progress:
                del self._made[name]
        if not self._fits(asked):
            raise _busy("other disputes are being held", "Try again in a minute or two.")

    def _fits(self, asked: Disputed) -> bool:
        """Say whether there is room for one more; what is being made takes its room from the start."""
        positions = sum(len(one.asked.ids) for one in self._made.values())
        return not self._made or (len(self._made) < KEPT and positions + len(asked.ids) <= ROOM)

    def _make(self, making: _Making, engine: Callable[[], Engine], weights: bytes) -> Trace:
        from hyperpy.inference.generation import check_prompt
        from hyperpy.inference.traces import Trace

        asked = making.asked
        self._paused(making)
        found = engine()
        check_prompt(found.config, asked.ids, 1)
        made = Trace(found, weights, asked.ids, asked.prompt, asked.sampling, partial(self._paused, making))
        at = first_unchosen(made)
        if at is not None:
            raise ParameterError(
                f"these ids are not this model's answer: behind position {at} it chooses {made.choices[at]}",
                name="ids",
                hint="Nobody stands for ids that were not chosen. Dispute the sequence up to that position.",
            )
        made.statement  # noqa: B018 - with the cache's bags, once, before several threads want them
        making.made = making.used = time.monotonic()
        return made

    def _paused(self, making: _Making) -> None:
        if self._closed:
            raise Busy("the node is stopping")
        if making.gone:
            raise _busy("nobody waited for this sequence any more", "Begin the dispute again.")


def _busy(what: str, hint: str) -> Busy:
    error = Busy(what, hint=hint)
    error.retry_after = 5.0
    return error


def first_unchosen(trace: Trace) -> int | None:
    """Return the first position of an answer behind which stands another id than sampling chooses."""
    return next((at for at, choice in trace.choices.items() if trace.following(at) != choice), None)
