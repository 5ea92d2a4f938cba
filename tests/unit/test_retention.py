"""How long steps are kept, what a receipt keeps, and that a removal is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import Message, config, maintenance, retention
from hyperpy.cache import Cache
from hyperpy.config import Config
from hyperpy.errors import MessageNotFound
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, wallet
from hyperpy.trail import Trail
from tests.unit.steps import recorded

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path / "s")
    yield made
    made.close()


def settings(**trail: float | bool) -> Config:
    return config.load(environ={}, flags={f"trail.{name.replace('_', '-')}": item for name, item in trail.items()})


def chain(store: LmdbStore, count: int) -> list[bytes]:
    """Record steps, each from the result of the one before; return the record IDs."""
    base, names = Message({"x": 1}), []
    for number in range(count):
        base, name = recorded(store, base, number)
        names.append(name)
    return names


def kept(store: LmdbStore) -> set[bytes]:
    return {name for name, _ in store.scan("trail")}


def test_nothing_goes_by_age_unless_it_is_asked_for(store: LmdbStore) -> None:
    names = chain(store, 5)
    assert not retention.is_limited(settings())
    done = retention.apply(store, settings(), time.time() + 1000 * DAY)
    assert (done.records, kept(store)) == (0, set(names))


def test_steps_go_when_they_are_old_enough(store: LmdbStore, caplog: pytest.LogCaptureFixture) -> None:
    names = chain(store, 5)
    now = time.time()
    assert retention.apply(store, settings(days=7), now + 6 * DAY).records == 0
    assert kept(store) == set(names)
    assert retention.removed(store) == {}
    with caplog.at_level(logging.INFO, "hyperpy.store"):
        done = retention.apply(store, settings(days=7), now + 8 * DAY)
    assert (done.records, kept(store)) == (5, set())
    assert "removed 5 records" in caplog.text
    said = retention.removed(store)
    assert said["records"] == 5
    assert said["before"] > said["at"], "the clock of this test runs ahead"
    assert list(maintenance.verify(store)) == []


def test_younger_steps_stay(store: LmdbStore) -> None:
    old = chain(store, 3)
    store.flush()
    moment = time.time()
    base, young = recorded(store, Message({"y": 1}), 1)
    assert base
    done = retention.apply(store, settings(days=1), moment + DAY)
    assert (done.records, kept(store)) == (len(old), {young})


def test_a_receipt_keeps_what_it_needs_until_it_expires(store: LmdbStore) -> None:
    names = chain(store, 6)
    now = time.time()
    assert retention.pin(store, names[2:4], now + 30 * DAY, 100)
    own = settings(receipts_only=True)
    assert retention.apply(store, own, now + 1800).records == 0, "there is an hour to ask for a receipt"
    retention.apply(store, own, now + 2 * DAY)
    assert kept(store) == set(names[2:4])
    trail, cache = Trail(store), Cache(store)
    for name in names[2:4]:
        record = trail.read(name)
        assert record is not None
        for ref in (record.base, record.request, record.result):
            assert cache.read(ref, exact=True) is not None
    assert list(maintenance.verify(store)) == []
    maintenance.collect(store, target=0)
    assert kept(store) == set(names[2:4]), "making room takes none of it either"
    retention.apply(store, own, now + 31 * DAY)
    assert kept(store) == set()
    assert list(store.scan("pins")) == []
    with pytest.raises(MessageNotFound):
        Cache(store).read(record.result)


def test_pins_are_bounded_and_only_prolonged(store: LmdbStore) -> None:
    names = chain(store, 4)
    now = time.time()
    assert retention.pin(store, names[:3], now + DAY, 3)
    assert not retention.pin(store, names, now + DAY, 3), "one too many"
    assert retention.pin(store, names[:3], now + 9 * DAY, 3), "those that are there may stay longer"
    assert retention.pin(store, names[:1], now + 2 * DAY, 3), "and never shorter"
    assert retention.expire(store, now + 8 * DAY) == 0
    assert retention.expire(store, now + 9 * DAY + 1) == 3


def test_pins_are_counted_once(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt must not cost more the more receipts there are."""
    names = chain(store, 6)
    now = time.time()
    assert retention.pin(store, names[:2], now + DAY, 4)
    looked: list[str] = []
    honest = LmdbStore.scan
    monkeypatch.setattr(
        LmdbStore, "scan", lambda self, table, *rest: looked.append(table) or honest(self, table, *rest)
    )
    assert retention.pin(store, names[1:4], now + DAY, 4)
    assert not retention.pin(store, names[4:], now + DAY, 4)
    assert "pins" not in looked
    assert retention.expire(store, now + 2 * DAY) == 4
    assert retention.pin(store, names[2:], now + 3 * DAY, 4), "what expired makes room"
    assert not retention.pin(store, names[:1], now + 3 * DAY, 4)


def test_pins_of_other_kinds_never_expire(store: LmdbStore) -> None:
    (name,) = chain(store, 1)
    store.write([("pins", name, b"because")])
    assert retention.expire(store, time.time() + 10_000 * DAY) == 0
    maintenance.collect(store, target=0)
    assert kept(store) == {name}


def test_a_node_removes_what_is_too_old_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "GRACE_S", -60.0)
    store = LmdbStore(tmp_path / "n")
    own = config.load(environ={}, flags={"http.sign": False, "trail.receipts-only": True})
    with Node(own, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client = TestNode(node)
        patience = time.monotonic() + 50
        asked = 0
        while store.collections == 0 and time.monotonic() < patience:
            client.get(f"/~message@1.0&n={asked}/set&k=1")
            asked += 1
        node.housekeeping.close()
        assert retention.removed(store)["records"] > 0
        assert list(maintenance.verify(store)) == []


def test_a_node_keeps_what_its_receipts_need(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "n")
    own = config.load(environ={}, flags={"trail.receipts-only": True})
    with Node(own, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client = TestNode(node)
        kept_path, lost_path = (client.get(f"/~message@1.0&n={n}/set&k=1").hashpath for n in range(2))
        assert kept_path is not None
        assert lost_path is not None
        data = client.get(f"/~audit@1.0/receipt?ref={kept_path}")["body"]
        assert isinstance(data, bytes)
        retention.apply(store, own, time.time() + 2 * DAY)
        again = client.get(f"/~audit@1.0/replay?ref={kept_path}")
        assert (again.text("verdict"), again["exit-code"]) == ("reproduced", 0)
        lost = client.get(f"/~audit@1.0/replay?ref={lost_path}")
        assert lost["status"] == 404
        assert "steps were removed (recorded before 2" in lost.text("body")
        assert list(maintenance.verify(store)) == []
