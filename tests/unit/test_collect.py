"""Making room: what goes, in which order, and that what is left is sound after each part of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hyperpy import commitments, maintenance
from hyperpy.cache import Batch, Cache
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import MessageNotFound
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.store import collect
from hyperpy.store.lmdb import LmdbStore
from hyperpy.trail import Record, Trail
from tests.unit.steps import recorded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> RsaKey:
    return RsaKey.create(tmp_path_factory.mktemp("keys") / "a.json")


def signed(key: RsaKey, **items: object) -> Message:
    """Return a message nobody else has, signed."""
    return commitments.commit(Message({**items, "salt": b64u(os.urandom(80))}), key)


def step(store: LmdbStore, base: Message, n: int = 0, *, parent: bytes = b"") -> bytes:
    """Record one step on a base; return the record's ID."""
    return recorded(store, base, n, parent=parent)[1]


def readable(store: LmdbStore, item: Message) -> bool:
    """Say whether a signed message is read by its signed ID; check that it is whole."""
    try:
        found = Cache(store).read(commitments.signed_id(item))
    except MessageNotFound:
        return False
    assert isinstance(found, Message)
    commitments.check(found)
    assert commitments.signed_id(found) == commitments.signed_id(item)
    return True


def tables(store: LmdbStore) -> dict[str, int]:
    found = maintenance.stats(store)["tables"]
    assert isinstance(found, dict)
    return found


def test_unsigned_steps_go_before_signed_messages(store: LmdbStore, key: RsaKey) -> None:
    oldest = [signed(key, n=n) for n in range(3)]
    for n, item in enumerate(oldest):
        step(store, item, n)
    for n in range(100):
        step(store, Message({"n": n, "pad": os.urandom(200)}), n)
    store.flush()
    outcome = maintenance.collect(store, target=int(store.used * 0.6))
    assert outcome.records > 20
    assert all(readable(store, item) for item in oldest)


def test_signed_messages_that_nothing_names_go_with_all_that_is_theirs(store: LmdbStore, key: RsaKey) -> None:
    other = RsaKey.generate(2048)
    items = [signed(key, n=n, nested=signed(key, deep=n)) for n in range(10)]
    items += [commitments.commit(signed(key, n=n), other) for n in range(5)]
    for n, item in enumerate(items):
        step(store, item, n)
        step(store, item | {"unsigned": "too"}, n)
    store.flush()
    assert tables(store)["aliases"] > 20
    maintenance.collect(store, target=0)
    assert not any(readable(store, item) for item in items)
    left = tables(store)
    gone = ("messages", "aliases", "commitments", "claims", "trail", "results", "origins")
    assert {name: left[name] for name in gone} == dict.fromkeys(gone, 0)
    assert list(maintenance.verify(store)) == []
    assert tables(store)["age"] == 0, "and nothing of it stays on the disk"


def test_what_the_ledger_names_stays_signed_messages_too(store: LmdbStore, key: RsaKey) -> None:
    parts = [signed(key, part=n) for n in range(6)]
    modules = [signed(key, module=n) for n in range(6)]
    items = [commitments.commit(Message({"module": commitments.signed_id(m), "part": p}), key)
             for m, p in zip(modules, parts, strict=True)]  # fmt: skip
    batch, cache = Batch(), Cache(store)
    for item in (*items, *modules):
        cache.put(item, batch)
    batch.commit(store)
    names = [commitments.signed_id(item) for item in items]
    store.write([
        ("pins", b64u_decode(names[0]), b"test"),
        ("names", b"a-name", names[1].encode()),
        ("config", b"on", b"path=/" + names[2].encode() + b"/go"),
        ("heads", bytes(40), names[3].encode() + b"\n"),
        ("assignments", b64u_decode(names[4]) + bytes(8), b"\x81\xa4body\xd9\x2b" + names[5].encode() + b"AAA"),
    ])  # fmt: skip
    stray = signed(key)
    cache.put(stray, batch)
    batch.commit(store)
    store.flush()
    maintenance.collect(store, target=0)
    for item in (*items, *modules, *parts):
        assert readable(store, item)
    assert not readable(store, stray)
    assert {f.table for f in maintenance.verify(store)} <= {"assignments", "heads"}, "made up here"


def test_a_nested_message_whose_signature_fails_stays_with_its_parent(store: LmdbStore, key: RsaKey) -> None:
    bad = signed(key, a=1)
    bad = Message.make({**bad.raw_items(), "a": b"2"}, bad.commitments)
    parent, batch, cache = Message({"nested": bad, "x": "y"}), Batch(), Cache(store)
    ident = cache.put(parent, batch)
    batch.commit(store)
    assert tables(store)["claims"] == 1
    store.write([("pins", b64u_decode(ident), b"test")])
    store.flush()
    maintenance.collect(store, target=0)
    found = Cache(store).read(ident)
    assert isinstance(found, Message)
    nested = found["nested"]
    assert isinstance(nested, Message)
    assert nested["a"] == b"2"
    store.write([], [("pins", b64u_decode(ident))])
    maintenance.collect(store, target=0)
    assert tables(store)["claims"] == tables(store)["messages"] == tables(store)["aliases"] == 0


def test_a_signed_message_that_a_request_relies_on_is_put_again(store: LmdbStore, key: RsaKey) -> None:
    item = signed(key, nested=signed(key, deep=1))
    step(store, item)
    store.flush()
    cache, trail, batch = Cache(store), Trail(store), Batch()
    reference = cache.reference(item, batch)
    trail.put_origin(b"GET 0", batch)
    maintenance.collect(store, target=0)
    assert not readable(store, item)
    batch.commit(store)
    assert reference == commitments.signed_id(item)
    assert readable(store, item)
    assert readable(store, item["nested"])  # type: ignore[arg-type]
    assert list(maintenance.verify(store)) == []


def test_a_record_and_a_request_that_were_there_lately_are_put_again(store: LmdbStore) -> None:
    trail, batch = Trail(store), Batch()
    record = Record("", "", b64u(sha256(b"r")), "ok", "d", "k", "i", "b", "a/b", origin=sha256(b"GET"))
    for _ in range(2):
        trail.put_origin(b"GET", batch)
        name = trail.append(record, batch)
        if not len(batch):
            break
        batch.commit(store)
    assert not len(batch), "both are known, and relied on"
    store.flush()
    maintenance.collect(store, target=0)
    assert trail.read(name) is None
    batch.commit(store)
    assert trail.read(name) == record
    assert trail.by_hashpath("a/b") == record
    assert trail.origin(record.origin) == b"GET"


def test_a_signed_message_put_again_while_it_goes_stays(
    store: LmdbStore, key: RsaKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [signed(key, n=n) for n in range(4)]
    for n, item in enumerate(items):
        step(store, item, n)
    store.flush()
    monkeypatch.setattr(collect, "_PURGE", 1)
    begin, purge, batch = store.tables.condemn_rows, store.tables.purge, Batch()

    def before_the_rest_is_declared(rows: Sequence[tuple[bytes, bytes, tuple[bytes, ...]]]) -> None:
        if not readable(store, items[0]):
            early = Batch()
            Cache(store).reference(items[0], early)
            early.commit(store)
            Cache(store).reference(items[1], batch)  # finds the commitment, which goes before this is committed
        begin(rows)

    def while_it_goes(keys: Sequence[bytes]) -> None:
        if len(batch):
            batch.commit(store)
        purge(keys)

    monkeypatch.setattr(store.tables, "condemn_rows", before_the_rest_is_declared)
    monkeypatch.setattr(store.tables, "purge", while_it_goes)
    maintenance.collect(store, target=0)
    assert [readable(store, item) for item in items] == [True, True, False, False]
    assert list(maintenance.verify(store)) == []
    store.close()
    again = LmdbStore(store.folder)
    assert [readable(again, item) for item in items] == [True, True, False, False]
    assert list(maintenance.verify(again)) == []
    again.close()


def test_the_store_is_sound_after_each_part_of_a_collection(
    store: LmdbStore, key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        item = signed(key, n=n, nested=signed(key, deep=n)) if n % 3 == 0 else Message({"n": n})
        step(store, item, n + 100, parent=step(store, item, n))
        step(store, item | {"unsigned": "too"}, n)
    store.flush()
    monkeypatch.setattr(collect, "_PURGE", 9)
    seen = []

    def look(after: str) -> None:
        store.flush()
        folder = tmp_path / f"copy-{len(seen)}"
        shutil.copytree(store.folder, folder)
        copy = LmdbStore(folder)
        assert list(maintenance.verify(copy)) == [], f"{after}, part {len(seen)}"
        seen.append(tables(copy)["trail"])
        copy.close()
        shutil.rmtree(folder)

    for name in ("purge", "write"):
        real = getattr(store.tables, name)

        def part(rows: object, name: str = name, real: object = real) -> None:
            real(rows)  # type: ignore[operator]
            look(name)

        monkeypatch.setattr(store.tables, name, part)
    maintenance.collect(store, target=0)
    assert len(seen) > 15
    assert len(set(seen)) > 3, "records went in several parts"
    assert seen[-1] == 0
