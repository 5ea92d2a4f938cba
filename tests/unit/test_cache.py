"""Messages, aliases and results in a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import commitments
from hyperpy.cache import MAX_DEPTH, Batch, Cache
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import CodecError, Corrupt, HyperpyError, MessageError, MessageNotFound, SizeError
from hyperpy.keys import RsaKey
from hyperpy.message import Atom, Link, Message, Value
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[RsaKey, RsaKey]:
    folder = tmp_path_factory.mktemp("keys")
    return RsaKey.create(folder / "a.json"), RsaKey.create(folder / "b.json")


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store")
    yield made
    made.close()


def put(store: Store, item: Value) -> str:
    batch = Batch()
    name = Cache(store).put(item, batch)
    batch.commit(store)
    return name


def reference(store: Store, item: Message) -> str:
    batch = Batch()
    name = Cache(store).reference(item, batch)
    batch.commit(store)
    return name


def unlinked(item: Value) -> Value:
    if isinstance(item, Link):
        return unlinked(item.load())
    if isinstance(item, tuple):
        return tuple(map(unlinked, item))
    if isinstance(item, Message):
        return Message.make({k: unlinked(v) for k, v in item.raw_items().items()}, item.commitments)
    return item


RICH = Message(
    {
        "text": "x",
        "n": 5,
        "big": 1 << 80,
        "f": 1.5,
        "yes": True,
        "atom": Atom("not_found"),
        "list": [1, "a", [True], {"deep": 1}],
        "map": {"a": {"b": {"c": 3}}, "empty": {}},
        "none": [],
        "caf\udce9": b"\xff\x00",
    }
)


def test_everything_comes_back(store: Store) -> None:
    name = put(store, RICH)
    assert name == commitments.unsigned_id(RICH)
    found = Cache(store).read(name)
    assert unlinked(found) == RICH
    assert commitments.unsigned_id(found) == name


def test_children_are_messages_of_their_own(store: Store) -> None:
    cache = Cache(store)
    found = cache.read(put(store, RICH))
    assert isinstance(found, Message)
    link = found.raw("map")
    assert isinstance(link, Link)
    assert link.id == commitments.unsigned_id(RICH["map"])
    assert unlinked(cache.read(link.id)) == RICH["map"]
    members = found.raw("list")
    assert isinstance(members, Link)
    assert unlinked(cache.read(members.id)) == RICH["list"]


def test_binaries_and_lists(store: Store) -> None:
    cache = Cache(store)
    assert put(store, b"abc") == b64u(sha256(b"abc"))
    assert cache.read(b64u(sha256(b"abc"))) == b"abc"
    assert cache.read(sha256(b"abc").decode("latin-1").encode("latin-1").decode("utf-8", "surrogateescape")) == b"abc"
    name = put(store, (1, b"a", True))
    assert name == "Uxj3Vl0zE5sHYv40iseN4QJw8-YOM8yOZ4F_8ylSV4c"
    assert cache.read(name) == (1, b"a", True)
    for literal in (5, True, Atom("x"), 1.5):
        with pytest.raises(CodecError):
            put(store, literal)


@pytest.mark.parametrize("ref", ["", "x", "a" * 42, "a" * 43, "!" * 43, "y" * 32, "z" * 5000, "\udcff" * 32])
def test_what_is_not_there_is_not_found(store: Store, ref: str) -> None:
    with pytest.raises(MessageNotFound):
        Cache(store).read(ref)
    assert not Cache(store).has(ref)


def test_a_batch_is_read_before_it_is_committed(store: Store) -> None:
    cache, batch = Cache(store), Batch()
    name = cache.put(RICH, batch)
    assert unlinked(cache.read(name, batch)) == RICH
    with pytest.raises(MessageNotFound):
        cache.read(name)
    batch.commit(store)
    assert len(batch) == 0
    assert cache.has(name)


def test_the_same_message_is_written_once(store: Store) -> None:
    cache, batch = Cache(store), Batch()
    cache.put(RICH, batch)
    batch.commit(store)
    cache.put(Message(dict(RICH.raw_items())), batch)
    assert len(batch) == 0


def test_what_a_failed_batch_held_is_written_again(store: Store) -> None:
    cache = Cache(store)
    cache.put(RICH, Batch())  # never committed
    batch = Batch()
    name = cache.put(RICH, batch)
    batch.commit(store)
    assert unlinked(Cache(store).read(name)) == RICH


def test_signed_and_combined_ids_are_aliases(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    signed = commitments.commit(Message({"a": "1", "child": {"b": 2}}), keys[0])
    name = put(store, signed)
    assert name == commitments.unsigned_id(signed)
    cache = Cache(store)
    for alias in (commitments.signed_id(signed), commitments.hashpath_id(signed)):
        found = cache.read(alias)
        assert unlinked(found) == signed
        assert isinstance(found, Message)
        commitments.check(found)
        assert commitments.hashpath_id(found) == commitments.hashpath_id(signed)
    assert reference(store, signed) == commitments.signed_id(signed)


def test_an_alias_never_changes_whoever_signs_later(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    plain = Message({"a": "1"})
    first, second = commitments.commit(plain, keys[0]), commitments.commit(plain, keys[1])
    both = commitments.commit(first, keys[1])
    cache = Cache(store)
    name = put(store, first)
    put(store, second)
    put(store, both)
    for item in (first, second, both):
        found = cache.read(commitments.signed_id(item))
        assert isinstance(found, Message)
        assert set(commitments.committers(found)) == set(commitments.committers(item))
        assert commitments.signed_id(found) == commitments.signed_id(item)
    merged = cache.read(name)
    assert isinstance(merged, Message)
    assert set(commitments.committers(merged)) == {keys[0].address, keys[1].address}
    assert cache.read(name, exact=True) == plain


def test_a_signed_id_holds_committed_keys_only(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    signed = commitments.commit(Message({"a": "1"}), keys[0])
    seen = signed | {"path": "go", "evil": "x"}
    assert seen.commitments
    ref = reference(store, seen)
    cache = Cache(store)
    found = cache.read(commitments.signed_id(seen))
    assert isinstance(found, Message)
    assert sorted(found) == ["a"]
    whole = cache.read(ref)
    assert whole == seen
    assert ref not in (commitments.signed_id(seen), commitments.unsigned_id(seen))


def test_signers_of_different_keys_keep_to_their_keys(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    alice = commitments.commit(Message({"a": "1", "b": "2"}), keys[0], committed=["a"])
    mallory = commitments.commit(alice, keys[1], committed=["a", "b"])
    put(store, mallory)
    cache = Cache(store)
    own = next(n for n, c in mallory.commitments.items() if c.get("committer") == keys[0].address.encode())
    found = cache.read(own)
    assert isinstance(found, Message)
    assert sorted(found) == ["a"]
    assert commitments.committers(found) == (keys[0].address,)
    commitments.check(found)


def test_a_forged_signature_gets_no_alias(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    genuine = commitments.commit(Message({"a": "1"}), keys[0])
    forged = Message({"a": "666"}).with_commitments(genuine.commitments)
    ref = reference(store, forged)
    cache = Cache(store)
    with pytest.raises(MessageNotFound):
        cache.read(commitments.signed_id(genuine))
    assert cache.read(ref) == forged
    put(store, genuine)
    found = cache.read(commitments.signed_id(genuine))
    assert isinstance(found, Message)
    assert found["a"] == b"1"


def test_a_forged_child_is_found_through_its_parent_alone(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    genuine = commitments.commit(Message({"a": "1"}), keys[0])
    forged = Message({"a": "666"}).with_commitments(genuine.commitments)
    cache = Cache(store)
    parent = cache.read(put(store, Message({"child": forged})))
    assert isinstance(parent, Message)
    child = parent["child"]
    assert isinstance(child, Message)
    assert child["a"] == b"666"
    with pytest.raises(MessageNotFound):
        cache.read(commitments.signed_id(genuine))
    put(store, genuine)
    child = parent["child"]
    assert isinstance(child, Message)
    assert child["a"] == b"1"


def test_a_claimed_id_gets_no_alias(store: Store) -> None:
    target = Message({"a": "victim"})
    claimed = Message({"commitment-device": "httpsig@1.0", "committed": ["a"], "signature": "AAAA", "committer": "x"})
    claims = Message({"a": "evil"}).with_commitments({commitments.unsigned_id(target): claimed})
    put(store, claims)
    with pytest.raises(MessageNotFound):
        Cache(store).read(commitments.unsigned_id(target))


def test_a_smuggled_line_does_not_take_a_message_over(store: Store) -> None:
    victim = Message({"a": "1", "b": '2\n"b": 3'})
    smuggled = Message({"a": '1\n"b": 2', "b": "3"})
    assert commitments.unsigned_id(victim) == commitments.unsigned_id(smuggled), "ao-core 4.7: a known collision"
    name = put(store, victim)
    assert put(store, victim) == name
    with pytest.raises(MessageError, match="same ID"):
        put(store, smuggled)
    with pytest.raises(MessageError, match="same ID"):
        put(store, Message({"child": smuggled}))
    assert Cache(store).read(name) == victim


def test_plain_values_win_over_the_codecs_own_words(store: Store) -> None:
    plain, worded = Message({"a": 1}), Message({"a": "1", "ao-types": 'a="integer"'})
    if commitments.unsigned_id(plain) != commitments.unsigned_id(worded):
        pytest.skip("the codec gives them different IDs")
    cache = Cache(store)
    name = put(store, worded)
    assert cache.read(name) == worded
    put(store, plain)
    assert cache.read(name) == plain
    put(store, worded)
    assert Cache(store).read(name) == plain


def test_the_reference_empty_message_with_its_own_commitment(store: Store) -> None:
    empty = commitments.commit(Message(), None, type="unsigned")
    name = put(store, empty)
    assert name == "TWaabU6nSWpn7zPaiWSd9gQkfNwa1t3onrDRNB-bFiI"
    assert unlinked(Cache(store).read(name)) == Message()


def test_depth_is_bounded(store: Store) -> None:
    item = Message({"x": "1"})
    for _ in range(MAX_DEPTH + 2):
        item = Message({"x": item})
    with pytest.raises(SizeError):
        put(store, item)


def test_results_cover_all_that_the_device_sees(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    cache = Cache(store)
    base = Message({"device": "calc@1.0", "a": 1})
    request = commitments.commit(Message({"x": "1"}), keys[0])
    seen = [
        cache.result_key(base, request | {"path": "id"}, "i"),
        cache.result_key(base, request | {"path": "set"}, "i"),
        cache.result_key(base, request | {"path": "set", "extra": "1"}, "i"),
        cache.result_key(base, request | {"path": "set", "extra": 1}, "i"),
        cache.result_key(base, Message({"x": "1", "path": "set"}), "i"),
        cache.result_key(base, Message({"x": "1", "path": "set"}), "j"),
        cache.result_key(base | {"a": "1"}, Message({"x": "1", "path": "set"}), "i"),
        cache.result_key(base, Message({"x": '1\n"y": 2'}), "i"),
        cache.result_key(base, Message({"x": "1", "y": "2"}), "i"),
        cache.result_key(base, Message({"x": ["1"]}), "i"),
        cache.result_key(base, Message({"x": {"1": "1"}}), "i"),
    ]
    assert len(set(seen)) == len(seen)
    assert seen[0] == cache.result_key(Message({"a": 1, "device": "calc@1.0"}), request | {"path": "id"}, "i")


def test_results_are_kept(store: Store, keys: tuple[RsaKey, RsaKey]) -> None:
    cache, batch = Cache(store), Batch()
    key = cache.result_key(Message({"a": 1}), Message({"path": "x"}), "i")
    assert cache.result(key) is None
    signed = commitments.commit(Message({"out": 1}), keys[0])
    cache.put_result(key, signed, "ok", b"r" * 32, batch, literal=True)
    assert cache.result(key, batch) is not None
    batch.commit(store)
    hit = cache.result(key)
    assert hit is not None
    assert (hit.status, hit.record, hit.literal) == ("ok", b"r" * 32, True)
    assert cache.read(hit.result) == signed
    store.write([], [("aliases", b64u_decode(hit.result))])
    assert cache.result(key) is None


def test_damage_is_noticed_when_reading(store: Store) -> None:
    name = put(store, Message({"a": "1" * 100}))
    raw = store.get("messages", b64u_decode(name))
    assert raw is not None
    for at in range(len(raw)):
        store.write([("messages", b64u_decode(name), raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])])
        with pytest.raises(Corrupt):
            Cache(store).read(name)


def test_a_failed_commit_keeps_the_batch() -> None:
    store = MemoryStore()
    batch = Batch()
    Cache(store).put(RICH, batch)
    count = len(batch)
    store.close()
    with pytest.raises(HyperpyError):
        batch.commit(store)
    assert len(batch) == count
