"""Whether a node's answer, and the steps that it shows for it, are those of the path that it was asked for.

A node that answers a URL names the hashpath itself, and keeps the request it says it got. Its steps may be true, every
one, and answer another question; or the answer may be another than theirs. So the path is taken apart here, as it was
sent, and each of its parts is compared with the step that should answer it, whatever the node kept.

Rules: ``asked``: a step's request or the first base is another than the path's part; ``sub-path``, ``base-link``: a
value is not what the path gives or puts there; ``result``: the answer is not what the last step gave. Where path and
steps do not match one to one (a device may answer with another's hashpath), that is said, as missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from hyperpy import commitments
from hyperpy import reply as replies
from hyperpy.audit import subpaths
from hyperpy.audit.fault import Asked, Peer
from hyperpy.audit.replay import Options
from hyperpy.audit.scratch import Scratch
from hyperpy.audit.source import Evidence, Plan, Planned
from hyperpy.audit.turns import Way, way_of, ways_of
from hyperpy.commitments import content_id, signed_id
from hyperpy.commitments.combined import combined_id
from hyperpy.encoding import b64u, key_text
from hyperpy.errors import HyperpyError
from hyperpy.fault_proof import alike, contents
from hyperpy.message import Message, Resolve
from hyperpy.recorder import unwrap
from hyperpy.sdk import Result
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, Report, Verdict, worst

_LIKELY: Final = 16
"""Chains of steps with one hashpath that are compared."""


def answered(asked: Asked, plan: Plan, evidence: Evidence, options: Options, peer: Peer | None = None) -> list[Finding]:
    """Return where a node's answer is not that of the path that was asked for.

    Args:
        plan, evidence: of the node's own receipt for the hashpath of the answer.
        peer: whom to ask for a message that a path names and that the evidence does not hold.
    """
    given, seconds, loading = options.devices, options.seconds, options.loading
    with Scratch(evidence, devices=given, config=options.config, seconds=seconds, loading=loading) as scratch:
        return _answered(_Look(asked, plan, evidence, scratch, peer))


def _answered(look: _Look) -> list[Finding]:
    best: list[Finding] | None = None
    for chain in look.chains():
        for way in look.ways:
            found = look.compared(way, chain)
            if best is None or (not found, -len(found)) > (not best, -len(best)):
                best = found
            if not best:
                return []
    if best is None:
        text = "no steps are shown that led to the hashpath of the answer"
        return [Finding("asked", text, where=(look.evidence.where,))]
    return best


def add(report: Report, found: Sequence[Finding]) -> None:
    """Add to a report what is wrong with the answer that its steps are shown for."""
    if not found:
        return
    report.findings += [one for one in found if one not in report.findings]
    worse = Verdict.MISSING if all(one.where for one in found) else Verdict.DIVERGED
    report.base_verdict = worst([worse, *([report.base_verdict] if report.base_verdict else [])])


def is_named(name: str, item: Message) -> Message | None:
    """Return the message of an ID that a reply holds, if it does; its ID is computed from it."""
    with suppress(HyperpyError):
        if item.commitments and name == signed_id(item):  # its signatures were verified as it came
            return commitments.only_committed(item)
    for one in contents(item).values():
        with suppress(HyperpyError):
            if name in (content_id(one), combined_id(one)):
                return one
    return None


class _Look:
    def __init__(self, asked: Asked, plan: Plan, evidence: Evidence, scratch: Scratch, peer: Peer | None) -> None:
        self.asked, self.evidence, self.scratch, self._peer = asked, evidence, scratch, peer
        self.ways: list[Way] = []
        for parts in asked.readings or (asked.members,):
            way = way_of(parts)
            if way not in self.ways:
                self.ways.append(way)
        self._steps = {b64u(step.name): step for step in plan.steps}
        self._before = {edge.target: edge.source for edge in plan.edges if edge.kind == "next"}
        self._parts: dict[bytes, list[Record]] = {}
        for step in plan.steps:
            if step.record.parent:
                self._parts.setdefault(step.record.parent, []).append(step.record)

    def chains(self) -> Iterator[list[Planned]]:
        """Yield the steps that led to the hashpath of the answer, from the first on."""
        told = self.asked.reply.hashpath
        ends = [
            name
            for name, step in self._steps.items()
            if step.record.hashpath_after == told and not step.record.parent and step.slot is None
        ]
        for end in ends[:_LIKELY]:
            made, at = [self._steps[end]], self._before.get(end, "")
            while at in self._steps and len(made) <= len(self._steps):
                made.append(self._steps[at])
                at = self._before.get(at, "")
            yield made[::-1]

    def compared(self, way: Way, chain: list[Planned]) -> list[Finding]:
        """Return where a chain of steps, or the answer, is not that of the path."""
        chain, skipped = self._of_path(way, chain)
        turns = way.turns[skipped:]
        ended = bool(chain) and chain[-1].record.status != "ok"  # nothing is asked of what failed
        if not chain or len(chain) > len(turns) or (len(chain) < len(turns) and not ended):
            text = f"the path asks for {len(way.turns)} steps, the hashpath of the answer stands for {len(chain)}"
            return [self._missing(text)]
        found = [] if skipped else self._begins(way, chain[0].record)
        for number, step in enumerate(chain, skipped):
            found += self._step(way, number, step.record)
        return found + self._answer(way, chain[-1].record)

    def _of_path(self, way: Way, chain: list[Planned]) -> tuple[list[Planned], int]:
        """Return the steps of a chain that the path itself asks for, and how many of its turns were read instead."""
        if isinstance(way.root, Resolve):
            return chain[-len(way.turns) :] if way.turns else [], 0
        if isinstance(way.root, bytes) and way.turns and isinstance(key := way.turns[0].key, bytes):
            at = f"{key_text(way.root)}/{key_text(key)}"
            for place, step in enumerate(chain):
                if step.record.hashpath_before == at and len(chain) - place == len(way.turns) - 1:
                    return chain[place:], 1
        return chain, 0

    def _begins(self, way: Way, first: Record) -> list[Finding]:
        """Compare the first base with the message that a path names; what it holds itself is compared as a turn."""
        if isinstance(way.root, Resolve):
            if "/" not in first.hashpath_before:
                return []
            made = subpaths.hashpaths_of(way.root, self._parts.get(first.id, ()), self.scratch)
            if first.hashpath_before in made:
                return []
            if not made:
                return [self._missing("the sub-path that the path begins with cannot be made again")]
            return [Finding("asked", "the path begins with another hashpath", min(made), first.hashpath_before)]
        if way.root is None:
            return []
        name, puts = key_text(way.root), way.puts
        base = self._read(first.base)
        if base is None or (not puts and name in (first.base, content_id(base))):
            return []  # one that is not at hand is said to be missing below
        if puts and name == content_id(base.without(*(key for key in puts if key in base))):
            return []
        original = self._read(name) or self._fetched(name)
        if original is None:
            return [self._missing(f"the message {name}, which the path begins with, is not at hand")]
        kept = set(original.raw_items()) - set(puts)
        same = kept == set(base.raw_items()) - set(puts) and all(
            subpaths.same(original.raw(key), base.raw(key)) for key in kept
        )
        if same and (puts or not original.commitments):
            return []
        return [Finding("asked", "the first base is another than the path names", name, first.base)]

    def _fetched(self, name: str) -> Message | None:
        with suppress(HyperpyError):
            return is_named(name, self._peer.ask(f"/{name}").reply) if self._peer is not None else None
        return None

    def _step(self, way: Way, number: int, record: Record) -> list[Finding]:
        """Compare a step with the turn of the path that it should be."""
        what = f"step {number + 1} of the path"
        base, request = self._read(record.base), self._read(record.request)
        if base is None or request is None:
            return [self._missing(f"base or request of {what} is not at hand")]
        told = subpaths.Told(record, base, request, self._parts.get(record.id, ()), whole=True)
        try:
            found, unknown = subpaths.compared(way, number, told, self.scratch)
        except (HyperpyError, ValueError, TypeError, RecursionError) as error:
            return [self._missing(f"{what} cannot be compared: {error!s:.200}")]
        found = [Finding(one.rule, f"{what}: {one.text}", one.expected, one.got) for one in found]
        if unknown and not found and not self._kept(way, record):
            return [self._missing(f"{what}: {unknown} sub-paths cannot be made again")]
        return found

    def _kept(self, way: Way, record: Record) -> bool:
        """Say whether the node kept the request as it was sent: what it cannot show of it is counted, then."""
        try:
            data = self.evidence.trail.origin(record.origin) if record.origin else None
            return data is not None and way in ways_of(data)
        except (HyperpyError, ValueError, TypeError, RecursionError):
            return False

    def _answer(self, way: Way, record: Record) -> list[Finding]:
        """Compare the answer with what the last step gave."""
        result, answer = self._read(record.result), self.asked.reply
        if result is None:
            return [self._missing("the result of the last step is not at hand, so the answer is not compared")]
        names = tuple(way.rest) if record.status == "ok" else ()
        plain = {name: one for name in names if not isinstance(one := way.rest[name], Resolve)}
        result = result | plain if plain else result
        loose = [name for name in names if name not in plain]
        expected = replies.of_result(Result(record.status, unwrap(result)))
        fits = answer.get("status") == expected.get("status") and alike(_bare(answer, loose), _bare(result, loose))
        if fits:
            return []
        text = "the answer is not what the last of its steps gave"
        return [Finding("result", text, content_id(result), content_id(answer))]

    def _read(self, name: str) -> Message | None:
        try:
            found = self.evidence.cache.read(name, exact=True)
        except HyperpyError:
            return None
        return found if isinstance(found, Message) else None

    def _missing(self, text: str) -> Finding:
        return Finding("asked", text, where=(self.evidence.where,))


def _bare(item: Message, names: Sequence[str]) -> Message:
    return Message.make({key: one for key, one in item.raw_items().items() if key not in names})
