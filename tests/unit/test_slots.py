"""Schedules and states in the store: gapless, durable before the answer, readable again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.actors import ActorSystem
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Head
from hyperpy.encoding import b64u, b64u_decode, sha256
from hyperpy.errors import (
    ConfigError,
    Corrupt,
    DeviceError,
    DeviceReentered,
    DeviceTimeout,
    MessageError,
    ParameterError,
    StoreError,
)
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.slots import Slots
from hyperpy.store.collect import collect
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore

P = b64u(sha256(b"a process"))
Q = b64u(sha256(b"another process"))


@pytest.fixture(scope="module")
def key() -> RsaKey:
    return RsaKey.generate(2048)


def builder(key: RsaKey | None = None, **body: Any) -> Callable[[Head], tuple[Message, Head]]:
    """Return what makes the next assignment, as a scheduler does."""

    def build(head: Head) -> tuple[Message, Head]:
        inner = Message({"n": head.slot + 1, "list": [1, {"deep": "x"}], **body})
        if key is not None:
            inner = commitments.commit(inner, key)
        made = Message({"slot": head.slot + 1, "timestamp": 5, "base-hashpath": head.hashpath, "body": inner})
        if key is not None:
            made = commitments.commit(made, key)
        chain = sha256(head.chain + commitments.signed_id(inner).encode())
        return made, Head(head.slot + 1, chain, commitments.signed_id(made), 5)

    return build


class Place:
    """A store with slots over it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.cache = Cache(store)
        self.actors = ActorSystem()
        self.slots = Slots(store, self.cache, self.actors)

    def add(self, process: str = P, build: Callable[[Head], tuple[Message, Head]] | None = None) -> Message:
        return self.slots.append(process, build or builder(), deadline=time.monotonic() + 20)

    def close(self) -> None:
        self.actors.stop()
        self.store.close()


@pytest.fixture
def place() -> Any:
    made = Place(MemoryStore())
    yield made
    made.close()


def test_slots_are_added_one_after_another(place: Place, key: RsaKey) -> None:
    made = [place.add(build=builder(key)) for _ in range(3)]
    assert [one["slot"] for one in made] == [0, 1, 2]
    chain = b""
    for one in made:
        body = one["body"]
        assert isinstance(body, Message)
        chain = sha256(chain + commitments.signed_id(body).encode())
    last = made[2]
    assert [one["base-hashpath"] for one in made[1:]] == [commitments.signed_id(one).encode() for one in made[:2]]
    assert place.slots.head(P) == Head(2, chain, commitments.signed_id(last), 5)
    assert place.slots.head(Q) == Head(-1, b"", Q, 0)


def _raw(text: str) -> bytes:
    return b64u_decode(text)


def test_an_assignment_comes_back_whole(place: Place, key: RsaKey) -> None:
    made = place.add(build=builder(key, nested=commitments.commit(Message({"a": 1}), key)))
    assert place.slots.read(P, 0) == made
    read = place.slots.read(P, 0)
    assert read is not None
    commitments.check(read)
    body = read["body"]
    assert isinstance(body, Message)
    commitments.check(body)
    nested = body["nested"]
    assert isinstance(nested, Message)
    assert commitments.committers(nested) == (key.address,)
    assert place.slots.read(P, 1) is None
    assert place.slots.read(Q, 0) is None
    assert place.slots.read(P, -1) is None
    assert place.slots.read(P, 1 << 70) is None


def test_assignment_and_message_are_found_by_id(place: Place, key: RsaKey) -> None:
    made = place.add(build=builder(key))
    body = made["body"]
    assert isinstance(body, Message)
    for one in (made, body):
        found = place.cache.read(commitments.signed_id(one))
        assert isinstance(found, Message)
        assert commitments.signed_id(found) == commitments.signed_id(one)
        commitments.check(found)


def test_ranges_end_at_the_first_gap(place: Place) -> None:
    for _ in range(5):
        place.add()
    slots = place.slots
    assert [one["slot"] for one in slots.range(P, 1, 3)] == [1, 2, 3]
    assert [one["slot"] for one in slots.range(P, -7, 0)] == [0]
    assert [one["slot"] for one in slots.range(P, 3, 99)] == [3, 4]
    assert list(slots.range(P, 5, 9)) == []
    assert list(slots.range(P, 3, 2)) == []
    place.store.write([], [("assignments", _raw(P) + (3).to_bytes(8, "big"))])
    assert [one["slot"] for one in slots.range(P, 1, 4)] == [1, 2]


def test_processes_are_listed_without_their_snapshots(place: Place) -> None:
    place.add(P)
    place.add(Q)
    batch = Batch()
    for slot in range(300):
        place.slots.put_state(P, slot, Message({"at": slot}), batch, snapshot=True)
    batch.commit(place.store)
    assert sorted(place.slots.processes()) == sorted([P, Q])
    assert len(place.slots.processes(1)) == 1


def test_what_a_build_raises_takes_no_slot(place: Place) -> None:
    place.add()

    def refuse(head: Head) -> tuple[Message, Head]:
        raise MessageError("no")

    with pytest.raises(MessageError):
        place.add(build=refuse)
    for slot, told, chain in ((2, 2, 32), (0, 0, 32), (True, 1, 32), (1, 2, 32), (b"1", 1, 32), (1, 1, 31)):
        with pytest.raises(DeviceError):
            place.add(build=lambda head, a=slot, b=told, c=chain: (Message({"slot": a}), Head(b, bytes(c), "", 5)))
    assert place.add()["slot"] == 1


def test_a_process_is_named_by_an_id(place: Place) -> None:
    for bad in ("", "x", "x" * 44, "!" * 43):
        with pytest.raises(ParameterError):
            place.add(bad)
    place.add(P)
    assert place.slots.head(P).slot == 0


def test_writers_of_one_process_get_all_slots_once(place: Place) -> None:
    found: list[Any] = []

    def write() -> None:
        found.extend(place.add()["slot"] for _ in range(25))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(200))


def test_two_nodes_over_one_store_never_give_the_same_slot(key: RsaKey) -> None:
    store = MemoryStore()
    places = [Place(store), Place(store)]
    found: list[Any] = []

    def write(place: Place) -> None:
        found.extend(place.add(build=builder(key))["slot"] for _ in range(20))

    threads = [threading.Thread(target=write, args=(place,)) for place in places for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(80))
    assert len(list(places[0].slots.range(P, 0, 100))) == 80
    for place in places:
        place.actors.stop()


def test_a_second_process_cannot_open_the_store(tmp_path: Path) -> None:
    first = Place(LmdbStore(tmp_path))
    first.add()
    with pytest.raises(ConfigError):
        LmdbStore(tmp_path)
    first.close()


def test_a_restart_goes_on_where_it_ended(tmp_path: Path, key: RsaKey) -> None:
    first = Place(LmdbStore(tmp_path))
    made = [first.add(build=builder(key)) for _ in range(3)]
    head = first.slots.head(P)
    first.close()
    second = Place(LmdbStore(tmp_path))
    assert second.slots.head(P) == head
    assert list(second.slots.range(P, 0, 9)) == made
    assert second.add(build=builder(key))["slot"] == 3
    second.close()


def test_what_the_cache_lost_is_put_again(key: RsaKey) -> None:
    store = MemoryStore()
    first = Place(store)
    made = [first.add(build=builder(key)) for _ in range(4)]
    first.actors.stop()
    lost = made[2:]
    for table in ("messages", "aliases", "commitments"):
        keep = {k for one in made[:2] for k in _stored(store, one)}
        store.write([], [(table, k) for k, _ in list(store.scan(table)) if (table, k) not in keep])
    second = Place(store)
    assert not any(second.cache.has(commitments.signed_id(one)) for one in lost)
    second.add(build=builder(key))
    assert all(second.cache.has(commitments.signed_id(one)) for one in lost)
    second.close()


def _stored(store: MemoryStore, message: Message) -> set[tuple[str, bytes]]:
    """Return the entries that a message makes."""
    batch = Batch()
    other = MemoryStore()
    Cache(other).put(message, batch)
    batch.commit(other)
    return {(table, k) for table in ("messages", "aliases", "commitments") for k, _ in other.scan(table)}


class Failing(MemoryStore):
    """A store whose parts fail on demand."""

    fail = ""

    def write(self, puts: Any, deletes: Any = (), *, durable: bool = False) -> None:
        if self.fail == "all":
            raise StoreError("full")
        if self.fail == "cache":
            super().write([put for put in puts if put[0] in ("assignments", "heads")])
            raise StoreError("the journal is full")
        super().write(puts, deletes, durable=durable)


def test_a_full_store_takes_no_slot() -> None:
    place = Place(Failing())
    place.add()
    place.store.fail = "all"
    with pytest.raises(StoreError):
        place.add()
    place.store.fail = ""
    assert place.slots.head(P).slot == 0
    assert place.add()["slot"] == 1
    place.close()


def test_a_slot_on_the_disk_is_told_although_the_cache_failed(key: RsaKey) -> None:
    place = Place(Failing())
    place.add(build=builder(key))
    place.store.fail = "cache"
    made = place.add(build=builder(key))
    assert made["slot"] == 1
    place.store.fail = ""
    assert not place.cache.has(commitments.signed_id(made))
    place.add(build=builder(key))
    assert place.cache.has(commitments.signed_id(made))
    place.close()


def test_damage_is_found_not_believed(place: Place) -> None:
    place.add()
    key = _raw(P) + bytes(8)
    good = place.store.get("assignments", key)
    for bad in (b"", b"\x00", good[:-1], good + b"\x00", good.replace(b"deep", b"deeP")[:-2]):
        place.store.write([("assignments", key, bad)])
        with pytest.raises(Corrupt):
            place.slots.read(P, 0)
    place.store.write([("heads", _raw(P), b"\x94\x00\x00\x00")])
    with pytest.raises(Corrupt):
        place.slots.head(P)


# -- slots that are written together -----------------------------------------------------------


class Counting(MemoryStore):
    """Counts transactions of the ledger, and refuses values that hold a word."""

    ledger = 0

    def write(self, puts: Any, deletes: Any = (), *, durable: bool = False) -> None:
        if any(b"too large" in value for table, _, value in puts if table == "assignments"):
            raise StoreError("a value is too long")
        self.ledger += any(table == "assignments" for table, _, _ in puts)
        super().write(puts, deletes, durable=durable)


class Held:
    """Holds the actor of a process while others ask, then lets all go; keeps what became of each."""

    def __init__(self, place: Place, builds: list[Callable[[Head], tuple[Message, Head]]]) -> None:
        self.results: dict[int, Any] = {}
        began, go = threading.Event(), threading.Event()

        def first(head: Head) -> tuple[Message, Head]:
            began.set()
            go.wait(20)
            return builds[0](head)

        def ask(number: int, build: Callable[[Head], tuple[Message, Head]]) -> None:
            try:
                self.results[number] = place.add(build=build)["slot"]
            except BaseException as error:
                self.results[number] = type(error)

        threads = [threading.Thread(target=ask, args=(0, first))]
        threads[0].start()
        began.wait(20)
        for number, build in enumerate(builds[1:], 1):
            threads.append(threading.Thread(target=ask, args=(number, build)))
            threads[-1].start()
            while len(place.slots._lines[_raw(P)].asks) < number:
                time.sleep(0.001)
        go.set()
        for thread in threads:
            thread.join()


def test_slots_that_are_waited_for_together_are_one_transaction() -> None:
    place = Place(Counting())
    held = Held(place, [builder()] * 10)
    assert [held.results[number] for number in range(10)] == list(range(10))
    assert place.store.ledger == 2
    place.close()


def test_one_that_fails_fails_nobody_else() -> None:
    place = Place(Counting())

    def refuse(head: Head) -> tuple[Message, Head]:
        raise MessageError("no")

    builds = [builder(), builder(), refuse, builder(data="too large"), builder(), builder()]
    held = Held(place, builds)
    assert held.results == {0: 0, 1: 1, 2: MessageError, 3: StoreError, 4: 2, 5: 3}
    assert [one["slot"] for one in place.slots.range(P, 0, 9)] == [0, 1, 2, 3]
    place.close()


def test_who_is_interrupted_interrupts_nobody_else() -> None:
    place = Place(Counting())
    interrupted = []

    class Stopped(BaseException):
        pass

    def stop(head: Head) -> tuple[Message, Head]:
        if not interrupted:
            interrupted.append(head.slot)
            raise Stopped
        return builder()(head)

    held = Held(place, [builder(), builder(), stop, builder(), builder()])
    slots = sorted(slot for slot in held.results.values() if isinstance(slot, int))
    assert interrupted
    assert slots == list(range(len(slots)))
    assert len(slots) >= 4
    assert place.add()["slot"] == len(slots)
    place.close()


def test_who_gave_up_gets_no_slot() -> None:
    place = Place(Counting())
    late: list[Any] = []

    def give_up() -> None:
        with pytest.raises(DeviceTimeout):
            place.slots.append(P, builder(), deadline=time.monotonic() + 0.05)
        late.append(True)

    def slow(head: Head) -> tuple[Message, Head]:
        thread = threading.Thread(target=give_up)
        thread.start()
        thread.join()
        return builder()(head)

    assert place.add(build=slow)["slot"] == 0
    assert late == [True]
    assert place.add()["slot"] == 1
    place.close()


def test_a_build_that_schedules_itself_is_told_of_the_circle() -> None:
    place = Place(MemoryStore())
    seen: list[Any] = []

    def again(head: Head) -> tuple[Message, Head]:
        with pytest.raises(DeviceReentered) as raised:
            place.add()
        seen.append(raised.value)
        return builder()(head)

    assert place.add(build=again)["slot"] == 0
    assert len(seen) == 1
    assert place.add()["slot"] == 1
    place.close()


# -- states ----------------------------------------------------------------------------------


def keep(place: Place, slot: int, *, snapshot: bool = False) -> None:
    batch = Batch()
    place.slots.put_state(P, slot, Message({"at-slot": slot, "snap": snapshot}), batch, snapshot=snapshot)
    batch.commit(place.store)


def test_states_are_kept_by_slot(place: Place) -> None:
    for slot in (0, 1, 2, 7, 300):
        keep(place, slot, snapshot=slot in (1, 7))
    slots = place.slots
    state = slots.state(P, 2)
    assert state is not None
    assert state["at-slot"] == 2
    assert slots.state(P, 3) is None
    assert slots.state(Q, 2) is None
    assert [_at(slots.latest(P, limit)) for limit in (None, 299, 7, 6, 0)] == [300, 7, 7, 2, 0]
    assert [_at(slots.latest(P, limit, snapshot=True)) for limit in (None, 7, 6, 1, 0)] == [7, 7, 1, 1, None]
    assert slots.latest(P, -1) is None
    assert slots.latest(Q) is None


def _at(found: tuple[int, Message] | None) -> int | None:
    if found is None:
        return None
    assert found[1]["at-slot"] == found[0]
    return found[0]


def test_a_state_that_is_gone_is_passed_over(place: Place) -> None:
    keep(place, 1)
    keep(place, 2)
    ref = commitments.content_id(Message({"at-slot": 2, "snap": False}))
    place.store.write([], [("messages", _raw(ref))])
    assert place.slots.state(P, 2) is None
    assert _at(place.slots.latest(P)) == 1


def test_a_snapshot_makes_its_batch_durable(place: Place) -> None:
    batch = Batch()
    place.slots.put_state(P, 1, Message({"at-slot": 1}), batch, snapshot=False)
    assert not batch.durable
    place.slots.put_state(P, 2, Message({"at-slot": 2}), batch, snapshot=True)
    assert batch.durable
    batch.commit(place.store)
    assert [table for table in ("heads",) for _ in place.store.scan(table)] == ["heads"]


def test_schedules_leave_room_for_what_may_go(tmp_path: Path, key: RsaKey) -> None:
    made = Place(LmdbStore(tmp_path, quota=4_000_000))
    try:
        for number in range(60):
            if made.store.used > made.store.quota:
                collect(made.store)
            if made.store.crowded:
                break
            made.add(build=builder(key, data=bytes([number]) * 150_000))
        with pytest.raises(StoreError, match="nothing more is scheduled"):
            made.add(build=builder(key))
        for number in range(50):
            batch = Batch()
            made.cache.put(Message({"n": number}), batch)
            batch.commit(made.store)
        assert made.slots.head(P).slot > 10
    finally:
        made.close()
