"""Claimants that lie about one value of a computation, and what disputes with them come to."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

from hyperpy.inference import evidence, judging, statements
from hyperpy.inference.commitments import OPS
from hyperpy.inference.disputes import Answer, Outcome, Question, dispute
from hyperpy.inference.evidence import chunk_of, size_of
from hyperpy.inference.traces import Trace, WeightTree

Place = tuple[Any, ...]
"""A committed value: ("tensor", token, op, layer, index), ("cache", layer, head, position, number),
("long", token, layer, index, column, chunk), ("following", token), ("chosen",) or ("state", byte). The long one is an
attention value together with what its partials say of one chunk: ``column`` 0 is max and Z, 1 num, -1 nothing."""


class Liar(Trace):
    """Claims what an honest trace does, but for one value; roots are made of what it claims."""

    place: Place
    delta: int

    def tensors(self, token: int) -> dict[Any, Any]:
        true = super().tensors(token)
        if self.place[0] not in ("tensor", "long") or self.place[1] != token:
            return true
        op, layer, index = self.place[2:5] if self.place[0] == "tensor" else ("attention", *self.place[2:4])
        name = (layer, op) if op in OPS else op
        row = true[name].copy()
        row[index] = flipped(int(row[index]), self.delta)
        return {**true, name: row}

    def following(self, token: int) -> int:
        true = super().following(token)
        return (true + 1) % self.config.vocabulary if self.place == ("following", token) else true

    def columns(self, token: int, layer: int) -> list[bytes]:
        true = super().columns(token, layer)
        if self.place[:3] == ("long", token, layer) and self.place[4] >= 0:
            index, column, chunk = self.place[3:]
            head, value = divmod(index, self.config.head)
            number = head * (self.config.head + 1) + (1 + value if column else 0)
            size, data = 8 if column else 12, bytearray(true[number])
            data[size * chunk + self.delta % size] ^= 1 << (self.delta % 7)
            true[number] = bytes(data)
        return true


def flipped(value: int, delta: int) -> int:
    """Return another i32."""
    return (value + delta + 2**31) % 2**32 - 2**31


def lying(true: Trace, place: Place, delta: int = 1) -> Liar:
    """Return a liar about one place."""
    made: Liar = copy.copy(true)  # type: ignore[assignment]
    made.__class__ = Liar
    for name in ("statement", "bags"):
        made.__dict__.pop(name, None)
    made.place, made.delta = place, delta
    if place[0] == "cache":
        _, layer, head, position, number = place
        made.cache = copy.copy(true.cache)
        parts = {name: getattr(true.cache, name).copy() for name in ("k", "ks", "v")}
        hd = true.config.head
        name, at = ("ks", ()) if number == 2 * hd else ("k", (number,)) if number < hd else ("v", (number - hd,))
        parts[name][(layer, head, position, *at)] ^= 1
        for name, part in parts.items():
            setattr(made.cache, name, part)
    if place[0] in ("tensor", "long", "following"):
        made.tokens = list(true.tokens)
        made.tokens[place[1]] = made.roots(place[1]).root()
    if place[0] == "chosen":
        made.chosen = (true.chosen + 1) % true.config.vocabulary
    if place[0] == "state":
        state = bytearray(true.state)
        state[place[1]] ^= 1 << (delta % 8)
        made.state = bytes(state)
    return made


class Kept(Trace):
    """A trace that computes each token once: for many disputes about a short one."""

    def tensors(self, token: int) -> dict[Any, Any]:
        known = self.__dict__.setdefault("_known", {})
        if token not in known:
            known[token] = super().tensors(token)
            self._last = -1, {}
        found: dict[Any, Any] = known[token]
        return found


def places(trace: Trace, count: int, seed: int) -> list[Place]:
    """Return random places, every op and kind alike."""
    rng, c, n = random.Random(seed), trace.config, len(trace.ids)
    kinds = ["embedding", *OPS, "output_norm", "logits", "cache", "following", "chosen", "state"]
    made: list[Place] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        token, layer = rng.randrange(n), rng.randrange(c.layers)
        if kind == "cache":
            made.append(("cache", layer, rng.randrange(c.kv_heads), token, rng.randrange(2 * c.head + 1)))
        elif kind == "following":
            made.append(("following", token))
        elif kind == "chosen":
            made.append(("chosen",))
        elif kind == "state":
            made.append(("state", rng.randrange(32)))
        else:
            made.append(("tensor", token, kind, layer, rng.randrange(size_of(c, kind))))
    return made


def asking(claimant: Trace) -> Any:
    """Return what sends questions to a claimant."""

    def ask(questions: Sequence[Question]) -> list[Answer]:
        return [Answer(claimant.answer(one)) for one in questions]

    return ask


def disputed(mine: Trace, weights: WeightTree, claimant: Trace) -> Outcome:
    """Return what a dispute with a claimant comes to."""
    return dispute(mine, weights, asking(claimant))


def judged(outcome: Outcome) -> tuple[judging.Finding, int]:
    """Return what a judge finds who has only the bytes, and how many these are."""
    assert outcome.evidence is not None
    assert outcome.statement is not None
    parts = [outcome.statement.body, outcome.evidence.encode()]
    partials = None
    if outcome.partials is not None:
        parts.append(outcome.partials.body)
        partials = statements.read_partials(outcome.partials.body)
    found = judging.judge(statements.read(parts[0]), evidence.read(parts[1]), partials)
    return found, sum(map(len, parts))


def long_places(trace: Trace, count: int, seed: int) -> list[Place]:
    """Return random places in long attentions, and in their partials."""
    rng, c, each, made = random.Random(seed), trace.config, chunk_of(trace.config.head), list[Place]()
    for _ in range(count):
        token = rng.randrange(each, len(trace.ids))
        layer, index, chunk = (rng.randrange(most) for most in (c.layers, c.heads * c.head, token // each + 1))
        made.append(("long", token, layer, index, rng.choice((-1, 0, 1)), chunk))
    return made
