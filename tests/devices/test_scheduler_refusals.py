"""scheduler@1.0: what is refused, and what the sender is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperpy import commitments
from hyperpy.commitments import commit, signed_id
from hyperpy.http.form import RawReply
from hyperpy.message import Link, Message
from hyperpy.testing import TestNode, node, wallet
from tests.devices.scheduling import SCHEDULE, batch_put, own, post, post_body, process, said, spawn


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def refused(reply: Message) -> bool:
    return (reply["status"], reply["body"], reply["reason"]) == (
        400,
        b"Message is not valid.",
        b"Given message is invalid.",
    )


def test_an_unsigned_message_is_refused_and_told_why(n: TestNode) -> None:
    name = spawn(n)
    assert refused(n.post(f"{SCHEDULE}?target={name}", b"hello"))
    raw_reply = n.http("POST", f"{SCHEDULE}?target={name}", {}, b"hello")
    assert b"Sign the inner message" in hint(raw_reply)
    outer = commit(Message({"target": name, "body": {"action": "x"}}), wallet("alice"))
    assert refused(post(n, outer))
    assert len(own(n, name)) == 1


def hint(reply: RawReply) -> bytes:
    return dict(reply.headers)[b"hint"]


def test_unsigned_messages_where_the_operator_wants_them() -> None:
    with node(flags={"scheduler.unsigned": True}) as n:
        name = spawn(n)
        made = n.post(f"{SCHEDULE}?target={name}", b"hello", {"action": "Inc"})
        assert made["slot"] == 1
        body = made["body"]
        assert isinstance(body, Message)
        assert body["action"] == b"Inc"
        assert not {"path", "method", "host", "accept"} & set(body)


def test_a_message_changed_after_signing_is_refused(n: TestNode) -> None:
    name = spawn(n)
    signed = said(name)
    changed = Message.make({**signed.raw_items(), "data": b"other"}, signed.commitments)
    assert refused(post_body(n, changed))
    renamed = Message.make(dict(signed.raw_items()), {"B" * 43: next(iter(signed.commitments.values()))})
    assert refused(post_body(n, renamed))


def test_a_signature_that_claims_another_signer_is_refused(n: TestNode) -> None:
    name = spawn(n)
    signed = said(name)
    claimed = {
        k: (v | {"committer": wallet("bob").address}) if "committer" in v else v for k, v in signed.commitments.items()
    }
    assert refused(post_body(n, signed.with_commitments(claimed)))


def test_two_signers_must_sign_the_same(n: TestNode) -> None:
    name = spawn(n)
    both = commit(said(name), wallet("bob"))
    assert post_body(n, both)["slot"] == 1
    part = commit(said(name), wallet("bob"), committed=["target"])
    assert refused(post_body(n, part))


def test_an_encoding_that_two_messages_share_is_refused(n: TestNode) -> None:
    name = spawn(n)
    smuggling = {"target": name, "note": 'x\n"zone": y'}
    signed = commit(Message({"target": name, "note": "x", "zone": "y"}), wallet("alice"))
    assert refused(post_body(n, Message(smuggling).with_commitments(signed.commitments)))


def test_typed_values_need_their_types_signed(n: TestNode) -> None:
    name = spawn(n)
    plain = commit(Message({"target": name, "n": "1"}), wallet("alice"))
    typed = Message.make({**plain.raw_items(), "n": 1}, plain.commitments)
    assert refused(post_body(n, typed))


def test_what_the_node_signed_as_a_reply_is_no_order(n: TestNode) -> None:
    name = spawn(n)
    reply = n.node.sign(Message({"target": name, "status": 200, "data": "I obey"}))
    assert refused(post_body(n, reply))
    assert refused(post_body(n, commit(reply.with_commitments({}), wallet(), device="httpsig@1.0")))
    beside = commit(reply, wallet("alice"))
    found = post_body(n, beside)
    assert commitments.committers(found["body"]) == (wallet("alice").address,)
    others = commit(Message({"target": name, "status": 200}), wallet("alice"))
    assert post_body(n, others)["slot"] == 2


def test_what_push_signs_inside_the_node_is_scheduled(n: TestNode) -> None:
    name = spawn(n)
    pushed = n.node.sign(Message({"target": name, "status": 200, "from-process": name}))
    assert post_body(n, pushed, pushed=True)["slot"] == 1
    assert refused(post(n, pushed, f"{SCHEDULE}&pushed=true"))


def test_a_listed_schedulers_reply_is_no_order() -> None:
    with node(flags={"scheduler.schedulers": [wallet("peer").address]}) as n:
        name = spawn(n)
        reply = commit(Message({"target": name, "status": 200}), wallet("peer"))
        assert refused(post_body(n, reply))
        fine = commit(Message({"target": name, "state": 200}), wallet("peer"))
        assert post_body(n, fine)["slot"] == 1


@pytest.mark.parametrize("role", ["authority", "scheduler"])
@pytest.mark.parametrize("form", ["text", "list"])
def test_a_reply_of_who_answers_for_the_process_is_no_order(n: TestNode, role: str, form: str) -> None:
    both = [n.node.address, wallet("peer").address]
    name = spawn(n, **{role: both if form == "list" else f'"{both[0]}", {both[1]}'})
    reply = commit(Message({"target": name, "status": 200, "action": "Mint", "from-process": "X" * 43}), wallet("peer"))
    assert refused(post_body(n, reply))
    assert refused(post(n, reply))
    found = post_body(n, commit(reply, wallet("alice")))
    assert (found["slot"], commitments.committers(found["body"])) == (1, (wallet("alice").address,))
    will = commit(Message({"target": name, "action": "Mint"}), wallet("peer"))
    assert post_body(n, will)["slot"] == 2


def test_a_reply_defines_no_process_that_its_signer_answers_for(n: TestNode) -> None:
    keys = {"type": "Process", "scheduler": n.node.address, "status": 200}
    assert refused(post_body(n, commit(Message({**keys, "authority": wallet("peer").address}), wallet("peer"))))
    assert post_body(n, commit(Message({**keys, "authority": wallet("alice").address}), wallet("peer")))["slot"] == 0


def test_a_message_that_is_not_all_there_is_refused(n: TestNode) -> None:
    name = spawn(n)
    part = Message({"deep": {"deeper": 1}})
    whole = said(name, part=part)
    linked = Message.make({**whole.raw_items(), "part": Link(signed_id(part))}, whole.commitments)
    with pytest.raises(Exception, match="Cannot fully load message to schedule"):
        post_body(n, linked)
    batch_put(n, part)
    made = post_body(n, linked)
    assert made["slot"] == 1
    kept = own(n, name)[1]["body"]
    assert isinstance(kept, Message)
    commitments.check(kept)
    inner = kept.raw("part")
    assert isinstance(inner, Message)
    assert inner["deep"] == Message({"deeper": 1})


def test_a_process_nobody_signed_is_refused(n: TestNode) -> None:
    assert refused(n.post(SCHEDULE, b"", {"type": "Process", "scheduler": n.node.address}))


def test_an_unknown_process_is_a_404(n: TestNode) -> None:
    assert post(n, said("x" * 43))["status"] == 404
    assert n.get(f"/~scheduler@1.0/slot?target={'x' * 43}")["status"] == 404
    assert n.get(f"{SCHEDULE}?target={'x' * 43}")["status"] == 404


def test_a_target_that_is_no_id_is_a_400(n: TestNode) -> None:
    assert n.get(f"{SCHEDULE}?target=nobody")["status"] == 400
    assert post(n, said("nobody"))["status"] == 400


def test_a_process_without_scheduler_is_told_so(n: TestNode) -> None:
    made = commit(Message({"type": "Process", "device": "process@1.0"}), wallet("owner"))
    reply = post(n, made)
    assert reply["status"] == 404


def test_a_node_that_schedules_nothing_says_so() -> None:
    with node(flags={"scheduler.mode": "disabled"}) as n:
        assert post(n, process(n))["status"] == 403


def test_slot_0_is_for_the_process(n: TestNode) -> None:
    """A message that came before its process would be a slot 0 that no audit accepts."""
    made = process(n)
    name = signed_id(made)
    batch_put(n, made)
    reply = post(n, said(name))
    assert reply["status"] == 404
    assert "slot 0" in reply.text("body")
    assert own(n, name) == []
    assert post(n, made)["slot"] == 0
    assert post(n, said(name))["slot"] == 1
    assert n.get(f"/~scheduler@1.0/verify-schedule?target={name}")["valid"] is True
