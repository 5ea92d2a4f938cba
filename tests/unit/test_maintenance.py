"""Checking a store, and making room in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from hyperpy import commitments, maintenance
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Head
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import MessageNotFound
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.slots import Slots
from hyperpy.store.lmdb import LmdbStore
from hyperpy.trail import Trail
from tests.unit.steps import recorded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> RsaKey:
    return RsaKey.create(tmp_path_factory.mktemp("keys") / "a.json")


def step(store: LmdbStore, n: int, base: Message | None = None, *, size: int = 200) -> tuple[Message, Message, bytes]:
    """Record one step, on a base of its own unless one is given; return base, result and record ID."""
    base = base if base is not None else Message({"device": "test@1.0", "n": n, "pad": os.urandom(size)})
    return base, *recorded(store, base, n, size=size)


def test_a_sound_store_has_no_findings(store: LmdbStore, key: RsaKey) -> None:
    for n in range(20):
        step(store, n)
    signed = commitments.commit(Message({"a": 1, "l": [1, {"b": 2}]}), key)
    step(store, 30, signed)
    step(store, 31, signed | {"path": "x"})
    seen: list[tuple[str, int]] = []
    assert list(maintenance.verify(store, lambda table, count: seen.append((table, count)))) == []
    assert ("messages", max(c for t, c in seen if t == "messages")) in seen
    store.flush()
    assert list(maintenance.verify(store)) == []
    figures = maintenance.stats(store)
    assert figures["tables"]["trail"] == 22
    assert figures["used"] > 0


def damage(folder: Path, needle: bytes) -> int:
    """Flip one bit in every copy of ``needle`` in the store's files; return how many."""
    found = 0
    for file in (folder / "cache" / "data.mdb", *(folder / "journal").glob("*.log")):
        data = bytearray(file.read_bytes())
        at = data.find(needle)
        while at >= 0:
            data[at + len(needle) // 2] ^= 1
            found += 1
            at = data.find(needle, at + 1)
        file.write_bytes(data)
    return found


@pytest.mark.parametrize("what", ["message", "long message", "record", "origin", "commitment"])
def test_a_corrupted_byte_is_found(tmp_path: Path, key: RsaKey, what: str) -> None:
    store = LmdbStore(tmp_path)
    base, _, name = step(store, 1, size=5000 if what == "long message" else 200)
    signed = commitments.commit(Message({"a": "signed"}), key)
    step(store, 2, signed)
    signature = next(c for c in signed.commitments.values() if "committer" in c)["signature"]
    record = Trail(store).read(name)
    assert record is not None
    needle = {
        "message": base["pad"],
        "long message": base["pad"],
        "record": record.encode(),
        "origin": b"GET 1",
        "commitment": signature,
    }[what]
    store.close()
    assert isinstance(needle, bytes)
    assert damage(tmp_path, needle) >= 1
    store = LmdbStore(tmp_path)
    assert list(maintenance.verify(store))
    store.close()


def test_an_index_entry_to_nothing_is_found(store: LmdbStore) -> None:
    _, _, name = step(store, 1)
    store.write([("by-result", sha256(b"x"), sha256(b"no record"))])
    assert [(f.table, f.key) for f in maintenance.verify(store)] == [("by-result", b64u(sha256(b"x")))]
    store.write([("by-result", sha256(b"x"), name)])
    assert "does not belong" in next(iter(maintenance.verify(store))).problem
    store.write([], [("by-result", sha256(b"x")), ("trail", name)])
    assert {f.table for f in maintenance.verify(store)} == {"by-result", "by-hashpath"}


def test_a_damaged_page_is_an_error_not_a_crash(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    step(store, 1)
    store.close()
    with lmdb.open(str(tmp_path / "cache")) as env, env.begin(write=True) as txn:
        for name, row in list(txn.cursor()):
            if name[:1] == b"z":
                txn.put(name, row[:-20])
    store = LmdbStore(tmp_path)
    assert list(maintenance.verify(store))
    store.close()


def test_the_oldest_unneeded_steps_go_first(store: LmdbStore, key: RsaKey) -> None:
    cache, trail = Cache(store), Trail(store)
    signed = commitments.commit(Message({"a": "keep me"}), key)
    step(store, 0, signed)
    pinned, _, _ = step(store, 1)
    store.write([("pins", b64u_decode(commitments.unsigned_id(pinned)), b"test")])
    named, _, _ = step(store, 2)
    store.write([("heads", bytes(40), commitments.unsigned_id(named).encode())])
    chained = step(store, 3)
    old = [step(store, n) for n in range(10, 200)]
    store.flush()
    young = [step(store, n) for n in range(200, 250)]
    last = step(store, 300, chained[1])  # its base is the result of an old step
    before = maintenance.stats(store)["tables"]
    outcome = maintenance.collect(store, target=int(store.used * 0.6))
    assert outcome.records > 20
    assert outcome.messages > 20
    assert outcome.after < outcome.before
    assert not cache.has(commitments.unsigned_id(old[0][1]))
    assert trail.read(old[0][2]) is None
    for item in (signed, pinned, named, chained[1], last[1], *(result for _, result, _ in young)):
        assert cache.has(commitments.unsigned_id(item))
    found = cache.read(commitments.signed_id(signed))
    assert isinstance(found, Message)
    commitments.check(found)
    with pytest.raises(MessageNotFound):
        cache.read(commitments.unsigned_id(old[0][1]))
    assert trail.by_result(commitments.unsigned_id(old[0][1])) is None
    assert list(maintenance.verify(store)) == []
    after = maintenance.stats(store)["tables"]
    assert after["trail"] == before["trail"] - outcome.records
    assert after["messages"] == before["messages"] - outcome.messages
    again = maintenance.collect(store, target=store.used)
    assert (again.records, again.messages, again.enough) == (0, 0, True)


def test_what_a_running_request_relies_on_is_put_again(store: LmdbStore) -> None:
    cache = Cache(store)
    old = [step(store, n) for n in range(100)]
    batch = Batch()
    mine = Message(dict(old[0][0].raw_items()))
    cache.put(mine, batch)
    batch.commit(store)
    cache.put(mine, batch)
    assert len(batch) == 0
    maintenance.collect(store, target=0)
    assert not cache.has(commitments.unsigned_id(mine))
    batch.commit(store)
    assert cache.read(commitments.unsigned_id(mine)) == mine
    assert list(maintenance.verify(store)) == []


def test_what_is_put_again_while_it_goes_stays(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [step(store, n) for n in range(50)]
    cache = Cache(store)
    kept = commitments.unsigned_id(old[7][1])
    purge = store.tables.purge

    def slow(keys: list[bytes]) -> None:
        assert not cache.has(kept)
        batch = Batch()
        cache.put(old[7][1], batch)
        batch.commit(store)
        purge(keys)

    monkeypatch.setattr(store.tables, "purge", slow)
    maintenance.collect(store, target=0)
    assert cache.read(kept, exact=True) is not None
    store.flush()
    assert cache.has(kept)
    assert list(maintenance.verify(store)) == []


# -- schedules and states ----------------------------------------------------------------------


PROCESS = b64u(sha256(b"a process"))


def assigned(store: LmdbStore, key: RsaKey, count: int) -> Slots:
    """Put a schedule of a process into the store."""
    actors = ActorSystem()
    slots = Slots(store, Cache(store), actors)

    def build(head: Head) -> tuple[Message, Head]:
        made = Message({"slot": head.slot + 1, "process": PROCESS, "body": commitments.commit(Message({"a": 1}), key)})
        return commitments.commit(made, key), Head(head.slot + 1, sha256(head.chain), "", 0)

    for _ in range(count):
        slots.append(PROCESS, build, deadline=time.monotonic() + 20)
    actors.stop()
    return slots


def test_a_schedule_is_checked(store: LmdbStore, key: RsaKey) -> None:
    assigned(store, key, 3)
    assert list(maintenance.verify(store)) == []
    name = b64u_decode(PROCESS)
    rows = dict(store.scan("assignments"))
    first, second, third = rows.values()
    for number, bad, table in (
        (1, first, "assignments"),
        (1, second.replace(b"Process", b"Pr0cess").replace(b"process", b"pr0cess"), "assignments"),
        (2, third[:40] + bytes([third[40] ^ 1]) + third[41:], "assignments"),
        (3, third, "heads"),
    ):
        store.write([("assignments", name + number.to_bytes(8, "big"), bad)])
        assert table in {found.table for found in maintenance.verify(store)}
        store.write([("assignments", k, v) for k, v in rows.items()], [("assignments", name + (3).to_bytes(8, "big"))])
    assert list(maintenance.verify(store)) == []
    head = store.get("heads", name)
    assert head is not None
    store.write([("heads", name, head.replace(head[3:20], bytes(17)))])
    assert {found.table for found in maintenance.verify(store)} == {"heads"}


def test_collecting_keeps_schedules_and_snapshots_and_lets_states_go(store: LmdbStore, key: RsaKey) -> None:
    slots = assigned(store, key, 5)
    before = list(slots.range(PROCESS, 0, 9))
    for slot in range(80):
        batch = Batch()
        slots.put_state(PROCESS, slot, Message({"at-slot": slot, "pad": "x" * 500}), batch, snapshot=slot % 40 == 0)
        batch.commit(store)
    store.flush()
    outcome = maintenance.collect(store, target=int(store.used * 0.3))
    assert outcome.messages > 10
    assert list(slots.range(PROCESS, 0, 9)) == before
    for one in before:
        assert Cache(store).has(commitments.signed_id(one))
    for slot in (0, 40):
        kept = slots.latest(PROCESS, slot, snapshot=True)
        assert kept is not None
        assert kept[1]["at-slot"] == slot
    gone = [slot for slot in range(80) if slots.state(PROCESS, slot) is None]
    assert gone
    assert list(maintenance.verify(store)) == []
