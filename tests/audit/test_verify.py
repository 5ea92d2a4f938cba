"""The light verifier: what it says of honest receipts, by which rule it refuses others, what it needs to run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, verify
from hyperpy.audit.collect import collect
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options
from hyperpy.audit.source import Evidence
from hyperpy.audit.verified import replayed
from hyperpy.codecs import whole
from hyperpy.encoding import b64u, sha256
from hyperpy.message import Link
from hyperpy.receipt import Absent, Receipt, Schedule, Slot, decode, encode, ordered, shallow
from hyperpy.receipt.content import walk
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import wallet
from hyperpy.trail import Oracle, Record
from hyperpy.verdicts import Report, Verdict
from tests.audit.samples import DEVICES, KINDS, Sample, after, sample, sign
from tests.devices.parts import place

ROOT = Path(__file__).resolve().parents[2]


# -- honest ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_signed_it_is_attested_and_nothing_is_found(kind: str) -> None:
    receipt = decode(sample(kind))
    report = verify.verify(encode(receipt.signed(sign)))
    signed = kind == "signed request"  # what it bears is for --replay to check
    assert report.verdict is (Verdict.MISSING if signed else Verdict.ATTESTED)
    assert report.exit_code() == 2
    assert report.attested_by == (wallet("node").address,)
    assert {one.rule for one in report.findings} == ({"claimed"} if signed else set())
    assert not [finding for step in report.steps for finding in step.findings]
    assert len(report.steps) == len(receipt.records)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("signed receipt", "part")])
def test_unsigned_nobody_vouches(kind: str) -> None:
    report = verify.verify(sample(kind))
    assert report.verdict is Verdict.MISSING
    assert {finding.rule for finding in report.findings} - {"claimed"} == {"unsigned"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "part"])
def test_made_again_it_is_reproduced(kind: str) -> None:
    report = replayed(sample(kind), Options(devices=DEVICES))
    assert report.verdict is Verdict.REPRODUCED
    given = {"oracle": 1, "snapshot": 1}.get(kind, 0)
    assert report.given == given
    assert report.exit_code(strict=True) == (2 if given else 0)


def test_a_part_proves_itself_and_is_not_made_again() -> None:
    assert verify.verify(sample("part")).verdict is Verdict.ATTESTED
    assert replayed(sample("part"), Options(devices=DEVICES)).verdict is Verdict.MISSING


def test_steps_stand_in_the_order_in_which_they_were_computed() -> None:
    steps = verify.verify(sample("chain")).steps
    assert steps[0].result == steps[1].base
    assert [one.key for one in verify.verify(sample("oracle")).steps] == ["dice", "told"]
    assert [one.slot for one in verify.verify(sample("slots")).steps] == [
        (step.slot[0], at) for at, step in enumerate(verify.verify(sample("slots")).steps) if step.slot is not None
    ]


def test_what_a_mixed_node_computed_is_all_right() -> None:
    """Every recorded step of a node that did many things has a receipt without findings."""
    paths = [
        "/~sample@1.0&a=1/add&b=2/told/add&b=1/total",
        "/~sample@1.0&a=1/nest/in/deep/a",
        "/~sample@1.0&a=1/nest/list/2",
        "/~message@1.0&x=1/set&y=2/keys",
        "/~message@1.0&x=1/set&y=2/id",
        "/~sample@1.0&a=4/none",
        "/~meta@1.0/info/address",
        "/~json@1.0&a=1/serialize",
        "/~sample@1.0&a=1/add&b=2/~json@1.0/serialize",
    ]
    with place(Sample, store=MemoryStore()) as here:
        process = here.spawn()
        for action in ("Inc", "Dec"):
            here.send(process, action=action)
        here.send(process, path="fail")
        here.get(process, "now/count")
        for path in paths:
            here.web.get(path)
            here.web.get(path)
        evidence = Evidence.of_store(here.node.store, "here")
        names = [name for name, _ in here.node.store.scan("trail")]
        assert len(names) > 20
        for name in names:
            data = build(evidence, collect(evidence, b64u(name)), sign=sign)
            report = verify.verify(data)
            assert report.verdict is Verdict.ATTESTED, (evidence.trail.read(name), report.as_json())


def test_policy_says_who_must_have_signed() -> None:
    data = sample("signed receipt")
    node, other = wallet("node").address, wallet("author").address
    assert verify.verify(data, {"signers": [other, node]}).verdict is Verdict.ATTESTED
    report = verify.verify(data, {"signers": [other]})
    assert report.verdict is Verdict.INVALID
    assert [finding.rule for finding in report.findings] == ["policy"]
    assert verify.verify(sample("chain"), {"signers": [node]}).verdict is Verdict.INVALID


# -- lies ----------------------------------------------------------------------------------------


def rules(receipt: Receipt) -> set[str]:
    """Return the rules that a receipt breaks."""
    report = verify.verify(encode(ordered(receipt)))
    assert report.verdict in (Verdict.INVALID, Verdict.BAD_FILE)
    return rules_of(report)


def rules_of(report: Report) -> set[str]:
    found = {finding.rule for finding in report.findings}
    return found | {finding.rule for step in report.steps for finding in step.findings}


def swapped(receipt: Receipt, name: bytes, **changes: Any) -> Receipt:
    """Return the receipt with one record changed, its new ID where the old one stood."""
    new = replace(receipt.steps[name], **changes)
    again = {name: new.id}
    return replace(
        receipt,
        records=tuple(new.encode() if one == name else record.encode() for one, record in receipt.steps.items()),
        roots=tuple(again.get(one, one) for one in receipt.roots),
        slots=tuple(Slot(one.process, one.slot, again.get(one.record, one.record)) for one in receipt.slots),
    )


def last(receipt: Receipt) -> tuple[bytes, Record]:
    (root,) = receipt.roots
    return root, receipt.steps[root]


def lie(kind: str, change: Callable[[Receipt, bytes, Record], Receipt]) -> set[str]:
    receipt = decode(sample(kind))
    return rules(change(receipt, *last(receipt)))


def test_another_hashpath() -> None:
    wrong = "A" * 43 + "/" + "A" * 43
    assert lie("chain", lambda r, n, _: swapped(r, n, hashpath_after=wrong)) == {"hashpath-after", "unsigned"}
    assert "hashpath-after" in lie("chain", lambda r, n, _: swapped(r, n, hashpath_before=wrong))
    receipt = decode(sample("nested"))
    assert "hashpath-before" in rules(swapped(receipt, receipt.roots[0], hashpath_before="A" * 43))


def test_a_result_that_is_not_the_next_base() -> None:
    """Both records are linked by hashpath, but the first one's result is another message of the receipt."""
    receipt = decode(sample("chain"))
    root, record = last(receipt)
    (first,) = [name for name in receipt.steps if name != root]
    lying = swapped(receipt, first, result=record.result)
    assert "hashpath-before" in rules(lying)


def test_a_message_that_is_not_there() -> None:
    def without(receipt: Receipt, _: bytes, record: Record) -> Receipt:
        kept = tuple(item for item in receipt.messages if commitments.unsigned_id(item) != record.base)
        assert len(kept) == len(receipt.messages) - 1
        return replace(receipt, messages=kept)

    assert "closed" in lie("nested", without)


def test_a_message_that_nobody_needs() -> None:
    more = (Message({"x": 1}),)
    assert "minimal" in lie("chain", lambda r, *_: replace(r, messages=r.messages + more))
    assert "minimal" in lie("chain", lambda r, *_: replace(r, origins=(*r.origins, b"GET /")))


def test_a_record_that_nobody_needs() -> None:
    def with_other(receipt: Receipt, _: bytes, record: Record) -> Receipt:
        other = replace(record, hashpath_before=record.base, hashpath_after=record.base + "/x")
        return replace(receipt, records=(*receipt.records, other.encode()))

    assert "minimal" in lie("chain", with_other)


def test_absent_things() -> None:
    unknown = Absent(b"x" * 32, "gone")
    assert "closed" in lie("chain", lambda r, *_: replace(r, absent=(unknown,)))
    assert "closed" in lie("chain", lambda r, n, _: replace(r, absent=(Absent(n, "gone"),)))


def test_no_roots_and_others() -> None:
    assert "roots" in lie("chain", lambda r, *_: replace(r, roots=()))
    assert "roots" in lie("chain", lambda r, *_: replace(r, roots=(b"x" * 32,)))


def test_a_forged_signature_on_a_message() -> None:
    def forge(receipt: Receipt, *_: object) -> Receipt:
        items = []
        for item in receipt.messages:
            if isinstance(item, Message) and item.commitments:
                item = Message.make({**item.raw_items(), "a": 6}, item.commitments)
            items.append(item)
        return replace(receipt, messages=tuple(items))

    assert "commitment" in lie("signed", forge)


def test_another_committer_than_the_key() -> None:
    def forge(receipt: Receipt, *_: object) -> Receipt:
        items = []
        for item in receipt.messages:
            if isinstance(item, Message) and item.commitments:
                other = wallet("node").address
                signed = {
                    name: one | {"committer": other} if "committer" in one else one
                    for name, one in item.commitments.items()
                }
                item = Message.make(dict(item.raw_items()), signed)
            items.append(item)
        return replace(receipt, messages=tuple(items))

    assert "commitment" in lie("signed", forge)


def test_an_answer_that_no_part_gave() -> None:
    def forge(receipt: Receipt, name: bytes, record: Record) -> Receipt:
        (old,) = record.oracles
        new = Oracle(old.device, old.key, old.request, record.base, old.status)
        return swapped(receipt, name, oracles=(new,))

    found = lie("oracle", forge)
    assert "oracle" in found


def test_taken_from_another_step() -> None:
    receipt = decode(sample("cached"))
    (name,) = [one for one, record in receipt.steps.items() if record.cached_from]
    assert "cached-from" in rules(swapped(receipt, name, key="total"))


def test_a_part_of_another_request() -> None:
    receipt = decode(sample("oracle"))
    (name,) = [one for one, record in receipt.steps.items() if record.parent]
    assert "parent" in rules(swapped(receipt, name, origin=b""))


def schedule_lie(change: Callable[[list[Message]], list[Message]]) -> set[str]:
    receipt = decode(sample("slots"))
    (one,) = receipt.schedules
    found = change([whole.decode(data) for data in one.assignments])  # type: ignore[misc]
    return rules(replace(receipt, schedules=(Schedule(one.process, tuple(map(whole.encode, found))),)))


def signed_again(message: Message, name: str = "node", **changes: Any) -> Message:
    return commitments.commit(message.with_commitments({}) | changes, wallet(name))


def test_schedules_that_are_none() -> None:
    assert "schedule" in schedule_lie(lambda them: them[::-1])
    assert "schedule" in schedule_lie(lambda them: [them[0], them[0]])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], slot=2)])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], "author")])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], timestamp=0)])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], process="A" * 43)])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], status=200)])
    assert "schedule" in schedule_lie(lambda them: [them[0], signed_again(them[1], **{"base-hashpath": "A" * 43})])
    forged = schedule_lie(
        lambda them: [them[0], Message.make({**them[1].raw_items(), "path": b"x"}, them[1].commitments)]
    )
    assert {"commitment", "schedule"} <= forged


def test_another_message_in_a_slot() -> None:
    """Signed by the scheduler, and it would link: but it is not what the slot's step was given."""
    receipt = decode(sample("slots"))
    (one,) = receipt.schedules
    second = whole.decode(one.assignments[1])
    assert isinstance(second, Message)
    other = signed_again(second, body=signed_again(Message({"x": 1}), "author"))
    changed = Schedule(one.process, (one.assignments[0], whole.encode(other)))
    kept = tuple(shallow(part) for part in walk(second))
    assert "closed" in rules(replace(receipt, schedules=(changed,)))
    assert "slot" in rules(replace(receipt, schedules=(changed,), messages=(*receipt.messages, *kept)))


def test_a_slot_of_another_number() -> None:
    receipt = decode(sample("slots"))
    first, second = sorted(receipt.slots)
    turned = (Slot(first.process, 0, second.record), Slot(first.process, 1, first.record))
    assert "slot" in rules(replace(receipt, slots=turned))


def test_a_snapshot_of_another_place() -> None:
    receipt = decode(sample("snapshot"))
    (one,) = receipt.snapshots
    assert "snapshot" in rules(replace(receipt, snapshots=(one._replace(mark="A" * 43),)))
    assert "snapshot" in rules(replace(receipt, snapshots=(one._replace(slot=one.slot + 1),)))


def test_a_signature_over_another_receipt() -> None:
    receipt, other = decode(sample("signed receipt")), decode(sample("nested"))
    assert rules(replace(other, signature=receipt.signature)) == {"signature"}
    assert receipt.signature is not None
    forged = Message.make(dict(other.statement().raw_items()), receipt.signature.commitments)
    assert rules(replace(other, signature=forged)) == {"signature"}


def test_a_part_that_is_not_reached() -> None:
    receipt = decode(sample("part"))
    assert "part" in rules(replace(receipt, part="in/shallow", signature=None))
    assert "part" in rules(replace(receipt, part="list/1", signature=None))


def test_evidence_has_no_place_yet() -> None:
    assert "evidence" in lie("chain", lambda r, *_: replace(r, evidence=(b"quote",)))


# -- bounds --------------------------------------------------------------------------------------


def test_messages_that_share_parts_do_not_take_for_ever() -> None:
    """Forty layers, each naming the one below twice, under a signature that covers all of it."""
    layer = Message({"x": 1})
    layers = [layer]
    for _ in range(40):
        below = Link(commitments.content_id(layer))
        layer = Message.make({"l": below, "r": below})
        layers.append(layer)
    fields = {
        "commitment-device": "httpsig@1.0",
        "type": "rsa-pss-sha512",
        "bundle": "true",
        "committed": ["l", "r"],
        "keyid": "publickey:AAAA",
        "committer": b64u(bytes(32)),
        "signature": b64u(bytes(512)),
    }
    name = b64u(sha256(bytes(512)))
    top = Message.make(dict(layer.raw_items()), {name: Message(fields)})
    receipt = decode(sample("nested"))
    lying = replace(receipt, messages=(*receipt.messages, *layers, top))
    assert "commitment" in rules(lying)


def test_it_needs_little() -> None:
    """Beside what Python ships: cryptography, msgpack, and what these two load themselves."""
    code = (
        "import sys\nbefore = set(sys.modules)\nimport cryptography.hazmat.primitives.serialization, msgpack\n"
        "import cryptography.x509\nneeded = {name.partition('.')[0] for name in sys.modules}\n"
        "from hyperpy.verify import verify\nreport = verify(open(sys.argv[1], 'rb').read())\n"
        "found = {name.partition('.')[0] for name in sys.modules} - needed - set(sys.stdlib_module_names)\n"
        "print(report.verdict.value, sorted(found))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "/dev/stdin"], input=sample("slots"), capture_output=True, cwd=ROOT, timeout=50
    )
    assert found.stdout.decode().split("\n")[0] == "missing ['hyperpy']", found.stderr.decode()


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    verify.verify(sample("chain"), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_two_receipts_of_a_growing_chain_grow_linearly() -> None:
    sizes = []
    with place(Sample, store=MemoryStore()) as here:
        evidence = Evidence.of_store(here.node.store, "here")
        for length in (20, 40, 80):
            at = after(here, "/~sample@1.0&a=1" + "".join(f"/add&b={n}" for n in range(length)))
            sizes.append(len(build(evidence, collect(evidence, at))))
    assert sizes[2] - sizes[1] < 2.2 * (sizes[1] - sizes[0])
