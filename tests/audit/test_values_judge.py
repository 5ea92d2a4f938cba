"""The judge of language models' computations: one verdict for a proof everywhere, and no way out for a liar."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy import Context, Message, commitments, device, hashpath, key
from hyperpy.capabilities import Accounts
from hyperpy.commitments import commit
from hyperpy.errors import DeviceNotFound, HyperpyError
from hyperpy.fault_proof import Account, Claim, Proof, account_body
from hyperpy.inference import toy
from hyperpy.inference.engines import toy_model
from hyperpy.inference.library import Library
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.statements import Statement
from hyperpy.inference.traces import WeightTree
from hyperpy.testing import node, wallet
from hyperpy.trail import Record
from tests.audit.liars import judged, served, signed
from tests.audit.test_values import answer_of, own
from tests.inference.lying import Kept, disputed, lying
from tests.inference.test_disputes import traced

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Statement]:
    """A true answer's document, and what its computation is stated as."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "toy.gguf").write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(folder / "toy.gguf", "toy")
    with served("honest", flags={"inference.models": str(folder / "kept"), "inference.engine": "reference"}) as made:
        answer = answer_of(made)
    assert answer.reply is not None
    body = answer.reply["body"]
    assert isinstance(body, bytes)
    return body, own(answer).statement


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A judge without any model."""
    with node(flags={"inference.models": str(tmp_path_factory.mktemp("none"))}) as made:
        yield made.node


LIAR = wallet("liar")
TOLD = Message({"device": "inference@1.0"}), Message({"path": "opening", "ask": "statement"})
ASKED = Message({"device": "inference@1.0"}), Message({"path": "completions"})


def word(words: dict[str, Any], base: Message, request: Message) -> Claim:
    """Return a reply that the liar signed."""
    reply = commit(Message({**words, "status": 200}), LIAR, tag=hashpath.extend(base, request))
    return Claim(reply, base, request)


def against(body: bytes, statement: Statement, *, base: Message = ASKED[0], value: bytes = b"") -> Proof:
    """Return a proof of a liar that answered with a document, and stands for a computation."""
    request, result = ASKED[1], commitments.content_id(Message({"body": body}))
    path = commitments.hashpath_id(base)
    record = Record("", "", result, "ok", "inference@1.0", "completions", "", path, "")
    account = word(
        {"body": account_body(Account(record, base, request))},
        Message({"device": "fault@1.0"}),
        Message({"path": "account"}),
    )
    claims = word({"body": body}, base, request), word({"body": statement.encode()}, *TOLD)
    return Proof("wrong-answer", LIAR.address, (Claim(claims[0].reply), claims[1]), (account,), value=value)


def changed(body: bytes, change: Callable[[Any, Any], Any]) -> bytes:
    document = json.loads(body)
    change(document, document["choices"][0]["token_ids"])
    return json.dumps(document).encode()


def another(ids: list[int]) -> None:
    ids[-1] = (ids[-1] + 1) % 264


def verdict(third: Any, proof: Proof, **more: Any) -> str:
    return judged(third, signed(proof), **more).text("verdict")


def test_a_true_answer_and_a_false_token(true: tuple[bytes, Statement], third: Any) -> None:
    """The forms that the other tests change."""
    body, statement = true
    assert verdict(third, against(body, statement)) == "not-guilty"
    assert verdict(third, against(changed(body, lambda all, ids: another(ids)), statement)) == "guilty"


# -- one verdict everywhere -------------------------------------------------------------------------


def deeper(frames: int, made: Callable[[], Any]) -> Any:
    return made() if frames == 0 else deeper(frames - 1, made)


@pytest.mark.parametrize("depth", [40, 600, 850, 880, 900, 930, 5000])
@pytest.mark.parametrize("inside", [True, False])
def test_the_verdict_does_not_depend_on_the_judges_stack(
    depth: int, inside: bool, true: tuple[bytes, Statement], third: Any
) -> None:
    nest = "[" * depth + "]" * depth
    body = changed(true[0], lambda all, ids: ids.__setitem__(-1, "@") if inside else another(ids)).decode()
    body = body.replace('"@"', nest) if inside else '{"x":' + nest + "," + body[1:]
    proof = signed(against(body.encode(), true[1]))
    found = {deeper(frames, lambda: judged(third, proof).text("verdict")) for frames in (0, 30, 100, 200)}
    assert found == {"guilty"}, "what no answer holds is no way out"
    harmless = true[0].decode().replace("{", '{"x":' + nest + ",", 1).encode()
    assert verdict(third, against(harmless, true[1])) == "not-guilty"


def test_text_that_no_message_can_hold(true: tuple[bytes, Statement], third: Any) -> None:
    for junk in ("\ud800", 10**18, 10**30, 10**4200, float("nan"), [["\udfff"] * 5], None, {"a": 1.5}):
        body = changed(true[0], lambda all, ids, junk=junk: ids.__setitem__(-1, junk))
        assert verdict(third, against(body, true[1])) == "guilty"


def test_a_base_that_holds_the_answer_is_no_answer(true: tuple[bytes, Statement], third: Any) -> None:
    """Read as a plain message, it answers with whatever somebody put there."""
    body = changed(true[0], lambda all, ids: another(ids))
    for more, wanted in (({"x": 1}, "guilty"), ({"completions": body}, "undecided")):
        base = Message({"device": "inference@1.0", **more})
        assert verdict(third, against(body, true[1], base=base)) == wanted


# -- names that are no way out -----------------------------------------------------------------------

NAMES = ("model-id", "weight-root", "config-digest", "tokenizer", "reference")
NO_NAMES = ("00" * 32, "zz", "", None, 7, "00" * 31, "delete")


def named(**changes: Any) -> Callable[[Any, Any], None]:
    def change(document: Any, ids: Any) -> None:
        words = document["hyperpy"]
        for name, one in changes.items():
            name = name.replace("_", "-")
            words[name] = one
            if one == "delete":
                del words[name]

    return change


def renamed(words: Any) -> str:
    """Return the reference that fits an answer's names (docs: SHA-256 over model-id, config-digest and tokenizer)."""
    return hashlib.sha256(b"".join(bytes.fromhex(words[one]) for one in NAMES[0:4:2] + NAMES[3:4])).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_a_false_name_frees_no_liar(name: str, true: tuple[bytes, Statement], third: Any) -> None:
    """Beside a false token it changes nothing; beside true ones it is a false word by itself."""
    words = json.loads(true[0])["hyperpy"]
    assert renamed(words) == words["reference"]
    for junk in NO_NAMES:
        body = changed(true[0], named(**{name.replace("-", "_"): junk}))
        assert verdict(third, against(body, true[1])) == "guilty", junk
        body = changed(body, lambda all, ids: another(ids))
        found = judged(third, signed(against(body, true[1])))
        assert (found.text("verdict"), found.text("reason")[-5:]) == ("guilty", "token"), junk


def test_an_answer_of_another_model_is_no_lie(true: tuple[bytes, Statement], third: Any) -> None:
    """The same weights with another shape are another model, by an honest answer's reference."""
    for name in ("model-id", "config-digest"):
        body = changed(true[0], lambda all, ids: another(ids))
        body = changed(body, named(**{name.replace("-", "_"): "11" * 32}))
        assert verdict(third, against(body, true[1])) == "guilty"
        body = changed(body, lambda all, ids: all["hyperpy"].update(reference=renamed(all["hyperpy"])))
        assert verdict(third, against(body, true[1])) == "undecided"


def test_a_greedy_answer_has_one_sampling(true: tuple[bytes, Statement], third: Any) -> None:
    """A seed in capitals, or any other under which a greedy choice is the same, is no other sampling."""
    for change in ({"seed": "AB" * 32}, {"top-k": 3}, {"p16": 5}):
        body = changed(true[0], lambda all, ids, change=change: all["hyperpy"]["sampling"].update(change))
        assert verdict(third, against(body, true[1])) == "not-guilty"
        body = changed(body, lambda all, ids: another(ids))
        assert verdict(third, against(body, true[1])) == "guilty"
    drawn = dataclasses.replace(true[1], sampling=Sampling(65536, 0, 65536, b"\xab" * 32))
    for seed, wanted in (("ab" * 32, "guilty"), ("AB" * 32, "guilty"), ("cd" * 32, "undecided")):
        told = {"t16": 65536, "seed": seed}
        body = changed(true[0], lambda all, ids, told=told: all["hyperpy"]["sampling"].update(told))
        body = changed(body, lambda all, ids: another(ids))
        assert verdict(third, against(body, drawn)) == wanted
    assert verdict(third, against(body, true[1])) == "undecided", "drawn, and greedy"


# -- pinned code --------------------------------------------------------------------------------------


def test_other_code_than_the_named_one_gives_no_verdict(true: tuple[bytes, Statement], third: Any) -> None:
    """As with a result: a ledger waits for the code that it names, and never answers otherwise."""
    lie = against(changed(true[0], lambda all, ids: another(ids)), true[1])
    value = dataclasses.replace(lie, kind="wrong-value", claims=lie.claims[1:], accounts=(), value=b"\x80")
    asked = {"path": "implementation", "of": "inference@1.0"}
    mine = third.resolve({"device": "fault@1.0"}, asked).text("implementation")
    for proof, wanted in ((lie, "guilty"), (value, "undecided")):
        assert verdict(third, proof) == wanted
        assert verdict(third, proof, of="inference@1.0", implementation=mine) == wanted
        for other in ("A" * 43, "0" * 64, mine.upper()):
            with pytest.raises(DeviceNotFound, match="has not the implementation"):
                verdict(third, proof, of="inference@1.0", implementation=other)
            assert verdict(third, proof, of="tally@1.0", implementation=other) == "undecided"
            assert verdict(third, proof, implementation=other) == "undecided"


@device("slotted@1.0", needs=("accounts",))
class Slotted:
    """Asks for a verdict as a process's slot does."""

    def start(self, accounts: Accounts) -> None:
        self._accounts = accounts

    @key
    def verdict(self, request: Message, ctx: Context) -> bytes:
        asked = Message({"path": "judge", **request.without("path", "device").raw_items()})
        made, _, _ = self._accounts.strictly(ctx, Message({"device": "fault@1.0"}), asked, slot=True)
        if isinstance(made, HyperpyError):
            return made.message.encode()
        assert isinstance(made.value, Message)
        return made.value.text("verdict").encode()


def test_a_process_must_name_the_code(true: tuple[bytes, Statement]) -> None:
    """Else its state would depend on the version that a node runs."""
    lie = signed(against(changed(true[0], lambda all, ids: another(ids)), true[1]))
    with node(Slotted, flags={"devices.grant": {"slotted@1.0": ["accounts"]}}) as made:
        asked = {"path": "implementation", "of": "inference@1.0"}
        code = made.node.resolve({"device": "fault@1.0"}, asked).text("implementation")
        words = {"path": "verdict", "proof": lie}
        unnamed = made.node.resolve({"device": "slotted@1.0"}, words)
        assert unnamed == b"inside a process the code to judge by must be named"
        named = {**words, "of": "inference@1.0", "implementation": code}
        assert made.node.resolve({"device": "slotted@1.0"}, named) == b"guilty"


# -- each lie costs once ------------------------------------------------------------------------------


def faults(third: Any, *proofs: Proof) -> set[str]:
    found = [judged(third, signed(one)) for one in proofs]
    assert {one.text("verdict") for one in found} == {"guilty"}
    return {one.text("fault") for one in found}


def test_a_false_value_is_one_fault(third: Any) -> None:
    """A seed has no part in a greedy computation, nor has it where the prompt ended."""
    true = traced(toy_model(), [5, 6, 7, 200], 6, Sampling())
    tree, proofs = WeightTree(toy_model().weights), []
    for prompt, seed in ((4, 0), (4, 1), (4, 2), (5, 0), (9, 3)):
        sampling = Sampling(seed=bytes([seed]) * 32)
        mine = Kept(true.engine, true.statement.weights, true.ids, prompt, sampling)
        outcome = disputed(mine, tree, lying(mine, ("tensor", 3, "up", 1, 7)))
        assert outcome.evidence is not None
        assert outcome.statement is not None
        words = word({"body": outcome.statement.body}, *TOLD)
        proofs.append(Proof("wrong-value", LIAR.address, (words,), value=outcome.evidence.encode()))
    assert len({one.claims[0].reply["body"] for one in proofs}) == 5
    assert len(faults(third, *proofs)) == 1


def test_a_false_answer_is_one_fault(true: tuple[bytes, Statement], third: Any) -> None:
    body, statement = true
    count = statement.count - statement.prompt

    def split(document: Any, ids: list[int]) -> None:
        document["hyperpy"]["prompt_token_ids"] += ids[:count]
        del ids[:count], document["hyperpy"]["states"][0][:count]

    lie = changed(body, lambda all, ids: another(ids))
    proofs = [
        against(lie, statement),
        against(changed(lie, split), dataclasses.replace(statement, prompt=statement.count)),
    ]
    for seed in range(3):
        told = {"seed": bytes([seed] * 32).hex()}
        other = changed(lie, lambda all, ids, told=told: all["hyperpy"]["sampling"].update(told))
        greedy = dataclasses.replace(statement, sampling=Sampling(seed=bytes([9 + seed]) * 32))
        proofs.append(against(other, greedy))
    assert len(faults(third, *proofs)) == 1
    drawn = []
    for seed in range(3):
        sampling = Sampling(65536, 0, 65536, bytes([seed]) * 32)
        told = {"t16": 65536, "seed": sampling.seed.hex()}
        other = changed(lie, lambda all, ids, told=told: all["hyperpy"]["sampling"].update(told))
        drawn.append(against(other, dataclasses.replace(statement, sampling=sampling)))
    assert len(faults(third, *drawn, proofs[0])) == 4, "with each seed another draw"
    names = [changed(body, named(weight_root=junk)) for junk in ("00" * 32, "11" * 32)]
    states = [changed(body, lambda all, ids, at=at: all["hyperpy"]["states"][0].__setitem__(-1, at)) for at in "xy"]
    assert len(faults(third, *[against(one, statement) for one in names])) == 1
    assert (
        len(faults(third, *[against(one, statement) for one in states], proofs[0], against(names[0], statement))) == 3
    )
