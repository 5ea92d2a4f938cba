"""A dispute about a computation, from a sequence of ids to one value, in at most four round trips (HPI-1, section 13).

    1   token roots and the bags of the cache     which token is the first that differs
    2   the signed statement; level 3 of a token  which layer, which op
    3   the digests of a tensor's leaves          which leaf; of an attention also: which part of the cache
    4   one leaf                                  which value; or the cache's entries, or a long attention's partials

What the claimant answers must hash up to what it told before, else it has refused to open and nothing is shown. What
comes first differs from true inputs to a false output, so the challenger's own inputs are the claimant's too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hyperpy.codecs import whole
from hyperpy.errors import CodecError, HyperpyError
from hyperpy.inference import trees
from hyperpy.inference.commitments import OPS, chosen_digest
from hyperpy.inference.evidence import Evidence, chunk_of
from hyperpy.inference.openings import Openings, Positions, columns_part
from hyperpy.inference.statements import Statement, read, read_partials
from hyperpy.inference.traces import Trace, WeightTree, heads_of
from hyperpy.message import Message, Value

ROUNDS: Final = 4
MAX_ANSWER: Final = 64 << 20
"""Bytes of one answer: the token roots of two million positions."""
Question = Mapping[str, Value]


class Refused(HyperpyError):
    """The claimant does not open what it committed to; nothing is shown, and it loses by time where there is a clock.

    Also: its statement is about something else than was asked.
    """

    status = 409
    advice = "Ask again; who never opens what it signed stands for nothing."


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's bytes, and the signed message that they came in, whatever that is."""

    body: bytes
    word: Any = None


Ask = Callable[[Sequence[Question]], Sequence[Answer]]
"""Sends questions together, in one round trip, and returns their answers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a dispute ended in.

    Attributes:
        evidence: of one false value; None where both computed the same.
        statement, partials: the answers that it must be shown with, signed.
        claimed: the statement, read.
        rounds: round trips.
    """

    evidence: Evidence | None
    statement: Answer | None
    partials: Answer | None
    claimed: Statement
    rounds: int


def dispute(mine: Trace, weights: WeightTree, ask: Ask) -> Outcome:
    """Ask a claimant until one value is found in which it differs from a computation of one's own.

    Raises:
        Refused: it does not open what it committed to.
    """
    return _Dispute(mine, weights, ask).run()


class _Dispute:
    def __init__(self, mine: Trace, weights: WeightTree, ask: Ask) -> None:
        self._mine, self._open, self._ask = mine, Openings(mine, weights), ask
        self._config, self._rounds = mine.config, 0
        self._statement: Answer | None = None
        self._partials: Answer | None = None
        self._claimed = mine.statement

    def run(self) -> Outcome:
        evidence = self._search()
        if evidence is not None and self._statement is None:
            self._second()
        return Outcome(evidence, self._statement, self._partials, self._claimed, self._rounds)

    def _round(self, *questions: Question) -> Sequence[Answer]:
        self._rounds += 1
        found = self._ask(questions)
        if len(found) != len(questions):
            raise Refused("not every question was answered")
        return found

    def _second(self, *questions: Question) -> Sequence[Answer]:
        """Ask for the signed statement, and something else in the same round."""
        self._statement, *others = self._round({"ask": b"statement"}, *questions)
        if _statement(self._statement.body) != self._claimed:
            raise Refused("the statement is another one than before")
        return others

    # -- 1: which token -------------------------------------------------------------------------------

    def _search(self) -> Evidence | None:
        mine, last = self._mine, len(self._mine.ids) - 1
        (first,) = self._round({"ask": b"tokens"})
        told = _opened(first)
        self._open.tokens, self._open.bags = _digests(told, "tokens"), _digests(told, "bags")
        stated = told.raw("statement")
        self._claimed = _statement(stated if isinstance(stated, bytes) else b"")
        self._check()
        for at, (own, theirs) in enumerate(zip(mine.tokens, self._open.tokens, strict=True)):
            if own != theirs:
                return self._token(at)
        for at, (own, theirs) in enumerate(zip(mine.bags, self._open.bags, strict=True)):
            if own != theirs:
                return self._cache_alone(at // self._config.kv_heads)
        if self._claimed.ids != mine.statement.ids:
            whole_row = Message.make({"leaves": _cut(trees.as_bytes(mine.ids)), "paths": ()})
            return Evidence("ids", last, parts=Message.make({"ids": whole_row}))
        if self._claimed.state != mine.state:
            return _evidence("state", last, {"in": self._open.tensor(last, "logits", 0)})
        if self._claimed.chosen != mine.chosen:
            return self._chosen(last)
        for at, choice in mine.choices.items():
            if mine.following(at) != choice:
                return self._choice(at, mine.following(at))
        return None

    def _check(self) -> None:
        """Hold the statement against what was asked, and the roots against the statement."""
        own, theirs, n = self._mine.statement, self._claimed, len(self._mine.ids)
        for name in ("model", "weights", "config", "tied", "count", "prompt", "ids_root", "sampling"):
            if getattr(own, name) != getattr(theirs, name):
                raise Refused(f"the statement is about something else: its {name.replace('_', '-')} differs")
        if len(self._open.tokens) != n or len(self._open.bags) != len(self._mine.bags):
            raise Refused("the claimant tells another number of roots than there are tokens and heads")
        _fits(trees.over(self._open.tokens), theirs.trace_root)
        _fits(trees.over(self._open.bags), theirs.cache_root)

    # -- 2: which op ----------------------------------------------------------------------------------

    def _token(self, token: int) -> Evidence:
        (answer,) = self._second({"ask": b"token", "token": token})
        told, layers = _opened(answer), self._config.layers
        parts, flat = _digests(told, "parts"), _digests(told, "ops")
        if len(parts) != layers + 4 or len(flat) != layers * len(OPS):
            raise Refused("a token's roots are not as many as its ops")
        _fits(trees.over(parts), self._open.tokens[token])
        ops = [flat[at : at + len(OPS)] for at in range(0, len(flat), len(OPS))]
        for layer, one in enumerate(ops):
            _fits(trees.over(one), parts[1 + layer])
        self._open.parts[token], self._open.ops[token] = parts, ops
        own = self._mine.roots(token)
        if own.embedding != parts[0]:
            return self._tensor(token, "embedding", 0)
        for layer in range(layers):
            for op, true, theirs in zip(OPS, own.ops[layer], ops[layer], strict=True):
                if true != theirs:
                    return self._tensor(token, op, layer)
        for op, true in (("output_norm", own.norm), ("logits", own.logits)):
            if true != parts[self._open.place(op)]:
                return self._tensor(token, op, 0)
        return self._chosen(token)

    def _chosen(self, token: int) -> Evidence:
        """The digest of the chosen id differs, or the id that is stated; all before it agrees."""
        last = token == len(self._mine.ids) - 1
        stated = self._claimed.chosen if last else self._mine.ids[token + 1]
        up = self._open.up(token, "chosen")
        theirs = self._open.parts[token][-1]
        if theirs == chosen_digest(stated):
            return self._choice(token, stated)
        chosen = Message.make({"digest": theirs, "up": up})
        return _evidence("chosen", token, {**self._following(token), "chosen": chosen})

    def _choice(self, token: int, claimed: int) -> Evidence:
        """The id behind a token is not what sampling gives."""
        parts, best = self._following(token), self._mine.choices[token]
        if self._mine.sampling.t16:
            return _evidence("choice", token, {**parts, "in": self._open.tensor(token, "logits", 0)})
        own, other = (self._open.tensor(token, "logits", 0, at, at + 1) for at in (claimed, best))
        return _evidence("choice", token, {**parts, "in": own, "add": other}, index=best)

    def _following(self, token: int) -> dict[str, Value]:
        return {} if token == len(self._mine.ids) - 1 else {"ids": self._open.ids(token + 1)}

    # -- 3 and 4: which leaf, which value ----------------------------------------------------------------

    def _tensor(self, token: int, op: str, layer: int) -> Evidence:
        where: dict[str, Value] = {"token": token, "layer": layer}
        asked: list[Question] = [{"ask": b"leaves", **where, "op": op.encode()}]
        if op == "attention":
            asked.append({"ask": b"cache", **where})
        answers = self._round(*asked)
        digests = _digests(_opened(answers[0]), "leaves")
        true = trees.as_bytes(self._mine.tensor(token, op, layer))
        own = trees.leaves(true)
        if len(digests) != len(own):
            raise Refused("a tensor has another number of leaves")
        _fits(trees.root(digests), self._open.root(token, op, layer))
        if op == "attention":
            wrong = self._cached(_opened(answers[1]), layer, token)
            if wrong is not None:
                return wrong
        number = next(at for at, one in enumerate(own) if one != digests[at])
        content, others = self._leaf({**where, "number": number}, op, token)
        mine = true[number * trees.LEAF : (number + 1) * trees.LEAF]
        if trees.leaf(content) != digests[number] or len(mine) != len(content):
            raise Refused("a leaf is not the one that was committed to")
        differs = np.frombuffer(content, "<i4") != np.frombuffer(mine, "<i4")
        index = number * trees.VALUES + int(np.argmax(differs))
        out = self._open.leaf(token, op, layer, content, number, digests)
        if others:
            return self._long(token, layer, index, out, *others)
        return _evidence(op, token, {**self._open.inputs(token, op, layer, index), "out": out}, layer, index)

    def _leaf(self, where: dict[str, Value], op: str, token: int) -> tuple[bytes, Sequence[Answer]]:
        """Return the claimant's leaf, and of a long attention its partials and columns."""
        asked: list[Question] = [{"ask": b"leaf", **where, "op": op.encode()}]
        if op == "attention" and token >= chunk_of(self._config.head):
            asked += [{"ask": one, **where} for one in (b"partials", b"columns")]
        first, *others = self._round(*asked)
        content = _opened(first).raw("leaf")
        if type(content) is not bytes or not content or len(content) % 4:
            raise Refused("a leaf is whole values")
        return content, others

    # -- the cache, and long attentions --------------------------------------------------------------------

    def _cache_alone(self, layer: int) -> Evidence:
        """All tokens agree, and a bag of the cache does not."""
        last = len(self._mine.ids) - 1
        (answer,) = self._second({"ask": b"cache", "layer": layer, "token": last})
        found = self._cached(_opened(answer), layer, last)
        if found is None:
            raise Refused("an answer does not hash to what the claimant committed to")
        return found

    def _cached(self, told: Message, layer: int, token: int) -> Evidence | None:
        """Take the cache of a layer; return evidence of the first entry that differs up to a token, if one does."""
        heads, n, each = told.raw("heads"), len(self._mine.ids), chunk_of(self._config.head)
        if type(heads) is not tuple or len(heads) != self._config.kv_heads:
            raise Refused("the cache is told of another number of heads")
        own = token // each
        for head, one in enumerate(heads):
            found = Positions(each, *(_digests(one, name) for name in ("chunks", "tail", "own")))
            wanted = n // each, n % each, each if own < n // each else 0
            if (len(found.nodes), len(found.tail), len(found.own)) != wanted:
                raise Refused("the cache is told of another number of positions")
            _fits(found.bag, self._open.bags[layer * self._config.kv_heads + head])
            if found.own:
                _fits(trees.root(found.own), found.nodes[own])
            self._open.cache.append(found)
        for head, found in enumerate(self._open.cache):
            true = self._mine.entries(layer, head, 0, n)
            for at in range(own):
                if trees.root(true[at * each : (at + 1) * each]) != found.nodes[at]:
                    return self._entry(layer, head, at, self._chunk(layer, head, at, found.nodes[at]))
            if true[own * each : token + 1] != found.entries(own)[: token + 1 - own * each]:
                return self._entry(layer, head, own, found.entries(own))
        return None

    def _chunk(self, layer: int, head: int, chunk: int, node: bytes) -> list[bytes]:
        """Return the claimant's entries of a whole chunk."""
        (answer,) = self._round({"ask": b"entries", "layer": layer, "head": head, "chunk": chunk})
        entries = _digests(_opened(answer), "entries")
        if len(entries) != chunk_of(self._config.head):
            raise Refused("a chunk has another number of entries")
        _fits(trees.root(entries), node)
        return entries

    def _entry(self, layer: int, head: int, chunk: int, entries: list[bytes]) -> Evidence:
        """Return evidence of the first entry of a chunk that differs."""
        hd, first = self._config.head, chunk * chunk_of(self._config.head)
        true = self._mine.entries(layer, head, first, first + len(entries))
        token = first + next(at for at, one in enumerate(entries) if one != true[at])
        k, v = (self._open.tensor(token, op, layer, head * hd, head * hd + hd) for op in ("k", "v"))
        cache = self._open.entry(layer, head, token, entries)
        return _evidence("cache", token, {"in": k, "add": v, "cache": cache}, layer, head)

    def _long(self, token: int, layer: int, index: int, out: Message, signed: Answer, answer: Answer) -> Evidence:
        """Return evidence of a long attention: a chunk's partials are false, or what was made of them."""
        self._partials = signed
        told, c = _opened(answer), self._config
        digests, columns = _digests(told, "digests"), told.raw("columns")
        heads = heads_of(c, index // trees.VALUES)
        if type(columns) is not tuple or len(columns) != len(heads) * (c.head + 1):
            raise Refused("the columns of an attention are not those of the leaf's heads")
        try:
            partials = read_partials(signed.body)
        except CodecError as error:
            raise Refused(error.message) from None
        _fits(trees.root(digests), partials.root)
        if (partials.statement, partials.token, partials.layer) != (self._claimed.name, token, layer):
            raise Refused("the partials are of another attention")
        head, value = divmod(index, c.head)
        first = (head - heads[0]) * (c.head + 1)
        contents = [columns[first], columns[first + 1 + value]]
        numbers = [head * (c.head + 1), head * (c.head + 1) + 1 + value]
        own = self._mine.columns(token, layer)
        for content, at in zip(contents, numbers, strict=True):
            if type(content) is not bytes or len(content) != len(own[at]) or trees.leaf(content) != digests[at]:
                raise Refused("a column is not the one that was committed to")
        texts = [one for one in contents if type(one) is bytes]
        part = columns_part(texts, numbers, digests)
        chunk = _first_chunk(texts, [own[at] for at in numbers])
        if chunk < 0:
            return _evidence("attention-sum", token, {"columns": part, "out": out}, layer, index)
        parts = {**self._open.attention(token, layer, index, chunk), "columns": part}
        return _evidence("attention-chunk", token, parts, layer, index, chunk)


def _first_chunk(theirs: Sequence[bytes], own: Sequence[bytes]) -> int:
    """Return the first chunk whose largest score differs, else the first whose sums do; -1 if none does."""
    form = [("top", "<i4"), ("z", "<u8")]
    pairs = [np.frombuffer(one[0], form) for one in (theirs, own)]
    tops = pairs[0]["top"] != pairs[1]["top"]
    if tops.any():
        return int(np.argmax(tops))
    nums = [np.frombuffer(one[1], "<i8") for one in (theirs, own)]
    sums = (pairs[0]["z"] != pairs[1]["z"]) | (nums[0] != nums[1])
    return int(np.argmax(sums)) if sums.any() else -1


def _evidence(
    kind: str, token: int, parts: Mapping[str, Value], layer: int = 0, index: int = 0, chunk: int = 0
) -> Evidence:
    return Evidence(kind, token, layer, index, chunk, Message.make(dict(parts)))


def _cut(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + trees.LEAF] for at in range(0, len(data), trees.LEAF))


def _fits(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise Refused("an answer does not hash to what the claimant committed to")


def _opened(answer: Answer) -> Message:
    """Return the message of an answer."""
    if len(answer.body) > MAX_ANSWER:
        raise Refused("an answer is longer than any can be")
    try:
        found = whole.decode(answer.body)
    except HyperpyError as error:
        raise Refused(f"an answer is no canonical bytes: {error.message}") from None
    if type(found) is not Message:
        raise Refused("an answer is a message")
    return found


def _digests(told: Any, name: str) -> list[bytes]:
    found = told.raw(name) if type(told) is Message else None
    if type(found) is not bytes or len(found) % 32:
        raise Refused(f"'{name}' is digests, one after another")
    return [found[at : at + 32] for at in range(0, len(found), 32)]


def _statement(data: bytes) -> Statement:
    try:
        return read(data)
    except CodecError as error:
        raise Refused(f"the claimant makes no statement: {error.message}") from None
