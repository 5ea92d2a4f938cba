"""Evidence about one value of a computation, opened against a statement: everything in it hashes up to signed roots.

Where a part stands in a tree follows from the kind of evidence, never from the part, so nothing can be opened as
something else. Parts are messages:

    tensor      ``leaves`` (contents), ``paths`` (for each its siblings, none if all leaves are there), ``up``
                (siblings from the tensor's root to the trace root)
    ids         the same, without ``up``
    row         ``row`` (q, D, M, Rm, Re, as hashed), ``path`` (to the weight-root)
    vector      the same; ``row`` is the payload of a norm or bias
    cache       ``entries`` (contents), ``rest`` (digests of the chunk's later positions), ``inside`` (siblings below
                the peak), ``peaks`` (all others), ``up`` (to the cache root)
    columns     ``columns`` (contents), ``paths``
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hyperpy.codecs import whole
from hyperpy.errors import CodecError, HyperpyError
from hyperpy.inference import trees
from hyperpy.inference.arith import Ints
from hyperpy.inference.commitments import OPS
from hyperpy.inference.model import Config
from hyperpy.inference.statements import Partials, Statement, number
from hyperpy.message import Message, Value

KINDS: Final = (
    *("embedding", *OPS, "output_norm", "logits"),
    *("attention-chunk", "attention-sum", "chosen", "choice", "state", "ids", "cache"),
)
MAX_EVIDENCE: Final = 4 << 20
"""Bytes; what is longer is not read. A proof of one value has at most 80 KB; whole rows of logits are longer."""
_ENTRIES: Final = 66_560
"""Bytes of cache entries that one proof may hold: 256 positions of heads of 64."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which value is disputed, and its parts.

    Attributes:
        kind: one of :data:`KINDS`.
        token, layer: position and layer.
        index: of the value in its tensor; of ``cache`` the kv head.
        chunk: of ``attention-chunk``, which one.
    """

    kind: str
    token: int = 0
    layer: int = 0
    index: int = 0
    chunk: int = 0
    parts: Message = field(default_factory=Message)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        numbers: dict[str, Value] = {name: getattr(self, name) for name in _NUMBERS}
        return whole.encode(Message.make({"kind": self.kind.encode(), "parts": self.parts, **numbers}))


_NUMBERS: Final = ("token", "layer", "index", "chunk")


def read(data: bytes) -> Evidence:
    """Return the evidence of canonical bytes; raise CodecError if they are none."""
    if len(data) > MAX_EVIDENCE:
        raise CodecError(f"evidence has at most {MAX_EVIDENCE} bytes")
    try:
        found = whole.decode(data)
    except HyperpyError as error:
        raise CodecError(f"not canonical bytes: {error.message}") from None
    if type(found) is not Message or found.raw_items().keys() != {"kind", "parts", *_NUMBERS}:
        raise CodecError("not evidence of a value")
    kind, parts = found.raw("kind"), found.raw("parts")
    name = kind.decode("ascii", "replace") if type(kind) is bytes else ""
    if name not in KINDS or type(parts) is not Message:
        raise CodecError("evidence of a kind that is not known")
    token, layer, index, chunk = (number(found.raw(one), one, 1 << 20) for one in _NUMBERS)
    return Evidence(name, token, layer, index, chunk, parts)


def chunk_of(head: int) -> int:
    """Return how many positions of a head's cache are looked at together: 256, fewer for heads wider than 64.

    The specification's 256 positions of heads of 128 would alone pass the 80 KB of a proof.
    """
    made = 256
    while made * (4 * head + 4) > _ENTRIES:
        made //= 2
    return made


@lru_cache(maxsize=64)
def tensors_of(config: Config, tied: bool) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return where each tensor stands in the weight tree, in ascending order of names, and its shape."""
    shapes = config.shapes()
    if not tied:
        shapes["output.weight"] = shapes["token_embd.weight"]
    return {name: (at, shapes[name]) for at, name in enumerate(sorted(shapes, key=str.encode))}


def size_of(config: Config, op: str) -> int:
    """Return the values of a tensor."""
    wide = {"q": config.heads * config.head, "attention": config.heads * config.head, "logits": config.vocabulary}
    wide |= dict.fromkeys(("k", "v"), config.kv_heads * config.head)
    wide |= dict.fromkeys(("gate", "up", "swiglu"), config.hidden)
    return wide.get(op, config.width)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a weight matrix: ``w`` its integers, i64."""

    w: Ints
    rm: int
    re: int


class Case:
    """Evidence beside the statement that it is held against; what is read of it was hashed up to the statement.

    Raises:
        CodecError: the evidence is about a place that the computation does not have. Its methods too: a part is
            missing, has another form, or does not hash to what was signed.

    Attributes:
        roots: of the tensors that were read, by part; of ``chosen`` the token root. No later id has a part in them.
    """

    def __init__(self, statement: Statement, evidence: Evidence, partials: Partials | None = None) -> None:
        self.statement, self.evidence, self.config = statement, evidence, statement.config
        self.partials = partials
        self.roots: dict[str, bytes] = {}
        self.token, self.layer, self.index = evidence.token, evidence.layer, evidence.index
        if self.token >= statement.count or self.layer >= self.config.layers:
            raise CodecError("the computation has no such token or layer")

    # -- tensors ------------------------------------------------------------------------------------

    def values(self, part: str, op: str, first: int, last: int, layer: int | None = None) -> Ints:
        """Return values ``first`` to ``last`` - 1 of a tensor of the disputed token."""
        layer = self.layer if layer is None else layer
        found = self._message(part, {"leaves", "paths", "up"})
        root, data, at = self._leaves(found, size_of(self.config, op), first, last)
        self._same(_climbed(root, self._way(op, layer), found.raw("up")), self.statement.trace_root)
        self.roots[part] = root
        values = np.frombuffer(data, "<i4").astype(np.int64)
        return values[first - at : last - at]

    def row_of(self, part: str, op: str, layer: int | None = None) -> Ints:
        """Return a whole tensor."""
        return self.values(part, op, 0, size_of(self.config, op), layer)

    def claimed(self, op: str) -> int:
        """Return the disputed value, from the part ``out``."""
        if self.index >= size_of(self.config, op):
            raise CodecError("the tensor has no such value")
        return int(self.values("out", op, self.index, self.index + 1)[0])

    def chosen(self, digest: bytes) -> bool:
        """Say whether ``digest`` stands as the chosen id's in the disputed token's root; the part is ``chosen``."""
        found = self._message("chosen", {"digest", "up"})
        mine, layers = found.raw("digest"), self.config.layers
        if type(mine) is not bytes or len(mine) != 32:
            raise CodecError("'chosen' is no digest")
        way = [(layers + 3, layers + 4), (self.token, self.statement.count)]
        self._same(_climbed(mine, way, found.raw("up")), self.statement.trace_root)
        inside = _split(found.raw("up"))[: _steps(*way[0])]
        self.roots["chosen"] = _climbed(mine, way[:1], b"".join(inside))
        return mine == digest

    def ids(self, part: str, first: int, last: int) -> list[int]:
        """Return the ids of positions ``first`` to ``last`` - 1."""
        found = self._message(part, {"leaves", "paths"})
        root, data, at = self._leaves(found, self.statement.count, first, last)
        self._same(root, self.statement.ids_root)
        made: list[int] = np.frombuffer(data, "<u4")[first - at : last - at].tolist()
        return made

    def _leaves(self, found: Message, size: int, first: int, last: int) -> tuple[bytes, bytes, int]:
        """Return the root that opened leaves lead to, their bytes, and the number of the first value in them."""
        start, end, count = first // trees.VALUES, -(-last // trees.VALUES), -(-size // trees.VALUES)
        contents, paths = self._texts(found, "leaves"), self._texts(found, "paths")
        whole_row = end - start == count
        if len(contents) != end - start or len(paths) != (0 if whole_row else end - start):
            raise CodecError("the leaves of a tensor are not those of the disputed value")
        for at, content in enumerate(contents, start):
            if len(content) != 4 * min(trees.VALUES, size - at * trees.VALUES):
                raise CodecError("a leaf has another length")
        digests = [trees.leaf(content) for content in contents]
        if whole_row:
            return trees.root(digests), b"".join(contents), 0
        roots = [
            trees.climb(one, at, count, _split(path))
            for at, (one, path) in enumerate(zip(digests, paths, strict=True), start)
        ]
        for one in roots[1:]:
            self._same(one, roots[0])
        return roots[0], b"".join(contents), start * trees.VALUES

    def _way(self, op: str, layer: int) -> list[tuple[int, int]]:
        """Return where a tensor stands in the trees above it: (number, count), from below; leaves are roots."""
        layers = self.config.layers
        above = [(self.token, self.statement.count)]
        if op in OPS:
            return [(OPS.index(op), len(OPS)), (1 + layer, layers + 4), *above]
        place = {"embedding": 0, "output_norm": layers + 1, "logits": layers + 2}[op]
        return [(place, layers + 4), *above]

    # -- weights ------------------------------------------------------------------------------------

    def weights(self, found: Value | None, name: str, number: int) -> Row:
        """Return a row of a matrix from one part."""
        at, (rows, columns) = self._tensor(name)
        if number >= rows:
            raise CodecError("the matrix has no such row")
        data = self._weight(found, at, number, rows)
        groups, rest = divmod(len(data) - columns - 3, 4)
        if rest or groups not in (columns // 16, columns // 32):
            raise CodecError("a row of weights has another length")
        q = np.frombuffer(data, np.int8, columns).astype(np.int64)
        d, m = np.frombuffer(data, "<i2", 2 * groups, columns).astype(np.int64).reshape(2, groups)
        each = columns // groups
        w = np.repeat(d, each) * q + np.repeat(m, each)
        return Row(w, int.from_bytes(data[-3:-1], "little"), data[-1])

    def vector(self, part: str, name: str) -> tuple[npt.NDArray[np.int32], int]:
        """Return a norm's weights, or a bias, and its fraction bits."""
        at, (size,) = self._tensor(name)
        data = self._weight(self.evidence.parts.raw(part), at, 0, 1)
        if len(data) != 4 * size + 4:
            raise CodecError("a vector of weights has another length")
        return np.frombuffer(data, "<i4", size), int.from_bytes(data[-4:], "little", signed=True)

    def rows(self, count: int) -> tuple[Value, ...]:
        """Return the part ``rows``: so many rows, to be read with :meth:`weights`."""
        found = self.evidence.parts.raw("rows")
        if type(found) is not tuple or len(found) != count:
            raise CodecError(f"evidence of this kind has {count} rows of weights")
        return found

    def _tensor(self, name: str) -> tuple[int, tuple[int, ...]]:
        return tensors_of(self.config, self.statement.tied)[name]

    def _weight(self, found: Value | None, tensor: int, number: int, count: int) -> bytes:
        if type(found) is not Message or found.raw_items().keys() != {"row", "path"}:
            raise CodecError("a row of weights is missing")
        data, path = found.raw("row"), found.raw("path")
        if type(data) is not bytes:
            raise CodecError("a row of weights is bytes")
        tensors = len(tensors_of(self.config, self.statement.tied))
        siblings, own = _split(path), _steps(number, count)
        root = trees.climb(trees.leaf(data), number, count, siblings[:own])
        top = trees.climb(trees.leaf(root), tensor, tensors, siblings[own:])
        self._same(top, self.statement.weights)
        return data

    # -- cache --------------------------------------------------------------------------------------

    def entry(self, head: int, position: int) -> bytes:
        """Return the digest that stands for one position of a kv head in the cache, from the part ``cache``."""
        found = self._message("cache", {"entries", "rest", "inside", "peaks", "up"})
        digests = _split(found.raw("rest"))
        if self._texts(found, "entries") or len(digests) != 1:
            raise CodecError("evidence of this kind has one digest of the cache")
        self._cached(found, head, position, 1, digests)
        return digests[0]

    def entries(self, head: int, chunk: int) -> tuple[Ints, Ints, Ints]:
        """Return k15, ks and v10 of the positions of a chunk that the disputed token sees."""
        found, each, hd = self._message("cache", {"entries", "rest", "inside", "peaks", "up"}), self.chunk, self.hd
        first = chunk * each
        last, visible = min(first + each, self.statement.count), min(first + each, self.token + 1)
        contents, rest = self._texts(found, "entries"), _split(found.raw("rest"))
        if len(contents) != visible - first or len(rest) != last - visible or first >= visible:
            raise CodecError("the entries of the cache are not those of the chunk")
        if any(len(one) != 4 * hd + 4 for one in contents):
            raise CodecError("an entry of the cache has another length")
        digests = [hashlib.sha256(b"\2" + one).digest() for one in contents]
        self._cached(found, head, first, each, [*digests, *rest])
        form = [("k", "<i2", hd), ("ks", "<i4"), ("v", "<i2", hd)]
        table = np.frombuffer(b"".join(contents), form)
        return table["k"].astype(np.int64), table["ks"].astype(np.int64), table["v"].astype(np.int64)

    @property
    def hd(self) -> int:
        """Width of a head."""
        return self.config.head

    @property
    def chunk(self) -> int:
        """Positions of the cache that are looked at together."""
        return chunk_of(self.config.head)

    def _cached(self, found: Message, head: int, first: int, each: int, digests: Sequence[bytes]) -> None:
        """Hold the digests of an aligned block of positions against the cache root."""
        n, at = self.statement.count, 0
        sizes = trees.sizes(n)
        inside, peaks = _split(found.raw("inside")), _split(found.raw("peaks"))
        if first + each <= n:  # all of the block stands under one peak
            for number, size in enumerate(sizes):
                if at <= first < at + size:
                    peak = trees.climb(trees.root(digests), (first - at) // each, size // each, inside)
                    every = [*peaks[:number], peak, *peaks[number:]]
                    break
                at += size
        else:  # it is the end, and has the last peaks to itself
            if inside:
                raise CodecError("a path of a tree is too long")
            every = [*peaks, *trees.peaks_of(digests)]
        if len(every) != len(sizes):
            raise CodecError("the cache has another number of peaks")
        heads, layers = self.config.kv_heads, self.config.layers
        way = [(self.layer * heads + head, layers * heads)]
        self._same(_climbed(trees.bag(every), way, found.raw("up")), self.statement.cache_root)

    # -- partials -----------------------------------------------------------------------------------

    def columns(self, numbers: Sequence[int]) -> list[bytes]:
        """Return columns of a long attention."""
        partials, c = self.partials, self.config
        mine = (self.statement.name, self.token, self.layer)
        if partials is None or (partials.statement, partials.token, partials.layer) != mine:
            raise CodecError("evidence of this kind needs signed partials of the same attention")
        found = self._message("columns", {"columns", "paths"})
        contents, paths = self._texts(found, "columns"), self._texts(found, "paths")
        if len(contents) != len(numbers) or len(paths) != len(numbers):
            raise CodecError("the columns are not those of the disputed value")
        count = c.heads * (self.hd + 1)
        for at, content, path in zip(numbers, contents, paths, strict=True):
            self._same(trees.climb(trees.leaf(content), at, count, _split(path)), partials.root)
        return contents

    # -- form ---------------------------------------------------------------------------------------

    def _message(self, part: str, names: set[str]) -> Message:
        found = self.evidence.parts.raw(part) if part in self.evidence.parts else None
        if type(found) is not Message or found.raw_items().keys() != names:
            raise CodecError(f"the evidence has no part '{part}' of the right form")
        return found

    @staticmethod
    def _texts(found: Message, name: str) -> list[bytes]:
        listed = found.raw(name)
        if type(listed) is not tuple or not all(type(one) is bytes for one in listed):
            raise CodecError(f"'{name}' is a list of bytes")
        return [one for one in listed if type(one) is bytes]

    @staticmethod
    def _same(found: bytes, wanted: bytes) -> None:
        if found != wanted:
            raise CodecError("a part does not hash to what was signed")


def _climbed(root: bytes, way: Sequence[tuple[int, int]], up: Any) -> bytes:
    """Return where a root leads to through trees over roots."""
    siblings = _split(up)
    for place, count in way:
        taken = _steps(place, count)
        root = trees.climb(trees.leaf(root), place, count, siblings[:taken])
        siblings = siblings[taken:]
    if siblings:
        raise CodecError("a path of a tree is too long")
    return root


def _split(data: Any) -> list[bytes]:
    """Return digests that stand one after another."""
    if type(data) is not bytes or len(data) % 32:
        raise CodecError("a path of a tree is digests, one after another")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def _steps(number: int, count: int) -> int:
    """Return how many siblings a path has."""
    made = 0
    while count > 1:
        made += number ^ 1 < count
        number, count = number >> 1, (count + 1) >> 1
    return made
