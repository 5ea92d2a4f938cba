"""What a party to a dispute signs of a computation (HPI-1, section 13): one statement binds every value of it.

A statement names the model, the ids, how tokens are chosen, and the roots over all tokens and over the cache. Any value
hashes up to these, so nothing else needs a signature but the partials of a long attention.

The *trace root* is the root over the token roots of all positions; the *ids root* that of the ids as a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hyperpy.codecs import whole
from hyperpy.encoding import sha256
from hyperpy.errors import CodecError, HyperpyError
from hyperpy.inference.documents import document
from hyperpy.inference.model import Config, check
from hyperpy.inference.sampler import Sampling
from hyperpy.message import Message, Value

VERSION: Final = 1
MAX_STATEMENT: Final = 1 << 16
"""Bytes; what is longer is not read."""
_BOUNDS: Final = {
    "layers": 512,
    "width": 1 << 15,
    "hidden": 1 << 17,
    "heads": 256,
    "kv_heads": 256,
    "vocabulary": 1 << 20,
    "context": 1 << 17,
    "fr": 14,
    "head_width": 1 << 12,
}
_MODEL: Final = ("model-id", "weight-root")
_DIGESTS: Final = ("ids", "ids-root", "seed", "state", "trace-root", "cache-root")
_NUMBERS: Final = ("tied", "count", "prompt", "t16", "top-k", "p16", "chosen")


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody claims of a computation.

    Attributes:
        model: model-id. weights: weight-root. tied: whether the embedding makes the logits too.
        count: ids that were read. prompt: how many of them are the prompt.
        ids: SHA-256 of the ids as u32 LE. ids_root: their root as a tensor.
        state: S1 after all. chosen: the id that follows.
        trace_root, cache_root: over the token roots; over the cache after all.
    """

    model: bytes
    weights: bytes
    config: Config
    tied: bool
    count: int
    prompt: int
    ids: bytes
    ids_root: bytes
    sampling: Sampling
    state: bytes
    chosen: int
    trace_root: bytes
    cache_root: bytes

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        s = self.sampling
        items: dict[str, Value] = {
            "v": VERSION,
            "profile": b"hpi-1",
            "config": self.config.text.encode(),
            "model-id": self.model,
            "weight-root": self.weights,
            "ids": self.ids,
            "ids-root": self.ids_root,
            "seed": s.seed,
            "state": self.state,
            "trace-root": self.trace_root,
            "cache-root": self.cache_root,
            "tied": int(self.tied),
            "count": self.count,
            "prompt": self.prompt,
            "chosen": self.chosen,
            "t16": s.t16,
            "top-k": s.top_k,
            "p16": s.p16,
        }
        return whole.encode(Message.make(items))

    @property
    def name(self) -> bytes:
        """Return the SHA-256 of the canonical bytes."""
        return sha256(self.encode())


def read(data: bytes) -> Statement:
    """Return the statement of canonical bytes.

    Raises:
        CodecError: they are none, or its numbers contradict each other.
    """
    found = fields(data, {"v", "profile", "config", *_MODEL, *_DIGESTS, *_NUMBERS})
    config_text = found["config"]
    if found["v"] != VERSION or found["profile"] != b"hpi-1" or type(config_text) is not bytes:
        raise CodecError(f"not a statement of HPI-1, version {VERSION}")
    config = read_config(config_text)
    numbers = {name: number(found[name], name, 1 << 31) for name in _NUMBERS}
    words = {name: digest(found[name], name) for name in (*_MODEL, *_DIGESTS)}
    n, first = numbers["count"], numbers["prompt"]
    if not 1 <= first <= n <= config.context or numbers["chosen"] >= config.vocabulary or numbers["tied"] > 1:
        raise CodecError("the numbers of a statement contradict each other")
    t16, p16 = numbers["t16"], numbers["p16"]
    if not 1 <= p16 <= 65536 or 0 < t16 < 656 or t16 > 100 * 65536:
        raise CodecError("a statement's sampling is none of HPI-1")
    return Statement(
        words["model-id"],
        words["weight-root"],
        config,
        bool(numbers["tied"]),
        n,
        first,
        words["ids"],
        words["ids-root"],
        Sampling(t16, numbers["top-k"], p16, words["seed"]),
        words["state"],
        numbers["chosen"],
        words["trace-root"],
        words["cache-root"],
    )


@dataclass(frozen=True, slots=True)
class Partials:
    """What somebody claims of an attention that is too long for one proof: the root over its columns.

    A *column* holds one number for each chunk of positions. A head has one of (max as i32 LE, Z as u64 LE) pairs, and
    one of num as i64 LE for each of its values; max is the chunk's largest score, Z and num are sums of its
    positions, weighted by the largest score of all.

    Attributes:
        statement: name of the statement that this belongs to.
    """

    statement: bytes
    token: int
    layer: int
    root: bytes

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        items: dict[str, Value] = {"v": VERSION, "statement": self.statement, "root": self.root}
        return whole.encode(Message.make({**items, "token": self.token, "layer": self.layer}))


def read_partials(data: bytes) -> Partials:
    """Return the partials of canonical bytes; raise CodecError if they are none."""
    found = fields(data, {"v", "statement", "token", "layer", "root"})
    if found["v"] != VERSION:
        raise CodecError(f"not partials of version {VERSION}")
    token, layer = (number(found[name], name, 1 << 17) for name in ("token", "layer"))
    return Partials(digest(found["statement"], "statement"), token, layer, digest(found["root"], "root"))


# -- reading ------------------------------------------------------------------------------------------


def fields(data: bytes, names: set[str]) -> dict[str, Value]:
    """Return the items of canonical bytes that hold exactly these names; raise CodecError for anything else."""
    if len(data) > MAX_STATEMENT:
        raise CodecError("a statement is short")
    try:
        found = whole.decode(data)
    except HyperpyError as error:
        raise CodecError(f"not canonical bytes: {error.message}") from None
    if type(found) is not Message or found.commitments or found.raw_items().keys() != names:
        raise CodecError("not a statement")
    return dict(found.raw_items())


def number(found: Value | None, name: str, most: int) -> int:
    """Return a whole number from 0 to ``most``."""
    if type(found) is not int or not 0 <= found <= most:
        raise CodecError(f"'{name}' is no number from 0 to {most}")
    return found


def digest(found: Value | None, name: str) -> bytes:
    """Return 32 bytes."""
    if type(found) is not bytes or len(found) != 32:
        raise CodecError(f"'{name}' is no digest")
    return found


@lru_cache(maxsize=64)
def read_config(text: bytes) -> Config:
    """Return the shape of a model from the text that config-digest hashes.

    Raises:
        CodecError: it is not such a text, or a number is beyond HPI-1.
    """
    try:
        made = Config(**document(text))
        same = made.text.encode() == text
    except (ValueError, TypeError, AttributeError):
        raise CodecError("not the shape of a model") from None
    whole_numbers = all(type(getattr(made, name)) is int for name in _BOUNDS)
    flags = all(type(getattr(made, name)) is bool for name in ("neox", "biases", "head_norms"))
    reals = all(type(one) is float for one in (made.eps, made.rope_base, *made.rope_factors))
    if not same or not whole_numbers or not flags or not reals:
        raise CodecError("not the shape of a model")
    least = {name: 0 if name == "head_width" else 1 for name in _BOUNDS}
    inside = all(least[name] <= getattr(made, name) <= most for name, most in _BOUNDS.items())
    if not inside or not 0.0 <= made.eps <= 1.0 or not 1.0 <= made.rope_base <= 1e12:
        raise CodecError("a number of the model's shape is beyond HPI-1")
    check(made)
    if made.width % 32 or made.hidden % 32 or made.fr not in (10, 12, 14):
        raise CodecError("a number of the model's shape is beyond HPI-1")
    return made
