"""Steps over signed messages: what a signature covers, what is lost of it, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, normalise
from hyperpy.cache import Batch, Cache
from hyperpy.commitments import commit, http_form
from hyperpy.store.base import Store
from hyperpy.testing import TestNode, node, wallet
from hyperpy.trail import Record
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit.liars import corrupt
from tests.audit.lies import DEVICES, audit, everything, forge, last, rules


@pytest.fixture
def here() -> Iterator[TestNode]:
    with node(*DEVICES) as made:
        yield made


@pytest.fixture
def store(here: TestNode) -> Store:
    return here.node.store


def signed_by_author(store: Store) -> str:
    """Store a message that somebody signed; return its signed ID."""
    batch = Batch()
    name = Cache(store).reference(commit(Message({"device": "message@1.0", "a": 5}), wallet("author")), batch)
    batch.commit(store)
    return name


def test_keys_beside_what_is_signed(here: TestNode, store: Store) -> None:
    """A result that keeps its author's signature and gets more keys is named by all of them."""
    path = f"/{signed_by_author(store)}/set&b={{}}/b"
    reply = here.get(path.format(2))
    assert audit(store, reply.hashpath or "").verdict is Verdict.REPRODUCED
    data = here.get("/~audit@1.0/receipt", {"ref": reply.hashpath})["body"]
    assert isinstance(data, bytes)
    assert verify(data).verdict is Verdict.ATTESTED
    corrupt(here.node, "message@1.0", "set", lambda true, _: true | {"b": b"9"})
    reply = here.get(path.format(3))
    assert reply["body"] == b"9"
    report = audit(store, reply.hashpath or "")
    assert [(step.verdict, rules(step)) for step in report.steps] == [
        (Verdict.DIVERGED, {"result"}),
        (Verdict.REPRODUCED, set()),
    ]


def test_a_signature_lost_between_two_steps(here: TestNode, store: Store) -> None:
    path = f"/{signed_by_author(store)}/set&b={{}}/committers"
    assert here.get(path.format(2))["1"] == wallet("author").address.encode()
    assert audit(store, roots=everything(store)).verdict is Verdict.REPRODUCED
    corrupt(here.node, "message@1.0", "set", lambda true, _: true.with_commitments({}))
    reply = here.get(path.format(3))
    assert "1" not in reply
    report = audit(store, reply.hashpath or "")
    assert (report.verdict, rules(report.steps[-1])) == (Verdict.INVALID, {"base-link"})


def test_a_signature_lost_in_a_sub_path(here: TestNode, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/~message@1.0/set&x=(/{signed_by_author(store)})/x/committers"
    assert here.get(path)["1"] == wallet("author").address.encode()
    assert audit(store, roots=everything(store)).verdict is Verdict.REPRODUCED
    honest = normalise.without_control

    def lying(resolver: Any, message: Message, frame: Any) -> Message:
        made = honest(resolver, message, frame)
        held = made.get("x")
        return made | {"x": held.with_commitments({})} if isinstance(held, Message) else made

    with monkeypatch.context() as patch:
        patch.setattr(normalise, "without_control", lying)
        reply = here.get(path)
    report = audit(store, reply.hashpath or "")
    assert (report.verdict, rules(report.steps[0])) == (Verdict.DIVERGED, {"sub-path"})


def test_signatures_that_only_the_request_can_show(here: TestNode, store: Store) -> None:
    """Parts of a signed path bear its signatures; where they are not those of the kept request, they are counted."""
    path = "/~message@1.0&a=1/set&b=2/committers"
    form = http_form(commit(Message({"path": path, "method": "GET"}), wallet("author")), bundle=True)
    reply = here.request("GET", path, {name: text.decode() for name, text in form.headers.items()})
    assert reply["1"] == wallet("author").address.encode()
    report = audit(store, reply.hashpath or "")
    assert (report.verdict, report.given) == (Verdict.REPRODUCED, 0)
    other = http_form(commit(Message({"path": path + "/1", "method": "GET"}), wallet("other")), bundle=True)
    here.request("GET", path, {name: text.decode() for name, text in other.headers.items()})
    records = [record for _, data in store.scan("trail") if (record := Record.decode(data)).origin]
    origins = sorted({one.origin for one in records})
    record = last(store, reply.hashpath or "")
    lie = forge(store, record, origin=next(one for one in origins if one != record.origin))
    assert audit(store, lie.hashpath_after).given > 0
