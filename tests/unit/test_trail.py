"""Trail records: their bytes, and what finds them."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from hyperpy.cache import Batch
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import CodecError, Corrupt, HyperpyError
from hyperpy.message import Message
from hyperpy.store.memory import MemoryStore
from hyperpy.trail import Oracle, Record, Trail

FIELDS = (
    "v", "parent", "origin", "base", "request", "result", "status", "device", "key", "implementation",
    "hashpath-before", "hashpath-after", "cached-from", "oracles", "attested-by",
)  # fmt: skip


def an_id(n: int) -> str:
    return b64u(sha256(b"%d" % n))


RECORD = Record(
    base=an_id(1),
    request=an_id(2),
    result=an_id(3),
    status="ok",
    device="calc@1.0",
    key="add",
    implementation=an_id(4),
    hashpath_before=an_id(1),
    hashpath_after=f"{an_id(1)}/{an_id(2)}",
)
FULL = replace(
    RECORD,
    parent=sha256(b"p"),
    origin=sha256(b"o"),
    cached_from=sha256(b"c"),
    oracles=(Oracle("meta@1.0", "now", an_id(5), an_id(6), "ok"),) * 2,
    attested_by=an_id(7),
    key="caf\udce9",
)


@pytest.mark.parametrize("record", [RECORD, FULL, replace(RECORD, result="", status="cancelled")])
def test_bytes_are_canonical_and_come_back(record: Record) -> None:
    data = record.encode()
    fields = canonical.decode(data)
    assert isinstance(fields, Message)
    assert canonical.encode(fields) == data
    assert sorted(fields.raw_items()) == sorted(FIELDS)
    assert Record.decode(data) == record
    assert record.id == sha256(data)


def test_the_id_is_fixed() -> None:
    """A change here makes every older trail and receipt unreadable: it needs a new version."""
    assert b64u(RECORD.id) == "6S6yImW-DU4er7Tqj8CcgF8kPn-gEeW-c60oARG_5jo"
    assert b64u(FULL.id) == "o9nczUPXC4jZwyUsCUhAPfx8JtHrCbQYPYVtsx4RzSU"


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"v": True}, {"parent": b"short"}, {"status": 5}, {"base": b""}, {"oracles": None}, {"oracles": [{}]},
     {"oracles": [5]}, {"extra": b"x"}, {"origin": "text"}],
)  # fmt: skip
def test_other_fields_are_refused(change: dict[str, object]) -> None:
    fields = {k.decode(): v for k, v in msgpack.unpackb(RECORD.encode(), raw=True).items()}
    changed = {k.encode(): v for k, v in sorted({**fields, **change}.items())}
    with pytest.raises(HyperpyError):
        Record.decode(msgpack.packb(changed))
    del fields["key"]
    with pytest.raises(CodecError):
        Record.decode(msgpack.packb({k.encode(): v for k, v in sorted(fields.items())}))


def test_any_changed_byte_is_refused() -> None:
    store = MemoryStore()
    trail, batch = Trail(store), Batch()
    name = trail.append(FULL, batch)
    batch.commit(store)
    data = FULL.encode()
    for at in range(len(data)):
        store.write([("trail", name, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])])
        with pytest.raises(Corrupt):
            trail.read(name)


def test_indices() -> None:
    store = MemoryStore()
    trail, batch = Trail(store), Batch()
    first = trail.append(RECORD, batch, slot=(an_id(9), 0))
    second_record = replace(RECORD, origin=sha256(b"another request"))
    second = trail.append(second_record, batch, slot=(an_id(9), 1))
    child = replace(RECORD, parent=first, hashpath_after=f"{an_id(1)}/other", result=an_id(8))
    trail.append(child, batch)
    assert trail.by_result(RECORD.result) is None
    batch.commit(store)
    assert trail.read(first) == RECORD
    assert trail.read(sha256(b"?")) is None
    assert trail.by_result(RECORD.result) == second_record
    assert trail.by_hashpath(RECORD.hashpath_after) == second_record
    assert list(trail.all_by_hashpath(RECORD.hashpath_after)) == [second_record, RECORD]
    assert trail.by_hashpath("nothing/here") is None
    assert trail.by_slot(an_id(9), 0) == RECORD
    assert trail.by_slot(an_id(9), 2) is None
    assert list(trail.slots(an_id(9))) == [(0, first), (1, second)]
    assert list(trail.slots(an_id(9), after=0)) == [(1, second)]
    assert list(trail.children(first)) == [child]


def test_an_equal_record_is_kept_once() -> None:
    store = MemoryStore()
    trail, batch = Trail(store), Batch()
    assert trail.append(RECORD, batch) == trail.append(RECORD, batch)
    batch.commit(store)
    trail.append(RECORD, batch)
    assert len(batch) == 0


def test_origins() -> None:
    store = MemoryStore()
    trail, batch = Trail(store), Batch()
    digest = trail.put_origin(b"GET / HTTP/1.1", batch)
    assert digest == sha256(b"GET / HTTP/1.1")
    assert trail.origin(digest) is None
    batch.commit(store)
    assert trail.origin(digest) == b"GET / HTTP/1.1"
    store.write([("origins", digest, b"GET /other")])
    with pytest.raises(Corrupt):
        trail.origin(digest)
