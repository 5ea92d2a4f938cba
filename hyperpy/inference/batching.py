"""Many sessions on one engine: each gets a token in turn, and weights stream through memory once for all of them.

A session's tokens and states are those that :func:`hyperpy.inference.generation.generate` gives it alone; who else
is served, when, and in how many pieces changes no bit, since every sum is exact.

One thread computes. In each round it reads one piece of one new prompt, then makes one token of every session whose
reader keeps up. What was read for a finished session is kept for a while, and running sessions lend what they have
read, so that the next one with the same beginning need not read it again (``reuse``); how fast a first token comes thus
tells whether somebody asked with the same beginning shortly before.
"""

from __future__ import annotations

import copy
import itertools
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hyperpy.errors import Busy, DeviceTimeout, HyperpyError, SizeError
from hyperpy.inference.arith import Ints
from hyperpy.inference.generation import Ahead, Backend, Together, Token, check_prompt, state_hash
from hyperpy.inference.sampler import Sampling

PIECE: Final = 64
"""Tokens of a prompt, or of a claimed answer, read at a time between two rounds of the others."""
AHEAD: Final = 4
"""Tokens made before somebody takes them."""
ROOM: Final = 32_768
"""Positions of all running sessions together, as asked for; the others wait."""
KEPT: Final = 64 << 20
"""Bytes of what is kept of finished sessions."""
SHARED: Final = 16
"""Least tokens in common that are worth reusing."""
_POLL: Final = 0.2
_LATE: Final = 1.0
"""Seconds between two looks for sessions whose time ran out."""

_Item = Token | HyperpyError | None


@dataclass(frozen=True, slots=True)
class Stats:
    """What a batcher does and did: sessions running and waiting; tokens made, and tokens of prompts not read again."""

    running: int
    waiting: int
    made: int
    reused: int


@dataclass(eq=False)
class _State:
    """A session as the computing thread sees it.

    ``ids`` are all that are known, of which ``fed`` are in the cache; ``last`` is how many there may be in the end;
    of the tokens ``made``, its reader has ``taken`` some.
    """

    ids: list[int]
    sampling: Sampling
    last: int
    stops: frozenset[int]
    draft: deque[int]
    deadline: float
    out: queue.SimpleQueue[_Item] = field(default_factory=queue.SimpleQueue)
    cache: Any = None
    fed: int = 0
    taken: int = 0
    made: int = 0
    cancelled: bool = False

    @property
    def reading(self) -> bool:
        """Whether a prompt's piece, or a claimed answer's, is to be read next."""
        return self.fed + 1 < len(self.ids) or self.made == 0 or bool(self.draft)

    @property
    def behind(self) -> bool:
        """Whether its reader has enough to take."""
        return self.made - self.taken >= AHEAD

    def late(self) -> DeviceTimeout:
        """Return what its reader is told when time ran out."""
        return DeviceTimeout(
            f"time ran out after {self.taken} tokens",
            hint="Ask for fewer with max_tokens, or have the operator raise [limits] deadline.",
        )


class Session:
    """An answer while it is made: iterate over its tokens; leave it (``with``, or :meth:`cancel`) to end it.

    One that nobody holds any more ends by itself.
    """

    def __init__(self, state: _State, wake: Callable[[], None]) -> None:
        self._state, self._wake = state, wake
        self._ended = False
        weakref.finalize(self, _cancel, state, wake).atexit = False

    def __iter__(self) -> Session:
        return self

    def __next__(self) -> Token:
        """Return the next token.

        Raises:
            DeviceTimeout: the deadline passed.
            HyperpyError: the engine failed, or the batcher is closed.
        """
        if self._ended:
            raise StopIteration
        item = self._next()
        if isinstance(item, Token):
            self._state.taken += 1
            if self._state.made - self._state.taken == AHEAD - 1:
                self._wake()
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def _next(self) -> _Item:
        while True:
            left = self._state.deadline - time.monotonic()
            if left <= 0:
                self.cancel()
                raise self._state.late()
            try:
                return self._state.out.get(timeout=min(left, _POLL))
            except queue.Empty:
                continue

    def cancel(self) -> None:
        """End it; what it held is free."""
        self._ended = True
        _cancel(self._state, self._wake)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


def _cancel(state: _State, wake: Callable[[], None]) -> None:
    state.cancelled = True
    wake()


class Batcher:
    """Serves sessions with one engine, from any thread.

    Args:
        most: sessions that run at once.
        waiting: sessions that may wait for their turn.
        reuse: whether beginnings of finished sessions are kept.
    """

    def __init__(self, engine: Backend, *, most: int = 16, waiting: int = 16, reuse: bool = True) -> None:
        self._engine, self._most, self._room = engine, most, waiting
        self._running: list[_State] = []
        self._waiting: deque[_State] = deque()
        self._kept: deque[tuple[list[int], Any]] = deque()
        self._reuse = reuse
        self._made = self._reused = 0
        self._turn = itertools.count()
        self._news = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self._engine.config.vocabulary

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._engine.name

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        with self._news:
            return not self._running and not self._waiting

    def stats(self) -> Stats:
        """Return what is going on."""
        with self._news:
            return Stats(len(self._running), len(self._waiting), self._made, self._reused)

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        limit: int,
        stops: frozenset[int] = frozenset(),
        *,
        draft: Sequence[int] = (),
        deadline: float = float("inf"),
    ) -> Session:
        """Begin a session: at most ``limit`` tokens after a prompt, the stop token included.

        Args:
            draft: an answer that somebody claims. It is read like a prompt and compared, which is faster than making
                it; from the first token that is another, the session goes on by itself. It changes no token.
            deadline: monotonic seconds after which the session's reader is told that time ran out.

        Raises:
            ParameterError, SizeError: the prompt is none, or too long for the model's context.
            Busy: too many sessions wait, or the batcher is closed.
        """
        check_prompt(self._engine.config, prompt, limit)
        if len(prompt) + limit > ROOM:
            raise SizeError(f"{len(prompt)} tokens of prompt and {limit} of answer are more than {ROOM}")
        claimed = itertools.takewhile(range(self.vocabulary).__contains__, draft[:limit])
        state = _State(list(prompt), sampling, len(prompt) + limit, stops, deque(claimed), deadline)
        with self._news:
            if self._closed:
                raise Busy("the node is stopping")
            self._forget_cancelled()
            if len(self._running) + len(self._waiting) >= self._most + self._room:
                raise Busy("too many answers are being made", hint="Try again in some seconds.")
            self._waiting.append(state)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hyperpy-inference", daemon=True)
                self._thread.start()
            self._news.notify()
        return Session(state, self._wake)

    def close(self) -> None:
        """End all sessions; their readers are told."""
        with self._news:
            self._closed = True
            self._news.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _wake(self) -> None:
        with self._news:
            self._news.notify()

    # -- in the computing thread -------------------------------------------------------------

    def _run(self) -> None:
        while self._admitted():
            readers = [one for one in self._running if one.reading and not one.behind]
            if readers:
                self._guarded(readers[next(self._turn) % len(readers)], self._read)
            writers = [one for one in self._running if not one.reading and not one.behind]
            if len(writers) < 2 or not self._written_together(writers):
                for one in writers:
                    self._guarded(one, self._write)
        for state in (*self._running, *self._waiting):
            state.out.put(Busy("the node is stopping"))
        self._running, self._waiting = [], deque()
        self._kept.clear()

    def _admitted(self) -> bool:
        """Wait for work, and let those run for whom there is room; False once the batcher is closed."""
        with self._news:
            while not self._closed:
                self._forget_cancelled()
                now = time.monotonic()
                for state in [one for one in self._running if one.cancelled or one.deadline < now]:
                    self._leave(state, None if state.cancelled else state.late())
                while self._waiting and self._fits(self._waiting[0]):
                    self._running.append(self._waiting.popleft())
                if any(not one.behind for one in self._running):
                    return True
                self._news.wait(_LATE if self._running else None)
            return False

    def _forget_cancelled(self) -> None:
        """Give up the places of those who wait no longer. The lock is held."""
        self._waiting = deque(one for one in self._waiting if not one.cancelled)

    def _fits(self, state: _State) -> bool:
        used = sum(one.last for one in self._running)
        return len(self._running) < self._most and used + state.last <= ROOM

    def _guarded(self, state: _State, work: Callable[[_State], object]) -> None:
        """Do a session's next piece of work; what fails ends this session, and nothing else."""
        try:
            work(state)
        except HyperpyError as error:
            failure = copy.copy(error)  # it is raised, and added to, in the thread of its reader
        except Exception as error:
            failure = HyperpyError(f"the inference engine failed: {type(error).__name__}: {str(error)[:200]}")
        else:
            return
        with self._news:
            state.cache = None
            self._leave(state, failure)

    def _leave(self, state: _State, last: HyperpyError | None) -> None:
        """Take a session out, and keep what it read. The lock is held."""
        if state in self._running:
            self._running.remove(state)
        state.out.put(last)
        if self._reuse and state.cache is not None:
            self._keep(state.ids[: state.fed], state.cache)
        state.cache = None

    def _keep(self, ids: list[int], cache: Any) -> None:
        """Keep what a session read, instead of what it begins with; the oldest make room."""
        if not hasattr(cache, "prefix") or len(ids) < SHARED:
            return
        try:
            cache = cache.prefix(len(ids))
        except HyperpyError:  # the device it was on is gone
            return
        if cache.nbytes > KEPT:
            return
        self._kept = deque(kept for kept in self._kept if kept[0] != ids[: len(kept[0])])
        self._kept.append((ids, cache))
        while sum(cache.nbytes for _, cache in self._kept) > KEPT:
            self._kept.popleft()

    def _borrow(self, state: _State) -> None:
        """Spare a session what another one read of the same prompt."""
        if state.cache is None:
            state.cache = self._engine.cache()
        if not self._reuse or not hasattr(state.cache, "prefix"):
            return
        lent = [(one.ids[: one.fed], one.cache) for one in self._running if one is not state and one.cache is not None]
        best, found = state.fed + SHARED - 1, None
        for entry in (*self._kept, *lent):
            common = _common(entry[0], state.ids[:-1])
            if common > best:
                best, found = common, entry
        if found is None:
            return
        if found in self._kept:  # what is of use is kept longest
            self._kept.remove(found)
            self._kept.append(found)
        try:
            state.cache = found[1].prefix(best)
        except HyperpyError:  # the device it was on is gone
            self._kept.clear()
            return
        self._reused += best - state.fed
        state.fed = best

    def _read(self, state: _State) -> None:
        """Read a piece of a prompt or of a claimed answer."""
        if state.made == 0:
            self._borrow(state)
            piece = state.ids[state.fed : state.fed + PIECE]
            logits = self._engine.forward(piece, state.cache)
            state.fed += len(piece)
            if state.fed == len(state.ids):
                self._chosen(state, logits)
            return
        claimed = list(itertools.islice(state.draft, PIECE - 1))
        rows = self._engine.forward([state.ids[-1], *claimed], state.cache, every=True)
        for row in rows:
            state.fed += 1
            if self._chosen(state, row):
                break
        if state.cache is not None:
            state.cache.truncate(state.fed)

    def _write(self, state: _State) -> None:
        """Make one token of a session; more, if it is alone and the engine can choose them."""
        count = min(AHEAD - state.made + state.taken, state.last - len(state.ids))
        if isinstance(self._engine, Ahead) and len(self._running) == 1 and count > 1 and state.sampling.whole:
            self._write_ahead(state, self._engine, count)
            return
        row = self._engine.forward([state.ids[-1]], state.cache)
        state.fed += 1
        self._chosen(state, row)

    def _write_ahead(self, state: _State, engine: Ahead, count: int) -> None:
        """Make tokens that the engine chooses, as far as they are those chosen here."""
        rows, chosen = engine.forward_ahead(state.ids[-1], state.cache, state.sampling, len(state.ids), count)
        for row, ident in zip(rows, (*chosen, None), strict=True):
            state.fed += 1
            self._chosen(state, row)
            if state.cache is None or state.ids[-1] != ident:
                break
        if state.cache is not None:
            state.cache.truncate(state.fed)

    def _written_together(self, states: list[_State]) -> bool:
        """Make one token of each session in one pass; False, and nothing done, where the engine cannot or fails."""
        if not isinstance(self._engine, Together):
            return False
        try:
            rows = self._engine.forward_many([one.ids[-1] for one in states], [one.cache for one in states])
        except Exception:  # whose fault it was fails again, alone
            return False
        for state, row in zip(states, rows, strict=True):
            state.fed += 1
            self._guarded(state, partial(self._chosen, logits=row))
        return True

    def _chosen(self, state: _State, logits: Ints) -> bool:
        """Choose a token from logits and hand it over; say whether what was read behind it is of no use."""
        ident = state.sampling.choose(logits, len(state.ids))
        token = Token(ident, len(state.ids), logits, state_hash(self._engine.model.ident, state.ids, logits))
        state.ids.append(ident)
        state.made += 1
        self._made += 1
        as_claimed = bool(state.draft) and state.draft.popleft() == ident
        if not as_claimed:
            state.draft.clear()
        state.out.put(token)
        if ident in state.stops or len(state.ids) == state.last:
            state.cache.truncate(state.fed)
            with self._news:
                self._leave(state, None)
            return True
        return not as_claimed


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two lists have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
