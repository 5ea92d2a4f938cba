"""One false value is one lie, whatever else the statement that shows it is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from hyperpy.inference import evidence, judging, statements
from hyperpy.inference.disputes import Outcome
from hyperpy.inference.engines import toy_model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.traces import WeightTree
from tests.inference.lying import Kept, Place, disputed, lying
from tests.inference.test_disputes import PROMPT, traced

pytestmark = pytest.mark.timeout(300)
OTHERS = ({}, {"layer": 1}, {"index": 3}, {"chunk": 5}, {"layer": 1, "index": 3, "chunk": 1})


@pytest.fixture(scope="module")
def tree() -> WeightTree:
    return WeightTree(toy_model().weights)


@pytest.fixture(scope="module")
def true() -> Kept:
    return traced(toy_model(), PROMPT, 9, Sampling())


def again(true: Kept, count: int, prompt: int, sampling: Sampling | None = None) -> Kept:
    """Return the same computation, up to some id, asked for in another way."""
    found = sampling or true.sampling
    return Kept(true.engine, true.statement.weights, list(true.ids)[:count], prompt, found)


def variants(true: Kept, ending: bool) -> Iterator[Kept]:
    """Return what has the values of the first four tokens in common, all tokens if ``ending``."""
    n = len(true.ids)
    for count, prompt in ((n, 4), (n, 6), (n, n)) if ending else ((n, 4), (n, 5), (n - 1, 4), (6, 5), (n, n)):
        for seed in (bytes(32), b"\7" * 32, b"\1" * 32):
            for top_k, p16 in ((0, 65536), (3, 9)):
                yield again(true, count, prompt, Sampling(0, top_k, p16, seed))


def told(outcome: Outcome, **changes: int) -> judging.Finding | None:
    """Return what the judge says of evidence whose numbers somebody changed; None where that shows nothing."""
    assert outcome.evidence is not None
    assert outcome.statement is not None
    found = dataclasses.replace(outcome.evidence, **changes)
    partials = statements.read_partials(outcome.partials.body) if outcome.partials is not None else None
    try:
        made = judging.judge(statements.read(outcome.statement.body), evidence.read(found.encode()), partials)
    except judging.CodecError:
        return None
    return made if made.false else None


PLACES: tuple[Place, ...] = (
    ("tensor", 2, "embedding", 0, 7),
    ("tensor", 3, "up", 1, 9),
    ("tensor", 3, "up", 1, 10),
    ("tensor", 3, "up", 0, 9),
    ("tensor", 2, "up", 1, 9),
    ("tensor", 3, "attention", 1, 4),
    ("tensor", 3, "logits", 0, 4),
    ("tensor", 3, "output_norm", 0, 4),
    ("cache", 0, 0, 2, 3),
    ("following", 2),
)


def test_a_false_value_is_one_lie(true: Kept, tree: WeightTree) -> None:
    lies: dict[Place, str] = {}
    for place in PLACES:
        found = set()
        for one in variants(true, ending=False):
            outcome = disputed(one, tree, lying(one, place))
            plain = told(outcome)
            assert plain is not None
            assert plain.lie
            found.add(plain.lie)
        assert len(found) == 1, (place, found)
        lies[place] = found.pop()
    assert len(set(lies.values())) == len(lies), "other values are other lies"


@pytest.mark.parametrize("place", [("chosen",), ("state", 5)])
def test_a_false_end_is_one_lie(place: Place, true: Kept, tree: WeightTree) -> None:
    found = set()
    for one in variants(true, ending=True):
        outcome = disputed(one, tree, lying(one, place))
        for more in OTHERS:
            made = told(outcome, **more)
            if place[0] == "state":
                assert made is not None, "a state has neither layer nor index"
            found |= {made.lie} if made is not None else set()
    assert len(found) == 1


def test_a_false_choice_is_one_lie(true: Kept, tree: WeightTree) -> None:
    """Any better id shows a greedy one; a drawn one is another lie with another seed."""
    last = len(true.ids) - 1
    found, shown = set(), 0
    for one in variants(true, ending=True):
        liar = lying(one, ("following", last))
        liar.chosen = liar.following(last)
        outcome = disputed(one, tree, liar)
        assert outcome.evidence is not None
        assert outcome.evidence.kind == "choice"
        for more in OTHERS:
            made = told(outcome, **more)
            found |= {made.lie} if made is not None else set()
            shown += made is not None
    assert len(found) == 1
    assert shown > 18
    drawn = set()
    for seed in (b"\1" * 32, b"\2" * 32):
        honest = again(true, 4, 4, Sampling(65536, 0, 65536, seed))
        liar = lying(honest, ("following", 3))
        liar.chosen = liar.following(3)
        made = told(disputed(honest, tree, liar))
        assert made is not None
        drawn.add(made.lie)
    assert len(drawn) == 2


def test_numbers_that_the_evidence_does_not_read(true: Kept, tree: WeightTree) -> None:
    for place in (("tensor", 2, "embedding", 0, 7), ("tensor", 3, "logits", 0, 4), ("following", 2)):
        outcome = disputed(true, tree, lying(true, place))
        found = [told(outcome, **more) for more in ({}, {"layer": 1}, {"chunk": 5}, {"layer": 1, "chunk": 9})]
        assert len({one.lie for one in found if one is not None}) == 1
        assert None not in found, "these numbers are free"


def test_a_false_sum_of_a_long_attention_is_one_lie(tree: WeightTree) -> None:
    """It shows in every value of its head, and in the sum of the chunks as in the chunk."""
    prompt = [(5 * n * n + n) % 264 for n in range(300)]
    true = traced(toy_model(), prompt, 2, Sampling())
    hd = true.config.head
    lies: dict[int, str] = {}
    for index in (0, 3, hd):
        found = set()
        for one in (true, again(true, 300, 290, Sampling(seed=b"\1" * 32)), again(true, 299, 299)):
            outcome = disputed(one, tree, lying(one, ("long", 290, 1, index, 0, 1), 5))
            made = told(outcome)
            assert made is not None
            found.add(made.lie)
        assert len(found) == 1
        lies[index] = found.pop()
    assert lies[0] == lies[3] != lies[hd]
