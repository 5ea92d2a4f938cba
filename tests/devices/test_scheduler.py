"""scheduler@1.0: what is assigned, what is refused, what is answered."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy import commitments, config
from hyperpy.capabilities import Head
from hyperpy.commitments import commit, signed_id
from hyperpy.http.form import RawReply
from hyperpy.keys import RsaKey
from hyperpy.message import Link, Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, node, wallet
from tests.devices.scheduling import SCHEDULE, frame, own, post, post_body, process, said


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def spawn(at: TestNode, **keys: Any) -> str:
    """Schedule a process; return its ID."""
    made = process(at, **keys)
    assert post(at, made)["slot"] == 0
    return signed_id(made)


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=")


def text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


# -- assigning -------------------------------------------------------------------------------


def test_a_message_gets_the_next_slot_every_time(n: TestNode) -> None:
    name = spawn(n)
    message = said(name)
    made = [post(n, message, f"{SCHEDULE}?target={name}") for _ in range(10)]
    assert [one["slot"] for one in made] == list(range(1, 11))
    assert n.get(f"/~scheduler@1.0/slot/current?target={name}")["body"] == 10
    found = n.get(f"{SCHEDULE}?target={name}&from=0&to=10")
    listed = found["assignments"]
    assert isinstance(listed, Message)
    assert sorted(listed, key=int) == [str(number) for number in range(11)]
    edges = json.loads(n.http("GET", f"{SCHEDULE}?target={name}&from=0&to=10&accept=application/aos-2").body)["edges"]
    assert [edge["cursor"] for edge in edges] == list(range(11))


def test_an_assignment_has_the_fields_of_both_generations(n: TestNode) -> None:
    name = spawn(n)
    message = said(name, path="inc")
    before = int(time.time() * 1000)
    made = post_body(n, message)
    assert set(made) == {
        *("path", "data-protocol", "variant", "process", "epoch", "slot", "block-height", "block-hash"),
        *("block-timestamp", "timestamp", "base-hashpath", "hash-chain", "body", "type"),
    }
    assert made["path"] == b"inc"
    assert (made["data-protocol"], made["variant"], made["epoch"]) == (b"ao", b"ao.N.1", b"0")
    assert (made["slot"], made["block-height"], made["block-timestamp"]) == (1, 0, 0)
    assert made["block-hash"] == b"A" * 43
    assert made["type"] == b"Assignment"
    assert before <= made["timestamp"] <= int(time.time() * 1000)
    assert signed_id(made["body"]) == signed_id(message)
    assert commitments.committers(made) == (n.node.address,)
    assert set(commitments.committed(made)) == {*made, "ao-types"}
    commitments.check(made)


def test_the_chains_are_those_of_both_generations(n: TestNode) -> None:
    name = spawn(n)
    bodies = [said(name, count=str(count)) for count in range(3)]
    for one in bodies:
        post(n, one)
    listed = [n.node.cache.read(signed_id(one)) for one in own(n, name)]
    chain = hashlib.sha256(name.encode()).digest()
    path = name
    for at, one in enumerate(listed):
        assert isinstance(one, Message)
        if at:
            chain = hashlib.sha256(chain + signed_id(bodies[at - 1]).encode()).digest()
        assert one["hash-chain"] == text_of(chain).encode()
        assert one["base-hashpath"] == path.encode()
        head, _, tail = path.partition("/")
        path = f"{text_of(hashlib.sha256(raw(head) + raw(tail)).digest()) if tail else head}/{signed_id(one)}"


def test_the_recorded_hash_chains_are_made() -> None:
    from hyperpy.devices.scheduler.assignment import chained

    recorded = (
        ("eLLo2aLZYcaA_39DzjxsA6K93zqGC72stKsRwq_Dh0U", "NShwdG4-RY25DfN_nWX50lVf24WFo3WV-V8urW8WTKc"),
        ("zmRLv9lrEtk2ZZU5ZjYxY_JomuXc-4JdtONiwRhvwDw", "Tv9cGEZjJf_iscVdmBp4_PNJKaJmG0OIePCdLSnhca4"),
        ("zmRLv9lrEtk2ZZU5ZjYxY_JomuXc-4JdtONiwRhvwDw", "B-ciMwKsi-6LtOD1iVrFjxaAIQhKyOb3dHNSaq4t9sk"),
    )
    chain = b""
    for name, expected in recorded:
        message = Message({"a": 1}, commitments={name: {"committer": "x"}})
        message.memo["id all"] = name
        chain = chained(chain, message)
        assert text_of(chain) == expected


def test_the_inner_message_of_a_body_is_scheduled(n: TestNode) -> None:
    name = spawn(n)
    inner = commit(Message({"inner": "test-message", "target": name, "type": "Message"}), wallet("alice"))
    made = post_body(n, inner)
    assert made["slot"] == 1
    assert made["body"]["inner"] == b"test-message"


def test_a_subject_names_what_is_scheduled(n: TestNode) -> None:
    name = spawn(n)
    inner = said(name)
    request = Message({"path": "schedule", "method": "POST", "subject": "mine", "mine": inner, "body": {"other": 1}})
    base = Message({"device": "scheduler@1.0"})
    assert n.node.resolver.resolve(base, request, frame(n.node)).value["slot"] == 1
    reply = n.post(f"{SCHEDULE}&subject=nothing")
    assert reply["status"] == 400


def test_a_message_without_target_goes_to_the_process_of_the_path(n: TestNode) -> None:
    name = spawn(n)
    request = Message(
        {"path": "schedule", "method": "POST", "body": commit(Message({"action": "Inc"}), wallet("alice"))}
    )
    for held in (own(n, name)[0]["body"], name):
        base = Message({"device": "scheduler@1.0", "process": held})
        assert n.node.resolver.resolve(base, request, frame(n.node)).value["process"] == name.encode()
    assert len(own(n, name)) == 3


def test_a_process_that_lost_its_signers_is_not_another_process(n: TestNode) -> None:
    name = spawn(n)
    reply = n.get(f"/{name}~scheduler@1.0/slot")
    assert reply["status"] == 404
    assert n.get("/~scheduler@1.0/status")["processes"] == (name.encode(),)


def test_keys_that_are_not_signed_are_not_scheduled(n: TestNode) -> None:
    name = spawn(n)
    signed = said(name)
    made = post_body(n, Message.make({**signed.raw_items(), "extra": b"x"}, signed.commitments))
    assert "extra" not in made["body"]
    assert signed_id(made["body"]) == signed_id(signed)


def test_the_path_cannot_add_a_scheduler(n: TestNode) -> None:
    other = process(n, scheduler=wallet("somebody").address)
    batch_put(n, other)
    reply = post(n, said(signed_id(other)), f"/{signed_id(other)}~scheduler@1.0&scheduler={n.node.address}/schedule")
    assert reply["status"] == 404
    assert n.node._lend["slots"].head(signed_id(other)).slot == -1


def batch_put(at: TestNode, message: Message) -> None:
    at.node._lend["store"].write(message)


def test_a_process_with_copied_signatures_is_not_believed(n: TestNode) -> None:
    real = process(n, scheduler=wallet("somebody").address)
    forged = Message.make({**real.raw_items(), "scheduler": n.node.address.encode()}, real.commitments)
    request = Message({"path": "schedule", "method": "POST", "body": said(signed_id(real))})
    base = Message({"device": "scheduler@1.0", "process": forged})
    with pytest.raises(Exception, match="does not know the process"):
        n.node.resolver.resolve(base, request, frame(n.node))


def test_all_schedulers_that_the_node_holds_sign(n: TestNode) -> None:
    listed = f'"{wallet("other").address}", "{n.node.address}"'
    name = spawn(n, scheduler=listed)
    assert commitments.committers(own(n, name)[0]) == (n.node.address,)
    assert spawn(n, scheduler=[wallet("other").address, "default"])


def test_the_older_name_of_the_scheduler_is_read(n: TestNode) -> None:
    made = commit(Message({"type": "process", "scheduler-location": n.node.address}), wallet("owner"))
    assert post(n, made)["slot"] == 0


def test_a_process_may_ask_for_another_signature(n: TestNode) -> None:
    with node(flags={}) as inner:
        inner.node._key = RsaKey.generate(4096)
        inner.node._lend["keys"].address = inner.node._key.address
        made = commit(
            Message(
                {"type": "Process", "scheduler": inner.node._key.address, "scheduler-commitment-spec": "ans104@1.0"}
            ),
            wallet("owner"),
        )
        found = post_body(inner, made)
        one = next(iter(found.commitments.values()))
        assert one["commitment-device"] == b"ans104@1.0"
        commitments.check(found)


def test_times_never_go_back(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    name = spawn(n)
    clock = iter([9e9, 5.0, 9e9 + 1])
    monkeypatch.setattr(
        n.node.resolver.services.__class__, "now", property(lambda self: lambda: next(clock)), raising=False
    )
    stamps = [post_body(n, said(name))["timestamp"] for _ in range(3)]
    assert stamps == [9_000_000_000_000, 9_000_000_000_000, 9_000_000_001_000]


def test_a_schedule_goes_on_after_a_restart(tmp_path: Path) -> None:
    def opened() -> TestNode:
        settings = config.load(environ={})
        store = LmdbStore(tmp_path)
        return TestNode(Node(settings, key=wallet(), store=store, operator=wallet("operator").address))

    first = opened()
    name = spawn(first)
    post(first, said(name))
    first.node.close()
    second = opened()
    assert post(second, said(name))["slot"] == 2
    found = second.get(f"/~scheduler@1.0/verify-schedule?target={name}")
    assert found["valid"] is True
    assert found["hash-chain-forms"] == Message({"raw": 3})
    assert second.get("/~scheduler@1.0/status")["processes"] == (name.encode(),)
    second.node.close()


def test_a_scheduled_message_is_found_by_its_id(n: TestNode) -> None:
    name = spawn(n)
    message = said(name, data="find me")
    made = post(n, message)
    assert n.get(f"/{signed_id(message)}/data")["body"] == b"find me"
    assert n.get(f"/{signed_id(made)}/slot")["body"] == 1


# -- refusing --------------------------------------------------------------------------------


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


# -- reading ---------------------------------------------------------------------------------


def fill(at: TestNode, name: str, count: int) -> None:
    """Add slots without signatures, quickly."""

    def build(head: Head) -> tuple[Message, Head]:
        made = Message({"slot": head.slot + 1, "process": name, "timestamp": 5, "body": {"n": head.slot}})
        return made, Head(head.slot + 1, bytes(32), "", 5)

    for _ in range(count):
        at.node._lend["slots"].append(name, build, deadline=time.monotonic() + 60)


def test_long_schedules_come_in_pages(n: TestNode) -> None:
    name = spawn(n)
    fill(n, name, 1100)
    pages = []
    start, more = 0, True
    while more:
        page = _get(n, Message({"path": "schedule", "target": name, "from": start}))
        listed = page["assignments"]
        pages.append(len(listed))
        start += len(listed)
        more = page["continues"]
        assert len(pages) < 5
    assert pages == [1001, 100]
    short = _get(n, Message({"path": "schedule", "target": name, "from": "1090", "to": "5000"}))
    assert short["continues"] is True  # the window, not the schedule, was cut
    assert len(short["assignments"]) == 11


def _get(at: TestNode, request: Message) -> Any:
    return at.node.resolver.resolve(Message({"device": "scheduler@1.0"}), request, frame(at.node)).value


def test_an_answer_ends_before_it_grows_too_large(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.devices.scheduler import formats

    name = spawn(n)
    for _ in range(4):
        post_body(n, said(name, data="x" * 10_000))
    monkeypatch.setattr(formats, "MAX_BYTES", 40_000)
    page = _get(n, Message({"path": "schedule", "target": name, "from": 1}))
    assert (sorted(page["assignments"]), page["continues"]) == (["1", "2"], True)
    monkeypatch.setattr(formats, "MAX_BYTES", 10)
    page = _get(n, Message({"path": "schedule", "target": name, "from": 3}))
    assert (sorted(page["assignments"]), page["continues"]) == (["3"], True)


def test_slots_are_asked_for_in_every_spelling(n: TestNode) -> None:
    name = spawn(n)
    fill(n, name, 3)
    for query, expected in {
        "": ["0", "1", "2", "3"],
        "&from=1&to=2": ["1", "2"],
        "&from+integer=2": ["2", "3"],
        "&from=&to=1": ["0", "1"],
        "&from=-5&to=0": ["0"],
        "&from=4": [],
        "&from=3&to=1": [],
    }.items():
        listed = n.get(f"{SCHEDULE}?target={name}{query}")["assignments"]
        assert isinstance(listed, Message)
        assert list(listed) == expected, query
    for bad in ("&from=x", "&to=1.5", "&from=" + "9" * 30):
        assert n.get(f"{SCHEDULE}?target={name}{bad}")["status"] == 400


def test_the_json_of_aos(n: TestNode) -> None:
    name = spawn(n)
    message = said(name, action="Eval", data="return 1")
    post(n, message)
    reply = n.http("GET", f"{SCHEDULE}?target={name}&accept=application%2Faos-2")
    assert dict(reply.headers)[b"content-type"] == b"application/json"
    made = json.loads(reply.body)
    assert made["page_info"] == {
        "process": name,
        "has_next_page": False,
        "timestamp": "0",
        "block-height": "0",
        "block-hash": "A" * 43,
    }
    first, second = (edge["node"] for edge in made["edges"])
    assert first["message"]["Id"] == name
    assert second["message"]["Id"] == signed_id(message)
    assert (second["message"]["Data"], second["message"]["Target"]) == ("return 1", name)
    assert second["message"]["Owner"] == wallet("alice").address
    tags = {tag["name"]: tag["value"] for tag in second["assignment"]["Tags"]}
    assert (tags["Slot"], tags["Type"], tags["Process"]) == ("1", "Assignment", name)
    assert second["assignment"]["Owner"] == n.node.address


def test_slot_and_status(n: TestNode) -> None:
    name = spawn(n)
    found = n.get(f"/~scheduler@1.0/slot?target={name}")
    assert {key: found[key] for key in ("process", "current", "timestamp", "block-height", "cache-control")} == {
        "process": name.encode(),
        "current": 0,
        "timestamp": 0,
        "block-height": 0,
        "cache-control": b"no-store",
    }
    assert found["addresses"] == (n.node.address.encode(),)
    status = n.get("/~scheduler@1.0/status")
    assert (status["address"], status["processes"]) == (n.node.address.encode(), (name.encode(),))


def test_next_returns_the_assignment_and_the_base(n: TestNode) -> None:
    name = spawn(n)
    definition = process(n)
    for at, status in ((-1, None), ("-1", None), (0, 404), ("x", 500), (True, 500)):
        base = Message({"device": "scheduler@1.0", "process": definition, "at-slot": at, "count": 7})
        result = n.node.resolver.resolve(base, Message({"path": "next", "target": name}), frame(n.node))
        value = result.value
        assert isinstance(value, Message)
        if status is None:
            assert result.status == "ok"
            body, state = value["body"], value["state"]
            assert isinstance(body, Message)
            assert isinstance(state, Message)
            assert (body["slot"], state["count"]) == (0, 7)
        else:
            assert (result.status, value["status"]) == ("error", status)


def test_locations_are_those_of_the_location_device() -> None:
    with node(flags={"http.url": "http://127.0.0.1:1"}) as n:
        found = n.get("/~scheduler@1.0/location")["body"]
        assert isinstance(found, Message)
        assert found["url"] == b"http://127.0.0.1:1"
        record = commit(Message({"url": "http://127.0.0.1:2", "nonce": 1}), wallet("peer"))
        assert post(n, record, "/~scheduler@1.0/location")["url"] == b"http://127.0.0.1:2"
        other = n.get(f"/~scheduler@1.0/location?address={wallet('peer').address}")["body"]
        assert isinstance(other, Message)
        assert other["url"] == b"http://127.0.0.1:2"
        missing = n.get(f"/~scheduler@1.0/location?address={'x' * 43}")
        assert (missing["status"], missing["body"]) == (404, b"No location found for address: " + b"x" * 43)


# -- elsewhere -------------------------------------------------------------------------------


def elsewhere(at: TestNode) -> tuple[str, Message]:
    """Return a process of another scheduler, known here."""
    made = commit(Message({"type": "Process", "scheduler": wallet("peer").address}), wallet("owner"))
    batch_put(at, made)
    return signed_id(made), made


def located(at: TestNode, url: str = "http://127.0.0.1:9") -> None:
    record = commit(Message({"url": url, "nonce": 1}), wallet("peer"))
    assert post(at, record, "/~location@1.0/known")["status"] == 200


def test_another_schedulers_process_is_redirected(n: TestNode) -> None:
    name, _ = elsewhere(n)
    reply = post(n, said(name))
    assert reply["status"] == 404
    located(n)
    for found in (
        post(n, said(name)),
        n.get(f"{SCHEDULE}?target={name}"),
        n.get(f"/~scheduler@1.0/slot?target={name}"),
    ):
        assert (found["status"], found["location"]) == (307, b"http://127.0.0.1:9")
        assert found["body"] == b"Redirecting to scheduler: http://127.0.0.1:9"
        assert found["variant"] == b"ao.N.1"


def test_hints_lead_to_the_scheduler(n: TestNode) -> None:
    hinted = f"{wallet('peer').address}?hint=http://test.computer"
    made = commit(Message({"type": "Process", "scheduler-location": hinted}), wallet("owner"))
    assert post(n, made)["location"] == b"http://test.computer"
    name = "x" * 43
    found = n.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://other.computer")
    assert found["location"] == b"http://other.computer"
    with node(flags={"scheduler.follow_hints": False}) as strict:
        assert strict.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://other.computer")["status"] == 404


def test_a_hint_counts_only_where_another_node_schedules(n: TestNode) -> None:
    name = spawn(n)
    away = "?hint=http://evil.computer"
    assert post(n, said(name + away))["slot"] == 1
    assert n.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://evil.computer")["status"] == 200
    assert n.get(f"/~scheduler@1.0/slot?target={name}%3Fhint%3Dhttp://evil.computer")["current"] == 1
    theirs, _ = elsewhere(n)
    found = post(n, said(f"{theirs}?hint=http://their.computer"))
    assert (found["status"], found["location"]) == (307, b"http://their.computer")
    for odd in ("javascript:alert(1)", "//other.computer", "file:///etc/passwd", "http://"):
        assert post(n, said(f"{theirs}?hint={odd}"))["status"] == 404
        assert post(n, said(f"{'x' * 43}?hint={odd}"))["status"] == 404
    with node(flags={"scheduler.follow_hints": False}) as strict:
        name = spawn(strict)
        assert post(strict, said(name + away))["slot"] == 1
        theirs, _ = elsewhere(strict)
        assert post(strict, said(theirs + away))["status"] == 404


class Peer:
    """Stands for the way to another node: hands requests to a node of the test."""

    def __init__(self, answer: Callable[[Message], Message]) -> None:
        self.answer = answer
        self.asked: list[Message] = []

    def allowed(self, url: str) -> bool:
        return url.startswith("http://127.0.0.1:9")

    def call(self, url: str, request: Message) -> Message:
        self.asked.append(request | {"url": url})
        return self.answer(request)


def test_an_allowed_peer_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with node() as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 200, "slot": 7}))
        remote = n.node.registry.lookup("scheduler@1.0").instance._remote
        monkeypatch.setattr(remote, "_http", peer)
        message = said(name)
        assert post(n, message)["slot"] == 7
        sent = peer.asked[0]
        assert (sent["path"], sent["method"]) == (f"/{name}/schedule".encode(), b"POST")
        inner = sent["body"]
        assert isinstance(inner, Message)
        assert signed_id(inner) == signed_id(message)
        n.get(f"{SCHEDULE}?target={name}&from=3&to=9")
        assert peer.asked[1]["path"] == f"/{name}/schedule?from=3&to=9".encode()


def test_redirects_of_peers_are_followed_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    with node() as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 307, "location": "http://127.0.0.1:99"}))
        monkeypatch.setattr(n.node.registry.lookup("scheduler@1.0").instance._remote, "_http", peer)
        found = n.get(f"{SCHEDULE}?target={name}")
        assert (found["status"], found["location"]) == (307, b"http://127.0.0.1:99")
        assert [one["url"] for one in peer.asked] == [b"http://127.0.0.1:9", *[b"http://127.0.0.1:99"] * 2]
        assert [one["scheduler-hops"] for one in peer.asked] == [1, 2, 3]
        again = n.get(f"{SCHEDULE}?target={name}&scheduler-hops+integer=3")
        assert again["status"] == 307
        assert len(peer.asked) == 3


def test_redirects_are_left_to_the_client_where_the_operator_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(flags={"scheduler.follow_redirects": False}) as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 200}))
        monkeypatch.setattr(n.node.registry.lookup("scheduler@1.0").instance._remote, "_http", peer)
        assert n.get(f"{SCHEDULE}?target={name}")["status"] == 307
        assert peer.asked == []


def test_clients_side_by_side_get_all_slots_once(n: TestNode) -> None:
    names = [spawn(n, seed=seed) for seed in range(3)]
    messages = [[said(names[at % 3], count=f"{at}-{count}") for count in range(8)] for at in range(6)]
    found: list[Message] = []

    def client(own: list[Message]) -> None:
        found.extend(post(n, one, f"/{one.text('target')}/schedule") for one in own)

    threads = [threading.Thread(target=client, args=(own,)) for own in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        slots = sorted(one["slot"] for one in found if one["process"] == name.encode())  # type: ignore[type-var]
        assert slots == list(range(1, 17))
        verdict = n.get(f"/~scheduler@1.0/verify-schedule?target={name}")
        assert (verdict["valid"], verdict["checked"]) == (True, 17)
