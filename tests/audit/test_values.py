"""Language models' answers disputed over HTTP: liars convicted by their own word, the honest by nobody's."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, hashpath
from hyperpy.audit import fault, values
from hyperpy.audit.values import Claimant, Disputed, Told, computed, disputed
from hyperpy.commitments import commit
from hyperpy.errors import CodecError, UpstreamError
from hyperpy.fault_proof import Claim, Proof, from_bytes, to_bytes
from hyperpy.inference import reference, standing, toy, weights
from hyperpy.inference.disputes import Refused
from hyperpy.inference.engines import toy_model
from hyperpy.inference.library import Library
from hyperpy.inference.traces import Trace, WeightTree
from hyperpy.message import As
from hyperpy.testing import node, wallet
from tests.audit.liars import Served, corrupt, judged, served, signed
from tests.inference.lying import Kept, lying, places

pytestmark = pytest.mark.timeout(300)
CHAT = "/~inference@1.0/v1/chat/completions"
ASKED = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}


@pytest.fixture(autouse=True)
def unprotected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no test wait for the disputes of the one before."""
    monkeypatch.setattr(standing, "PROTECTED", 0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "toy.gguf").write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(folder / "toy.gguf", "toy")
    return folder / "kept"


@contextmanager
def serving(name: str, models: Path) -> Iterator[Served]:
    flags = {"inference.models": str(models), "inference.engine": "reference"}
    with served(name, flags=flags) as made:
        yield made


@pytest.fixture(scope="module")
def honest(models: Path) -> Iterator[Served]:
    with serving("honest", models) as made:
        yield made


@pytest.fixture
def liar(models: Path) -> Iterator[Served]:
    with serving("liar", models) as made:
        yield made


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A judge without any model."""
    with node(flags={"inference.models": str(tmp_path_factory.mktemp("none"))}) as made:
        yield made.node


@pytest.fixture(scope="module")
def tree() -> WeightTree:
    return WeightTree(toy_model().weights)


def answer_of(at: Served, **more: Any) -> Told:
    """Return a signed answer of a node, as a file keeps it."""
    reply = at.peer.post(CHAT, json.dumps({**ASKED, "temperature": 0, **more}).encode())
    assert reply.get("status") == 200
    return values.told(fault.reply_bytes(reply))


def own(answer: Told) -> Trace:
    model = toy_model()
    return computed(reference.Engine(model), weights.weight_root(dict(model.weights)), answer)


def lie(at: Served, change: Callable[[Kept], Trace]) -> None:
    """Have a node stand for something else than it computed."""
    kept_here = at.node.models.standing
    true = kept_here.of

    def false(*args: Any) -> Trace:
        made = true(*args)
        kept = Kept.__new__(Kept)
        kept.__dict__.update(made.__dict__)
        claimed = change(kept)
        with kept_here._lock:
            found = kept_here._made[args[0].name].future
            found._result = claimed  # type: ignore[attr-defined]
        return claimed

    kept_here.of = false  # type: ignore[method-assign]


def proven(at: Served, tree: WeightTree, answer: Told) -> Disputed:
    return disputed(at.peer, answer, own(answer), tree)


@pytest.mark.parametrize("number", range(20))
def test_a_lying_node_is_convicted_over_http(number: int, liar: Served, third: Any, tree: WeightTree) -> None:
    """Each kind of lie, told by a real node; the judge has the proof's file alone."""
    answer = answer_of(liar, temperature=number % 2)
    lie(liar, lambda true: lying(true, places(true, 20, seed=31)[number]))
    found = proven(liar, tree, answer)
    assert found.proof is not None
    assert found.proof.kind == "wrong-value"
    assert found.rounds <= 4
    data = to_bytes(signed(found.proof))
    assert len(data) < 16 << 10
    verdict = judged(third, from_bytes(data))
    assert (verdict.text("verdict"), verdict.text("accused")) == ("guilty", liar.address), verdict.text("reason")
    assert verdict["expected"] != verdict["got"]


def test_a_long_attention_over_http(liar: Served, third: Any, tree: WeightTree) -> None:
    """Two signed replies convict: the statement, and the partials of the attention."""
    answer = answer_of(liar, messages=[{"role": "user", "content": "the thin hill " * 40}], max_tokens=2)
    assert len(answer.prompt) > 256
    token = len(answer.prompt) - 2
    lie(liar, lambda true: lying(true, ("long", token, 1, 40, 1, 0)))
    found = proven(liar, tree, answer)
    assert found.proof is not None
    assert len(found.proof.claims) == 2
    data = to_bytes(signed(found.proof))
    assert len(data) < 80 << 10
    assert judged(third, from_bytes(data)).text("verdict") == "guilty"
    without = dataclasses.replace(found.proof, claims=found.proof.claims[:1])
    assert judged(third, signed(without)).text("verdict") == "undecided"


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_honest_node_is_not_accused(honest: Served, tree: WeightTree, temperature: int) -> None:
    for level in range(4):
        found = proven(honest, tree, answer_of(honest, temperature=temperature, level=level))
        assert (found.proof, found.rounds, found.agreed) == (None, 1, True)


LIES = (
    *("a token", "a state", "the last state", "an early state"),
    *("session", "token", "cache", "embedding", "layers", "norm", "logits", "ops", "no ops", "no roots"),
)


@pytest.mark.parametrize("what", LIES)
def test_a_false_answer_of_a_node_that_computes_right(what: str, liar: Served, third: Any, tree: WeightTree) -> None:
    """What it answered differs from what it stands for: both are its word."""

    def change(found: Any, asked: Any) -> Any:
        document = json.loads(found["body"])
        ids, states = document["choices"][0]["token_ids"], document["hyperpy"]["states"][0]
        if what == "a token":
            ids[4] = (ids[4] + 1) % 264
        elif what == "a state":
            states[len(ids) - 1] = "00" * 32
        elif what == "an early state":
            states[2] = "00" * 32
        elif what == "the last state":
            states[len(ids) - 1] = document["hyperpy"]["state"][0] = "11" * 32
        else:
            roots = document["hyperpy"]["commitments"][0]
            if what == "no ops":
                roots[3]["ops"] = []
            elif what == "no roots":
                roots[3] = {}
            else:
                found_in = {"layers": roots[3]["layers"], "ops": roots[3]["ops"][1]}.get(what, roots[3])
                found_in[what if found_in is roots[3] else 1] = "22" * 32
        return found | {"body": json.dumps(document).encode()}

    honest_answer = answer_of(liar)
    corrupt(liar.node, "inference@1.0", "completions", change)
    answer = answer_of(liar, seed=1, level=3 if LIES.index(what) > 3 else 1)
    found = proven(liar, tree, answer)
    assert found.proof is not None
    assert found.proof.kind == "wrong-answer"
    verdict = judged(third, from_bytes(to_bytes(signed(found.proof))))
    assert (verdict.text("verdict"), verdict.text("accused")) == ("guilty", liar.address), verdict.text("reason")
    unsigned = dataclasses.replace(answer, reply=None)
    assert disputed(liar.peer, unsigned, own(unsigned), tree).proof is None, "what nobody signed shows nothing"
    if LIES.index(what) < 4:
        assert honest_answer.ids != answer.ids or honest_answer.states != answer.states
        return
    assert not proven(liar, tree, dataclasses.replace(answer, roots=())).proof, "only the roots are false"
    other = dataclasses.replace(found.proof, value=b"")
    assert judged(third, signed(other)).text("verdict") == "not-guilty"
    for junk in (b"\x80", found.proof.value[:-1], found.proof.value.replace(b"ops", b"pos")):
        bad = dataclasses.replace(found.proof, value=junk)
        assert judged(third, signed(bad)).text("verdict") == "undecided"


def wrong_answer(at: Served, answer: Told) -> Proof:
    """Return an accusation of an answer that is right."""
    claimant = Claimant(at.peer, answer.reference, own(answer))
    claimant([{"ask": b"tokens"}])
    (statement,) = claimant([{"ask": b"statement"}])
    assert answer.reply is not None
    claim, account = fault.with_account(at.peer, answer.reply, at.address)
    return Proof("wrong-answer", at.address, (claim, statement.word), (account,))


def test_the_honest_are_never_convicted(honest: Served, liar: Served, third: Any, tree: WeightTree) -> None:
    """Accusations of all forms: true ones about others, parts of another's, other questions, changed bytes."""
    answer = answer_of(honest)
    fair = wrong_answer(honest, answer)
    assert judged(third, signed(fair)).text("verdict") == "not-guilty"
    other = wrong_answer(honest, answer_of(honest, messages=[{"role": "user", "content": "bye"}]))
    mixed = dataclasses.replace(fair, claims=(fair.claims[0], other.claims[1]))
    assert judged(third, signed(mixed)).text("verdict") == "undecided"
    lie(liar, lambda true: lying(true, ("tensor", 5, "up", 1, 7)))
    guilty = proven(liar, tree, answer_of(liar)).proof
    assert guilty is not None
    word = fair.claims[1]
    assert word.base is not None
    assert word.request is not None
    cases = {
        "another's proof": dataclasses.replace(guilty, accused=honest.address),
        "a liar's value": dataclasses.replace(guilty, accused=honest.address, claims=(word,)),
        "no value": dataclasses.replace(guilty, accused=honest.address, claims=(word,), value=b""),
        "no claims": dataclasses.replace(guilty, accused=honest.address, claims=()),
        "junk": dataclasses.replace(guilty, accused=honest.address, claims=(word,), value=b"\xc1" * 99),
        "an answer as a value's": dataclasses.replace(fair, kind="wrong-value", accounts=(), value=guilty.value),
        "another key": dataclasses.replace(guilty, accused=honest.address, claims=(tokens_of(honest, answer),)),
    }
    for name, case in cases.items():
        assert judged(third, signed(case)).text("verdict") == "undecided", name
    rng = random.Random(4)
    for proof in (fair, dataclasses.replace(guilty, accused=honest.address, claims=(word,))):
        body = signed(proof).get("body")
        assert isinstance(body, bytes)
        for _ in range(60):
            data = bytearray(body)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            kind, accused = proof.kind.encode(), honest.address.encode()
            plain = Message({"type": "fault-proof", "v": 1, "kind": kind, "accused": accused, "body": bytes(data)})
            assert judged(third, commit(plain, wallet("challenger"))).text("verdict") != "guilty"


def tokens_of(at: Served, answer: Told) -> Claim:
    """Return a signed answer to another question of a dispute."""
    claimant = Claimant(at.peer, answer.reference, own(answer))
    claimant([{"ask": b"tokens"}])
    (found,) = claimant([{"ask": b"token", "token": 3}])
    assert isinstance(found.word, Claim)
    return found.word


def test_a_statement_that_a_node_was_made_to_sign_is_no_word(honest: Served, third: Any, tree: WeightTree) -> None:
    """Anybody may have a reply with any body signed, by another device or another key."""
    true = own(answer_of(honest))
    false = lying(Kept(true.engine, true.statement.weights, true.ids, true.prompt, true.sampling), ("state", 3))
    body = false.statement.encode()
    words = Message({"body": body, "status": 200})
    evidence = state_evidence(true, tree)
    for base, request in (
        (Message({"device": "message@1.0", "body": body}), Message({"path": "opening", "ask": "statement"})),
        (Message({"device": "inference@1.0", "body": body}), Message({"path": "get", "ask": "statement"})),
        (Message({"device": "inference@1.0"}), Message({"path": "opening", "ask": "leaf"})),
        (Message({"device": "inference@1.0", "opening": body}), Message({"path": "opening", "ask": "statement"})),
        (
            Message({"device": "inference@1.0", "x": Message({"y": 1})}),
            Message({"path": "opening", "ask": "statement"}),
        ),
    ):
        reply = commit(words, wallet("honest"), tag=hashpath.extend(base, request))
        proof = Proof("wrong-value", honest.address, (Claim(reply, base, request),), value=evidence)
        assert judged(third, signed(proof)).text("verdict") == "undecided"
    base, request = Message({"device": "inference@1.0"}), Message({"path": "opening", "ask": "statement"})
    reply = commit(words, wallet("honest"), tag=hashpath.extend(base, request))
    proof = Proof("wrong-value", honest.address, (Claim(reply, base, request),), value=evidence)
    assert judged(third, signed(proof)).text("verdict") == "guilty", "the very form counts: the test can fail"


def test_casts_and_stored_messages_give_no_word(honest: Served, third: Any, tree: WeightTree) -> None:
    """Over HTTP: a base that holds the key itself, read as a plain message, is no answer of inference@1.0."""
    true = own(answer_of(honest))
    false = lying(Kept(true.engine, true.statement.weights, true.ids, true.prompt, true.sampling), ("state", 3))
    body, evidence = false.statement.encode(), state_evidence(true, tree)
    kept = Message({"device": "inference@1.0", "opening": body})
    ident = commitments.unsigned_id(kept)
    honest.node._lend["store"].write(kept)
    got = 0
    for path in (
        f"/{ident}~message@1.0/opening?ask=statement",
        f"/{ident}/opening~message@1.0?ask=statement",
        f"/{ident}/opening?ask=statement&device=message@1.0",
        f"/{ident}/opening?ask=statement&name=x",
    ):
        asked = honest.peer.ask(path)
        got += asked.reply.get("body") == body
        requests = [one.message if isinstance(one, As) else one for one in asked.members[1:]]
        for base in (kept, kept | {"device": "message@1.0"}, Message({"device": "inference@1.0"})):
            for request in requests:
                assert isinstance(request, Message)
                proof = Proof("wrong-value", honest.address, (Claim(asked.reply, base, request),), value=evidence)
                assert judged(third, signed(proof)).text("verdict") == "undecided", path
    assert got >= 2, "the node did sign these bytes"


def state_evidence(true: Trace, tree: WeightTree) -> bytes:
    from hyperpy.inference.evidence import Evidence
    from hyperpy.inference.openings import Openings

    last = len(true.ids) - 1
    logits = Openings.own(true, tree, 0, last).tensor(last, "logits", 0)
    return Evidence("state", last, parts=Message.make({"in": logits})).encode()


def test_nobody_stands_for_ids_that_were_not_chosen(honest: Served) -> None:
    """Else whoever asks could have an honest node state a falsehood."""
    answer = answer_of(honest)
    ids = [*answer.prompt, *answer.ids[:-1]]
    ids[-1] = (ids[-1] + 1) % 264
    asked = {"model": answer.reference, "ids": ids, "prompt": len(answer.prompt)}
    reply = honest.peer.post("/~inference@1.0/dispute", json.dumps(asked).encode())
    assert reply.get("status") == 400
    assert b"not this model's answer" in reply["body"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "toy"},
        {"ids": []},
        {"ids": "1,2"},
        {"ids": [1, -1]},
        {"ids": [1, 10**6]},
        {"ids": [1, 2**31]},
        {"ids": [10**30]},
        {"prompt": 0},
        {"prompt": 99},
        {"t16": 5},
        {"seed": "x"},
        {"p16": 0},
        {"ids": [1] * 2049},
    ],
)
def test_disputes_that_make_no_sense(honest: Served, wrong: dict[str, Any]) -> None:
    answer = answer_of(honest)
    asked = {"model": answer.reference, "ids": list(answer.prompt), **wrong}
    reply = honest.peer.post("/~inference@1.0/dispute", json.dumps(asked).encode())
    assert reply.get("status") in (400, 413)
    assert honest.peer.ask("/~inference@1.0/opening?name=nothing&ask=statement").reply.get("status") == 404


def test_few_computations_are_kept(honest: Served) -> None:
    answer = answer_of(honest)
    names = []
    for more in range(6):
        asked = {"model": answer.reference, "ids": [*answer.prompt, more]}
        reply = honest.peer.post("/~inference@1.0/dispute", json.dumps(asked).encode())
        names.append(reply.text("name"))
    found = [honest.peer.ask(f"/~inference@1.0/opening?name={one}&ask=statement").reply.get("status") for one in names]
    assert found == [404, 404, 200, 200, 200, 200]


def test_a_node_that_does_not_open(liar: Served, tree: WeightTree) -> None:
    answer = answer_of(liar)
    lie(liar, lambda true: lying(true, ("tensor", 5, "up", 1, 7)))
    corrupt(liar.node, "inference@1.0", "opening", lambda found, asked: found | {"body": b"\x80"})
    with pytest.raises(Refused):
        proven(liar, tree, answer)
    corrupt(liar.node, "inference@1.0", "dispute", lambda found, asked: Message({"status": 500, "body": b"no"}))
    with pytest.raises(UpstreamError, match="refuses to open"):
        proven(liar, tree, answer)


def test_files_that_are_no_answers(honest: Served) -> None:
    document = json.loads(answer_of(honest).reply["body"])  # type: ignore[index,arg-type]
    assert values.told(json.dumps(document).encode()).reply is None
    for data in (b"", b"{}", b"[]", b"[" * 50_000, b"\xff", json.dumps({**document, "choices": []}).encode()):
        with pytest.raises(CodecError):
            values.told(data)
    document["choices"][0]["token_ids"].append(3)
    with pytest.raises(CodecError, match="state for each"):
        values.told(json.dumps(document).encode())
