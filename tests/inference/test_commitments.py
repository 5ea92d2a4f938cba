"""Commitments (HPI-1, section 12): every level, against a second implementation written from the specification."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hyperpy.errors import CodecError, Corrupt
from hyperpy.inference import commitments, reference, trees
from hyperpy.inference.engines import build, toy_model
from hyperpy.inference.generation import generate
from hyperpy.inference.model import Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tokenizer import Tokenizer
from hyperpy.inference.weights import Matrix
from tests.inference import independent_commitments as second

HERE = Path(__file__).parent
PROMPT = json.loads((HERE / "golden.json").read_text("utf-8"))[0]["prompt_tokens"]
ROOTS = json.loads((HERE / "roots.json").read_text("utf-8"))
"""Golden roots after prompt 1, from which the first token is chosen."""


def session_of(model: Model, positions: int) -> second.Session:
    """Return a session of the second implementation, on the same weights."""
    weights: dict[str, Any] = {
        name: second.Rows(w.q, w.d, w.m, w.rm, w.re)
        if isinstance(w, Matrix)
        else second.Vector([int(g) for g in w.g], w.eg)
        for name, w in model.weights.items()
    }
    c = model.config
    shape = second.Shape(c.layers, c.width, c.heads, c.kv_heads, c.eps, c.rope_base, c.fr)
    return second.Session(weights, shape, positions)


def levels(engine: reference.Engine, ids: list[int], first: int) -> list[dict[str, Any]]:
    made = list(commitments.replayed(engine, ids, first))
    states = [one.state for one in made]
    found = commitments.told(engine, ids, first, states, 3)
    return [{"state": state.hex(), **one} for state, one in zip(states, found, strict=True)]


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_every_level_is_the_second_implementations(name: str) -> None:
    engine = build(name, toy_model())
    assert isinstance(engine, reference.Engine)
    prompt = [(5 * n * n + n) % 264 for n in range(69)]
    made = [token.ident for token in generate(engine, prompt, Sampling(), 5)]
    ids = [*prompt, *made]
    found = levels(engine, ids, len(prompt))
    other = session_of(engine.model, len(ids))
    for at, ident in enumerate(ids[:-1]):
        x = other.read(ident)
        if at >= len(prompt) - 1:
            wanted = second.commitments(other, x, engine.model.ident, ids[at + 1])
            assert found[at - len(prompt) + 1] == wanted, at
    assert len(found) == 5


def test_one_token_of_prompt() -> None:
    engine = reference.Engine(toy_model())
    other = session_of(engine.model, 2)
    wanted = second.commitments(other, other.read(7), engine.model.ident, 9)
    assert levels(engine, [7, 9], 1) == [wanted]


def test_a_wrong_state_is_noticed() -> None:
    engine = reference.Engine(toy_model())
    with pytest.raises(Corrupt, match="computes wrong"):
        commitments.told(engine, [7, 9], 1, [bytes(32)], 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_golden_roots(name: str, smollm2: tuple[Model, Tokenizer]) -> None:
    engine = build(name, smollm2[0])
    assert isinstance(engine, reference.Engine)
    assert levels(engine, [*PROMPT, 504], len(PROMPT)) == [ROOTS]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_golden_roots_of_the_second_implementation(smollm2: tuple[Model, Tokenizer]) -> None:
    other = session_of(smollm2[0], len(PROMPT))
    x: list[int] = []
    for ident in PROMPT:
        x = other.read(ident)
    _, logits = other.end(x)
    assert max(range(len(logits)), key=lambda n: (logits[n], -n)) == 504
    assert second.commitments(other, x, smollm2[0].ident, 504) == ROOTS


def test_published_roots_are_the_golden_ones() -> None:
    text = (HERE.parents[1] / "docs" / "determinism.md").read_text("utf-8")
    flat = "".join(root for layer in ROOTS["ops"] for root in layer)
    shown = [ROOTS[name] for name in ("state", "session", "token", "cache", "embedding", "norm", "logits")]
    shown += [ROOTS["layers"][0], ROOTS["layers"][29], *ROOTS["ops"][0]]
    shown += [hashlib.sha256(bytes.fromhex(part)).hexdigest() for part in ("".join(ROOTS["layers"]), flat)]
    assert [one for one in shown if one not in text] == []


# -- trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 34, 192])
def test_paths_lead_to_the_root_and_nothing_else_does(count: int) -> None:
    leaves = [trees.leaf(bytes([n])) for n in range(count)]
    root = second.tree(leaves)
    assert trees.root(leaves) == root
    for number in range(count):
        siblings = trees.path(leaves, number)
        assert trees.climb(leaves[number], number, count, siblings) == root
        for other in {0, count - 1, number ^ 1} - {number}:
            if other < count:
                try:
                    assert trees.climb(leaves[number], other, count, siblings) != root
                except CodecError:
                    continue
        with pytest.raises(CodecError, match="too long"):
            trees.climb(leaves[number], number, count, [*siblings, bytes(32)])
        if siblings:
            with pytest.raises(CodecError, match="too short"):
                trees.climb(leaves[number], number, count, siblings[:-1])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 255, 256, 300])
def test_a_range_grows_into_the_same_bag(count: int) -> None:
    grown, entries = trees.Range(), [trees.leaf(n.to_bytes(2, "big")) for n in range(count)]
    for one in entries:
        grown.add(one)
    assert grown.bag == trees.bag(trees.peaks_of(entries)) == second.mountain(entries)
