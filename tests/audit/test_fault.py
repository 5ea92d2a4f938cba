"""Fault proofs: who lied is found guilty, whoever asks; nobody who was honest ever is, whatever is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hyperpy.devices.push import outgoing

from hyperpy import Message, commitments, device, hashpath, key
from hyperpy.audit import fault
from hyperpy.audit.fault import Asked
from hyperpy.client import Client
from hyperpy.codecs import whole
from hyperpy.commitments import commit
from hyperpy.errors import CodecError, InvalidSignature, MessageNotFound, SizeError
from hyperpy.fault_proof import MAX_BYTES, Account, Claim, Proof, account_body, as_message, from_bytes, to_bytes
from hyperpy.http.asked import seen, without
from hyperpy.http.client import request_form
from hyperpy.testing import node, wallet
from hyperpy.trail import Oracle, Record
from tests.audit.liars import Helper, Served, Tally, corrupt, judged, process, served, signed

DOUBLE = "/~tally@1.0&n=21/double"


@pytest.fixture(scope="module")
def honest() -> Iterator[Served]:
    with served("honest") as made:
        yield made


@pytest.fixture(scope="module")
def liar() -> Iterator[Served]:
    with served("liar") as made:
        corrupt(made.node, "tally@1.0", "double", lambda true, found: true + 1)
        corrupt(made.node, "tally@1.0", "pair", lambda true, found: true | {"second": 0})
        yield made


@pytest.fixture(scope="module")
def third() -> Iterator[Any]:
    """A third party: judges, and knows nothing of the two but the proof."""
    with node(Tally) as made:
        yield made.node


def proof_of(at: Served, path: str) -> Proof:
    return fault.wrong_result(at.peer, at.peer.ask(path).reply)


def verdict(third: Any, proof: Proof) -> tuple[str, str]:
    found = judged(third, signed(proof))
    return found.text("verdict"), found.text("reason")


# -- the guilty -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [DOUBLE, "/~tally@1.0&n=3/pair", "/~message@1.0&n=4/~tally@1.0/pair"])
def test_a_signed_lie_is_guilty_and_both_results_are_named(liar: Served, third: Any, path: str) -> None:
    found = judged(third, signed(proof_of(liar, path)))
    assert (found.text("verdict"), found.text("accused")) == ("guilty", liar.address)
    assert found["expected"] != found["got"]


def test_the_true_result_is_the_expected_one(liar: Served, third: Any) -> None:
    found = judged(third, signed(proof_of(liar, DOUBLE)))
    true, said = (commitments.content_id(Message({"ao-result": "body", "body": number})) for number in (42, 43))
    assert (found.text("expected"), found.text("got")) == (true, said)


def test_a_lie_in_a_later_step_of_a_path(liar: Served, third: Any) -> None:
    proof = proof_of(liar, "/~message@1.0&n=1/set&n=7/set&device=tally@1.0/pair")
    assert verdict(third, proof)[0] == "guilty"


def test_a_proof_of_one_step_is_small(liar: Served) -> None:
    assert len(to_bytes(signed(proof_of(liar, DOUBLE)))) < 16 << 10


def test_two_nodes_that_answer_differently(honest: Served, liar: Served, third: Any) -> None:
    for pair in ((honest, liar), (liar, honest)):
        proof = fault.equivocation(
            (pair[0].peer, pair[1].peer), (pair[0].peer.ask(DOUBLE).reply, pair[1].peer.ask(DOUBLE).reply)
        )
        assert proof is not None
        found = judged(third, signed(proof))
        assert (found.text("verdict"), found.text("accused")) == ("guilty", liar.address)
    same = honest.peer.ask(DOUBLE).reply
    assert fault.equivocation((honest.peer, honest.peer), (same, same)) is None


EXCUSES: dict[str, dict[str, Any]] = {
    "recorded answers": {"oracles": (Oracle("dice@1.0", "roll", "A" * 43, "B" * 43, "ok"),)},
    "a cache": {"cached_from": bytes(32)},
    "another device": {"device": "dice@1.0"},
    "another key": {"key": "triple"},
    "somebody else's word": {"attested_by": wallet("alice").address},
    "a part of another step": {"parent": bytes(32)},
}


@pytest.mark.parametrize("excuse", EXCUSES)
def test_what_a_liar_adds_to_its_own_account_is_no_excuse(liar: Served, third: Any, excuse: str) -> None:
    assert verdict(third, excused(liar, **EXCUSES[excuse]))[0] == "guilty"


def excused(liar: Served, **changed: Any) -> Proof:
    """Return the proof of a lie whose account the liar wrote otherwise, and signed."""
    proof = proof_of(liar, DOUBLE)
    known = fault.account_of(proof.accounts[0], liar.address)
    other = dataclasses.replace(known, record=dataclasses.replace(known.record, **changed))
    return dataclasses.replace(proof, accounts=(signed_account(other, proof.accounts[0], "liar"),))


def test_where_the_code_is_promised_its_name_is_no_excuse(liar: Served, honest: Served, third: Any) -> None:
    code = fault_code(third)
    lie = signed(excused(liar, implementation="0" * 64))
    assert judged(third, lie).text("verdict") == "undecided"
    assert judged(third, lie, implementation=code).text("verdict") == "undecided"
    assert judged(third, lie, implementation=code, of="tally@1.0").text("verdict") == "guilty"
    assert judged(third, lie, implementation=code, of="helper@1.0").text("verdict") == "undecided"
    true = signed(proof_of(honest, DOUBLE))
    assert judged(third, true, implementation=code, of="tally@1.0").text("verdict") == "not-guilty"


def test_where_the_code_is_promised_no_account_is_needed(liar: Served, honest: Served, third: Any) -> None:
    code = fault_code(third)
    for at, word in ((liar, "guilty"), (honest, "not-guilty")):
        claim = at.peer.ask(DOUBLE).claim
        claim = Claim(fault.lean(claim.reply, at.address), claim.base, claim.request)
        made = signed(Proof("wrong-result", at.address, claims=(claim,)))
        assert judged(third, made).text("verdict") == "undecided"
        assert judged(third, made, implementation=code).text("verdict") == "undecided"
        found = judged(third, made, implementation=code, of="tally@1.0")
        assert (found.text("verdict"), found.text("accused")) == (word, at.address)
        base = claim.base
        assert base is not None
        other = signed(Proof("wrong-result", at.address, claims=(dataclasses.replace(claim, base=base | {"n": 22}),)))
        assert judged(third, other, implementation=code, of="tally@1.0").text("verdict") == "undecided"


@pytest.mark.parametrize(
    ("path", "headers", "word"),
    [
        ("/~tally@1.0&n=3&status=404/pair", {}, "undecided"),
        ("/~tally@1.0&n=3&status=abc/pair", {}, "undecided"),
        ("/~tally@1.0&n=3&status+integer=99999/pair", {}, "undecided"),
        ("/~tally@1.0&n=3/pair", {"attest": "true"}, "not-guilty"),
        ("/~tally@1.0&n=3/pair", {"accept": "application/json"}, "not-guilty"),
        ("/~tally@1.0&n=3&raw=1/pair", {"accept": "application/json", "attest": "true"}, "not-guilty"),
    ],
)
def test_what_a_node_puts_on_its_reply_is_no_lie(path: str, headers: dict[str, str], word: str, third: Any) -> None:
    """Whoever asks chooses these keys: they must neither convict the honest nor clear a liar."""
    for name, expected in (("honest", word), ("liar", "guilty")):
        with served(name) as at:
            if name == "liar":
                corrupt(at.node, "tally@1.0", "pair", lambda true, found: true | {"second": 0})
            form = request_form(Message({"path": path, "method": "GET", **headers}))
            connection, origin = at.peer._connection, at.peer._origin
            reply = connection.exchange(origin, form)
            parts = without(seen(connection, origin, form).parts, ("attest",))
            claim = Asked(reply, tuple(parts)).claim
            claim = Claim(fault.lean(reply, at.address), claim.base, claim.request)
            made = signed(Proof("wrong-result", at.address, claims=(claim,)))
            found = judged(third, made, implementation=fault_code(third), of="tally@1.0")
            assert found.text("verdict") == expected, found.text("reason")
            if word == "not-guilty":
                told = judged(third, signed(fault.wrong_result(at.peer, reply)))
                assert told.text("verdict") == expected


def test_one_lie_has_one_name(liar: Served, third: Any) -> None:
    """A ledger must not punish it twice, with an account and without."""
    claim = liar.peer.ask(DOUBLE).claim
    lean = Claim(fault.lean(claim.reply, liar.address), claim.base, claim.request)
    bare = Proof("wrong-result", liar.address, claims=(lean,))
    more = {"implementation": fault_code(third), "of": "tally@1.0"}
    names = {judged(third, signed(one), **more).text("fault") for one in (bare, proof_of(liar, DOUBLE))}
    assert len(names) == 1


def fault_code(at: Any) -> str:
    """Return the code that a node runs."""
    found = at.resolve({"device": "fault@1.0"}, {"path": "implementation", "of": "tally@1.0"})
    return str(found.text("implementation"))


def test_a_node_that_gives_no_account_is_still_examined(liar: Served, third: Any) -> None:
    asked = liar.peer.ask(DOUBLE)

    class Silent:
        def account(self, of: str) -> Claim:
            raise MessageNotFound("no account")

    proof = fault.wrong_result(Silent(), asked.reply, asked.claim)  # type: ignore[arg-type]
    assert proof.accounts == ()
    assert "no account" in verdict(third, proof)[1]


# -- the honest -----------------------------------------------------------------------------------

HONEST = [
    DOUBLE,
    "/~tally@1.0&n=3/pair",
    "/~tally@1.0&n=3/listed",
    "/~tally@1.0&n=3/pair/first",
    "/~tally@1.0&n=3/pair/keys",
    "/~message@1.0&n=1/set&n=7/set&device=tally@1.0/pair",
    "/~message@1.0&n=4/~tally@1.0/double",
    "/~message@1.0&status=503&n=1/set&n=2",
    "/~message@1.0&x+integer=5/x",
    "/~tally@1.0/double&n=(~tally@1.0&n=2/double)",
    "/~tally@1.0&n=3/credential",
    "/~tally@1.0/elsewhere",
    "/~tally@1.0/careful",
    "/~tally@1.0/clock",
    "/~fault@1.0/implementation&of=tally@1.0",
    "/~json@1.0&a=1/commitments",
    "/~patch@1.0&a=1/a",
    "/~tally@1.0/in-slot",
]


@pytest.mark.parametrize("path", HONEST)
def test_an_honest_node_is_never_guilty(honest: Served, third: Any, path: str) -> None:
    reply = honest.peer.ask(path).reply
    try:
        proof = fault.wrong_result(honest.peer, reply)
    except (MessageNotFound, InvalidSignature):
        return  # it gives no account, or claims nothing: there is no proof
    assert verdict(third, proof)[0] in ("not-guilty", "undecided")
    claim = dataclasses.replace(honest.peer.ask(path).claim, reply=proof.claims[0].reply)
    for one in (proof, dataclasses.replace(proof, claims=(claim,), accounts=())):
        found = judged(third, signed(one), implementation=fault_code(third), of="tally@1.0")
        assert found.text("verdict") in ("not-guilty", "undecided")


@pytest.mark.parametrize("path", HONEST[:5])
def test_what_can_be_made_again_is_decided(honest: Served, third: Any, path: str) -> None:
    assert verdict(third, proof_of(honest, path)) == ("not-guilty", "made again, the result is the one signed")


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("/~tally@1.0&n=3/credential", "reads what no ID shows"),
        ("/~tally@1.0/elsewhere", "an answer that cannot be made again"),
        ("/~tally@1.0/careful", "an answer that cannot be made again"),
        ("/~tally@1.0/clock", "not deterministic"),
    ],
)
def test_what_depends_on_more_is_undecided(honest: Served, third: Any, path: str, because: str) -> None:
    word, reason = verdict(third, proof_of(honest, path))
    assert word == "undecided"
    assert because in reason


def test_what_a_node_happens_to_hold_convicts_nobody(third: Any) -> None:
    """A device that goes on without a message, or with somebody else's device, answers otherwise elsewhere."""
    with served("honest", Tally, Helper) as at:
        name = at.node._lend["store"].write(Message({"word": "known"}))
        held = proof_of(at, f"/~tally@1.0&at={name}/looked-up")
        other = proof_of(at, "/~tally@1.0&n=1/another")
        perhaps = proof_of(at, "/~tally@1.0&n=1/perhaps")
        assert at.peer.ask(f"/~tally@1.0&at={name}/looked-up").reply["body"] == b"known"
    word, reason = verdict(third, held)
    assert (word, "a stored message" in reason) == ("undecided", True)
    with node(Tally, Helper) as judge:
        word, reason = verdict(judge.node, other)
        corrupt(judge.node, "helper@1.0", "next", lambda true, found: 5)
        assert verdict(judge.node, other)[0] == "undecided"
    assert (word, "helper@1.0" in reason) == ("undecided", True)
    assert verdict(third, other)[0] == "undecided"
    word, reason = verdict(third, perhaps)
    assert (word, "a device that is not here" in reason) == ("undecided", True)


def test_an_answer_in_json_is_the_same_claim(honest: Served, liar: Served, third: Any) -> None:
    for at, word in ((honest, "not-guilty"), (liar, "guilty")):
        asked = at.peer.ask("/~tally@1.0&n=3/pair?require-codec=application/json")
        assert verdict(third, fault.wrong_result(at.peer, asked.reply))[0] == word


def test_a_device_that_is_not_here_is_undecided(honest: Served) -> None:
    with node() as bare:
        word, reason = verdict(bare.node, proof_of(honest, DOUBLE))
    assert word == "undecided"
    assert "tally@1.0" in reason


V1 = """
from hyperpy import device, key
@device("price@1.0")
class Price:
    @key
    def of(self, n: int) -> int:
        return n {}
"""


def test_an_older_implementation_is_no_lie(tmp_path: Path) -> None:
    old, new = tmp_path / "price.py", tmp_path / "new" / "price.py"
    old.write_text(V1.format("* 2"), "utf-8")
    new.parent.mkdir()
    new.write_text(V1.format("* 3"), "utf-8")
    with served("honest", old) as at, node(new) as judge:
        reply = at.peer.ask("/~price@1.0&n=2/of").reply
        before = fault.wrong_result(at.peer, reply)
        assert verdict(judge.node, before)[1].startswith("the implementation differs")
        old.write_text(V1.format("* 3"), "utf-8")
        at.node.reload(old)
        again = at.peer.ask("/~price@1.0&n=2/of").reply
        assert (reply["body"], again["body"]) == (4, 6)
        assert verdict(judge.node, fault.wrong_result(at.peer, again))[0] == "not-guilty"
        assert "implementation differs" in verdict(judge.node, fault.wrong_result(at.peer, reply))[1]
        mixed = dataclasses.replace(before, accounts=fault.wrong_result(at.peer, again).accounts)
        assert verdict(judge.node, mixed) == (
            "undecided",
            "the signed reply is not the result that the account is about",
        )


# -- what attackers send ----------------------------------------------------------------------------


def test_mail_with_the_fields_of_an_assignment_is_none(third: Any) -> None:
    """A process may put anything into its outbox, and push signs it with the key that signs assignments."""
    with served("scheduler") as at:
        with Client(at.url, wallet("owner")) as client:
            made = client.send("/~scheduler@1.0/schedule", process(at)).text("process")
        true = fault.assignment_of(at.peer, made, 0)
        definition = at.node.cache.read(made, exact=True)
        assert isinstance(definition, Message)
        entry = Message.make(dict(true.raw_items())) | {"body": b"another"}
        mail = outgoing.augmented(entry, definition, made)
        forged = outgoing.signed(mail, definition | {"authority": at.address}, at.node._lend["keys"], always=True)
        assert at.address in commitments.committers(forged)
        for other in (
            forged,
            Message.make({k: v for k, v in forged.raw_items().items() if k in true}, forged.commitments),
        ):
            proof = Proof("double-assignment", at.address, assignments=(true, other), process=made, slot=0)
            assert judged(third, signed(proof)).text("verdict") == "undecided"


def test_a_changed_claim_is_no_claim(honest: Served, third: Any) -> None:
    proof = proof_of(honest, DOUBLE)
    reply = proof.claims[0].reply
    forged = Message.make({**reply.raw_items(), "body": 99}, reply.commitments)
    word, reason = verdict(third, dataclasses.replace(proof, claims=(Claim(forged),)))
    assert word == "undecided"
    assert "does not" in reason


def test_keys_that_nobody_signed_count_for_nothing(honest: Served, liar: Served, third: Any) -> None:
    for at, word in ((honest, "not-guilty"), (liar, "guilty")):
        proof = proof_of(at, "/~tally@1.0&n=3/pair")
        reply = proof.claims[0].reply
        more = Message.make({**reply.raw_items(), "third": 1, "path": b"x"}, reply.commitments)
        assert verdict(third, dataclasses.replace(proof, claims=(Claim(more),)))[0] == word


def test_the_tag_of_another_step(honest: Served, third: Any) -> None:
    one, other = proof_of(honest, DOUBLE), proof_of(honest, "/~tally@1.0&n=5/double")
    for mixed in (dataclasses.replace(one, claims=other.claims), dataclasses.replace(one, accounts=other.accounts)):
        word, reason = verdict(third, mixed)
        assert word == "undecided"
        assert "hashpath of this step" in reason


def test_another_base_under_an_honest_claim(honest: Served, third: Any) -> None:
    proof = proof_of(honest, DOUBLE)
    claim = proof.accounts[0]
    known = fault.account_of(claim, honest.address)
    assert known.base is not None
    assert known.request is not None
    changed = Account(known.record, known.base | {"n": 22}, known.request)
    forged = Message.make({**claim.reply.raw_items(), "body": account_body(changed)}, claim.reply.commitments)
    assert (
        verdict(third, dataclasses.replace(proof, accounts=(Claim(forged, claim.base, claim.request),)))[0]
        == "undecided"
    )
    mine = signed_account(changed, claim, "mallory")
    assert verdict(third, dataclasses.replace(proof, accounts=(mine,)))[0] == "undecided"


def signed_account(account: Account, like: Claim, who: str) -> Claim:
    assert like.base is not None
    assert like.request is not None
    tag = hashpath.extend(like.base, like.request)
    body = Message({"type": "account", "body": account_body(account), "status": 200})
    return Claim(commit(body, wallet(who), tag=tag), like.base, like.request)


def test_a_node_that_signs_what_it_is_asked_to_gives_no_account(honest: Served, third: Any) -> None:
    """Whoever asks may have a reply with any content signed; its tag says that it was asked for."""
    proof = proof_of(honest, DOUBLE)
    known = fault.account_of(proof.accounts[0], honest.address)
    wrong = commitments.content_id(Message({"ao-result": "body", "body": 43}))
    record = Record(**{**{f.name: getattr(known.record, f.name) for f in dataclasses.fields(Record)}, "result": wrong})
    body = account_body(Account(record, known.base, known.request))
    with node() as elsewhere:  # the same words under a signature of the honest node's key, but of another question
        base, request = Message({"device": "message@1.0", "body": body}), Message({"path": "set", "type": "account"})
        assert elsewhere.node.resolve(base, request)
    words = Message({"type": "account", "body": body, "status": 200})
    reply = commit(words, wallet("honest"), tag=hashpath.extend(base, request))
    claim = dataclasses.replace(proof, accounts=(Claim(reply, base, request),))
    assert "an account is" in verdict(third, claim)[1]
    for path, more in (("remove", {"item": "x"}), ("get", {"key": "self"}), ("account", {"x": Message({"y": 1})})):
        base, request = Message({"device": "fault@1.0", "body": body}), Message({"path": path, **more})
        forged = Claim(commit(words, wallet("honest"), tag=hashpath.extend(base, request)), base, request)
        assert "an account is" in verdict(third, dataclasses.replace(proof, accounts=(forged,)))[1]
    real = proof.accounts[0]
    claim = dataclasses.replace(proof, accounts=(Claim(reply, real.base, real.request),))
    assert "hashpath of this step" in verdict(third, claim)[1]


def test_a_signature_without_a_hashpath_claims_nothing(honest: Served, third: Any) -> None:
    proof = proof_of(honest, DOUBLE)
    tag = proof.claims[0].reply.hashpath
    assert tag is not None
    said = commit(Message({"ao-result": "body", "body": 42}), wallet("honest"), tag=tag)  # by no reply: no status
    assert verdict(third, dataclasses.replace(proof, claims=(Claim(said),)))[0] == "undecided"
    for words in (Message({"ao-result": "body", "body": 1, "status": 200}), Message({"ao-result": "body", "body": 1})):
        claim = Claim(commit(words, wallet("honest")))
        assert verdict(third, dataclasses.replace(proof, claims=(claim,)))[0] == "undecided"


def test_a_proof_must_be_signed_and_whole(honest: Served, liar: Served, third: Any) -> None:
    made = as_message(proof_of(liar, DOUBLE))
    partly = commit(made, wallet("challenger"), committed=["type", "kind", "v"])
    other = signed(proof_of(liar, DOUBLE))
    swapped = Message.make({**other.raw_items(), "accused": honest.address.encode()}, other.commitments)
    for bad in (made, partly, swapped, Message({"type": "fault-proof"}), Message()):
        found = judged(third, bad)
        assert found.text("verdict") == "undecided"
        assert "not a proof" in found.text("reason")
    forged = dataclasses.replace(proof_of(liar, DOUBLE), accused=honest.address)
    assert verdict(third, forged)[0] == "undecided"


def test_long_and_crowded_proofs_are_refused(liar: Served, third: Any) -> None:
    proof = proof_of(liar, DOUBLE)
    many = dataclasses.replace(proof, claims=proof.claims * 3)
    found = judged(third, signed(many))
    assert found.text("verdict") == "undecided"
    assert "short" in found.text("reason")
    long = commit(as_message(proof) | {"body": b"x" * (MAX_BYTES + 1)}, wallet("challenger"))
    found = judged(third, long)
    assert found.text("verdict") == "undecided"
    assert "at most" in found.text("reason")
    with pytest.raises(SizeError):
        from_bytes(b"x" * (MAX_BYTES + 70_000))


def test_every_byte_of_a_file_counts(liar: Served) -> None:
    data = to_bytes(signed(proof_of(liar, DOUBLE)))
    assert to_bytes(from_bytes(data)) == data
    for at in range(0, len(data), 97):
        with pytest.raises(CodecError):
            from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_no_change_of_the_evidence_convicts_the_honest(honest: Served, third: Any) -> None:
    made = as_message(proof_of(honest, DOUBLE))
    body = made["body"]
    assert isinstance(body, bytes)
    seen = set()
    for at in range(0, len(body), 53):
        changed = body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :]
        found = judged(third, commit(made | {"body": changed}, wallet("challenger")))
        seen.add(found.text("verdict"))
    assert "guilty" not in seen
    assert "undecided" in seen


def test_proofs_are_sent_over_http(honest: Served, liar: Served) -> None:
    for at, word in ((honest, b"not-guilty"), (liar, b"guilty")):
        with Client(honest.url) as client:
            found = client.send("/~fault@1.0/judge", signed(proof_of(at, DOUBLE)))
            assert (found["verdict"], found["accused"]) == (word, at.address.encode()), found
            kept = client.send("/~fault@1.0/submit", signed(proof_of(at, DOUBLE)))
            assert ("proof" in kept) == (word == b"guilty")
    with Client(honest.url) as client:  # by the ID that it is kept under
        again = client.get(f"/~fault@1.0/judge&proof=({kept.text('proof')})")
        assert again["verdict"] == b"guilty", again


def test_a_node_with_a_closed_trail_is_not_judged() -> None:
    with served("closed", flags={"trail.public": False}) as at, pytest.raises(MessageNotFound):
        proof_of(at, DOUBLE)


def test_a_reply_that_a_hook_replaced_is_not_judged(third: Any) -> None:
    """The operator's hook answers, not the step."""

    @device("replace@1.0")
    class Replace:
        @key
        def response(self, request: Message) -> Message:
            body = request["body"]
            return request | {"body": body | {"first": 9} if isinstance(body, Message) else body}

    with served("hooked", Tally, Replace) as at:
        at.node.settings.put("on", Message({"response": {"device": "replace@1.0"}}))
        reply = at.peer.ask("/~tally@1.0&n=3/pair").reply
        assert reply["first"] == 9
        with pytest.raises(MessageNotFound):
            fault.wrong_result(at.peer, reply)


def test_submitted_proofs_are_kept_when_decided(honest: Served, liar: Served, third: Any) -> None:
    guilty = signed(proof_of(liar, DOUBLE))
    found = third.resolve({"device": "fault@1.0"}, {"path": "submit", "proof": guilty})
    assert found.text("verdict") == "guilty"
    assert whole.encode(third.resolve(found.text("proof"))["body"]) == whole.encode(guilty["body"])
    undecided = signed(proof_of(honest, "/~tally@1.0/clock"))
    assert "proof" not in third.resolve({"device": "fault@1.0"}, {"path": "submit", "proof": undecided})
