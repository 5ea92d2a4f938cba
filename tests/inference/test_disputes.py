"""Disputes down to one value, and their judge (HPI-1, section 13): liars are convicted, the honest never."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from hyperpy.errors import CodecError, HyperpyError
from hyperpy.inference import evidence, gguf, judging, reference, statements, tables, toy, traces, weights
from hyperpy.inference.commitments import OPS
from hyperpy.inference.disputes import ROUNDS, Answer, Question, Refused, dispute
from hyperpy.inference.engines import toy_model
from hyperpy.inference.evidence import Evidence, size_of
from hyperpy.inference.generation import generate
from hyperpy.inference.model import Model, config_of
from hyperpy.inference.openings import Openings, columns_part
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.traces import Trace, WeightTree
from hyperpy.message import Message, Value
from tests.inference.lying import Kept, Place, disputed, judged, long_places, lying, places

PROMPT = [5, 6, 7, 200]
LIMIT = 80 << 10

pytestmark = pytest.mark.timeout(300)


def traced(model: Model, prompt: list[int], answer: int, sampling: Sampling) -> Kept:
    engine = reference.Engine(model)
    made = [token.ident for token in generate(engine, prompt, sampling, answer)]
    true = Kept(engine, weights.weight_root(dict(model.weights)), [*prompt, *made[:-1]], len(prompt), sampling)
    assert true.chosen == made[-1]
    return true


@pytest.fixture(scope="module")
def tree() -> WeightTree:
    return WeightTree(toy_model().weights)


@pytest.fixture(scope="module")
def true() -> Kept:
    return traced(toy_model(), PROMPT, 9, Sampling())


@pytest.fixture(scope="module")
def drawn() -> Kept:
    return traced(toy_model(), PROMPT, 6, Sampling(t16=65536 * 20, top_k=50, p16=60000, seed=bytes(range(32))))


@pytest.fixture(scope="module")
def long() -> Kept:
    prompt = [(5 * n * n + n) % 264 for n in range(598)]
    return traced(toy_model(), prompt, 3, Sampling())


def other_toy(architecture: str) -> Model:
    parsed = gguf.parse(memoryview(toy.gguf_bytes(architecture=architecture)))
    found = {name: weights.convert(tensor) for name, tensor in parsed.tensors.items()}
    return Model(config_of(parsed.metadata), found, weights.model_id(found))


# -- liars ------------------------------------------------------------------------------------------


def convicted(true: Trace, tree: WeightTree, place: Place, delta: int) -> tuple[str, int, int]:
    """Return how a liar about one place is convicted: kind of evidence, bytes, round trips."""
    outcome = disputed(true, tree, lying(true, place, delta))
    assert outcome.evidence is not None, place
    found, size = judged(outcome)
    assert found.false, (place, found)
    assert size <= LIMIT
    assert outcome.rounds <= ROUNDS
    return outcome.evidence.kind, size, outcome.rounds


def test_a_thousand_lies(true: Kept, tree: WeightTree) -> None:
    """One value of a computation is flipped, at a random place of every op, of the cache, of ids and states."""
    kinds, rounds = Counter[str](), Counter[int]()
    rng = random.Random(5)
    for place in places(true, 1000, seed=11):
        kind, _, taken = convicted(true, tree, place, rng.choice((1, -1, 2, 1000, 2**31)))
        kinds[kind] += 1
        rounds[taken] += 1
    assert set(kinds) == {"embedding", *OPS, "output_norm", "logits", "cache", "chosen", "state"}
    assert set(rounds) == {2, 4}


def test_lies_about_drawn_tokens(drawn: Kept, tree: WeightTree) -> None:
    for place in places(drawn, 60, seed=12):
        convicted(drawn, tree, place, 1)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_lies_of_other_architectures(architecture: str) -> None:
    model = other_toy(architecture)
    mine = traced(model, PROMPT, 5, Sampling())
    own = WeightTree(model.weights)
    for place in places(mine, 80, seed=13):
        convicted(mine, own, place, 1)


def test_lies_far_into_a_sequence(long: Kept, tree: WeightTree) -> None:
    """Beyond 256 positions an attention is shown by its partials, and a liar may lie in these too."""
    kinds = Counter(convicted(long, tree, place, n)[0] for n, place in enumerate(long_places(long, 60, seed=14), 1))
    assert set(kinds) == {"attention-sum", "attention-chunk"}
    for place in places(long, 40, seed=15):
        convicted(long, tree, place, 1)
    for position, rounds in ((3, 3), (255, 3), (256, 3), (511, 3), (512, 2), (599, 2)):
        assert convicted(long, tree, ("cache", 1, 0, position, 40), 1)[2] == rounds


class Bent(reference.Engine):
    """An engine that computes one value wrong, and goes on with it."""

    def linear(self, digits: Any, shift: Any, matrix: Any, fin: int, fout: int) -> Any:
        made = super().linear(digits, shift, matrix, fin, fout)
        if matrix is self.model.matrix("blk.1.ffn_up"):
            made[:, 9] += 1
        return made


class Forgetful(reference.Engine):
    """An engine whose cache changes behind its back."""

    def layer(self, layer: int, x: Any, cache: Any, note: Any) -> Any:
        made = super().layer(layer, x, cache, note)
        if layer == 0 and cache.length == 3:
            cache.k[0, 0, 3, 5] ^= 64
        return made


def test_a_lie_that_everything_behind_it_follows_from(true: Kept, tree: WeightTree) -> None:
    claimant = Trace(Bent(true.engine.model), true.statement.weights, true.ids, len(PROMPT), Sampling())
    outcome = disputed(true, tree, claimant)
    assert outcome.evidence is not None
    assert (outcome.evidence.kind, outcome.evidence.layer, outcome.evidence.index) == ("up", 1, 9)
    assert judged(outcome)[0].false


def test_a_cache_that_rotted(true: Kept, tree: WeightTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "CHUNK", 1)
    claimant = Trace(Forgetful(true.engine.model), true.statement.weights, true.ids, len(PROMPT), Sampling())
    same = [one == other for one, other in zip(claimant.tokens, true.tokens, strict=True)]
    assert same == [True] * 4 + [False] * (len(same) - 4)
    outcome = disputed(true, tree, claimant)
    assert outcome.evidence is not None
    assert (outcome.evidence.kind, outcome.evidence.token, outcome.rounds) == ("cache", 3, 3)
    assert judged(outcome)[0].false


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(t16=65536, seed=bytes(32))])
def test_an_answer_with_a_token_that_was_not_chosen(true: Kept, tree: WeightTree, sampling: Sampling) -> None:
    """The ids were handed out like this: both parties read them alike, and one token of the answer is a lie."""
    honest = traced(toy_model(), PROMPT, 6, sampling)
    ids = list(honest.ids)
    ids[6] = (ids[6] + 1) % 264
    both = Kept(honest.engine, honest.statement.weights, ids, len(PROMPT), sampling)
    outcome = disputed(both, tree, both)
    assert outcome.evidence is not None
    assert (outcome.evidence.kind, outcome.evidence.token) == ("choice", 5)
    assert judged(outcome)[0].false
    inside = Kept(honest.engine, honest.statement.weights, ids, 7, sampling)
    if all(inside.following(at) == choice for at, choice in inside.choices.items()):
        assert disputed(inside, tree, inside).evidence is None, "what a prompt says was not chosen by anybody"


def test_a_chosen_id_that_is_stated_and_committed_to(true: Kept, tree: WeightTree, drawn: Kept) -> None:
    for honest in (true, drawn):
        last = len(honest.ids) - 1
        liar = lying(honest, ("following", last))
        liar.chosen = liar.following(last)
        outcome = disputed(honest, tree, liar)
        assert outcome.evidence is not None
        assert outcome.evidence.kind == "choice"
        assert judged(outcome)[0].false


def test_ids_hashed_in_two_ways(true: Kept, tree: WeightTree) -> None:
    liar = lying(true, ("state", 0), 0)
    liar.state = true.state
    liar.__dict__["statement"] = dataclasses.replace(true.statement, ids=bytes(32))
    outcome = disputed(true, tree, liar)
    assert outcome.evidence is not None
    assert (outcome.evidence.kind, judged(outcome)[0].false) == ("ids", True)


# -- who does not open -----------------------------------------------------------------------------------


def test_what_does_not_hash_up_is_a_refusal(true: Kept, tree: WeightTree, long: Kept) -> None:
    """Any byte of any answer changed on its way: the dispute ends as refused, and convicts nobody of anything else."""
    rng, seen = random.Random(3), Counter[str]()
    for honest, place in (
        (true, ("tensor", 5, "up", 1, 7)),
        (true, ("cache", 0, 0, 4, 3)),
        (long, ("long", 590, 1, 5, 1, 1)),
    ):
        liar = lying(honest, place)
        for _ in range(120):
            target, count = rng.randrange(6), iter(range(100))

            def ask(
                questions: Sequence[Question], liar: Trace = liar, target: int = target, count: Any = count
            ) -> list[Answer]:
                made = []
                for one in questions:
                    data = bytearray(liar.answer(one))
                    if next(count) == target:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                    made.append(Answer(bytes(data)))
                return made

            try:
                outcome = dispute(honest, tree, ask)
            except Refused:
                seen["refused"] += 1
                continue
            assert judged(outcome)[0].false
            seen["convicted"] += 1
    assert seen["refused"] > 200
    assert seen["convicted"] > 0, "some bytes are of no matter"


def test_a_statement_about_something_else_is_refused(true: Kept, tree: WeightTree, drawn: Kept) -> None:
    for other in (drawn, Kept(true.engine, bytes(32), true.ids, len(PROMPT), Sampling())):
        with pytest.raises(Refused, match="about something else"):
            disputed(true, tree, other)


def test_questions_that_make_no_sense(true: Kept) -> None:
    for question in (
        {},
        {"ask": b"everything"},
        {"ask": b"token", "token": len(true.ids)},
        {"ask": b"token", "token": -1},
        {"ask": b"token", "token": b"1e3"},
        {"ask": b"leaves", "op": b"thing"},
        {"ask": b"leaf", "op": b"q", "number": 1},
        {"ask": b"partials", "token": 3},
        {"ask": b"entries", "chunk": 1},
        {"ask": b"cache", "layer": 2},
    ):
        with pytest.raises(HyperpyError):
            true.answer(question)


# -- the honest ---------------------------------------------------------------------------------------------


def accusation(true: Trace, opened: Openings, op: str, token: int, index: int) -> Evidence:
    """Return evidence about one value of an honest computation, all openings in order; layer 1."""
    out = opened.tensor(token, op, 1, index, index + 1)
    parts: dict[str, Value] = {**opened.inputs(token, op, 1, index), "out": out}
    return Evidence(op, token, 1, index, 0, Message.make(parts))


def test_the_honest_agree(true: Kept, tree: WeightTree, drawn: Kept, long: Kept) -> None:
    for honest in (true, drawn, long):
        outcome = disputed(honest, tree, honest)
        assert (outcome.evidence, outcome.rounds) == (None, 1)


def test_no_true_value_convicts(true: Kept, tree: WeightTree) -> None:
    opened = Openings.own(true, tree, 1, 0)
    for op in ("embedding", *OPS, "output_norm", "logits"):
        for token in (0, 7, len(true.ids) - 1):
            for index in {0, 31, size_of(true.config, op) - 1}:
                found = judging.judge(true.statement, accusation(true, opened, op, token, index))
                assert not found.false, (op, token, index, found)


def honest_evidence(true: Kept, tree: WeightTree) -> list[tuple[statements.Statement, Evidence]]:
    """Return evidence of every op against an honest statement, and of liars against their own."""
    opened = Openings.own(true, tree, 1, 6)
    found = [
        (true.statement, accusation(true, opened, op, 6, 13)) for op in ("embedding", *OPS, "output_norm", "logits")
    ]
    for place in (*places(true, 20, seed=21), ("tensor", 5, "logits", 0, 261)):
        outcome = disputed(true, tree, lying(true, place))
        assert outcome.evidence is not None
        found.append((true.statement, outcome.evidence))
    return found


def test_proofs_about_a_liar_show_nothing_of_the_honest(true: Kept, tree: WeightTree, drawn: Kept) -> None:
    for place in places(true, 60, seed=22):
        outcome = disputed(true, tree, lying(true, place))
        assert outcome.evidence is not None
        for honest in (true, drawn):
            try:
                found = judging.judge(honest.statement, outcome.evidence)
            except CodecError:
                continue
            assert not found.false, (place, found)


def test_changed_proofs_never_convict_the_honest(true: Kept, tree: WeightTree) -> None:
    """Bytes, numbers and parts of evidence changed at random: an error, or the value is true."""
    rng, seen = random.Random(7), Counter[str]()
    given = honest_evidence(true, tree)
    for _ in range(6000):
        statement, found = rng.choice(given)
        data = bytearray(found.encode())
        what = rng.randrange(3)
        if what == 0:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif what == 1:
            other = rng.choice(given)[1]
            changed: dict[str, Any] = {rng.choice(("token", "layer", "index", "chunk")): rng.randrange(12)}
            if rng.random() < 0.5:
                changed["kind"] = other.kind
            data = bytearray(dataclasses.replace(found, **changed).encode())
        else:
            other = rng.choice(given)[1]
            mixed = {**found.parts.raw_items(), **dict(rng.sample(list(other.parts.raw_items().items()), 1))}
            data = bytearray(dataclasses.replace(found, parts=Message.make(mixed)).encode())
        try:
            verdict = judging.judge(statement, evidence.read(bytes(data)))
        except CodecError:
            seen["error"] += 1
            continue
        assert not verdict.false, (found.kind, verdict)
        seen["true"] += 1
    assert seen["error"] > 3000
    assert seen["true"] > 50


def test_changed_proofs_of_long_attentions(long: Kept, tree: WeightTree) -> None:
    """An honest party that was asked for its partials cannot be convicted by what they are mixed with."""
    rng, token = random.Random(8), 590
    signed = statements.read_partials(long.answer({"ask": b"partials", "token": token, "layer": 1}))
    given = []
    for number in range(4):
        outcome = disputed(long, tree, lying(long, ("long", token, 1, 20 + number, number % 3 - 1, 1)))
        assert outcome.evidence is not None
        given.append(outcome.evidence)
    opened = Openings.own(long, tree, 1, token)
    own = long.columns(token, 1)
    digests = [weights.trees.leaf(one) for one in own]
    numbers = [0, 6]
    part = columns_part([own[at] for at in numbers], numbers, digests)
    for chunk in range(3):
        parts = {**opened.attention(token, 1, 5, chunk), "columns": part}
        fair = Evidence("attention-chunk", token, 1, 5, chunk, Message.make(parts))
        assert not judging.judge(long.statement, fair, signed).false
        given.append(fair)
    out = opened.tensor(token, "attention", 1, 5, 6)
    fair = Evidence("attention-sum", token, 1, 5, 0, Message.make({"columns": part, "out": out}))
    assert not judging.judge(long.statement, fair, signed).false
    with pytest.raises(CodecError, match="signed partials"):
        judging.judge(long.statement, fair)
    for _ in range(300):
        data = bytearray(rng.choice([*given, fair]).encode())
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            found = judging.judge(long.statement, evidence.read(bytes(data)), signed)
        except CodecError:
            continue
        assert not found.false


# -- hostile bytes ------------------------------------------------------------------------------------------


def test_no_statement_crashes(true: Kept, tree: WeightTree) -> None:
    """A liar's statement may say anything: it is refused, or judged by what it says."""
    rng, data = random.Random(9), true.statement.encode()
    assert statements.read(data) == true.statement
    given = honest_evidence(true, tree)
    read = 0
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            statement = statements.read(bytes(changed))
        except CodecError:
            continue
        read += 1
        try:
            judging.judge(statement, rng.choice(given)[1])
        except CodecError:
            continue
    assert read > 100
    for junk in (b"", b"\xc1", bytes(70_000), b"\x80", data[:-1], data + b"\0"):
        for reader in (statements.read, statements.read_partials, evidence.read):
            with pytest.raises(CodecError):
                reader(junk)


def test_a_shape_beyond_the_bounds_is_refused(true: Kept) -> None:
    config = true.config
    for changed in (
        {"layers": 10**9},
        {"vocabulary": 1 << 30},
        {"width": 33},
        {"eps": float("nan")},
        {"rope_base": 0.5},
        {"fr": 13},
        {"heads": 0},
        {"rope_factors": (0.0,) * 16},
    ):
        with pytest.raises(CodecError):
            statements.read_config(dataclasses.replace(config, **changed).text.encode())
    for text in (
        b"[]",
        b"{}",
        b"null",
        b'{"layers": 1}',
        b"[" * 20_000,
        config.text.replace('"eps"', '"bps"').encode(),
    ):
        with pytest.raises(CodecError):
            statements.read_config(text)


def test_rotations_without_those_before_them() -> None:
    for base, factors in ((10000.0, (1.0,) * 16), (500000.0, tuple(1.0 + n for n in range(16)))):
        rows = tables.Rope(base, 16, factors).upto(1500)
        for position in (0, 1, 2, 3, 63, 64, 255, 1024, 1499):
            for pair in range(16):
                found = tables.rope_entry(base, 16, factors[pair], pair, position)
                assert found == tuple(rows[position, pair])
