"""Receipts: the file's form, what it holds, and that the same steps give the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy import Message, commitments
from hyperpy.audit.collect import collect
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import replayed
from hyperpy.cache import Batch
from hyperpy.commitments.combined import combined_id
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import Forbidden, MessageNotFound
from hyperpy.message import Link
from hyperpy.receipt import (
    Absent,
    Receipt,
    ReceiptError,
    as_json,
    decode,
    encode,
    name_of,
    ordered,
)
from hyperpy.receipt.loading import load
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import node, wallet
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Verdict
from hyperpy.verify import verify
from tests.audit.samples import DEVICES, KINDS, Sample, after, made, sample, sign
from tests.devices.parts import place

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_writing_give_the_same_bytes(kind: str) -> None:
    data = sample(kind)
    assert encode(decode(data)) == data
    assert data[-32:] == sha256(data[:-32])
    assert ordered(decode(data)) == decode(data)


@pytest.mark.parametrize("kind", KINDS)
def test_another_msgpack_reader_finds_the_same(kind: str) -> None:
    data = sample(kind)
    found = msgpack.unpackb(data[:-32], raw=True, use_list=False, ext_hook=lambda code, text: (code, text))
    assert list(found) == sorted(found)
    assert set(found) == {
        *(b"absent", b"evidence", b"messages", b"origins", b"part", b"records", b"roots", b"schedules"),
        *(b"signature", b"slots", b"snapshots", b"v"),
    }
    names = [sha256(record) for record in found[b"records"]]
    assert names == sorted(names)
    assert set(found[b"roots"]) <= set(names)
    assert names == list(decode(data).steps)


def test_the_same_steps_give_the_same_bytes(tmp_path: Path) -> None:
    """Made twice, each time from a store that was opened anew."""
    with place(Sample, store=tmp_path) as here:
        process = here.spawn()
        here.send(process, action="Inc")
        at = after(here, f"/{process}~process@1.0/now")
    files = []
    for _ in range(2):
        opened = LmdbStore(tmp_path, readonly=True)
        evidence = Evidence.of_store(opened, "the store")
        files.append(build(evidence, collect(evidence, at)))
        opened.close()
    assert files[0] == files[1]
    assert len(decode(files[0]).slots) == 2


def test_hash_seeds_do_not_show() -> None:
    """Unsigned messages alone: signatures differ each time."""
    code = (
        "import sys;from tests.audit.samples import sample;sys.stdout.buffer.write(sample('nested')+sample('cached'))"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/vectors'}", "PATH": "/usr/bin"}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment, timeout=50)
        assert found.returncode == 0, found.stderr.decode()
        seen.add(found.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "part"])
def test_loading_finds_all_that_is_named(kind: str) -> None:
    receipt = decode(sample(kind))
    evidence = Evidence.of_store(load(receipt), "here")
    for name, record in receipt.steps.items():
        assert evidence.trail.read(name) == record
        for ref in (record.base, record.request, record.result):
            item = evidence.cache.read(ref, exact=True)
            named = (commitments.signed_id(item), commitments.unsigned_id(item), combined_id(item))
            assert ref in named
        assert evidence.trail.by_hashpath(record.hashpath_after) is not None
        assert not record.origin or evidence.trail.origin(record.origin) is not None
    for one in receipt.slots:
        found = evidence.trail.by_slot(b64u(one.process), one.slot)
        assert found is not None
        assert found.id == one.record


def test_a_signature_covers_all_but_itself() -> None:
    plain = decode(sample("chain"))
    signed = plain.signed(sign)
    assert signed.digest == plain.digest
    again = decode(encode(signed))
    assert again.digest == sha256(encode(plain)[:-32])
    assert again.signers == (wallet("node").address,)
    assert replace(again, origins=()).signers == ()


def test_a_reply_is_no_signature() -> None:
    """A node signs replies with whatever somebody asks for, and a status."""
    plain = decode(sample("chain"))
    asked = commitments.commit(plain.statement() | {"status": 200}, wallet("node"))
    stripped = Message.make({key: asked.raw(key) for key in ("type", "digest")}, asked.commitments)  # type: ignore[misc]
    for message in (asked, stripped):
        assert replace(plain, signature=message).signers == ()


def test_part_of_a_result_holds_only_the_way_there() -> None:
    with made("part") as one:
        whole = decode(one.receipt())
        one.part = ""
        everything = decode(one.receipt())
    record = next(iter(whole.steps.values()))
    assert len(whole.messages) == 3
    assert len(everything.messages) == 7
    result = whole.read(record.result)
    assert isinstance(result, Message)
    inner = result["in"]
    assert isinstance(inner, Message)
    deep = inner["deep"]
    assert isinstance(deep, Message)
    assert (deep["a"], deep["x"]) == (4, b"y" * 40)
    left = result.raw("list")
    assert isinstance(left, Link)
    named = {b64u(item.id): item for item in whole.absent}
    assert named[left.id].reason == "not asked"
    size = named[left.id].size
    assert size is not None
    assert size > 0


def test_a_part_that_is_not_there() -> None:
    with made("part") as one:
        for part in ("in/other", "list/9", "in/deep/a/b"):
            one.part = part
            with pytest.raises(MessageNotFound):
                one.receipt()


def test_what_is_too_long_is_named_with_its_size() -> None:
    with place(Sample, store=MemoryStore()) as here:
        name = b"z" * 5_000
        batch = Batch()
        base = here.node.cache.put(Message({"device": "sample@1.0", "a": 1, "blob": {"text": name}}), batch)
        batch.commit(here.node.store)
        at = after(here, f"/{base}/add&b=2")
        evidence = Evidence.of_store(here.node.store, "here")
        plan = collect(evidence, at)
        full, short = build(evidence, plan), build(evidence, plan, max_bytes=2_000)
    assert len(full) > 5_000 > len(short)
    (absent,) = decode(short).absent
    assert absent.reason == "large"
    assert absent.size is not None
    assert 5_000 < absent.size < 5_100
    assert absent.id in {name_of(item) for item in decode(full).messages}


def test_what_the_asker_may_not_read_is_not_shown() -> None:
    with made("signed") as one:
        evidence = Evidence.of_store(one.store, "here")
        plan = collect(evidence, one.ref)
        with pytest.raises(Forbidden):
            build(evidence, plan, readers=frozenset({"somebody"}))


def test_a_step_of_somebody_else_is_absent() -> None:
    """The reader signed the second of two requests; the first step and its result are not theirs to read."""
    author = wallet("author").address
    with place(Sample, store=MemoryStore()) as here:
        own = here.node
        first = own.resolve(
            Message({"device": "sample@1.0", "a": 1, "secret-plan": "x" * 50}), Message({"path": "add"})
        )
        signed = commitments.commit(Message({"path": "add", "b": 2}), wallet("author"))
        second = own.resolve(first, signed)
        assert isinstance(second, Message)
        assert second.hashpath is not None
        evidence = Evidence.of_store(own.store, "here")
        plan = collect(evidence, second.hashpath)
        assert len(plan.steps) == 2
        everything = build(evidence, plan)
        theirs = build(evidence, plan, sign=sign, readers=frozenset({author}))
    assert len(decode(everything).records) == 2
    receipt = decode(theirs)
    (record,) = receipt.steps.values()
    assert commitments.signed_id(signed) == record.request
    assert {(b64u(one.id), one.reason) for one in receipt.absent} >= {(record.base, "private")}
    report = verify(theirs)
    assert report.verdict is Verdict.MISSING
    assert {finding.rule for step in report.steps for finding in step.findings} == {"absent"}


def test_over_http_others_get_nothing() -> None:
    with node(flags={"trail.public": False}) as n:
        at = n.get("/~calculator@1.0&a=1/add&b=2").hashpath
        assert at is not None
        assert n.get("/~audit@1.0/receipt", {"ref": at})["status"] == 403


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"ref": "A" * 43}, 404),
        ({"ref": "nothing"}, 400),
        ({}, 400),
        ({"max-bytes": "-1"}, 400),
        ({"max-bytes": "99999999999"}, 400),
        ({"slots": "x"}, 400),
        ({"part": "no/such"}, 404),
    ],
)
def test_wrong_questions_over_http(keys: dict[str, str], status: int) -> None:
    with node() as n:
        at = n.get("/~calculator@1.0&a=1/add&b=2").hashpath
        asked = {"ref": at or "", **keys} if keys else {}
        assert n.get("/~audit@1.0/receipt", asked)["status"] == status


def test_a_message_whose_signature_does_not_hold_is_left_out() -> None:
    """No ID binds such a message: whoever makes the receipt could put another in its place."""
    good = commitments.commit(Message({"x": 1}), wallet("author"))
    forged = Message.make({"x": 2}, good.commitments)
    with place(Sample, store=MemoryStore()) as here:
        batch = Batch()
        base = here.node.cache.put(Message.make({"device": b"sample@1.0", "a": 1, "in": forged}), batch)
        batch.commit(here.node.store)
        at = after(here, f"/{base}/add&b=2")
        evidence = Evidence.of_store(here.node.store, "here")
        receipt = decode(build(evidence, collect(evidence, at)))
    assert [(b64u(one.id), one.reason) for one in receipt.absent] == [(commitments.signed_id(forged), "unverifiable")]


# -- the form ------------------------------------------------------------------------------------

EMPTY = Receipt(roots=(bytes(32),))


def refused(data: bytes) -> str:
    with pytest.raises(ReceiptError) as caught:
        decode(data)
    return caught.value.rule


def packed(**changes: object) -> bytes:
    fields: dict[bytes, object] = {
        **dict.fromkeys((b"absent", b"evidence", b"messages", b"origins"), ()),
        b"part": None,
        b"records": (),
        b"roots": (bytes(32),),
        b"schedules": (),
        b"signature": None,
        b"slots": (),
        b"snapshots": (),
        b"v": 1,
    }
    fields |= {key.encode(): item for key, item in changes.items()}
    body = msgpack.packb(dict(sorted(fields.items())))
    return bytes(body) + sha256(body)


def test_a_file_made_by_hand_reads() -> None:
    assert decode(packed()) == EMPTY


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("version", {"v": 2}),
        ("version", {"v": True}),
        ("form", {"more": ()}),
        ("form", {"roots": (b"short",)}),
        ("form", {"roots": 5}),
        ("form", {"records": (b"junk",)}),
        ("form", {"messages": (5,)}),
        ("form", {"messages": ({b"in": {b"x": 1}},)}),
        ("form", {"messages": ({b"in": None},)}),
        ("form", {"part": b""}),
        ("form", {"absent": ((bytes(32), b"because", None),)}),
        ("form", {"absent": ((bytes(32), b"gone", -1),)}),
        ("form", {"absent": ((bytes(32), b"gone"),)}),
        ("form", {"slots": ((bytes(32), 1 << 63, b"x"),)}),
        ("form", {"schedules": ((bytes(32), ()),)}),
        ("form", {"schedules": ((bytes(32), (b"junk",)),)}),
        ("form", {"signature": b"me"}),
        ("order", {"roots": (b"b" * 32, b"a" * 32)}),
        ("order", {"roots": (bytes(32), bytes(32))}),
        ("order", {"messages": ({b"a": 1}, {b"a": 1})}),
        ("order", {"origins": (b"x", b"x")}),
        ("order", {"absent": ((b"b" * 32, b"gone", None), (b"a" * 32, b"gone", None))}),
    ],
)
def test_another_form_is_refused(rule: str, changes: dict[str, object]) -> None:
    assert refused(packed(**changes)) == rule


def test_damaged_files() -> None:
    data = packed()
    assert refused(b"") == "digest"
    assert refused(data[:-1]) == "digest"
    assert refused(data + b"\x00") == "digest"
    body = data[:-32] + b"\x00"
    assert refused(body + sha256(body)) == "canonical"
    longer = data[:-32].replace(b"\xc4\x01v\x01", b"\xc4\x01v\xcc\x01")
    assert refused(longer + sha256(longer)) == "canonical"
    deep = b"\x91" * 100_000
    assert refused(deep + sha256(deep)) == "canonical"


def test_ids_have_one_way_to_be_written() -> None:
    receipt = decode(sample("chain"))
    record = next(iter(receipt.steps.values()))
    for other in (record.base[:-1] + "/", record.base[:-1] + chr(ord(record.base[-1]) + 1), record.base[:-1]):
        odd = replace(record, base=other)
        assert refused(encode(ordered(replace(receipt, records=(odd.encode(),), roots=(odd.id,))))) == "form"


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for data in (body, body + sha256(body)):
        with pytest.raises(ReceiptError):
            decode(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["absent", "messages", "records", "schedules", "slots", "snapshots", "signature"]), values
    )
)
def test_any_values_are_read_or_refused(changes: dict[str, object]) -> None:
    data = packed(**changes)
    try:
        found = decode(data)
    except ReceiptError:
        return
    assert encode(found) == data


def test_as_json_is_json() -> None:
    for kind in KINDS:
        shown = json.loads(json.dumps(as_json(decode(sample(kind)))))
        assert shown["v"] == 1
        assert set(shown["records"]) >= set(shown["roots"])


def test_records_are_those_of_the_trail() -> None:
    with made("chain") as one:
        kept = Trail(one.store)
        for name, record in decode(one.receipt()).steps.items():
            assert kept.read(name) == record
            assert isinstance(record, Record)


def test_absent_is_sorted_and_once() -> None:
    both = (Absent(b"b" * 32, "gone"), Absent(b"a" * 32, "large", 5), Absent(b"b" * 32, "gone"))
    assert [one.id[:1] for one in ordered(replace(EMPTY, absent=both)).absent] == [b"a", b"b"]


def test_a_signed_request_can_be_made_again() -> None:
    """Its parts bear the signatures of the whole, which hold in the request as it came alone."""
    data = sample("signed request")
    receipt = decode(data)
    assert receipt.absent == ()
    assert sorted({one.rule for one in verify(data).findings}) == ["claimed", "unsigned"]
    assert verify(data).verdict is Verdict.MISSING
    assert replayed(data, Options(devices=DEVICES)).verdict is Verdict.REPRODUCED
    without = encode(ordered(replace(receipt, origins=(), absent=(Absent(sha256(receipt.origins[0]), "gone"),))))
    assert verify(without).verdict is Verdict.INVALID
    assert "commitment" in {one.rule for one in verify(without).findings}
