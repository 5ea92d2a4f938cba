"""Computations that a node stands for in disputes: made when somebody asks, a few kept, found again by name."""

from __future__ import annotations

import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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


class Standing:
    """Makes and keeps computations, one at a time, on a thread of its own."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, Future[Trace]] = OrderedDict()
        self._lock = threading.Lock()
        self._maker = ThreadPoolExecutor(1, "hyperpy-disputes")
        self._closed = False

    def of(self, asked: Disputed, engine: Callable[[], Engine], weights: bytes, deadline: float) -> Trace:
        """Return the computation of a sequence, made if it is not kept; making goes on when a caller's time is over.

        Args:
            weights: weight-root of the model.
            deadline: monotonic seconds.

        Raises:
            ParameterError, SizeError: the ids are none of the model's, too many, or not what it answers.
            Busy: it is being made, or as many as are kept are.
        """
        with self._lock:
            making = self._made.get(asked.name)
            if making is None or (making.done() and making.exception() is not None):
                self._make_room(len(asked.ids))
                making = self._made[asked.name] = self._maker.submit(self._make, asked, engine, weights)
            self._made.move_to_end(asked.name)
        while not making.done() and time.monotonic() < deadline:
            wait((making,), timeout=0.2)
        if making.done():
            return making.result()
        error = Busy("the sequence is being computed", hint="Ask again in some seconds; computing goes on.")
        error.retry_after = 5.0
        raise error

    def known(self, name: str) -> Trace:
        """Return what is kept under a name.

        Raises:
            NotFound: it is not, or not any more.
        """
        with self._lock:
            found = self._made.get(name)
            if found is not None and found.done() and found.exception() is None:
                self._made.move_to_end(name)
                return found.result()
        raise NotFound("no dispute of that name is kept", hint="Begin it again with the key 'dispute'.")

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _make_room(self, positions: int) -> None:
        """Let go of what was asked about longest ago; what is being made stays."""
        done = {name: one.result() for name, one in self._made.items() if one.done() and one.exception() is None}
        used = sum(len(one.ids) for one in done.values())
        for name, making in list(self._made.items()):
            if len(self._made) < KEPT and used + positions <= ROOM:
                return
            if making.done():
                used -= len(done[name].ids) if name in done else 0
                del self._made[name]
        if len(self._made) >= KEPT:
            raise Busy("other disputes are being computed", hint="Try again later.")

    def _make(self, asked: Disputed, engine: Callable[[], Engine], weights: bytes) -> Trace:
        from hyperpy.inference.generation import check_prompt
        from hyperpy.inference.traces import Trace

        found = engine()
        check_prompt(found.config, asked.ids, 1)
        made = Trace(found, weights, asked.ids, asked.prompt, asked.sampling, self._paused)
        at = first_unchosen(made)
        if at is not None:
            raise ParameterError(
                f"these ids are not this model's answer: behind position {at} it chooses {made.choices[at]}",
                name="ids",
                hint="Nobody stands for ids that were not chosen. Dispute the sequence up to that position.",
            )
        return made

    def _paused(self) -> None:
        if self._closed:
            raise Busy("the node is stopping")


def first_unchosen(trace: Trace) -> int | None:
    """Return the first position of an answer behind which stands another id than sampling chooses."""
    return next((at for at, choice in trace.choices.items() if trace.following(at) != choice), None)
