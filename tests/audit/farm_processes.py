"""Lies about processes: schedulers that order falsely, nodes that compute falsely, rows that were changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hyperpy import Message, commitments, hashpath
from hyperpy.capabilities import Head
from hyperpy.encoding import b64u, b64u_decode, native, sha256
from hyperpy.store.schedule import read_assignment, write_assignment
from hyperpy.testing import TestNode, wallet
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Verdict
from tests.audit.farm import WHOLE, Caught, Farm, name_of
from tests.audit.liars import corrupt
from tests.audit.lies import audit, everything, forge, keep
from tests.devices.lua_parts import module
from tests.devices.mailing import Mailer, send, spawn
from tests.devices.parts import Count, Place, place

FARM = Farm()
lie = FARM.lie
REPLAY = "replay"
COMPUTES, SCHEDULES, KEEPER = "the node that computes", "the scheduler", "whoever keeps the store"
LUA = b"""
function compute(base, req)
  base.count = (base.count or 0) + 1
  seen = (seen or 0) + 10
  base.seen = seen
  return base
end
"""


@contextmanager
def counted(slots: int = 6) -> Iterator[tuple[Place, str]]:
    """Run a node with a process of that many slots, all computed."""
    with place() as here:
        process = here.spawn("count@1.0")
        for number in range(slots - 1):
            here.send(process, action=f"a{number}")
        assert here.get(process, "now")["status"] == 200
        yield here, process


def caught(here: Place, process: str, at: str | int, devices: tuple[type, ...] = (Count,)) -> Caught:
    """Replay a process."""
    return Caught(audit(here.node.store, process, devices=devices), at)


def record(here: Place, process: str, slot: int) -> Record:
    """Return the record of a slot."""
    found = Trail(here.node.store).by_slot(process, slot)
    assert found is not None
    return found


def state(here: Place, name: str) -> Message:
    """Return a message of the store."""
    found = here.node.cache.read(name, exact=True)
    assert isinstance(found, Message)
    return found


# -- computing ----------------------------------------------------------------------------------


@lie("a slot computed falsely", COMPUTES, REPLAY, "result", "slot 3", Verdict.DIVERGED)
def false_slot() -> Caught:
    """The device changes one state while it runs; later slots go on from there."""
    with place() as here:

        def change(true: Message, found: dict[str, Any]) -> Message:
            return true | {"count": 99} if found["request"]["slot"] == 3 else true

        corrupt(here.node, "count@1.0", "compute", change)
        process = here.spawn("count@1.0")
        for number in range(5):
            here.send(process, action=f"a{number}")
        assert here.value(process, "now/count") == 101
        return caught(here, process, 3)


@lie("a result changed in the store", KEEPER, REPLAY, "result", "slot 3", Verdict.DIVERGED)
def changed_state() -> Caught:
    with counted() as (here, process):
        third = record(here, process, 3)
        forge(here.node.store, third, result=keep(here.node.store, state(here, third.result) | {"count": 99}))
        return caught(here, process, 3)


@lie("a slot on the base of another slot", KEEPER, REPLAY, "base-link", "slot 4")
def other_base() -> Caught:
    with counted() as (here, process):
        forge(here.node.store, record(here, process, 4), base=record(here, process, 2).base)
        return caught(here, process, 4)


@lie("a request that was not scheduled", KEEPER, REPLAY, "request", "slot 2")
def not_scheduled() -> Caught:
    with counted() as (here, process):
        other = keep(here.node.store, Message({"slot": 2, "process": process, "path": "compute"}))
        forge(here.node.store, record(here, process, 2), request=other)
        return caught(here, process, 2)


@lie("the record of another slot", KEEPER, REPLAY, "slot", "the schedule")
def wrong_slot() -> Caught:
    with counted() as (here, process):
        key = native(process) + (2).to_bytes(8, "big")
        here.node.store.write([("by-slot", key, record(here, process, 3).id)])
        return caught(here, process, "")


@lie("a slot's record left out", KEEPER, REPLAY, "record", "the schedule", Verdict.MISSING)
def no_record() -> Caught:
    with counted() as (here, process):
        here.node.store.write([], [("by-slot", native(process) + (2).to_bytes(8, "big"))])
        return caught(here, process, "")


@lie("altered snapshot", KEEPER, REPLAY, "snapshot", "the snapshot's slot")
def altered_snapshot() -> Caught:
    with counted() as (here, process):
        key, row = snapshots(here, process)[0]
        name, *rest = row.decode().split("\n")
        other = keep(here.node.store, state(here, name) | {"count": 50})
        here.node.store.write([("heads", key, "\n".join([other, *rest]).encode())])
        return caught(here, process, slot_in(key))


@lie("snapshot of another slot (Lua)", KEEPER, REPLAY, "snapshot", "the snapshot's slot")
def older_snapshot() -> Caught:
    with place() as here:
        process = here.spawn("lua@5.3a", **module(LUA))
        for _ in range(3):
            here.send(process, action="x")
            assert here.get(process, "now")["status"] == 200
        rows = dict(snapshots(here, process))
        here.node.store.write([("heads", min(rows), rows[max(rows)])])
        return caught(here, process, slot_in(min(rows)), ())


def snapshots(here: Place, process: str) -> list[tuple[bytes, bytes]]:
    """Return the rows of a process's snapshots, the newest first."""
    return [(key, row) for key, row in here.node.store.scan("heads", native(process)) if len(key) == 40]


def slot_in(key: bytes) -> int:
    """Return the slot of a snapshot's row."""
    return (1 << 64) - 1 - int.from_bytes(key[32:], "big")


# -- what callers are told ------------------------------------------------------------------------


def told(change: Any) -> Caught:
    """Ask for a state; change the record of the answer."""
    with counted() as (here, process):
        asked = TestNode(here.node)
        found = Trail(here.node.store).by_hashpath(asked.get(f"/{process}/compute=3").hashpath or "")
        assert found is not None
        made = forge(here.node.store, found, result=change(here, asked, process, found))
        return Caught(audit(here.node.store, made.hashpath_after, devices=(Count,)), name_of(made))


def result_at(here: Place, asked: TestNode, path: str) -> str:
    """Return the result that a path's record names."""
    found = Trail(here.node.store).by_hashpath(asked.get(path).hashpath or "")
    assert found is not None
    return found.result


@lie("a reply that is not the state", KEEPER, REPLAY, "result", "the reply's step", Verdict.DIVERGED)
def false_reply() -> Caught:
    return told(lambda here, asked, process, found: keep(here.node.store, state(here, found.result) | {"count": 12}))


@lie("a reply that is the state of another slot", KEEPER, REPLAY, "state", "the reply's step")
def old_reply() -> Caught:
    return told(lambda here, asked, process, found: result_at(here, asked, f"/{process}/compute=2"))


@lie("a reply that belongs to another process", KEEPER, REPLAY, "state", "the reply's step")
def foreign_reply() -> Caught:
    def other(here: Place, asked: TestNode, process: str, found: Record) -> str:
        return result_at(here, asked, f"/{here.spawn('count@1.0', **{'random-seed': 'other'})}/compute=0")

    return told(other)


# -- schedules ------------------------------------------------------------------------------------


def ordered(here: Place, process: str, signer: str = "node", *, slot: int = 0, **changes: Any) -> Message:
    """Schedule a message as a scheduler that lies does: with other fields, or under another key."""
    body = commitments.commit(Message({"target": process, "type": "Message", "action": "lie"}), here.author)

    def build(head: Head) -> tuple[Message, Head]:
        chain = sha256(head.chain + commitments.signed_id(body).encode())
        fields = {
            "path": "compute",
            "process": process,
            "slot": head.slot + 1,
            "timestamp": head.slot + 2,
            "hash-chain": b64u(chain),
            "base-hashpath": head.hashpath,
            "body": body,
            "type": "Assignment",
        }
        signed = commitments.commit(Message(fields | changes), wallet(signer))
        after = hashpath.combine(head.hashpath, commitments.signed_id(signed))
        return signed, Head(head.slot + 1, chain, after, head.slot + 2)

    return here.slots.append(process, build, deadline=time.monotonic() + 30)


def scheduled(signer: str = "node", **changes: Any) -> Caught:
    """Let a scheduler lie in slot 6, and go on honestly."""
    with counted() as (here, process):
        ordered(here, process, signer, **changes)
        here.send(process, action="after")
        here.get(process, "now")
        return caught(here, process, 6)


@lie("time that goes backwards", SCHEDULES, REPLAY, "schedule-time", "slot 6")
def backwards() -> Caught:
    return scheduled(timestamp=1)


@lie("signed by a key that is no scheduler's", SCHEDULES, REPLAY, "schedule-signature", "slot 6")
def stranger() -> Caught:
    return scheduled("stranger")


def altered(here: Place, process: str, slot: int, signer: str = "", **changes: Any) -> None:
    """Change an assignment that is signed; sign it again if a signer is named."""
    key = native(process) + slot.to_bytes(8, "big")
    data = here.node.store.get("assignments", key)
    assert data is not None
    chain, assignment = read_assignment(data)
    made = Message.make({**assignment.raw_items(), **changes}, {} if signer else assignment.commitments)
    if signer:
        made = commitments.commit(made, wallet(signer))
    here.node.store.write([("assignments", key, write_assignment(made, chain))])


@lie("an assignment that nobody signed so", KEEPER, REPLAY, "schedule-signature", "slot 3")
def unsigned() -> Caught:
    with counted() as (here, process):
        altered(here, process, 3, path="fail")
        return caught(here, process, 3)


@lie("an assignment signed again by a stranger", KEEPER, REPLAY, "schedule-signature", "slot 3")
def resigned() -> Caught:
    with counted() as (here, process):
        altered(here, process, 3, "stranger")
        return caught(here, process, 3)


@lie("a fork: a slot that follows another schedule", SCHEDULES, REPLAY, "schedule-chain", "slot 3")
def forked() -> Caught:
    with counted() as (here, process):
        altered(here, process, 3, "node", **{"hash-chain": b64u(bytes(32)), "base-hashpath": b64u(bytes(32))})
        return caught(here, process, 3)


@lie("two assignments change places", KEEPER, REPLAY, "schedule-slot", "slot 2")
def swapped() -> Caught:
    with counted() as (here, process):
        keys = [native(process) + slot.to_bytes(8, "big") for slot in (2, 3)]
        two, three = (here.node.store.get("assignments", key) for key in keys)
        assert two is not None
        assert three is not None
        here.node.store.write([("assignments", keys[0], three), ("assignments", keys[1], two)])
        return caught(here, process, 2)


@lie("an order is played again in a later slot", KEEPER, REPLAY, "schedule-slot", "slot 4")
def replayed() -> Caught:
    with counted() as (here, process):
        two = here.node.store.get("assignments", native(process) + (2).to_bytes(8, "big"))
        assert two is not None
        here.node.store.write([("assignments", native(process) + (4).to_bytes(8, "big"), two)])
        return caught(here, process, 4)


@lie("a gap in the schedule", KEEPER, REPLAY, "schedule", "the slot after the gap", Verdict.MISSING)
def gap() -> Caught:
    with counted() as (here, process):
        slot = (2).to_bytes(8, "big")
        second = record(here, process, 2)
        here.node.store.write([], [("assignments", native(process) + slot), ("by-slot", native(process) + slot)])
        here.node.store.write([], [("trail", second.id)])
        return caught(here, process, 3)


# -- pushes ---------------------------------------------------------------------------------------


def pushed(change: Any) -> Caught:
    """Push a message; change what the push says it sent."""
    with place(Mailer) as here:
        store = here.node.store
        first, second = spawn(here, "1"), spawn(here, "2")
        slot = send(here, first, outbox={"1": {"target": second, "Action": "Tell"}})
        assert TestNode(here.node).get(f"/{first}/push&slot={slot}")["status"] == 200
        records = [(name, found) for name, _ in store.scan("trail") if (found := Trail(store).read(name))]
        name, push = next(pair for pair in records if pair[1].device == "push@1.0")
        made = change(here, name, push)
        report = audit(store, roots=everything(store), devices=(Mailer,))
        report.steps.sort(key=lambda step: step.record == name_of(made))
        return Caught(report, name_of(made))


def retold(here: Place, push: Record, **changes: Any) -> Record:
    """Let a push say something else of its first message, under the same record ID's children."""
    result = state(here, push.result)
    sent = result["1"]
    assert isinstance(sent, Message)
    made = forge(here.node.store, push, result=keep(here.node.store, result | {"1": sent | changes}))
    for row, child in list(here.node.store.scan("by-parent")):
        found = Trail(here.node.store).read(child)
        if found is None:
            here.node.store.write([], [("by-parent", row)])
    return made


@lie("a pushed message that was never sent", COMPUTES, REPLAY, "pushed", "the push")
def never_sent() -> Caught:
    return pushed(lambda here, name, push: retold(here, push, id=b"A" * 43, slot=0))


@lie("a message pushed twice, with other content", COMPUTES, REPLAY, "pushed", "the push")
def sent_twice() -> Caught:
    """A second message went to the same process under the push, and the push does not say so."""

    def twice(here: Place, name: bytes, push: Record) -> Record:
        store = here.node.store
        (row, child), *_ = [
            (row, child)
            for row, child in store.scan("by-parent", name)
            if (found := Trail(store).read(child)) is not None and found.key == "schedule"
        ]
        found = Trail(store).read(child)
        assert found is not None
        request = state(here, found.request)
        body = request["body"]
        assert isinstance(body, Message)
        other = commitments.commit(body.with_commitments({}) | {"action": "Other"}, wallet())
        result = state(here, found.result) | {"slot": 9, "body": other}
        made = replace(
            found,
            request=keep(here.node.store, request | {"body": other}),
            result=keep(store, result),
        )
        made = replace(
            made,
            hashpath_after=hashpath.extend(
                state(here, found.base).with_private(hashpath=found.hashpath_before), state(here, made.request)
            ),
        )
        store.write([("trail", made.id, made.encode()), ("by-parent", row[:-1] + bytes([row[-1] ^ 1]), made.id)])
        return push

    return pushed(twice)


__all__ = ["FARM", "WHOLE", "b64u_decode"]
