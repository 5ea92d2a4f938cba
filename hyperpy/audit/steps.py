"""One recorded step: what its record says is checked, then it is made again and compared.

Rules, by the names their findings carry:

    message          base, request and result are what their IDs promise
    signature        the signatures on base and request hold
    hashpath-before  a base that no step made has the hashpath of its own ID
    hashpath-after   the hashpath follows from base and request
    base-link        the base is the result of the step whose hashpath it has; only its device, and keys of a
                     ``~device&key=value`` part of the request, may have been put on it in between
    origin           the request that came over HTTP is kept, and is what its digest promises
    sub-path         a value of the request or base is what its sub-path, in the request as it came, gives
    cached-from      a result from the cache is that of an equal step
    part             the recorded sub-steps agree with the answers the record lists
    implementation   the device's code is the one that was recorded
    device, key      they are the ones that answer this request on this base
    oracle           every recorded answer was asked for, by the same request, in the same order
    status, result   they come out again
    pushed           a push names what its sub-steps sent, and nothing else
    attested-by      whoever a record names as vouching for it signed its result, or the receipt
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from hyperpy import commitments, hashpath, normalise
from hyperpy.audit import subpaths
from hyperpy.audit.collect import unsigned
from hyperpy.audit.kept import FromPath, Kept
from hyperpy.audit.pushes import pushed
from hyperpy.audit.scratch import NotLent, Scratch
from hyperpy.audit.source import Evidence, Planned
from hyperpy.commitments.combined import combined_id, derivable
from hyperpy.context import Given
from hyperpy.dispatch import find
from hyperpy.encoding import b64u, key_bytes
from hyperpy.errors import Busy, Corrupt, DeviceNotFound, DeviceTimeout, HyperpyError, MessageNotFound
from hyperpy.message import Link, Message, Value
from hyperpy.recorder import failure, status_word, wrap
from hyperpy.sdk import Result
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, StepReport, Verdict

MISSING: Final = frozenset({"record", "missing", "origin-gone", "time"})
"""Rules that say what is not at hand; the text says what."""
DIVERGED: Final = frozenset({"result", "status", "oracle", "base", "sub-path"})
INCIDENT: Final = re.compile(rb"; incident [0-9a-f]{8}")
"""The number under which a node's own log has a failure."""


class Neighbours(NamedTuple):
    """The records around a step: that which made its base, that it was taken from, and its sub-steps.

    Attributes:
        place: how many steps of the same request led to it, ``first`` being the first of them, ``begun`` its sub-steps.
    """

    before: Record | None = None
    cached: Record | None = None
    parts: Sequence[Record] = ()
    place: int = 0
    first: Record | None = None
    begun: Sequence[Record] = ()


def report_of(step: Planned, verdict: Verdict, findings: Sequence[Finding] = (), given: int = 0) -> StepReport:
    """Return a report that repeats the record's words."""
    record = step.record
    return StepReport(
        record=b64u(step.name),
        device=record.device,
        key=record.key,
        status=record.status,
        base=record.base,
        request=record.request,
        result=record.result,
        before=record.hashpath_before,
        after=record.hashpath_after,
        verdict=verdict,
        parent=b64u(record.parent) if record.parent else "",
        slot=step.slot,
        given=given,
        findings=tuple(findings),
    )


def verdict_of(findings: Sequence[Finding], best: Verdict) -> Verdict:
    """Return the verdict that findings leave of the best one."""
    worst = best
    for finding in findings:
        found = Verdict.INVALID
        if finding.where or finding.rule in MISSING:
            found = Verdict.MISSING
        elif finding.rule == "implementation":
            found = Verdict.DIFFERS
        elif finding.rule == "sealed":
            found = Verdict.ATTESTED
        elif finding.rule in DIVERGED:
            found = Verdict.DIVERGED
        order = tuple(Verdict)
        worst = max(worst, found, key=order.index)
    return worst


_RECAST = frozenset({"device"})
_DEEP = 64
_NESTED = 1_000_000
"""Nested messages that one audit looks at, by depth and number."""


class Checker:
    """Checks steps, one after another, with the devices of one scratch node."""

    def __init__(self, evidence: Evidence, scratch: Scratch) -> None:
        self.evidence, self.scratch = evidence, scratch
        self.live: dict[bytes, Value] = {}
        """Results that hold more than a store keeps, by record."""
        self.signed: dict[bytes, frozenset[str]] = {}
        """Signatures on results that were made again, by record."""
        self._kept = Kept(scratch)
        self._sound: set[str] = set()
        """IDs of nested messages whose signatures were found to hold."""

    # -- what the record says ------------------------------------------------------------------

    def checked(self, step: Planned, around: Neighbours) -> tuple[list[Finding], int]:
        """Return what is wrong with a record by itself, and how many inputs only its keeper vouches for."""
        record = step.record
        found = list(step.gaps)
        base, request = self._message(record.base, "base", found), self._message(record.request, "request", found)
        self._message(record.result, "result", found, needed=False)
        given = 0
        if base is not None and request is not None:
            found += _hashpaths(record, base, request)
            paths = self._paths(record, base, request, around)
            found = [one for one in found if one is not step.unled or not paths.led]
            if around.before is not None:
                finding, given = self._link(step, around.before, base, paths)
                found += finding
            if not any(one.rule == "origin" for one in found):
                known = {one.rule for one in found} & {"base-link"}
                found, given = [*found, *(one for one in paths.found if one.rule not in known)], given + paths.unknown
        if around.cached is not None:
            found += _cached(record, around.cached)
        found += pushed(self.evidence, record, around.parts)
        return found + self._parts(record, around.parts), given

    def _message(self, ref: str, role: str, found: list[Finding], needed: bool = True) -> Message | None:
        try:
            item = self.scratch.cache.read(ref, exact=True) if ref else None
        except (Corrupt, ValueError, TypeError) as error:
            text = f"the {role} {ref} is not what its ID promises: {error}"
            found.append(Finding("message", text, getattr(error, "expected", ""), getattr(error, "got", "")))
            return None
        except HyperpyError:
            if needed:
                where = (self.evidence.where,)
                found.append(Finding("message", f"the {role} {ref} is not at hand", where=where))
            return None
        if isinstance(item, Message):
            if item.commitments:
                found += self._signed(ref, role, item)
            self._nested(item, role, found)
            return item
        if needed:
            found.append(Finding("message", f"the {role} is no message"))
        return None

    def _signed(self, ref: str, role: str, item: Message) -> list[Finding]:
        """Check a message that was read by a signed ID: that it has this ID, and that its signatures hold."""
        try:
            known = (commitments.signed_id(item), combined_id(item), commitments.content_id(item))
        except HyperpyError as error:
            return [Finding("signature", f"a commitment on the {role} is none: {error.message}")]
        if ref not in known:
            return [Finding("message", f"the {role} {ref} has another ID", ref, known[0])]
        for name in item.commitments:
            try:
                commitments.check(item, committers=(), ids=[name])
            except HyperpyError as error:
                if ref == known[0] or self._vouched(item, name):
                    return [Finding("signature", f"a signature on the {role} does not hold: {error.message}")]
                if role != "result" and not derivable(item.commitments[name]):
                    self._kept.loose.setdefault(ref, set()).add(name)
        return []

    def _nested(self, item: Value, role: str, found: list[Finding], depth: int = 0) -> None:
        """Check the signed messages inside one: their IDs are those of signatures, and bind no content alone."""
        items = item.raw_items().values() if isinstance(item, Message) else item if isinstance(item, tuple) else ()
        for child in items:
            if not isinstance(child, Link):
                if depth < _DEEP and isinstance(child, (Message, tuple)):
                    self._nested(child, role, found, depth + 1)
                continue
            if child.id in self._sound:
                continue
            if depth >= _DEEP or len(self._sound) >= _NESTED:
                text = f"in the {role}, messages deeper than {_DEEP} or more than {_NESTED} were not looked at"
                found.append(Finding("missing", text, where=(self.evidence.where,)))
                continue
            self._sound.add(child.id)
            try:
                inner = child.load()
            except Corrupt as error:
                found.append(Finding("message", f"in the {role}: {error.message}", error.expected, error.got))
                continue
            except HyperpyError:
                continue  # whoever needs it will miss it
            if isinstance(inner, Message) and inner.commitments:
                found += self._bound(child.id, role, inner)
            self._nested(inner, role, found, depth + 1)

    def _bound(self, ref: str, role: str, inner: Message) -> list[Finding]:
        """Check one signed message inside another."""
        for name in inner.commitments:
            try:
                commitments.check(inner, committers=(), ids=[name])
            except HyperpyError as error:
                text = f"a signature on the message {ref} in the {role} does not hold: {error.message}"
                if self._vouched(inner, name):
                    return [Finding("signature", text)]
                return [Finding("message", f"{text}; nothing binds its content", where=(self.evidence.where,))]
        return []

    def _vouched(self, item: Message, name: str) -> bool:
        """Say whether the evidence says of a commitment that it was verified; others need not hold."""
        row = self.evidence.store.get("commitments", commitments.content_key(item) + key_bytes(name))
        return row is not None and row[:1] == b"\x01"

    def _link(self, step: Planned, before: Record, base: Message, paths: FromPath) -> tuple[list[Finding], int]:
        """Compare a base with the result of the step before."""
        record = step.record
        if before.status == "ok" and before.result in (record.base, commitments.content_id(base)):
            made_signed = self.signed.get(before.id, told_signed := _signed(base))
            if made_signed == told_signed or step.inside:
                return [], 0
            text = "the base bears other signatures than the result of the step before"
            return [Finding("base-link", text, ", ".join(sorted(made_signed)), ", ".join(sorted(told_signed)))], 0
        wrong = Finding(
            "base-link",
            f"the base is not the result of the step that led to {record.hashpath_before}",
            before.result,
            record.base,
        )
        try:
            made = self.scratch.cache.read(before.result, exact=True)
        except HyperpyError:
            where = (self.evidence.where,)
            return [Finding("message", f"the result {before.result} is needed to compare the base", where=where)], 0
        if before.status != "ok" or not isinstance(made, Message):
            return [wrong], 0
        changed = _changed(made, base)
        if step.inside:
            return [], 1  # asked for by the step that it is a part of, which vouches for what was put on it
        recast = _RECAST | {"at-slot"} if record.key == "snapshot" else _RECAST
        if not record.origin and changed <= recast:
            return [], 1  # a result taken as another device, inside the node: whoever asked vouches for that alone
        if not record.origin:
            text = "no request is kept that says what was put on the base"
            return [Finding("origin", text, before.result, record.base, where=(self.evidence.where,))], 0
        if paths.puts is None:  # what is wrong with the request is said there, once
            return ([] if paths.found else [self._unkept(record)]), 0
        return ([] if changed <= paths.puts else [wrong]), 0

    def _unkept(self, record: Record) -> Finding:
        text = f"the request {b64u(record.origin)}, as it came, is needed to compare the base"
        return Finding("origin", text, where=(self.evidence.where,))

    def _paths(self, record: Record, base: Message, request: Message, around: Neighbours) -> FromPath:
        """Compare a step with the request as it came: what its path put on the base, and its sub-paths."""
        if not record.origin:
            return FromPath(frozenset())
        try:
            data = self.evidence.trail.origin(record.origin)
        except Corrupt as error:
            return FromPath(None, (Finding("origin", error.message, error.expected, error.got),))
        if data is None:  # nobody can say what of it is the path's
            return FromPath(None, unknown=0 if record.parent else 1)
        told = subpaths.Told(record, base, request, around.parts)
        return self._kept.compare(data, told, around.place, around.first, around.begun)

    def _parts(self, record: Record, parts: Sequence[Record]) -> list[Finding]:
        """Compare the listed answers with the recorded sub-steps that gave them."""
        known = {(one.device, one.key, one.request, one.result, one.status) for one in parts}
        found = []
        for number, one in enumerate(record.oracles, 1):
            if (one.device, one.key, one.request, one.result, one.status) in known:
                continue
            text = f"recorded answer {number}, of {one.device}/{one.key}, is not that of any recorded sub-step"
            alike = next((p for p in parts if (p.device, p.key, p.request) == (one.device, one.key, one.request)), None)
            if alike is None:
                found.append(Finding("part", text, where=(self.evidence.where,)))
            else:
                found.append(Finding("part", text, one.result, alike.result))
        return found

    def result_kept(self, step: Planned) -> list[Finding]:
        """Return what is wrong with a record's result as it is kept, and what was noticed before."""
        found = list(step.gaps)
        self._message(step.record.result, "result", found, needed=False)
        return found

    # -- making it again -------------------------------------------------------------------------

    def code(self, record: Record) -> list[Finding]:
        """Compare the device's code with the recorded one."""
        try:
            here = self.scratch.registry.lookup(record.device).implementation
        except DeviceNotFound:
            return [Finding("implementation", f"{record.device} is not installed here", record.implementation, "none")]
        if here == record.implementation:
            return []
        return [Finding("implementation", f"the code of {record.device} differs", record.implementation, here)]

    def answers(self, record: Record) -> tuple[bool, list[Finding]]:
        """Return whether the step can be made again, and whether the recorded device and key answer it."""
        try:
            base = self.scratch.cache.read(record.base, exact=True)
            request = self.scratch.cache.read(record.request, exact=True)
            assert isinstance(base, Message)
            assert isinstance(request, Message)
            found = find(self.scratch.registry, base, normalise.key_of(request))
        except (HyperpyError, AssertionError):
            return True, []  # running it says so
        wrong = []
        if found.device.spec.name != record.device:
            text = "another device answers this request on this base"
            wrong.append(Finding("device", text, found.device.spec.name, record.device))
        if found.name != record.key:
            wrong.append(Finding("key", "the request asks for another key", found.name, record.key))
        return found.spec.deterministic, wrong

    def again(self, step: Planned, base: Value | None = None) -> tuple[list[Finding], int]:
        """Make a step again; return what differs, and how many recorded answers it was given."""
        record = step.record
        raising = any(one.status != "ok" for one in record.oracles)
        tries = (True, False) if raising else (True,)
        found: list[Finding] = []
        for way in tries:
            given = Given(record.oracles, raising=way)
            found = self._once(step, base, given)
            if not found:
                return [], given.used
        return self._absent_then(step, base, found), 0

    def _absent_then(self, step: Planned, base: Value | None, found: list[Finding]) -> list[Finding]:
        """Return what differs, or that nothing does if the step did not find what was stored since, perhaps."""
        cache, record = self.scratch.cache, step.record
        met = frozenset(cache.met) - {record.base, record.request, *(one.result for one in record.oracles)}
        if not met or not any(one.rule in ("result", "status") for one in found):
            return found
        cache.hidden = met
        try:
            differs = self._once(step, base, Given(record.oracles))
        finally:
            cache.hidden = frozenset()
        if differs:
            return found
        text = f"the step comes out as recorded if {min(met)} was not at hand then"
        return [Finding("message", text, where=(self.evidence.where,))]

    def _once(self, step: Planned, base: Value | None, given: Given) -> list[Finding]:
        record = step.record
        strict = step.slot is not None
        self.scratch.claimed = lambda: self._claimed(record)

        def once(until: float) -> Result:
            given.rewind()
            self.scratch.cache.missed.clear()
            self.scratch.cache.met.clear()
            return self.scratch.resolver.rerun(record, until, base=base, given=given, strict=strict)

        try:
            result = self.scratch.patiently(once)
        except (DeviceTimeout, Busy) as error:
            return [Finding("time", f"the step was given up: {error.message}")]
        except HyperpyError as error:
            result = Result(status_word(error), failure(error), record.hashpath_after)
            if given.fault is None and self._compared(record, result):
                lacking = self._lacking(error)
                if lacking is not None:
                    return [lacking]
        if given.fault is not None:
            rule, text, expected, got = given.fault
            where = () if expected or given.used or record.oracles else (self.evidence.where,)
            return [Finding(rule, text, expected, got, where)]
        found = self._compared(record, result)
        if (
            found and self.scratch.cache.missed and not self.scratch.cache.hidden
        ):  # whoever goes on without it may come to another result
            text = f"the step looks for {self.scratch.cache.missed[0]}, which is not at hand"
            return [Finding("message", text, where=(self.evidence.where,))]
        if not found and isinstance(result.value, Message):
            self.signed[step.name] = _signed(result.value)
            if set(result.value.private) - {"hashpath"}:
                self.live[step.name] = result.value
        return found

    def _claimed(self, record: Record) -> Message | None:
        """Return the result that a record claims, if it is at hand."""
        try:
            found = self.scratch.cache.read(record.result, exact=True)
        except HyperpyError:
            return None
        return found if isinstance(found, Message) else None

    def _lacking(self, error: HyperpyError) -> Finding | None:
        """Return what this machine or the evidence lacks, where that is why a step failed."""
        if isinstance(error, DeviceNotFound):
            return Finding("implementation", error.message)
        if isinstance(error, (MessageNotFound, NotLent)):
            return Finding("message", error.message, where=(self.evidence.where,))
        if isinstance(error, Corrupt):
            return Finding("message", error.message, error.expected, error.got)
        return None

    def _compared(self, record: Record, result: Result) -> list[Finding]:
        got = wrap(result.value)
        ident = commitments.content_id(got)
        found = []
        if ident != record.result and not self.same_failure(record, got):
            found.append(Finding("result", "made again, the step gives another result", record.result, ident))
        if result.status != record.status:
            found.append(Finding("status", "made again, the step ends otherwise", record.status, result.status))
        if result.hashpath is not None and result.hashpath != record.hashpath_after:
            text = "the recorded hashpath does not follow from base and request"
            found.append(Finding("hashpath-after", text, record.hashpath_after, result.hashpath))
        return found

    def same_failure(self, record: Record, got: Message | None) -> bool:
        """Say whether two failures differ only in the number under which a node's log has them."""
        if got is None:
            return False
        body = got.raw("body")
        if not isinstance(body, bytes) or not INCIDENT.search(body):
            return False
        try:
            known = self.scratch.cache.read(record.result, exact=True)
        except HyperpyError:
            return False
        if not isinstance(known, Message) or not isinstance(known.raw("body"), bytes):
            return False
        return _without_incident(known) == _without_incident(got)


def _signed(item: Message) -> frozenset[str]:
    """Return the names of a message's signatures; what everybody can compute is none."""
    return frozenset(name for name, fields in item.commitments.items() if not derivable(fields))


def _without_incident(item: Message) -> dict[str, Value]:
    return {name: INCIDENT.sub(b"", one) if isinstance(one, bytes) else one for name, one in item.raw_items().items()}


def _hashpaths(record: Record, base: Message, request: Message) -> list[Finding]:
    found = []
    own = base.with_private(hashpath=None)
    if "/" not in record.hashpath_before:
        wanted = hashpath.start(own)
        if wanted != record.hashpath_before:
            text = "the hashpath before the step is not the base's own"
            found.append(Finding("hashpath-before", text, wanted, record.hashpath_before))
    try:
        after = hashpath.extend(base.with_private(hashpath=record.hashpath_before), request)
    except HyperpyError as error:
        return [*found, Finding("hashpath-after", error.message)]
    if after != record.hashpath_after:
        text = "the hashpath after the step does not follow from base and request"
        found.append(Finding("hashpath-after", text, after, record.hashpath_after))
    return found


def _cached(record: Record, source: Record) -> list[Finding]:
    """Compare a step that the cache answered with the one it was taken from."""
    for name in ("base", "request", "result", "status", "device", "key", "implementation"):
        wanted, got = getattr(source, name), getattr(record, name)
        if wanted != got:
            text = f"the result was taken from a step with another {name}"
            return [Finding("cached-from", text, wanted, got)]
    return []


def _changed(made: Message, base: Message) -> frozenset[str]:
    """Return the keys in which two messages differ, by their IDs where they are nested."""
    one, other = made.raw_items(), base.raw_items()
    return frozenset(
        name for name in {*one, *other} if name not in one or name not in other or not _alike(one[name], other[name])
    )


def _alike(one: Value, other: Value) -> bool:
    if type(one) is type(other) and one == other:
        return True
    return commitments.unsigned_id(Message.make({"a": one})) == commitments.unsigned_id(Message.make({"a": other}))


__all__ = ["Checker", "Neighbours", "report_of", "unsigned", "verdict_of"]
