"""Commitments to every value of a computation (HPI-1, section 12): tensors, ops, layers, tokens, cache, session.

Roots do not depend on the engine, nor on how a sequence was cut into pieces. Where the specification leaves room:

* ``q`` as well as ``k`` is committed after RoPE (and after the norm of its head, where the model has one);
* the *chosen id* of a token is the id at the next position: of a token of the prompt but the last, the prompt's own.

Level 1 is :func:`hyperpy.inference.generation.state_hash`; levels 2 and 3 are made from the ids afterwards, by reading
them once more (:func:`replayed`), which any machine can do later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np

from hyperpy.errors import Corrupt
from hyperpy.inference import reference, trees
from hyperpy.inference.generation import Backend, state_hash
from hyperpy.inference.model import Config

OPS: Final = (
    *("attn_norm", "q", "k", "v", "attention", "attn_output", "residual1"),
    *("ffn_norm", "gate", "up", "swiglu", "ffn_down", "residual2"),
)
"""What a layer commits to of a token, in this order."""
CHUNK: Final = 64
"""Tokens read at a time; no bit depends on it."""
_NOTES: Final = {
    "rope": ("q", "k"),
    "qkv": ("", "", "v"),
    "gate_up": ("gate", "up"),
}
"""Notes of a trace that hold several tensors."""


@dataclass(frozen=True, slots=True)
class TokenRoots:
    """Level 3 of one token: the root of every op, and what is made of them.

    Attributes:
        embedding, norm, logits: tensor roots.
        ops: for each layer the roots of :data:`OPS`.
        chosen: the id that follows.
    """

    embedding: bytes
    ops: tuple[tuple[bytes, ...], ...]
    norm: bytes
    logits: bytes
    chosen: int

    def layers(self) -> list[bytes]:
        """Return the layer roots."""
        return [trees.over(one) for one in self.ops]

    def parts(self) -> list[bytes]:
        """Return what the token root is over."""
        return [self.embedding, *self.layers(), self.norm, self.logits, chosen_digest(self.chosen)]

    def root(self) -> bytes:
        """Return the token root."""
        return trees.over(self.parts())


def chosen_digest(chosen: int) -> bytes:
    """Return the digest of a chosen id."""
    return hashlib.sha256(chosen.to_bytes(4, "little")).digest()


def entry_digest(k15: Any, ks: int, v10: Any) -> bytes:
    """Return the digest of one position of one kv head in the cache."""
    shift = int(ks).to_bytes(4, "little", signed=True)
    parts = np.asarray(k15).astype("<i2").tobytes(), shift, np.asarray(v10).astype("<i2").tobytes()
    return hashlib.sha256(b"\2" + b"".join(parts)).digest()


def entry_digests(cache: reference.Cache, layer: int, head: int, first: int, last: int) -> list[bytes]:
    """Return the digests of positions ``first`` to ``last`` - 1 of one kv head."""
    k, ks, v = (part[layer, head, first:last] for part in (cache.k, cache.ks, cache.v))
    return [entry_digest(*one) for one in zip(k, ks.tolist(), v, strict=True)]


class CacheTree:
    """The commitment to a session's cache, which grows with it."""

    def __init__(self, config: Config) -> None:
        self._heads = config.kv_heads
        self._ranges = [trees.Range() for _ in range(config.layers * config.kv_heads)]

    def add(self, cache: reference.Cache, position: int) -> None:
        """Append the next position."""
        for at, one in enumerate(self._ranges):
            layer, head = divmod(at, self._heads)
            one.add(entry_digests(cache, layer, head, position, position + 1)[0])

    def bags(self) -> list[bytes]:
        """Return the bag of each layer's heads, in order."""
        return [one.bag for one in self._ranges]

    def root(self) -> bytes:
        """Return the cache root."""
        return trees.over(self.bags())


def session_hash(state: bytes, token: bytes, cache: bytes) -> bytes:
    """Return S2, the state of a session at levels 2 and 3."""
    return hashlib.sha256(b"\4" + state + token + cache).digest()


# -- from a trace -----------------------------------------------------------------------------------


class Tensors:
    """Takes the notes of a forward pass with ``every``, and keeps each token's tensors by their names.

    Names are ``embedding``, (layer, op), ``output_norm`` and ``logits``.

    Args:
        made: what is kept of each tensor, [token][value]; by default the tensor itself.
    """

    def __init__(self, made: Callable[[Any], Any] = lambda rows: rows) -> None:
        self.found: dict[Any, Any] = {}
        self._made = made

    def __call__(self, name: str, value: Any) -> None:
        """Take one note."""
        layer, _, op = name.partition(".")
        if not op:
            self.found["embedding" if name == "embed" else name] = self._made(value)
            return
        pairs = zip(_NOTES[op], value, strict=False) if op in _NOTES else [(op, value)]
        for called, rows in pairs:
            if called in OPS:
                self.found[int(layer), called] = self._made(rows)


def tensor_roots(rows: Any) -> list[bytes]:
    """Return the tensor root of each token, [token][value]."""
    return [trees.tensor(row) for row in rows]


def token_roots(found: dict[Any, Any], at: int, layers: int, chosen: int) -> TokenRoots:
    """Return level 3 of one token.

    Args:
        found: tensor roots of several tokens, by name (see :class:`Tensors`).
        at: which of them.
    """
    ops = tuple(tuple(found[layer, op][at] for op in OPS) for layer in range(layers))
    return TokenRoots(found["embedding"][at], ops, found["output_norm"][at], found["logits"][at], chosen)


def tracing(engine: Backend) -> reference.Engine:
    """Return an engine that shows what it computes: this one, or one for processors with the same model."""
    if isinstance(engine, reference.Engine):
        return engine
    from hyperpy.inference.engines import build

    return cast(reference.Engine, build("cpu", engine.model))


@dataclass(frozen=True, slots=True)
class Committed:
    """What is committed to after ``n`` tokens.

    Attributes:
        state: S1. roots: of the last token. cache: the cache root.
    """

    n: int
    state: bytes
    roots: TokenRoots
    cache: bytes


def replayed(
    engine: reference.Engine,
    ids: Sequence[int],
    first: int,
    paused: Callable[[], None] = lambda: None,
) -> Iterator[Committed]:
    """Read a sequence once more and yield its commitments.

    Args:
        engine: one that traces; see :func:`tracing`.
        ids: the prompt and the answer; the last id is only chosen, not read.
        first: the prompt's tokens; commitments begin with its last.
        paused: called between pieces; may raise.
    """
    cache, grown = engine.cache(), CacheTree(engine.config)
    last = len(ids) - 1
    cuts = [*range(0, first - 1, CHUNK), *range(first - 1, last, CHUNK), last]
    for start, end in pairwise(cuts):
        paused()
        if end < first:  # of these nothing is told but what they leave in the cache
            engine.forward(ids[start:end], cache)
            for at in range(start, end):
                grown.add(cache, at)
            continue
        tensors = Tensors(tensor_roots)
        rows = engine.forward(ids[start:end], cache, every=True, trace=tensors)
        for at in range(start, end):
            grown.add(cache, at)
            roots = token_roots(tensors.found, at - start, engine.config.layers, ids[at + 1])
            state = state_hash(engine.model.ident, ids[: at + 1], rows[at - start])
            yield Committed(at + 1, state, roots, grown.root())


def told_of(state: bytes, roots: Sequence[bytes], cache: bytes, ops: Sequence[Sequence[bytes]]) -> dict[str, Any]:
    """Return levels 2 and 3 of a token as plain values, digests in hex.

    Args:
        roots: what the token root is over.
        ops: the op roots of each layer; none at level 2.
    """
    token = trees.over(roots)
    made: dict[str, Any] = {
        "session": session_hash(state, token, cache).hex(),
        "token": token.hex(),
        "cache": cache.hex(),
        "embedding": roots[0].hex(),
        "layers": [root.hex() for root in roots[1:-3]],
        "norm": roots[-3].hex(),
        "logits": roots[-2].hex(),
    }
    return made | ({"ops": [[root.hex() for root in layer] for layer in ops]} if ops else {})


def told(
    engine: reference.Engine,
    ids: Sequence[int],
    first: int,
    states: Sequence[bytes],
    level: int,
    paused: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return levels 2 and 3 of an answer as plain values for JSON, digests in hex; one map for each of its tokens.

    Args:
        states: level 1, as it was told; the replay must come to the same.

    Raises:
        Corrupt: it does not: the machine computed wrong.
    """
    found = []
    for one, state in zip(replayed(engine, ids, first, paused), states, strict=True):
        if one.state != state:
            raise Corrupt(
                "an answer made again has another state: this machine computes wrong",
                expected=one.state.hex(),
                got=state.hex(),
                hint="Do not use its answers. `hyperpy doctor` tests its engines.",
            )
        found.append(told_of(one.state, one.roots.parts(), one.cache, one.roots.ops if level > 2 else ()))
    return found
