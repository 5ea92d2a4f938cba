"""Lies of serving nodes: false replies, other states, two answers to one question, schedules that do not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from hyperpy import Message, commitments, config
from hyperpy.audit import fault
from hyperpy.audit import peer as peers
from hyperpy.audit.fault import Peer
from hyperpy.audit.peer import Wanted, audit_peer
from hyperpy.client import Client
from hyperpy.commitments import commit, signed_id
from hyperpy.fault_proof import Proof
from hyperpy.http import client as wired
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import node, wallet
from hyperpy.verdicts import Finding, Report, StepReport, Verdict
from tests.audit.farm import Caught, Farm
from tests.audit.liars import Served, Tally, corrupt, judged, know, process, served, signed
from tests.devices.scheduling import frame, own, post, said
from tests.devices.scheduling import process as scheduled_process

FARM = Farm()
lie = FARM.lie
PEER, CHALLENGE, JUDGE, SCHEDULE = "audit-peer", "challenge", "~fault@1.0/judge", "verify-schedule"
ANSWERS, SCHEDULES, WIRE = "a serving node", "the scheduler", "somebody on the way"
DOUBLE = "/~tally@1.0&n=21/double"


@contextmanager
def auditor() -> Iterator[Node]:
    """Run the auditor's own node."""
    with Node(
        config.load(environ={}), key=wallet("auditor"), store=MemoryStore(), operator="", devices=(Tally,)
    ) as made:
        yield made


def audited(at: Served, *paths: str, processes: tuple[str, ...] = ()) -> Report:
    """Audit a node over HTTP."""
    with auditor() as here, Peer(at.url) as peer:
        return audit_peer(peer, here, Wanted(paths, processes, (Tally,)))


def place_of(report: Report, words: str) -> str:
    """Return the record ID of the claim with these words."""
    return next(step.record for step in report.steps if words in step.device)


def spawned(at: Served, *amounts: int) -> str:
    """Start a process that adds up, and send it numbers; return its ID."""
    with Client(at.url, wallet("owner")) as client:
        made = client.send("/~scheduler@1.0/schedule", process(at)).text("process")
        for amount in amounts:
            client.send(f"/{made}/schedule", {"target": made, "type": "Message", "by": str(amount)})
        client.get(f"/{made}/now/total")
        return made


def verdict_on(found: Message, at: str = "") -> Report:
    """Return a judge's verdict as a report: guilty is a step that diverged, under the name of its kind."""
    guilty = found.text("verdict") == "guilty"
    words = Finding(found.text("kind"), found.text("reason"), found.text("expected", ""), found.text("got", ""))
    step = StepReport("judged", "fault@1.0", "judge", "ok", "", "", "", "", "", Verdict.DIVERGED, findings=(words,))
    if not guilty:
        step.verdict = Verdict.MISSING
    step.record = at or "judged"
    return Report("", [step])


def judged_by_a_third(proof: Proof, accused: Served) -> Caught:
    """Let a third node judge a signed proof."""
    with node(Tally) as third:
        found = judged(third.node, signed(proof))
    assert found.text("accused") == accused.address
    return Caught(verdict_on(found), "judged")


# -- audit-peer -------------------------------------------------------------------------------------


@lie("a false reply, signed", ANSWERS, PEER, "result", "the path", Verdict.DIVERGED)
def false_reply() -> Caught:
    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "double", lambda true, _: true + 1)
        report = audited(at, "/~tally@1.0&n=4/pair", DOUBLE)
        return Caught(report, place_of(report, "double"))


@lie("one slot of a process computed falsely", ANSWERS, PEER, "result", "slot 5", Verdict.DIVERGED)
def false_slot() -> Caught:
    with served("liar") as at:
        corrupt(
            at.node, "tally@1.0", "compute", lambda true, _: true | {"total": 1000} if true["total"] == 15 else true
        )
        made = spawned(at, *range(1, 9))
        return Caught(audited(at, processes=(made,)), 5)


def lying_schedule(change: Callable[[dict[int, Message]], dict[int, Message]]) -> Caught:
    """Audit an honest node of which the lists of assignments are changed on the way."""
    with served("honest") as at:
        made = spawned(at, 1, 2, 3)
        honest = peers._page
        with mock.patch.object(peers, "_page", lambda *given: change(honest(*given))):
            report = audited(at, processes=(made,))
        return Caught(report, place_of(report, "schedule of"))


@lie("a gap in the schedule", ANSWERS, PEER, "schedule", "the schedule", Verdict.INVALID)
def gap() -> Caught:
    return lying_schedule(lambda given: {slot: one for slot, one in given.items() if slot != 2})


@lie("two assignments swapped", ANSWERS, PEER, "schedule-slot", "the schedule")
def swapped() -> Caught:
    return lying_schedule(lambda given: given | {1: given[2], 2: given[1]})


@lie("an assignment signed again by a stranger", ANSWERS, PEER, "schedule-signature", "the schedule")
def resigned() -> Caught:
    return lying_schedule(
        lambda given: given | {2: commitments.commit(given[2].with_commitments({}), wallet("stranger"))}
    )


@lie("a fork, signed by the scheduler", SCHEDULES, PEER, "schedule-chain", "the schedule")
def forked() -> Caught:
    changes = {"hash-chain": "A" * 43, "base-hashpath": "A" * 43}
    return lying_schedule(
        lambda given: given | {2: commitments.commit(given[2].with_commitments({}) | changes, wallet("honest"))}
    )


@lie("time that goes backwards, signed by the scheduler", SCHEDULES, PEER, "schedule-time", "the schedule")
def backwards() -> Caught:
    return lying_schedule(
        lambda given: (
            given | {2: commitments.commit(given[2].with_commitments({}) | {"timestamp": 1}, wallet("honest"))}
        )
    )


@lie("a reply changed on the wire", WIRE, PEER, "signature", "the path")
def wire() -> Caught:
    honest = wired.decode_reply

    def changed(status: int, lines: Any, body: bytes, *more: Any, **options: Any) -> Message:
        other = [(name, b"5" if name == b"second" else value) for name, value in lines]
        return honest(status, other, body, *more, **options)

    with served("honest") as at, mock.patch.object(wired, "decode_reply", changed):
        report = audited(at, "/~tally@1.0&n=3/pair")
        return Caught(report, place_of(report, "pair"))


# -- challenge and judge ------------------------------------------------------------------------------


@lie("a false result, signed", ANSWERS, JUDGE, "wrong-result", "the step", Verdict.DIVERGED)
def wrong_result() -> Caught:
    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "double", lambda true, _: true + 1)
        return judged_by_a_third(fault.wrong_result(at.peer, at.peer.ask(DOUBLE).reply), at)


@lie("a lie in a later step of a path", ANSWERS, JUDGE, "wrong-result", "the step", Verdict.DIVERGED)
def later_step() -> Caught:
    with served("liar") as at:
        corrupt(at.node, "tally@1.0", "pair", lambda true, _: true | {"second": 0})
        reply = at.peer.ask("/~message@1.0&n=1/set&n=7/set&device=tally@1.0/pair").reply
        return judged_by_a_third(fault.wrong_result(at.peer, reply), at)


@lie("two nodes answer one question differently", ANSWERS, JUDGE, "equivocation", "the step", Verdict.DIVERGED)
def equivocation() -> Caught:
    with served("honest") as honest, served("liar") as liar:
        corrupt(liar.node, "tally@1.0", "double", lambda true, _: true + 1)
        replies = (honest.peer.ask(DOUBLE).reply, liar.peer.ask(DOUBLE).reply)
        proof = fault.equivocation((honest.peer, liar.peer), replies)
        assert proof is not None
        return judged_by_a_third(proof, liar)


@lie("one node answers one question twice, differently", ANSWERS, JUDGE, "wrong-result", "the step", Verdict.DIVERGED)
def twice() -> Caught:
    """Of its two replies the first is true, so it is the second that convicts it."""
    with served("liar") as at:
        first = at.peer.ask(DOUBLE).reply
        corrupt(at.node, "tally@1.0", "double", lambda true, _: true + 1)
        second = at.peer.ask(DOUBLE).reply
        assert first.hashpath == second.hashpath
        assert (first["body"], second["body"]) == (42, 43)
        return judged_by_a_third(fault.wrong_result(at.peer, second), at)


@lie("two assignments of one slot", SCHEDULES, JUDGE, "double-assignment", "the slot", Verdict.DIVERGED)
def double_assignment() -> Caught:
    with served("scheduler") as at:
        made = spawned(at, 1, 2)
        first = fault.assignment_of(at.peer, made, 2)
        body = commit(Message({"target": made, "type": "Message", "by": "9"}), wallet("owner"))
        other = commit(first.with_commitments({}) | {"body": body}, wallet("scheduler"))
        proof = Proof("double-assignment", at.address, assignments=(first, other), process=made, slot=2)
        return judged_by_a_third(proof, at)


@lie("a false state, found by bisecting", ANSWERS, CHALLENGE + " --process", "wrong-state", "slot 11", Verdict.DIVERGED)
def bisected() -> Caught:
    with ExitStack() as stack:
        honest = stack.enter_context(served("honest"))
        liar = stack.enter_context(served("liar", flags={"relay.peers": [honest.url]}))
        definition = process(honest)
        with Client(honest.url, wallet("owner")) as client:
            made = client.send("/~scheduler@1.0/schedule", definition).text("process")
            for number in range(1, 20):
                client.send(f"/{made}/schedule", {"target": made, "type": "Message", "by": str(number)})
        know(liar, definition)

        def change(true: Message, found: dict[str, Any]) -> Message:
            return true | {"total": 0} if found["request"]["slot"] >= 11 else true

        corrupt(liar.node, "tally@1.0", "compute", change)
        last = fault.last_slot(honest.peer, made)
        found = fault.parted(honest.peer, liar.peer, made, last, lambda slot: None)
        assert found.slot == 11
        proof = fault.wrong_state(liar.peer, made, found.slot, honest.peer)
        caught = judged_by_a_third(proof, liar)
        (step,) = caught.report.steps
        step.slot = (made, proof.slot if proof.slot is not None else -1)
        return replace(caught, at=11)


# -- verify-schedule ----------------------------------------------------------------------------------


def shown(change: Callable[[list[Message]], list[Any]], slot: int) -> Caught:
    """Let another node check a schedule that was changed."""
    with node() as here, node() as other:
        definition = scheduled_process(here)
        post(here, definition)
        name = signed_id(definition)
        for count in range(4):
            post(here, said(name, count=str(count)))
        honest = own(here, name)
        other.node._lend["store"].write(honest[0]["body"])
        listed = Message({str(at): one for at, one in enumerate(change(list(honest))) if one})
        asked = Message(
            {"path": "verify-schedule", "target": name, "body": Message({"process": name, "assignments": listed})}
        )
        base = Message({"device": "scheduler@1.0"})
        found = other.node.resolver.resolve(base, asked, frame(other.node)).value
        assert isinstance(found, Message)
        assert found["valid"] is False
        steps = [
            StepReport(
                f"{one['slot']}", "", "", "", "", "", "", "", "", Verdict.INVALID, slot=(name, int(one["slot"])),
                findings=(Finding(one.text("kind"), one.text("problem")),),
            )
            for one in found["findings"]
        ]  # fmt: skip
        return Caught(Report("", sorted(steps, key=lambda one: one.slot or ("", 0))), slot)


TOLD: tuple[tuple[str, str, str, int, Callable[[list[Message]], list[Any]]], ...] = (
    ("a gap", SCHEDULES, "missing", 2, lambda them: [*them[:2], None, *them[3:]]),
    ("two assignments swapped", WIRE, "slot", 1, lambda them: [them[0], them[2], them[1]]),
    (
        "two messages swapped, signed again",
        SCHEDULES,
        "hash-chain",
        2,
        lambda them: [*them[:2], again(them[3], slot=2), again(them[2], slot=3), them[4]],
    ),
    ("signed again by a stranger", WIRE, "signer", 2, lambda them: replaced(them, again(them[2], "mallory"))),
    ("a field changed", WIRE, "signature", 2, lambda them: replaced(them, unsound(them[2], timestamp=9))),
    ("time that goes backwards", SCHEDULES, "timestamp", 2, lambda them: replaced(them, again(them[2], timestamp=5))),
    (
        "an assignment of another process",
        SCHEDULES,
        "process",
        2,
        lambda them: replaced(them, again(them[2], process="x" * 43)),
    ),
    (
        "a message exchanged",
        SCHEDULES,
        "hash-chain",
        2,
        lambda them: replaced(them, again(them[2], body=said(them[2].text("process"), count="x"))),
    ),
    (
        "a fork of the schedule",
        SCHEDULES,
        "base-hashpath",
        2,
        lambda them: replaced(them, again(them[2], **{"base-hashpath": "x" * 43})),
    ),
    ("an order played again", SCHEDULES, "hash-chain", 3, lambda them: [*them[:3], again(them[2], slot=3), them[4]]),
)


def again(one: Message, who: str = "", **changes: Any) -> Message:
    """Return an assignment with other fields, signed anew."""
    return commit(one.with_commitments({}) | changes, wallet(who) if who else wallet())


def unsound(one: Message, **changes: Any) -> Message:
    """Return an assignment with other fields under the old signature."""
    return Message.make({**one.raw_items(), **changes}, one.commitments)


def replaced(them: list[Message], other: Message) -> list[Message]:
    """Return the assignments with another one in slot 2."""
    return [*them[:2], other, *them[3:]]


for _name, _who, _kind, _slot, _change in TOLD:
    lie(_name, _who, SCHEDULE, _kind, f"slot {_slot}")(lambda change=_change, slot=_slot: shown(change, slot))
