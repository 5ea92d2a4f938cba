"""Parts of evidence: values of one's own computation, opened under the roots that somebody else committed to.

Up to the first difference both have the same values, so one's own contents fit the other's trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperpy.inference import judging, trees
from hyperpy.inference.commitments import OPS
from hyperpy.inference.evidence import chunk_of
from hyperpy.inference.traces import Trace, WeightTree
from hyperpy.message import Message, Value


@dataclass
class Positions:
    """The cache of one kv head, as a claimant tells it.

    Attributes:
        nodes: over whole chunks. tail: entries behind these.
        own: entries of the chunk of the disputed token, where that is whole.
    """

    each: int
    nodes: list[bytes]
    tail: list[bytes]
    own: list[bytes]

    def _peaks(self) -> list[tuple[int, int, list[bytes]]]:
        """Return where each peak begins, how many positions each of its nodes stands for, and these."""
        found, at = [], 0
        for size in trees.sizes(len(self.nodes)):
            found.append((at * self.each, self.each, self.nodes[at : at + size]))
            at += size
        start, at = at * self.each, 0
        for size in trees.sizes(len(self.tail)):
            found.append((start + at, 1, self.tail[at : at + size]))
            at += size
        return found

    @property
    def bag(self) -> bytes:
        """All peaks, folded."""
        return trees.bag([trees.root(nodes) for _, _, nodes in self._peaks()])

    def entries(self, chunk: int) -> list[bytes]:
        """Return the entries that are known of a chunk."""
        return self.tail if chunk == len(self.nodes) else self.own

    def block(self, chunk: int) -> tuple[list[bytes], list[bytes]]:
        """Return the siblings below the peak of a chunk, and all other peaks; see :meth:`one`."""
        if chunk == len(self.nodes):  # the tail has its peaks to itself
            return [], [trees.root(nodes) for _, size, nodes in self._peaks() if size > 1 or self.each == 1]
        return self._path(chunk * self.each)

    def one(self, position: int, entries: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return the same of a single position, whose chunk has these entries."""
        chunk, inside = divmod(position, self.each)
        if chunk == len(self.nodes):
            return self._path(position)
        below, others = self._path(chunk * self.each)
        return trees.path(entries, inside) + below, others

    def _path(self, position: int) -> tuple[list[bytes], list[bytes]]:
        below: list[bytes] = []
        others = []
        for start, size, nodes in self._peaks():
            if start <= position < start + size * len(nodes):
                below = trees.path(nodes, (position - start) // size)
            else:
                others.append(trees.root(nodes))
        return below, others


@dataclass
class Openings:
    """What a claimant told of its roots, and a computation of one's own.

    Attributes:
        tokens: token roots. bags: of the cache.
        parts, ops: by position, what a token root is over, and the op roots of each layer.
        cache: of the disputed layer, by kv head.
    """

    mine: Trace
    weights: WeightTree
    tokens: list[bytes] = field(default_factory=list)
    bags: list[bytes] = field(default_factory=list)
    parts: dict[int, list[bytes]] = field(default_factory=dict)
    ops: dict[int, list[list[bytes]]] = field(default_factory=dict)
    cache: list[Positions] = field(default_factory=list)

    @classmethod
    def own(cls, mine: Trace, weights: WeightTree, layer: int, token: int) -> Openings:
        """Return what one would tell oneself, with the cache of a layer as a token's attention asks for it."""
        c, n, each = mine.config, len(mine.ids), chunk_of(mine.config.head)
        found = cls(mine, weights, list(mine.tokens), list(mine.bags))
        for head in range(c.kv_heads):
            entries = mine.entries(layer, head, 0, n)
            nodes = [trees.root(entries[at * each : (at + 1) * each]) for at in range(n // each)]
            own = entries[token // each * each :][:each] if token // each < len(nodes) else []
            found.cache.append(Positions(each, nodes, entries[len(nodes) * each :], own))
        return found

    # -- tensors --------------------------------------------------------------------------------------

    def root(self, token: int, op: str, layer: int) -> bytes:
        """Return the claimant's root of a tensor."""
        self._known(token)
        return self.ops[token][layer][OPS.index(op)] if op in OPS else self.parts[token][self.place(op)]

    def place(self, op: str) -> int:
        """Return where something that is no layer's stands among a token's parts."""
        layers = self.mine.config.layers
        return {"embedding": 0, "output_norm": layers + 1, "logits": layers + 2, "chosen": layers + 3}[op]

    def up(self, token: int, op: str, layer: int = 0) -> bytes:
        """Return the siblings from a tensor's root to the trace root."""
        self._known(token)
        found: list[bytes] = []
        place = 1 + layer if op in OPS else self.place(op)
        if op in OPS:
            found += _path(self.ops[token][layer], OPS.index(op))
        return b"".join([*found, *_path(self.parts[token], place), *_path(self.tokens, token)])

    def _known(self, token: int) -> None:
        """Fill in the roots of a token on which both agree."""
        if token not in self.parts:
            own = self.mine.roots(token)
            self.parts[token], self.ops[token] = own.parts(), [list(one) for one in own.ops]

    def tensor(self, token: int, op: str, layer: int, first: int = 0, last: int | None = None) -> Message:
        """Return values of one's own tensor, opened: whole leaves around ``first`` to ``last`` - 1."""
        data = trees.as_bytes(self.mine.tensor(token, op, layer))
        part = _leaves(data, first, len(data) // 4 if last is None else last)
        return Message.make({**part, "up": self.up(token, op, layer)})

    def leaf(self, token: int, op: str, layer: int, content: bytes, number: int, digests: Sequence[bytes]) -> Message:
        """Return the claimant's leaf, opened."""
        path = (b"".join(trees.path(digests, number)),) if len(digests) > 1 else ()
        return Message.make({"leaves": (content,), "paths": path, "up": self.up(token, op, layer)})

    def ids(self, position: int) -> Message:
        """Return the id of a position, opened."""
        return Message.make(_leaves(trees.as_bytes(self.mine.ids), position, position + 1))

    # -- the cache ------------------------------------------------------------------------------------

    def entry(self, layer: int, head: int, position: int, entries: list[bytes]) -> Message:
        """Return the claimant's digest of one position, opened; ``entries`` are those of its chunk."""
        positions = self.cache[head]
        return self._cached(layer, head, (), [entries[position % positions.each]], *positions.one(position, entries))

    def chunk(self, layer: int, head: int, chunk: int, token: int) -> Message:
        """Return the entries of a chunk that a token sees, opened."""
        each, cache = chunk_of(self.mine.config.head), self.mine.cache
        first, visible = chunk * each, min((chunk + 1) * each, token + 1)
        contents = [
            cache.k[layer, head, at].astype("<i2").tobytes()
            + int(cache.ks[layer, head, at]).to_bytes(4, "little", signed=True)
            + cache.v[layer, head, at].astype("<i2").tobytes()
            for at in range(first, visible)
        ]
        positions = self.cache[head]
        rest = positions.entries(chunk)[visible - first :] if chunk == token // each else []
        return self._cached(layer, head, contents, rest, *positions.block(chunk))

    def _cached(
        self,
        layer: int,
        head: int,
        contents: Sequence[bytes],
        rest: Sequence[bytes],
        inside: Sequence[bytes],
        peaks: Sequence[bytes],
    ) -> Message:
        up = _path(self.bags, layer * self.mine.config.kv_heads + head)
        digests = {"rest": rest, "inside": inside, "peaks": peaks, "up": up}
        joined: dict[str, Value] = {name: b"".join(one) for name, one in digests.items()}
        return Message.make({**joined, "entries": tuple(contents)})

    # -- what a value is computed from ------------------------------------------------------------------

    def inputs(self, token: int, op: str, layer: int, index: int) -> dict[str, Value]:
        """Return the parts that one value of an op is computed from (5.1 to 5.9)."""
        c, blk = self.mine.config, f"blk.{layer}."
        previous = ("residual2", layer - 1) if layer else ("embedding", 0)
        norms = {
            "attn_norm": (*previous, blk + "attn_norm.weight"),
            "ffn_norm": ("residual1", layer, blk + "ffn_norm.weight"),
            "output_norm": ("residual2", c.layers - 1, "output_norm.weight"),
        }
        linears = {
            "attn_output": ("attention", blk + "attn_output.weight"),
            "gate": ("ffn_norm", blk + "ffn_gate.weight"),
            "up": ("ffn_norm", blk + "ffn_up.weight"),
            "ffn_down": ("swiglu", blk + "ffn_down.weight"),
            "logits": ("output_norm", "output.weight" if self.weights.untied else "token_embd.weight"),
        }
        sums: dict[str, tuple[str, int, str]] = {
            "residual1": (*previous, "attn_output"),
            "residual2": ("residual1", layer, "ffn_down"),
            "swiglu": ("gate", layer, "up"),
        }
        if op == "embedding":
            row = self.weights.part("token_embd.weight", self.mine.ids[token])
            return {"ids": self.ids(token), "rows": (row,)}
        if op in norms:
            source, at, name = norms[op]
            return {"in": self.tensor(token, source, at), "norm": self.weights.part(name)}
        if op in linears:
            source, name = linears[op]
            return {"in": self.tensor(token, source, layer), "rows": (self.weights.part(name, index),)}
        if op in sums:
            source, at, added = sums[op]
            one, other = ((source, at), (added, layer))
            return {
                "in": self.tensor(token, *one, index, index + 1),
                "add": self.tensor(token, *other, index, index + 1),
            }
        if op == "attention":
            return self.attention(token, layer, index, 0)
        return {"in": self.tensor(token, "attn_norm", layer), **self._projection(op, f"{blk}attn_{op}", index)}

    def attention(self, token: int, layer: int, index: int, chunk: int) -> dict[str, Value]:
        """Return the query of a head, and a chunk of the cache that it looks at."""
        c = self.mine.config
        first, kv = index - index % c.head, index // c.head * c.kv_heads // c.heads
        query = self.tensor(token, "q", layer, first, first + c.head)
        return {"in": query, "cache": self.chunk(layer, kv, chunk, token)}

    def _projection(self, op: str, name: str, index: int) -> dict[str, Value]:
        config = self.mine.config
        numbers = [index] if op == "v" else judging.projected(config, index)
        made: dict[str, Value] = {"rows": tuple(self.weights.part(f"{name}.weight", at) for at in numbers)}
        if config.biases:
            made["bias"] = self.weights.part(f"{name}.bias")
        if config.head_norms and op != "v":
            made["norm"] = self.weights.part(f"{name}_norm.weight")
        return made


def _path(roots: Sequence[bytes], number: int) -> list[bytes]:
    """Return the siblings of a root in the tree over roots."""
    return trees.path([trees.leaf(one) for one in roots], number)


def _leaves(data: bytes, first: int, last: int) -> dict[str, Any]:
    """Return the leaves around values ``first`` to ``last`` - 1 with their paths; none if these are all."""
    digests = trees.leaves(data)
    start, end = first // trees.VALUES, -(-last // trees.VALUES)
    contents = tuple(data[at * trees.LEAF : (at + 1) * trees.LEAF] for at in range(start, end))
    paths = tuple(b"".join(trees.path(digests, at)) for at in range(start, end)) if end - start < len(digests) else ()
    return {"leaves": contents, "paths": paths}


def columns_part(contents: Sequence[bytes], numbers: Sequence[int], digests: Sequence[bytes]) -> Message:
    """Return columns of a long attention, opened."""
    paths = tuple(b"".join(trees.path(digests, at)) for at in numbers)
    return Message.make({"columns": tuple(contents), "paths": paths})
