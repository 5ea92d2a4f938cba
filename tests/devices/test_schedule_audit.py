"""verify-schedule: an honest schedule holds, and each way of lying is found and named."""

from __future__ import annotations

import hashlib
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy.commitments import commit, committers, http_form, signed_id
from hyperpy.http.replies import decode_reply
from hyperpy.message import Link, Message
from hyperpy.testing import TestNode, node, wallet
from tests.devices.auditing import audit, findings, linked, lying, raw
from tests.devices.scheduling import frame, own, post, process, said


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


@pytest.fixture
def story(n: TestNode) -> tuple[str, list[Message]]:
    """A process with five slots, and what its scheduler assigned."""
    made = process(n)
    assert post(n, made)["slot"] == 0
    name = signed_id(made)
    for count in range(4):
        post(n, said(name, count=str(count)))
    return name, own(n, name)


def asked(message: Message) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a message, as a client sends it."""
    form = http_form(message, bundle=True)
    return form.body or b"", {key: value.decode() for key, value in form.headers.items()}


def test_an_honest_schedule_holds(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    for found in (audit(n, name), audit(n, name, honest)):
        assert findings(found) == set()
    found = audit(n, name)
    assert (found["process"], found["checked"], found["from"], found["to"]) == (name.encode(), 5, 0, 4)
    assert (found["continues"], found["unlinked"]) == (False, 0)
    assert found["hash-chain-forms"] == Message({"raw": 5})
    assert found["signers"] == Message({n.node.address: 5})
    assert found["schedulers"] == (n.node.address.encode(),)


def test_a_part_is_linked_to_what_is_before_it(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, _ = story
    found = audit(n, name, **{"from": 2, "to": 3})
    assert (found["valid"], found["checked"], found["unlinked"], found["continues"]) == (True, 2, 0, True)


def test_another_node_audits_a_schedule_it_never_saw(story: tuple[str, list[Message]]) -> None:
    name, honest = story
    with node() as other:
        body = honest[0]["body"]
        other.node._lend["store"].write(body)
        assert findings(audit(other, name, honest)) == set()
        late = audit(other, name, honest[2:])
        assert (late["valid"], late["unlinked"]) == (True, 1)
        assert audit(other, name, [honest[0], lying(honest[1], "mallory")])["valid"] is False


def test_the_text_form_after_a_restart_is_accepted_and_named(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    with node() as other:
        other.node._lend["store"].write(honest[0]["body"])
        found = audit(other, name, linked(name, honest, text_at=3))
        assert findings(found) == set()
        assert found["hash-chain-forms"] == Message({"raw": 4, "text": 1})
        assert findings(audit(other, name, linked(name, honest, older=True))) == set()


def test_schedules_without_hash_chain_are_checked_by_their_hashpaths(story: tuple[str, list[Message]]) -> None:
    name, honest = story
    with node() as other:
        other.node._lend["store"].write(honest[0]["body"])
        newer: list[Message] = []
        path = name
        for one in honest:
            made = commit(one.with_commitments({}).without("hash-chain") | {"base-hashpath": path}, wallet())
            newer.append(made)
            head, _, tail = path.partition("/")
            joined = hashlib.sha256(raw(head) + raw(tail)).digest() if tail else raw(head)
            path = f"{urlsafe_b64encode(joined).rstrip(b'=').decode()}/{signed_id(made)}"
        found = audit(other, name, newer)
        assert findings(found) == set()
        assert found["hash-chain-forms"] == Message({"none": 5})
        wrong = [*newer[:2], lying(newer[2], **{"base-hashpath": newer[1]["base-hashpath"]}), *newer[3:]]
        assert (2, "base-hashpath") in findings(audit(other, name, wrong))


LIES: dict[str, tuple[Callable[[list[Message]], Any], tuple[int, str]]] = {
    "gap": (lambda a: [*a[:2], *a[3:]], (2, "missing")),
    "swapped": (
        lambda a: [*a[:2], lying(a[3], slot=2), lying(a[2], slot=3), a[4]],
        (2, "hash-chain"),
    ),
    "swapped without signing": (lambda a: {"0": a[0], "1": a[2], "2": a[1]}, (1, "slot")),
    "signed by another": (lambda a: [*a[:2], lying(a[2], "mallory"), *a[3:]], (2, "signer")),
    "signed by nobody": (lambda a: [*a[:2], a[2].with_commitments({}), *a[3:]], (2, "signer")),
    "forked": (lambda a: [*a[:4], lying(a[4], body=said(a[4].text("process"), count="other"))], (4, "fork")),
    "changed": (
        lambda a: [*a[:2], Message.make({**a[2].raw_items(), "timestamp": 9}, a[2].commitments), *a[3:]],
        (2, "signature"),
    ),
    "earlier than the slot before": (lambda a: [*a[:2], lying(a[2], timestamp=5), *a[3:]], (2, "timestamp")),
    "of another process": (lambda a: [*a[:2], lying(a[2], process="x" * 43), *a[3:]], (2, "process")),
    "another message": (lambda a: [*a[:2], lying(a[2], body=said("x" * 43)), *a[3:]], (2, "hash-chain")),
    "linked elsewhere": (lambda a: [*a[:2], lying(a[2], **{"base-hashpath": "x" * 43}), *a[3:]], (2, "base-hashpath")),
    "of another type": (lambda a: [*a[:2], lying(a[2], type="Message"), *a[3:]], (2, "type")),
    "without chains": (
        lambda a: [*a[:2], commit(a[2].with_commitments({}).without("hash-chain", "base-hashpath"), wallet())],
        (2, "chain"),
    ),
    "slot not signed": (
        lambda a: [*a[:2], commit(a[2].with_commitments({}), wallet(), committed=["process", "body"])],
        (2, "signature"),
    ),
    "signed as a reply": (lambda a: [*a[:2], lying(a[2], status=200), *a[3:]], (2, "fields")),
    "signed as a reply by the older rules": (
        lambda a: [*a[:2], lying(a[2].without("base-hashpath"), status=200, method="GET"), *a[3:]],
        (2, "fields"),
    ),
    "with a field of its own": (lambda a: [*a[:2], lying(a[2], host="x"), *a[3:]], (2, "fields")),
    "without a field": (
        lambda a: [*a[:2], commit(a[2].with_commitments({}).without("epoch"), wallet()), *a[3:]],
        (2, "fields"),
    ),
    "without body": (lambda a: [*a[:2], lying(a[2], body="text")], (2, "body")),
    "not at hand": (lambda a: {"0": a[0], "1": Link("x" * 43)}, (1, "missing")),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lying_scheduler_is_found_and_named(n: TestNode, story: tuple[str, list[Message]], lie: str) -> None:
    name, honest = story
    tell, expected = LIES[lie]
    found = audit(n, name, tell(honest))
    assert expected in findings(found), found["findings"]


def test_a_body_that_does_not_verify_is_named(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    body = honest[2]["body"]
    assert isinstance(body, Message)
    forged = Message.make({**body.raw_items(), "count": b"99"}, body.commitments)
    assert (2, "body") in findings(audit(n, name, [*honest[:2], lying(honest[2], body=forged)]))


def test_a_fork_names_who_signed_both(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    other = lying(honest[4], body=said(name, count="other"))
    listed = audit(n, name, [*honest[:4], other])["findings"]
    text = next(one.text("problem") for one in listed if one["kind"] == b"fork")  # type: ignore[union-attr, index, misc]
    assert signed_id(other) in text
    assert signed_id(honest[4]) in text
    assert f"{n.node.address} signed both" in text
    assert committers(other) == (n.node.address,)


def test_a_forgery_accuses_nobody_of_a_fork(n: TestNode, story: tuple[str, list[Message]]) -> None:
    """The node signs what a stranger asks for, with a status: neither another nor it believes that."""
    name, honest = story
    forged = lying(honest[2], body=said(name, count="666"), timestamp=9)
    reply = n.post("/~message@1.0/set", *asked(forged.with_commitments({}).without("path")))
    assert committers(reply) == (n.node.address,)
    assert reply["slot"] == 2
    unsound = Message.make({**honest[2].raw_items(), "timestamp": 9}, honest[2].commitments)
    with node() as other:
        other.node._lend["store"].write(honest[0]["body"])
        for at in (n, other):
            for one in (reply, reply.without("status"), unsound, lying(forged, "mallory")):
                found = audit(at, name, [*honest[:2], Message.make(one.raw_items(), one.commitments)])
                kinds = {kind for slot, kind in findings(found) if slot == 2}
                assert kinds & {"fields", "signature", "signer"}
                assert "fork" not in kinds
                signers = found["signers"]
                assert isinstance(signers, Message)
                assert signers.get(n.node.address) == 2


def test_a_signature_beside_the_schedulers_is_no_fork(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    both = commit(honest[2], wallet("mallory"))
    assert findings(audit(n, name, [*honest[:2], both])) == {(2, "signer")}


def test_assignments_from_answers_are_honest(n: TestNode) -> None:
    """As a client keeps them: from the answer to each message, from one slot's page, from the whole schedule."""
    made = process(n)
    name = signed_id(made)
    answers = [post(n, made), *(post(n, said(name, count=str(count))) for count in range(2))]
    assert [one["status"] for one in answers] == [200] * 3
    single = [n.get(f"/{name}/schedule/assignments/{slot}") for slot in range(3)]
    whole = n.get(f"/{name}/schedule")["assignments"]
    with node() as other:
        other.node._lend["store"].write(made)
        for at in (n, other):
            for given in (answers, single, whole):
                assert findings(audit(at, name, given)) == set()


RECORDED = Path(os.environ.get("HYPERPY_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "vectors"


def recorded(path: Path) -> dict[str, Message]:
    """Return the assignments with which a node of the reference answered, by their slots."""
    found: dict[str, Message] = {}
    for case in json.loads(path.read_text("utf-8"))["cases"]:
        reply = case.get("response") or {}
        headers = dict(reply.get("headers", ()))
        if headers.keys() & {"base-hashpath", "hash-chain"} and "boundary" in headers.get("content-type", ""):
            lines = [(name.encode(), value.encode()) for name, value in reply["headers"]]
            found[headers["slot"]] = decode_reply(200, lines, reply["body"].encode())
    return found


@pytest.mark.parametrize("generation", ["", "final"])
@pytest.mark.skipif(not RECORDED.is_dir(), reason="no vectors: set HYPERPY_SHARED to the shared folder")
def test_recorded_assignments_of_both_generations_are_honest(n: TestNode, generation: str) -> None:
    assignments = recorded(RECORDED / generation / "http_process.json")
    assert sorted(assignments) == ["0", "1", "2", "3", "4"]
    n.node._lend["store"].write(assignments["0"]["body"])
    found = audit(n, assignments["0"].text("process"), assignments)
    assert findings(found) == set()
    assert found["checked"] == 5
    assert found["hash-chain-forms"] == Message({"none" if generation else "raw": 5})


def test_a_slot_lost_from_the_store_is_named(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, _ = story
    n.node.store.write([], [("assignments", raw(name) + (2).to_bytes(8, "big"))])
    found = audit(n, name)
    assert (2, "missing") in findings(found)
    assert found["checked"] == 2


def test_garbage_is_no_schedule(n: TestNode, story: tuple[str, list[Message]]) -> None:
    name, honest = story
    for bad in ({"assignments": b"x"}, {}):
        request = Message({"path": "verify-schedule", "target": name, "body": {"process": name, **bad}})
        with pytest.raises(Exception, match="assignments"):
            n.node.resolver.resolve(Message({"device": "scheduler@1.0"}), request, frame(n.node))
    found = audit(n, name, {"0": honest[0], "x": honest[1]})
    assert (found["checked"], findings(found)) == (1, {(-1, "key")})
    reply = n.get(f"/~scheduler@1.0/verify-schedule?target={'x' * 43}")
    assert reply["status"] == 404
