"""The index of signed messages: what it finds, how far a search goes, and that it can be made again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hyperpy import commitments, maintenance
from hyperpy.cache import Batch, Cache
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.storage import Storage
from hyperpy.store import search
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from tests.unit.steps import recorded

ALICE, BOB = wallet("alice"), wallet("bob")
Wanted = dict[str, frozenset[str]]


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Any = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "s")
    yield made
    made.close()


def lent(store: Store) -> Storage:
    return Storage(Cache(store), store)


def signed(key: RsaKey = ALICE, **items: Any) -> Message:
    return commitments.commit(Message({name.replace("_", "-"): item for name, item in items.items()}), key)


def keep(storage: Storage, *items: Message) -> list[str]:
    """Store messages; return their unsigned IDs."""
    return [storage.write(item) for item in items]


def want(**pairs: str | Sequence[str]) -> Wanted:
    return {name: frozenset([text] if isinstance(text, str) else text) for name, text in pairs.items()}


def all_found(storage: Storage, wanted: Wanted, **options: Any) -> list[str]:
    """Search to the end, from where it stopped to where it stops."""
    seen: list[str] = []
    after: str | None = ""
    for _ in range(10_000):
        found = storage.find(wanted, after=after, **{"signed": True, "seconds": 60.0, **options})
        seen += found.refs
        after = found.next
        if after is None:
            return seen
    raise AssertionError("a search never ends")


def rows(store: Store) -> int:
    assert search.ready(store, time.monotonic() + 60)
    return sum(1 for key, _ in store.scan(search.TABLE) if len(key) == 48)


# -- what is found -------------------------------------------------------------------------------


def test_the_index_finds_what_looking_at_everything_finds(store: Store) -> None:
    chance = random.Random(7)
    storage = lent(store)
    kept: dict[str, tuple[dict[str, Any], str]] = {}
    for number in range(120):
        items = {name: chance.choice(["x", "y", 5, 5.5, True, b"\xff"]) for name in "abc" if chance.random() < 0.7}
        key = chance.choice([ALICE, BOB])
        item = signed(key, number=number, **items)
        kept[storage.write(item)] = ({"number": number, **items}, key.address)
        storage.write(Message({"nobody": number, **items}))
    asked: list[Wanted] = [
        want(a="x"),
        want(a="5", b="y"),
        want(a=["x", "true"]),
        want(c="5.5", a="x", b="5"),
        want(d="x"),
    ]
    for wanted in asked:
        for owners in ((), (ALICE.address,), (ALICE.address, BOB.address), ("nobody",)):
            expected = {
                ref
                for ref, (items, owner) in kept.items()
                if all(name in items and text(items[name]) in texts for name, texts in wanted.items())
                and (not owners or owner in owners)
            }
            for most in (1, 7, 1000):
                found = all_found(storage, wanted, owners=owners, most=most)
                assert len(found) == len(set(found))
                assert set(found) == expected, (wanted, owners)
                assert found == sorted(found, key=lambda ref: commitments.combined.raw_id(ref) or b"")
    assert set(all_found(storage, {}, owners=[BOB.address])) == {
        ref for ref, (_, who) in kept.items() if who == BOB.address
    }


def text(item: Any) -> str:
    """Say how a value is found, as the specification writes numbers."""
    return {True: "true", 5: "5", 5.5: "5.5"}.get(item, item) if not isinstance(item, bytes) else "?"


def test_nested_messages_are_found_by_their_id(store: Store) -> None:
    storage = lent(store)
    plain, own = Message({"a": 1}), signed(a=2)
    (parent,) = keep(storage, signed(plain=plain, own=own, many=[1, 2]))
    for wanted in (
        want(plain=commitments.unsigned_id(plain)),
        want(own=commitments.signed_id(own)),
        want(many=commitments.content_id((1, 2))),
    ):
        assert all_found(storage, wanted) == [parent]


def test_a_forged_signature_is_nobodys(store: Store) -> None:
    storage = lent(store)
    real = signed(action="pay", quantity="1")
    forged = Message.make({"action": b"pay", "quantity": b"1000"}, real.commitments)
    keep(storage, forged)
    assert all_found(storage, want(quantity="1000")) == []
    assert all_found(storage, {}, owners=[ALICE.address]) == []


def test_only_what_a_signature_covers_is_found(store: Store) -> None:
    storage = lent(store)
    part = commitments.commit(Message({"a": "1", "b": "2"}), ALICE, committed=["a"])
    keep(storage, part)
    assert len(all_found(storage, want(a="1"))) == 1
    assert all_found(storage, want(b="2")) == []


def test_steps_have_no_rows(store: Store) -> None:
    """What nobody signed costs nothing."""
    storage = lent(store)
    keep(storage, *(Message({"n": number, "text": "x"}) for number in range(20)))
    keep(storage, commitments.commit(Message({"a": "1"}), None, type="unsigned"))
    assert rows(store) == 0


def test_long_texts_are_found_all_the_same(store: Store) -> None:
    storage = lent(store)
    long = "x" * (search.LONGEST + 1)
    (ref,) = keep(storage, signed(note=long, kind="a"))
    assert rows(store) == 2, "the kind and the signer"
    assert ref in all_found(storage, want(note=long))
    assert all_found(storage, want(kind="a")) == [ref]
    many = [f"t{number}" for number in range(600)]
    assert ref in all_found(storage, want(kind=[*many, "a"])), "more than the index is asked for at once"


def test_no_time_no_complete_answer(store: Store) -> None:
    storage = lent(store)
    refs = set(keep(storage, *(signed(kind="many", even=str(number % 2), n=number) for number in range(200))))
    assert set(all_found(storage, want(kind="many"), seconds=0.0)) == refs
    assert len(all_found(storage, want(kind="many", even="1"), seconds=0.0)) == 100
    first = storage.find(want(kind="many"), signed=True, seconds=0.0)
    assert 0 < len(first.refs) <= 64
    assert first.next == first.refs[-1]


# -- made again ------------------------------------------------------------------------------------


def forget(store: Store, state: bytes | None = None) -> None:
    """Leave the store as an older version wrote it, or one whose rows had another form."""
    store.write([], [(search.TABLE, key) for key, _ in list(store.scan(search.TABLE))])
    if state is not None:
        store.write([(search.TABLE, b"state", state), (search.TABLE, b"o" * 48, b"\x01")])


@pytest.mark.parametrize("state", [None, b"0 done", b"1 ", b"10 done"])
def test_what_an_older_version_stored_is_taken_in(store: Store, state: bytes | None) -> None:
    storage = lent(store)
    refs = keep(storage, *(signed(kind="old", n=number) for number in range(100)))
    before = rows(store)
    forget(store, state)
    newer = keep(storage, signed(kind="old", n="new"))
    assert next(store.scan(search.PENDING), None) is not None, "writing only notes what is to be taken in"
    rounds = 0
    while not search.ready(store, 0.0 if state is None else time.monotonic() + 60):
        rounds += 1
        assert set(all_found(storage, want(kind="old"), seconds=0.0)) >= {*refs, *newer}, "meanwhile all are looked at"
        assert rounds < 1000
    assert (rounds > 0) is (state is None)
    assert set(all_found(storage, want(kind="old"))) == {*refs, *newer}
    assert rows(store) >= before
    assert store.get(search.TABLE, b"o" * 48) is None or state == b"1 "


def test_a_new_store_has_nothing_to_take_in(store: Store) -> None:
    lent(store)
    assert search.ready(store, 0.0)


def test_a_store_that_cannot_be_written_is_looked_at(tmp_path: Path) -> None:
    with_old = LmdbStore(tmp_path / "s")
    (ref,) = keep(lent(with_old), signed(kind="old"))
    forget(with_old)
    with_old.close()
    reader = LmdbStore(tmp_path / "s", readonly=True)
    try:
        storage = lent(reader)
        assert not search.ready(reader, time.monotonic() + 60)
        assert ref in all_found(storage, want(kind="old"))
    finally:
        reader.close()


# -- with what they belong to --------------------------------------------------------------------


def test_rows_go_with_their_message_and_come_with_it(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "s")
    try:
        storage = lent(store)
        (ref,) = keep(storage, item := signed(kind="old"))
        base = Message({"x": 1})
        for number in range(5):
            base, _ = recorded(store, base, number)
        assert list(maintenance.verify(store)) == []
        batch = Batch()
        storage._cache.put(item, batch)  # relies on what is there
        maintenance.collect(store, target=0)
        assert rows(store) == 0
        assert all_found(storage, want(kind="old")) == []
        batch.commit(store)
        assert all_found(storage, want(kind="old")) == [ref], "put again, its rows too"
        assert list(maintenance.verify(store)) == []
        store.write([(search.TABLE, b"o" * 48, b"\x01")])
        (finding,) = maintenance.verify(store)
        assert (finding.table, "not there" in finding.problem) == (search.TABLE, True)
    finally:
        store.close()
