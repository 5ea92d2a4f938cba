"""One answer of another node: computed here and compared, and the steps that the node shows for it made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hyperpy import attested, commitments, reply
from hyperpy.audit.asked import add, answered, is_named
from hyperpy.audit.fault import Asked, Peer, signer_of, with_account
from hyperpy.audit.replay import Options
from hyperpy.audit.source import Evidence, Plan
from hyperpy.audit.steps import INCIDENT
from hyperpy.audit.turns import ASKING
from hyperpy.audit.verified import is_about, replayed
from hyperpy.context import Given
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import DeviceNotFound, HyperpyError, InvalidSignature
from hyperpy.fault_proof import account_of
from hyperpy.http.asked import without
from hyperpy.message import As, Message, Value
from hyperpy.node import Node
from hyperpy.normalise import says
from hyperpy.resolver import UNREPEATABLE
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, Report, StepReport, Verdict, worst

_ECHOED: Final = frozenset({"date", "server", "content-digest", "content-length", "transfer-encoding", "connection"})


def claim_of(
    peer: Peer, node: Node, path: str, report: Report, devices: Sequence[str | Path | type] | None
) -> StepReport:
    """Compare one answer; with ``devices``, which a peer that keeps a trail is asked with, the steps behind it too."""
    keeps = devices is not None
    try:
        asked = peer.ask(path)
    except InvalidSignature as error:
        return said(path, Verdict.INVALID, [Finding("signature", error.message)])
    answer = asked.reply
    try:
        signer = signer_of(answer)
    except InvalidSignature:
        signer = next(iter(commitments.committers(answer)), "")
        if not signer:
            where = (peer.url,)
            text = "nobody signed the reply: it claims nothing"
            return said(path, Verdict.MISSING, [Finding("signature", text, where=where)])
    verdict, findings, alone = _compared(node, asked, signer, keeps)
    if verdict is Verdict.DIVERGED and keeps and (other := other_code(node, lambda: _account(peer, answer, signer))):
        verdict, findings = Verdict.DIFFERS, [*findings, other]
    made = said(path, verdict, findings, answer)
    made.attested_by = (signer,)
    if (verdict is Verdict.REPRODUCED or not alone) and devices is not None and answer.hashpath:
        _with_receipt(peer, asked, made, report, Options(devices=devices), alone=alone)
    return made


def _account(peer: Peer, answer: Message, signer: str) -> Record:
    return account_of(with_account(peer, answer, signer)[1], signer).record


def other_code(node: Node, account: Callable[[], Record]) -> Finding | None:
    """Return that other code made a result than this machine's, by the signer's own account; None if not."""
    try:
        record = account()
    except HyperpyError:
        return None
    try:
        own = node.registry.lookup(record.device).implementation
    except DeviceNotFound:
        own = ""
    if own == record.implementation:
        return None
    return Finding("implementation", f"{record.device} is another version there", own, record.implementation)


def _compared(node: Node, asked: Asked, signer: str, keeps: bool) -> tuple[Verdict, list[Finding], bool]:
    """Resolve the path here and compare what the signature covers.

    Returns:
        Verdict, findings, and whether this machine could come to its answer alone.
    """
    if (named := _bare_id(asked)) and is_named(named, asked.reply) is not None:
        return Verdict.REPRODUCED, [], True  # what it names has that ID
    found: list[tuple[Verdict, list[Finding], bool]] = []
    for parts in asked.readings or (asked.members,):
        found.append(_as_read(node, asked, _unasked(parts), signer, keeps))
        if found[-1][0].exit_code != 1:
            return found[-1]
    return found[0]


def _unasked(parts: tuple[Value, ...]) -> list[Value]:
    """Return a path without what asks for an attestation: the node answers that itself."""
    held = [one.message if isinstance(one, As) else one for one in parts]
    asks = any(isinstance(one, Message) and one.raw("attest") in _YES for one in held)
    return without(parts, ASKING) if asks else list(parts)


_YES: Final = (True, b"true", b"hardware")


def _as_read(
    node: Node, asked: Asked, members: Sequence[Value], signer: str, keeps: bool
) -> tuple[Verdict, list[Finding], bool]:
    """See :func:`_compared`; ``members`` is the path as the node may have read it."""
    answer = asked.reply
    chain = node.chain(None)
    chain.strict, chain.linked, chain.may_sign = True, True, False
    chain.given = Given()  # strict as an audit is, not as a slot
    try:
        own = reply.of_result(node.resolver.top(members, chain))
    except DeviceNotFound as error:
        return Verdict.MISSING, [Finding("implementation", f"this machine lacks a device: {error.message}")], True
    except HyperpyError as error:
        if chain.met == UNREPEATABLE:
            return Verdict.ATTESTED, [], True
        own = reply.of_error(error)
    verdict, findings = _held_against(answer, own, signer, keeps)
    if verdict.exit_code != 1:
        return verdict, findings, True
    if _by_cache(asked):
        return Verdict.ATTESTED, [Finding("cached", "the path asks what that node has in its cache")], True
    if chain.met in _ITS_OWN:
        text = f"to compute the path, this machine would need {_ITS_OWN[chain.met]}"
        return Verdict.MISSING, [Finding("missing", text, where=("this machine",))], False
    return verdict, findings, True


_ITS_OWN: Final = {
    "a stored message": "a message that the node has stored",
    "a device that keeps a state of its own": "what a device of the node keeps",
    UNREPEATABLE: UNREPEATABLE,
}
"""What a chain may have met here and not there, or the other way round; see :class:`hyperpy.context.Chain`."""


def _bare_id(asked: Asked) -> str:
    """Return the ID that a path is, where it is nothing else."""
    only = asked.members[0] if len(asked.members) == 1 else None
    return only.decode("ascii", "replace") if isinstance(only, bytes) else ""


def _by_cache(asked: Asked) -> bool:
    """Say whether a path asks for nothing but what is in a node's cache."""
    last = asked.members[-1] if asked.members else None
    return isinstance(last, Message) and says(last.raw("cache-control"), "only-if-cached")


def _held_against(answer: Message, own: Message, signer: str, keeps: bool) -> tuple[Verdict, list[Finding]]:
    """Compare an answer with this machine's own."""
    findings = []
    covered = set(commitments.committed(answer, committers=(signer,))) - _ECHOED
    covered -= attested.KEYS - set(own)  # what the node says of its machine; `hyperpy attest` looks at that
    theirs, ours = (_only(item, covered) for item in (answer, own))
    if theirs != ours and _without_incident(theirs) != _without_incident(ours):
        text = "computed here, the path gives something else"
        findings.append(Finding("result", text, commitments.content_id(ours), commitments.content_id(theirs)))
    if findings:
        return Verdict.DIVERGED, findings
    bare = set(own.raw_items()) - covered - _ECHOED
    if any(answer.get(name) != own.get(name) for name in bare):
        text = f"the reply's signature leaves out {', '.join(sorted(bare))[:200]}, and what is served there is another"
        return Verdict.DIVERGED, [Finding("signature", text)]
    if bare:
        text = f"the reply's signature leaves out {', '.join(sorted(bare))[:200]}: that is nobody's claim"
        return Verdict.MISSING, [Finding("signature", text, where=("the signature",))]
    tagged = any("tag" in fields for fields in answer.commitments.values())
    if not tagged or own.hashpath is None or answer.hashpath == own.hashpath:
        return Verdict.REPRODUCED, []
    text = "the path leads to another hashpath"
    if keeps:
        return Verdict.DIVERGED, [Finding("hashpath", text, own.hashpath, answer.hashpath or "")]
    text += ", as far as it is known what the node made of the request"
    return Verdict.ATTESTED, [Finding("hashpath", text, own.hashpath, answer.hashpath or "")]


def _without_incident(item: Message) -> Message:
    """Return a reply without the number under which a node's log has a failure: it is that node's own."""
    body = item.get("body")
    return item | {"body": INCIDENT.sub(b"", body)} if isinstance(body, bytes) else item


def _only(item: Message, names: set[str]) -> Message:
    return Message.make({name: one for name, one in item.raw_items().items() if name in names})


def _with_receipt(
    peer: Peer, asked: Asked, made: StepReport, report: Report, options: Options, *, alone: bool = True
) -> None:
    """Ask for the recorded steps behind a reply, and make them again too.

    Args:
        alone: this machine came to its own answer; else the steps are all there is.
    """
    ref = asked.reply.hashpath or ""
    data = _receipt(peer, ref)
    if data is None:
        text = "no receipt of this answer: the steps behind it are not shown"
        report.findings.append(Finding("not-supplied", text, where=(peer.url,)))
        return
    if not is_about(data, ref):
        text = "the node gave a receipt of something else"
        made.verdict, made.findings = Verdict.INVALID, (*made.findings, Finding("receipt", text, ref))
        return

    def also(found: Report, plan: Plan, evidence: Evidence) -> None:
        add(found, answered(asked, plan, evidence, options, peer))

    found = replayed(data, options, also=also)
    made.given += found.given
    if not alone and found.verdict.exit_code != 3:
        made.verdict, made.findings = Verdict.REPRODUCED, ()
    if found.verdict is Verdict.REPRODUCED:
        return
    made.verdict = worst((made.verdict, found.verdict))
    fault = found.first_fault
    made.findings += tuple(fault.findings if fault is not None else found.findings)[:5]
    report.findings += [one for one in found.findings if one not in report.findings][:5]


def _receipt(peer: Peer, ref: str) -> bytes | None:
    answer = peer.ask(f"/~audit@1.0/receipt?ref={ref}").reply
    body = answer.get("body")
    return body if answer.get("status") == 200 and isinstance(body, bytes) else None


def said(path: str, verdict: Verdict, findings: Sequence[Finding], answer: Message | None = None) -> StepReport:
    after = answer.hashpath if answer is not None and answer.hashpath is not None else ""
    result = commitments.content_id(answer) if answer is not None else ""
    return StepReport(
        record=b64u(sha256(path.encode())),
        device=path,
        key="",
        status=str(answer.get("status", "")) if answer is not None else "",
        base="",
        request="",
        result=result,
        before="",
        after=after,
        verdict=verdict,
        findings=tuple(findings),
    )
