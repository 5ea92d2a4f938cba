"""Lies in a receipt's file, its digest made again: each field, records and messages, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hyperpy import Message, commitments
from hyperpy.audit.replay import Options
from hyperpy.audit.verified import replayed
from hyperpy.codecs import canonical, whole
from hyperpy.encoding import b64u, native, sha256
from hyperpy.receipt import Absent, Receipt, Schedule, Slot, decode, encode, ordered
from hyperpy.testing import wallet
from hyperpy.trail import Record
from hyperpy.verdicts import Report, Verdict
from hyperpy.verify import verify
from tests.audit.farm import WHOLE, Caught, Farm
from tests.audit.samples import DEVICES, sample

FARM = Farm()
lie = FARM.lie
VERIFY, AGAIN = "verify", "verify --replay"
WHO = "whoever hands it on"
MAKER = "the node that made it"


def said(receipt: Receipt, at: str | int = "") -> Caught:
    """Verify a changed receipt, its digest made again."""
    return Caught(verify(encode(ordered(receipt))), at)


def changed(kind: str, change: Callable[[Receipt], Receipt]) -> Caught:
    """Verify a sample that somebody changed."""
    return said(change(decode(sample(kind))))


def swapped(receipt: Receipt, name: bytes, **changes: Any) -> tuple[Receipt, str]:
    """Return the receipt with one record changed, its new ID where the old one stood; and that ID."""
    new = replace(receipt.steps[name], **changes)
    again = {name: new.id}
    made = replace(
        receipt,
        records=tuple(new.encode() if one == name else record.encode() for one, record in receipt.steps.items()),
        roots=tuple(again.get(one, one) for one in receipt.roots),
        slots=tuple(Slot(one.process, one.slot, again.get(one.record, one.record)) for one in receipt.slots),
    )
    return made, b64u(new.id)


def root(receipt: Receipt) -> tuple[bytes, Record]:
    """Return the record that a receipt is about."""
    (name,) = receipt.roots
    return name, receipt.steps[name]


def record_lie(kind: str, **changes: Any) -> Caught:
    """Verify a sample of which the last record says something else."""
    receipt = decode(sample(kind))
    made, name = swapped(receipt, root(receipt)[0], **changes)
    return said(made, name)


def again(receipt: Receipt, at: str) -> Caught:
    """Verify a changed receipt and make its steps again."""
    return Caught(replayed(encode(ordered(receipt)), Options(devices=DEVICES)), at)


# -- the file and each of its fields ---------------------------------------------------------------


@lie("a byte changed", WHO, VERIFY, "digest", WHOLE, Verdict.BAD_FILE)
def byte() -> Caught:
    data = sample("chain")
    return Caught(verify(data[:100] + bytes([data[100] ^ 1]) + data[101:]))


@lie("field `v`: another version", WHO, VERIFY, "version", WHOLE, Verdict.BAD_FILE)
def version() -> Caught:
    found = canonical.decode(sample("chain")[:-32])
    assert isinstance(found, Message)
    data = canonical.encode(found | {"v": 2})
    return Caught(verify(data + sha256(data)))


@lie("field `roots`: it is about another step", WHO, VERIFY, "signature", WHOLE)
def other_root() -> Caught:
    receipt = decode(sample("signed receipt"))
    other = next(name for name in receipt.steps if name not in receipt.roots)
    return said(replace(receipt, roots=(other,)))


@lie("field `roots`: a step that is not there", WHO, VERIFY, "roots", WHOLE)
def unknown_root() -> Caught:
    return changed("chain", lambda receipt: replace(receipt, roots=(b"x" * 32,)))


@lie("field `records`: one is left out", WHO, VERIFY, "closed", WHOLE)
def no_record() -> Caught:
    def without(receipt: Receipt) -> Receipt:
        source = next(one.cached_from for one in receipt.steps.values() if one.cached_from)
        return replace(receipt, records=tuple(one.encode() for name, one in receipt.steps.items() if name != source))

    return changed("cached", without)


@lie("field `records`: one that nobody needs", WHO, VERIFY, "minimal", WHOLE)
def more_records() -> Caught:
    def more(receipt: Receipt) -> Receipt:
        record = root(receipt)[1]
        other = replace(record, hashpath_before=record.base, hashpath_after=record.base + "/x")
        return replace(receipt, records=(*receipt.records, other.encode()))

    return changed("chain", more)


@lie("field `messages`: one is left out", WHO, VERIFY, "closed", WHOLE)
def no_message() -> Caught:
    def without(receipt: Receipt) -> Receipt:
        base = root(receipt)[1].base
        kept = tuple(one for one in receipt.messages if commitments.unsigned_id(one) != base)
        assert len(kept) == len(receipt.messages) - 1
        return replace(receipt, messages=kept)

    return changed("nested", without)


@lie("field `messages`: content exchanged", WHO, VERIFY, "closed", WHOLE)
def other_message() -> Caught:
    def other(receipt: Receipt) -> Receipt:
        result = root(receipt)[1].result
        return replace(
            receipt,
            messages=tuple(
                one | {"sum": 99} if isinstance(one, Message) and commitments.unsigned_id(one) == result else one
                for one in receipt.messages
            ),
        )

    return changed("chain", other)


@lie("field `messages`: a part of a signed request names another signer", WHO, AGAIN, "commitment", WHOLE)
def another_signer() -> Caught:
    """The part's own bytes do not show it: what was signed is the request."""

    def forged(item: Any) -> Any:
        if not isinstance(item, Message) or not item.commitments:
            return item
        lie = {
            name: one | {"committer": wallet("mallory").address} if "committer" in one else one
            for name, one in item.commitments.items()
        }
        return Message.make(dict(item.raw_items()), lie)

    receipt = decode(sample("signed request"))
    assert again(receipt, "").report.verdict is Verdict.REPRODUCED
    return again(replace(receipt, messages=tuple(map(forged, receipt.messages))), "")


@lie("field `messages`: forged committer", WHO, VERIFY, "commitment", WHOLE)
def committer() -> Caught:
    def forge(receipt: Receipt) -> Receipt:
        mallory = wallet("mallory").address
        items = []
        for item in receipt.messages:
            if isinstance(item, Message) and item.commitments:
                signed = {
                    name: one | {"committer": mallory} if "committer" in one else one
                    for name, one in item.commitments.items()
                }
                item = Message.make(dict(item.raw_items()), signed)
            items.append(item)
        return replace(receipt, messages=tuple(items))

    return changed("signed", forge)


@lie("field `origins`: a request that was not made", WHO, VERIFY, "minimal", WHOLE)
def origin() -> Caught:
    return changed("chain", lambda receipt: replace(receipt, origins=(*receipt.origins, b"GET /")))


def schedule(change: Callable[[list[Message]], list[Message]]) -> Caught:
    """Verify the sample of a process with another schedule."""
    receipt = decode(sample("slots"))
    (one,) = receipt.schedules
    found = [item for data in one.assignments if isinstance(item := whole.decode(data), Message)]
    return said(replace(receipt, schedules=(Schedule(one.process, tuple(map(whole.encode, change(found)))),)))


def signed(message: Message, name: str = "node", **changes: Any) -> Message:
    """Sign an assignment again."""
    return commitments.commit(message.with_commitments({}) | changes, wallet(name))


@lie("field `schedules`: swapped", WHO, VERIFY, "schedule", WHOLE)
def swapped_schedule() -> Caught:
    return schedule(lambda them: them[::-1])


@lie("field `schedules`: an order twice", WHO, VERIFY, "schedule", WHOLE)
def doubled_schedule() -> Caught:
    return schedule(lambda them: [them[0], them[0]])


@lie("field `schedules`: signed by a stranger", WHO, VERIFY, "schedule", WHOLE)
def stranger_schedule() -> Caught:
    return schedule(lambda them: [them[0], signed(them[1], "author")])


@lie("field `schedules`: time goes back", "the scheduler", VERIFY, "schedule", WHOLE)
def backwards() -> Caught:
    return schedule(lambda them: [them[0], signed(them[1], timestamp=0)])


@lie("field `schedules`: a fork", "the scheduler", VERIFY, "schedule", WHOLE)
def forked() -> Caught:
    return schedule(lambda them: [them[0], signed(them[1], **{"base-hashpath": "A" * 43})])


@lie("field `slots`: two change places", WHO, VERIFY, "slot", "both slots")
def slots() -> Caught:
    receipt = decode(sample("slots"))
    first, second = sorted(receipt.slots)
    turned = (Slot(first.process, 0, second.record), Slot(first.process, 1, first.record))
    report = said(replace(receipt, slots=turned)).report
    assert [step.verdict for step in report.steps] == [Verdict.INVALID] * 2
    return Caught(report, report.steps[0].record)


@lie("field `snapshots`: of another slot", WHO, VERIFY, "snapshot", WHOLE)
def snapshot() -> Caught:
    def other(receipt: Receipt) -> Receipt:
        (one,) = receipt.snapshots
        return replace(receipt, snapshots=(one._replace(slot=one.slot + 1),))

    return changed("snapshot", other)


@lie("field `part`: it proves another part", WHO, VERIFY, "part", WHOLE)
def part() -> Caught:
    return changed("part", lambda receipt: replace(receipt, part="list/1"))


@lie("part of a large result exchanged", WHO, VERIFY, "closed", WHOLE)
def exchanged_part() -> Caught:
    def other(receipt: Receipt) -> Receipt:
        made = []
        for item in receipt.messages:
            if isinstance(item, Message) and item.get("a") == 4 and "x" in item:
                item = item | {"a": 6}
            made.append(item)
        assert made != list(receipt.messages)
        return replace(receipt, messages=tuple(made))

    return changed("part", other)


@lie("field `evidence`: bytes that are none", WHO, VERIFY, "evidence", WHOLE)
def evidence() -> Caught:
    return changed("chain", lambda receipt: replace(receipt, evidence=(b"quote",)))


@lie("field `absent`: what is there is said to be gone", WHO, VERIFY, "closed", WHOLE)
def absent() -> Caught:
    return changed("chain", lambda receipt: replace(receipt, absent=(Absent(root(receipt)[0], "gone"),)))


@lie("field `absent`: what matters is said to be too large", MAKER, AGAIN, "message", "the step", Verdict.MISSING)
def absent_request() -> Caught:
    receipt = decode(sample("nested"))
    name, record = root(receipt)
    kept = tuple(one for one in receipt.messages if commitments.unsigned_id(one) != record.request)
    gone = replace(receipt, messages=kept, absent=(*receipt.absent, Absent(native(record.request), "large")))
    return again(gone, b64u(name))


@lie("field `signature`: that of another receipt", WHO, VERIFY, "signature", WHOLE)
def signature() -> Caught:
    other = decode(sample("signed receipt")).signature
    return changed("nested", lambda receipt: replace(receipt, signature=other))


@lie("signed by somebody else than the policy wants", WHO, "verify --policy", "policy", WHOLE)
def policy() -> Caught:
    data = encode(decode(sample("chain")).signed(lambda item: commitments.commit(item, wallet("mallory"))))
    return Caught(verify(data, {"signers": [wallet("node").address]}))


# -- records ----------------------------------------------------------------------------------------


@lie("record: another hashpath after", WHO, VERIFY, "hashpath-after", "the last step")
def after() -> Caught:
    return record_lie("chain", hashpath_after="A" * 43 + "/" + "A" * 43)


@lie("record: another hashpath before", WHO, VERIFY, "hashpath-before", "the last step")
def before() -> Caught:
    return record_lie("nested", hashpath_before="A" * 43)


@lie("record: its part belongs to another request", WHO, VERIFY, "parent", "the part")
def parent() -> Caught:
    receipt = decode(sample("oracle"))
    (name,) = [one for one, record in receipt.steps.items() if record.parent]
    made, new = swapped(receipt, name, origin=b"")
    return said(made, new)


@lie("record: a slot that another step asked for", WHO, VERIFY, "parent", "the last slot")
def slot_of_another() -> Caught:
    receipt = decode(sample("slots"))
    one, other = sorted(receipt.slots)[:2]
    made, _ = swapped(receipt, other.record, parent=one.record)
    return said(made, other.slot)


@lie("record: an answer that no part gave", WHO, VERIFY, "oracle", "the step that asked")
def oracle() -> Caught:
    receipt = decode(sample("oracle"))
    name, record = root(receipt)
    (old,) = record.oracles
    made, new = swapped(receipt, name, oracles=(replace(old, result=record.base),))
    return said(made, new)


@lie("record: taken from a step with another outcome", WHO, VERIFY, "cached-from", "the step from the cache")
def cached() -> Caught:
    receipt = decode(sample("cached"))
    (name,) = [one for one, record in receipt.steps.items() if record.cached_from]
    made, new = swapped(receipt, name, key="total")
    return said(made, new)


@lie("record: attested by somebody who did not", WHO, VERIFY, "attested-by", "the last step")
def voucher() -> Caught:
    return record_lie("chain", attested_by=wallet("alice").address)


@lie("record: another device", MAKER, AGAIN, "implementation", "the last step", Verdict.DIFFERS)
def device() -> Caught:
    receipt = decode(sample("nested"))
    made, name = swapped(receipt, root(receipt)[0], device="count@1.0")
    return again(made, name)


@lie("record: another key", MAKER, AGAIN, "key", "the last step")
def key() -> Caught:
    receipt = decode(sample("nested"))
    made, name = swapped(receipt, root(receipt)[0], key="add")
    return again(made, name)


@lie("record: another status", MAKER, AGAIN, "status", "the last step", Verdict.DIVERGED)
def status() -> Caught:
    receipt = decode(sample("nested"))
    made, name = swapped(receipt, root(receipt)[0], status="error")
    return again(made, name)


@lie("record: another result, all of it consistent", MAKER, AGAIN, "result", "the last step", Verdict.DIVERGED)
def result() -> Caught:
    """A receipt that verifies: every ID is right, and only making the step again shows the lie."""
    receipt = decode(sample("nested"))
    name, record = root(receipt)
    old = next(one for one in receipt.messages if commitments.unsigned_id(one) == record.result)
    assert isinstance(old, Message)
    new = old | {"more": 1}
    kept = tuple(new if one is old else one for one in receipt.messages)
    made, new_name = swapped(replace(receipt, messages=kept), name, result=commitments.unsigned_id(new))
    signed_one = ordered(made).signed(lambda item: commitments.commit(item, wallet("node")))
    first: Report = verify(encode(signed_one))
    assert first.verdict is Verdict.ATTESTED
    return again(signed_one, new_name)
