"""Prompt in, tokens out: one session of an engine, with the state hash of every token (sections 9 and 12)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hyperpy.errors import ParameterError, SizeError
from hyperpy.inference.arith import Ints
from hyperpy.inference.model import Config, Model
from hyperpy.inference.sampler import Sampling

CHUNK = 256
"""Tokens of a prompt read in one call of the engine; no bit depends on it."""


class Backend(Protocol):
    """What an engine offers; all engines give the same bits."""

    name: str
    model: Model
    config: Config

    def cache(self) -> Any: ...

    def forward(self, ids: Sequence[int], cache: Any, every: bool = False) -> Ints: ...


@runtime_checkable
class Together(Protocol):
    """What an engine offers that reads one token of several sessions at once; the bits are those of ``forward``."""

    def forward_many(self, ids: Sequence[int], caches: Sequence[Any]) -> Ints: ...


@runtime_checkable
class Ahead(Protocol):
    """What an engine offers that chooses tokens itself, so that nobody waits for each."""

    def forward_ahead(
        self, ident: int, cache: Any, sampling: Sampling, position: int, count: int
    ) -> tuple[Ints, list[int]]:
        """Read a token, and ``count`` - 1 more that the engine chooses, the first of them for ``position``.

        ``sampling`` looks at the whole vocabulary. Returns the logits after each token read, and those chosen: a
        caller chooses too, and drops what was read behind the first token that is another.
        """


@dataclass(frozen=True, slots=True)
class Token:
    """A chosen token: its id, its position, the logits it was chosen from, and the state after those before it."""

    ident: int
    position: int
    logits: Ints = field(repr=False)
    state: bytes


def state_hash(model: bytes, ids: Sequence[int], logits: Ints) -> bytes:
    """Return S1, the state of a session after ``ids``, whose last token gave these logits (12)."""
    listed = hashlib.sha256(np.asarray(ids, "<u4").tobytes()).digest()
    row = hashlib.sha256(np.asarray(logits).astype("<i4").tobytes()).digest()
    return hashlib.sha256(b"\3" + model + listed + row).digest()


def check_prompt(config: Config, prompt: Sequence[int], limit: int) -> None:
    """Compare a prompt and the length of an answer with the model.

    Raises:
        ParameterError: the prompt is empty or holds an id that the model does not have.
        SizeError: prompt and answer together are longer than the model's context.
    """
    if not prompt or min(prompt) < 0 or max(prompt) >= config.vocabulary:
        raise ParameterError(f"a prompt has at least one id, each from 0 to {config.vocabulary - 1}", name="prompt")
    if limit < 1 or len(prompt) + limit > config.context:
        raise SizeError(
            f"{len(prompt)} tokens of prompt and {limit} of answer pass the context of {config.context}",
            hint="Shorten the prompt or ask for fewer tokens.",
        )


def generate(
    engine: Backend,
    prompt: Sequence[int],
    sampling: Sampling,
    limit: int,
    stops: frozenset[int] = frozenset(),
    chunk: int = CHUNK,
) -> Iterator[Token]:
    """Yield at most ``limit`` tokens after a prompt, the stop token included.

    Raises:
        ParameterError, SizeError: as :func:`check_prompt`.
    """
    check_prompt(engine.config, prompt, limit)
    ids, cache = list(prompt), engine.cache()
    logits: Ints = np.empty(0, np.int64)
    for at in range(0, len(ids), chunk):
        logits = engine.forward(ids[at : at + chunk], cache)
    for number in range(limit):
        chosen = sampling.choose(logits, len(ids))
        yield Token(chosen, len(ids), logits, state_hash(engine.model.ident, ids, logits))
        if chosen in stops or number + 1 == limit:
            return
        ids.append(chosen)
        logits = engine.forward([chosen], cache)
