"""What claims to be a part, or leaves out what would show it, is never taken as reproduced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgpack
import pytest

from hyperpy import Message, commitments
from hyperpy.audit import service
from hyperpy.audit.collect import collect
from hyperpy.audit.fault import Peer
from hyperpy.audit.peer import Wanted, audit_peer
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import replay
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import is_about, replayed
from hyperpy.cache import Batch
from hyperpy.encoding import b64u
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Verdict
from tests.audit.liars import Tally, served

_KEPT = ("messages", "ambiguous", "commitments", "claims", "aliases", "origins", "assignments", "heads", "names")


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def records(n: TestNode) -> dict[str, Record]:
    """Return the newest record by its key."""
    found = (n.node.trail.read(name) for name, _ in n.node.store.scan("trail"))
    return {record.key: record for record in found if record is not None}


def kept(n: TestNode, item: Message) -> str:
    batch = Batch()
    name = n.node.cache.put(item, batch)
    batch.commit(n.node.store)
    return name


def verdicts(n: TestNode, forged: Sequence[Record], root: Record) -> list[Verdict]:
    """Return what is said of a root in a store that holds these records alone, and of a receipt of it."""
    store = MemoryStore()
    for table in _KEPT:
        store.write([(table, key, value) for key, value in n.node.store.scan(table)])
    trail, batch = Trail(store), Batch()
    for record in forged:
        trail.append(record, batch)
    batch.commit(store)
    evidence = Evidence.of_store(store, "the forged store")
    plan = collect(evidence, b64u(root.id))
    data = build(evidence, collect(evidence, b64u(root.id)))
    return [replay(evidence, plan).verdict, replayed(data).verdict]


@pytest.fixture
def chain(n: TestNode) -> tuple[Record, Record]:
    """Two honest steps, and the second with a base that nothing led to."""
    n.get("/~message@1.0&a=1/set&b=2/set&c=3")
    found = [one for one in (n.node.trail.read(name) for name, _ in n.node.store.scan("trail")) if one is not None]
    first = next(one for one in found if "/" not in one.hashpath_before)
    second = next(one for one in found if one.hashpath_before == first.hashpath_after)
    base = kept(n, Message({"device": "message@1.0", "a": 1, "b": 2, "balance": 1_000_000}))
    made = n.node.resolver.rerun(replace(second, base=base), 1e18).value
    assert isinstance(made, Message)
    return first, replace(second, base=base, result=kept(n, Message(dict(made.raw_items()))))


@pytest.mark.parametrize(
    "way", ["no request kept", "part of the one before", "part of nothing here", "part, with request"]
)
def test_a_base_that_nothing_led_to(n: TestNode, chain: tuple[Record, Record], way: str) -> None:
    first, false = chain
    bare = replace(first, origin=b"")
    forged = {
        "no request kept": ([bare, lie := replace(false, origin=b"")], lie),
        "part of the one before": ([bare, lie := replace(false, origin=b"", parent=bare.id)], lie),
        "part of nothing here": ([lie := replace(false, origin=b"", parent=b"\7" * 32)], lie),
        "part, with request": ([first, lie := replace(false, parent=first.id)], lie),
    }[way]
    assert Verdict.REPRODUCED not in verdicts(n, *forged)


def test_what_cannot_be_made_again_is_no_part_because_it_says_so(n: TestNode) -> None:
    n.get("/~message@1.0&a=1/set&device=fault@1.0/implementation&of=calculator@1.0")
    found = records(n)
    before = replace(found["set"], origin=b"")
    lie = kept(n, Message({"of": "calculator@1.0", "implementation": "LIE"}))
    forged = replace(found["implementation"], origin=b"", result=lie, parent=before.id)
    assert verdicts(n, [before, forged], forged) == [Verdict.ATTESTED, Verdict.ATTESTED]


def test_content_behind_a_nested_signature_cannot_be_exchanged(n: TestNode) -> None:
    inner = commitments.commit(Message({"pay": "bob", "amount": "5"}), wallet("victim"))
    outer = kept(n, Message({"device": "message@1.0", "order": inner}))
    n.get(f"/{outer}/order")
    honest = records(n)["order"]
    store, evil = n.node.store, Message({"pay": "mallory", "amount": "5"})
    ident = kept(n, evil)
    old, new = commitments.content_key(inner), commitments.content_key(evil)
    store.write([("commitments", new + key[32:], value) for key, value in list(store.scan("commitments", old))])
    for key, value in list(store.scan("aliases")):
        content, pairs = msgpack.unpackb(value, raw=False)
        if content == old:
            store.write([("aliases", key, msgpack.packb([new, [[new, one] for _, one in pairs]]))])
    forged = replace(honest, origin=b"", result=ident)
    found = verdicts(n, [forged], forged)
    assert found[0] is Verdict.INVALID
    assert found[1] is not Verdict.REPRODUCED


def test_who_signed_a_part_does_not_vouch_for_all(n: TestNode) -> None:
    part = commitments.commit(Message({"of": "x"}), wallet("victim"))
    assert commitments.whole_signers(part) == (wallet("victim").address,)
    assert commitments.whole_signers(Message.make({**part.raw_items(), "more": b"LIE"}, part.commitments)) == ()


def test_a_receipt_of_something_else(n: TestNode) -> None:
    own = n.get("/~message@1.0&q=1/set&a=1").hashpath
    other = n.get("/~message@1.0&q=2/set&a=1").hashpath
    data = n.get(f"/~audit@1.0/receipt?ref={own}")["body"]
    assert isinstance(data, bytes)
    assert own is not None
    assert other is not None
    assert is_about(data, own)
    assert not is_about(data, other)
    assert not is_about(data, "A" * 43)
    assert not is_about(b"nothing", own)


def test_a_peer_that_gives_one_receipt_for_everything(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with served("liar") as at:
        ref = n.get("/~message@1.0&q=1/set&a=1").hashpath
        data = n.get(f"/~audit@1.0/receipt?ref={ref}")["body"]
        monkeypatch.setattr(service.Audits, "receipt", lambda self, ref, ctx, **options: (data, 0))
        with Peer(at.url) as peer:
            report = audit_peer(peer, n.node, Wanted(("/~message@1.0&a=1/set&b=2",), (), (Tally,)))
    assert report.steps[0].verdict is Verdict.INVALID
    assert report.steps[0].findings[-1].rule == "receipt"
