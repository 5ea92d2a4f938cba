"""What another node claims, computed here and compared: its signed replies, its schedules, its states.

Of a hyperpy node the recorded steps are asked for too, as a receipt, and made again. What a node cannot supply
(a HyperBEAM node keeps no trail) is named by the rule ``not-supplied``. Rules beside those of a replay:

    signature      nobody signed the reply, or not well: it claims nothing
    result         computed here, the path gives something else
    hashpath       the reply is signed with another hashpath than the path leads to
    form           a state says the same in another form: its results are equal
    not-supplied   what this peer cannot give, and what is therefore not shown
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hyperpy import commitments, hashpath
from hyperpy.audit.answers import claim_of, other_code, said
from hyperpy.audit.bisect import first_difference
from hyperpy.audit.fault import Peer, assignment_of, last_slot, signer_of, state_of
from hyperpy.cache import Batch
from hyperpy.codecs import canonical
from hyperpy.context import Frame
from hyperpy.encoding import b64u_decode, native
from hyperpy.errors import (
    CommitmentError,
    HyperpyError,
    MessageNotFound,
    UpstreamError,
)
from hyperpy.fault_proof import account_of
from hyperpy.message import Message, Value
from hyperpy.node import Node
from hyperpy.schedule_rules import Mark, check_assignment, schedulers_of, slot_of
from hyperpy.store.schedule import slot_bytes, write_assignment
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, Report, StepReport, Verdict

PROBES: Final = (
    "/~message@1.0&a=1&b=2/set&c=3/c",
    "/~message@1.0&greeting=hello/set&name=world&year+integer=2026",
    "/~message@1.0&a=1&b=2&c=3/remove&item=b",
    "/~message@1.0&a=1&b=2/keys",
    "/~message@1.0&x=1/set&y=2/serialize~json@1.0",
)
"""Paths of any AO-Core node that lead to the same result everywhere; asked where none is named."""

_PAGE: Final = 100
_MOST_SLOTS: Final = 1_000_000

Heard = Callable[[str], None]
"""Called with what is being looked at."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look at: paths (the probes if there are none and no processes), and processes by ID.

    ``devices`` are files or classes beside the bundled and installed devices, for receipts.
    """

    paths: Sequence[str] = ()
    processes: Sequence[str] = ()
    devices: Sequence[str | Path | type] = ()


def audit_peer(peer: Peer, node: Node, wanted: Wanted, heard: Heard = lambda what: None) -> Report:
    """Compare a peer's claims with what this node computes.

    Args:
        node: a node of this machine whose store may be written to; one in memory will do.

    Raises:
        UpstreamError: the peer cannot be reached at all.
    """
    report = Report(peer.url)
    keeps = _keeps_a_trail(peer)
    paths = wanted.paths or (() if wanted.processes else PROBES)
    signers: list[str] = []
    for path in paths:
        heard(path)
        report.steps.append(step := claim_of(peer, node, path, report, wanted.devices if keeps else None))
        signers += step.attested_by
    for process in wanted.processes:
        heard(process)
        report.steps += _process(peer, node, process, heard, keeps)
    if not keeps:
        report.findings += [Finding("not-supplied", text, where=(peer.url,)) for text in _MISSING]
    report.total = len(report.steps)
    report.attested_by = tuple(dict.fromkeys(signers))
    return report


# -- a process --------------------------------------------------------------------------------


def _process(peer: Peer, node: Node, process: str, heard: Heard, keeps: bool) -> Iterator[StepReport]:
    """Check a process's schedule, compute it here, and find the first state that differs."""
    try:
        last = last_slot(peer, process)
        findings = _scheduled(peer, node, process, last, heard)
    except (UpstreamError, MessageNotFound, CommitmentError) as error:
        yield said(process, Verdict.MISSING, [Finding("schedule", error.message, where=(peer.url,))])
        return
    made = said(f"schedule of {process}", Verdict.INVALID if findings else Verdict.REPRODUCED, findings)
    made.attested_by = _schedulers(node, process)
    yield made
    if findings:
        return
    compared: dict[int, tuple[bool, Finding | None]] = {}

    def same(slot: int) -> bool:
        heard(f"{process} slot {slot}")
        compared[slot] = _same_state(peer, node, process, slot, keeps)
        return compared[slot][0]

    try:
        found = first_difference(same, last)
    except HyperpyError as error:
        yield said(f"states of {process}", Verdict.MISSING, [Finding("missing", error.message, where=(peer.url,))])
        return
    slot = last if found.slot is None else found.slot
    difference = compared[slot][1]
    title = f"state of {process} after slot {slot}, {found.comparisons} compared"
    step = said(title, Verdict.REPRODUCED if found.slot is None else Verdict.DIVERGED, [])
    step.slot = (process, slot)
    step.findings = () if difference is None else (difference,)
    if found.slot is not None and (other := other_code(node, lambda: _slot_account(peer, process, slot))):
        step.verdict, step.findings = Verdict.DIFFERS, (*step.findings, other)
    yield step


def _slot_account(peer: Peer, process: str, slot: int) -> Record:
    signer = signer_of(state_of(peer, process, slot).reply)
    return account_of(peer.account(f"process={process}&slot={slot}"), signer).record


def _scheduled(peer: Peer, node: Node, process: str, last: int, heard: Heard) -> list[Finding]:
    """Take over a schedule slot by slot, as far as it holds; return what is wrong with it."""
    if last >= _MOST_SLOTS:
        raise UpstreamError(f"a schedule of {last + 1} slots is too long to be taken over")
    first = assignment_of(peer, process, 0)
    definition = first.get("body")
    if not isinstance(definition, Message):
        return [Finding("definition", f"slot 0 of {process} holds no definition", where=(peer.url,))]
    try:
        definition = commitments.proven(process, definition, _nothing)
    except HyperpyError as error:
        return [Finding("definition", f"slot 0 does not hold the definition of {process}: {error.message}")]
    schedulers, algorithm = schedulers_of(definition), hashpath.algorithm_of(definition)
    mark, stamp, batch = Mark(process), -1, Batch()
    for slot in range(last + 1):
        if slot % _PAGE == 0:
            heard(f"{process} schedule {slot} of {last + 1}")
            page = _page(peer, process, slot, min(last, slot + _PAGE - 1))
        one = page.get(slot)
        if one is None:
            return [Finding("schedule", f"slot {slot} is missing in the schedule", where=(peer.url,))]
        wrong = _follows(process, slot, one, mark, stamp, schedulers)
        if wrong is not None:
            return [wrong]
        mark, stamp = mark.after(one, algorithm), _stamp(one)
        node.cache.put(one, batch)
        chain = b64u_decode(mark.chain) if mark.chain else bytes(32)
        batch.put("assignments", native(process) + slot_bytes(slot), write_assignment(one, chain))
    batch.put("heads", native(process), canonical.encode((last, chain, mark.path, max(stamp, 0))))
    node.cache.put(definition, batch)
    batch.commit(node.store)
    return []


def _page(peer: Peer, process: str, first: int, last: int) -> dict[int, Message]:
    listed = peer.ask(f"/{process}/schedule?from={first}&to={last}").reply.get("assignments")
    if not isinstance(listed, Message):
        raise UpstreamError(f"{peer.url} lists no slots of {process}")
    found = {slot: listed.get(str(slot)) for slot in range(first, last + 1)}
    return {slot: one for slot, one in found.items() if isinstance(one, Message)}


def _follows(
    process: str, slot: int, one: Message, mark: Mark, stamp: int, schedulers: tuple[str, ...]
) -> Finding | None:
    """Return what is wrong with an assignment as the next of a schedule, or None."""
    try:
        check_assignment(process, one, schedulers)
        number = slot_of(one)
    except HyperpyError as error:
        return Finding("schedule-signature", f"slot {slot}: {error.message}")
    if number != slot:
        return Finding("schedule-slot", "the assignment has another slot than its place", str(slot), str(number))
    if not mark.follows(one):
        return Finding("schedule-chain", f"slot {slot} does not continue the schedule before it")
    if _stamp(one) < stamp:
        return Finding("schedule-time", f"slot {slot} is older than the one before", f">= {stamp}", str(_stamp(one)))
    return None


def _stamp(one: Message) -> int:
    found = one.get("timestamp")
    if isinstance(found, bytes) and found.isdigit() and len(found) < 19:
        return int(found)
    return found if type(found) is int else 0


def _same_state(peer: Peer, node: Node, process: str, slot: int, keeps: bool) -> tuple[bool, Finding | None]:
    """Compare a peer's state with the one computed here: as a whole, else by its results."""
    theirs = state_of(peer, process, slot).reply.without("status")
    ours = _state(node, process, slot)
    ids = (commitments.content_id(ours), commitments.content_id(theirs))
    if ids[0] == ids[1]:
        return True, None
    results = [_results(one) for one in (ours, theirs)]
    if results[0] is not None and results[0] == results[1] and not keeps:
        return True, Finding("form", "the state is written in another form; its results are equal", *ids)
    return False, Finding("result", f"computed here, the state after slot {slot} is another one", *ids)


def _state(node: Node, process: str, slot: int) -> Message:
    until = time.monotonic() + 600
    while True:
        chain = node.chain(None, time.monotonic() + 30)
        try:
            found = node.resolver.resolve(
                f"/{process}/compute={slot}", None, Frame(node.resolver, chain, 0, None)
            ).value
            break
        except HyperpyError as error:
            if error.status != 504 or time.monotonic() > until:
                raise
    if not isinstance(found, Message):
        raise UpstreamError(f"slot {slot} of {process} has no state here")
    return Message.make(dict(found.raw_items()))


def _results(state: Message) -> str | None:
    found = state.get("results")
    return commitments.content_id(found) if isinstance(found, Message) else None


def _schedulers(node: Node, process: str) -> tuple[str, ...]:
    try:
        found = node.cache.read(process, exact=True)
    except HyperpyError:
        return ()
    return schedulers_of(found) if isinstance(found, Message) else ()


def _nothing(ref: str) -> Value:
    raise MessageNotFound(f"nothing else is known of {ref}")


# -- what a peer cannot supply ------------------------------------------------------------------


def _keeps_a_trail(peer: Peer) -> bool:
    """Say whether a peer knows of audits at all: then a reference that is none is a 400, and no unknown device."""
    try:
        return peer.ask("/~audit@1.0/trail?ref=x").reply.get("status") == 400
    except CommitmentError:
        return False


_MISSING: Final = (
    "recorded steps: there is no trail, so only replies that can be computed from their path are compared",
    "receipts: nothing can be kept and checked later without asking again",
    "the raw request behind a hashpath: what headers added to it is taken from what was sent now",
    "answers of steps that cannot be made again: such replies are vouched for by their signature alone",
    "which code made a result: a difference may be another version's, and is no proof of a lie",
)
