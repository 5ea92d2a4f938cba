"""scheduler@1.0: what is assigned, to which slot, and signed by whom."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import commitments, config
from hyperpy.commitments import commit, signed_id
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, node, wallet
from tests.devices.scheduling import SCHEDULE, batch_put, frame, own, post, post_body, process, said, spawn


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=")


def text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


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
