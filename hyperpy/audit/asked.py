"""Whether the steps that a node shows are those of the path that it was asked for.

A node that answers a URL names the hashpath itself. Its steps may be true, every one, and answer another question: so
the path is taken apart here, and each of its parts is compared with the request of the step that should answer it.

Rule ``asked``: a step's request or the first base is another than the path's part. Where the path and the steps do not
match one to one (a device may answer with another's hashpath), that is said, as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from hyperpy.audit.source import Evidence, Plan
from hyperpy.audit.subpaths import Member, members_of_parts
from hyperpy.commitments import unsigned_id
from hyperpy.errors import HyperpyError
from hyperpy.message import As, Message, Resolve, Value
from hyperpy.trail import Record
from hyperpy.verdicts import Finding

_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def differences(parts: Sequence[Value], hashpath: str, plan: Plan, evidence: Evidence) -> list[Finding]:
    """Return where the steps that led to a hashpath are not those of a path.

    Args:
        parts: of the path as the node saw it, with the headers that were sent: :func:`hyperpy.path.parse`.
        hashpath: the node's, of its answer.
    """
    members = members_of_parts(parts)
    wanted = [one for one in members[1:] if one.key is not None]
    steps = _chain(plan, hashpath)
    if not steps or len(steps) != len(wanted):
        text = f"the path asks for {len(wanted)} steps, the hashpath of the answer stands for {len(steps)}"
        return [Finding("asked", text, where=(evidence.where,))]
    found = [*_base(members[0], steps[0], evidence)]
    for number, (member, record) in enumerate(zip(wanted, steps, strict=True), 1):
        found += _request(number, member, record, evidence)
    return found


def _chain(plan: Plan, hashpath: str) -> list[Record]:
    """Return the steps of a hashpath, from its root on."""
    tops = {one.record.hashpath_after: one.record for one in plan.steps if not one.record.parent and one.slot is None}
    made: list[Record] = []
    at = hashpath
    while at in tops and len(made) <= len(tops):
        made.append(tops[at])
        at = tops[at].hashpath_before
    return made[::-1] if "/" not in at else []


def _base(root: Member, first: Record, evidence: Evidence) -> Iterator[Finding]:
    if root.key is not None:  # a path that begins with a message's ID
        name = root.key.decode("ascii", "replace") if isinstance(root.key, bytes) else ""
        if name != first.base and not (_ID.fullmatch(name) and _same_message(name, first.base, evidence)):
            yield Finding("asked", "the first base is another than the path names", name[:100], first.base)
        return
    wanted = root.items | ({"device": root.device.encode()} if isinstance(root.device, str) else {})
    yield from _compared("the first base", wanted, _read(first.base, evidence), evidence)


def _same_message(name: str, base: str, evidence: Evidence) -> bool:
    """Say whether two IDs are names of one message, signed and unsigned."""
    one, other = _read(name, evidence), _read(base, evidence)
    return one is not None and other is not None and unsigned_id(one) == unsigned_id(other)


def _request(number: int, member: Member, record: Record, evidence: Evidence) -> Iterator[Finding]:
    yield from _compared(f"the request of step {number}", member.items, _read(record.request, evidence), evidence)


def _compared(what: str, wanted: dict[str, Value], got: Message | None, evidence: Evidence) -> Iterator[Finding]:
    if got is None:
        yield Finding("asked", f"{what} is not at hand", where=(evidence.where,))
        return
    for name in sorted({*wanted, *got.raw_items()}):
        asked, told = wanted.get(name), got.raw(name)
        if isinstance(asked, Resolve | As):  # a sub-path: made again from the request as it came
            continue
        if asked is None or told is None or _named(asked) != _named(told):
            yield Finding("asked", f"{what} has another '{name}' than the path", _shown(asked), _shown(told))


def _read(name: str, evidence: Evidence) -> Message | None:
    try:
        found = evidence.cache.read(name)
    except HyperpyError:
        return None
    return found if isinstance(found, Message) else None


def _named(item: Value) -> str:
    return unsigned_id(Message.make({"a": item}))


def _shown(item: Value | None) -> str:
    if item is None:
        return ""
    return item.decode("utf-8", "replace")[:100] if isinstance(item, bytes) else repr(item)[:100]
