"""What tests of verify-schedule share: asking for the verdict, and schedules that their scheduler signed anew."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

from hyperpy.commitments import commit, signed_id
from hyperpy.message import Message
from hyperpy.testing import TestNode, wallet
from tests.devices.scheduling import frame


def audit(at: TestNode, name: str, assignments: Any = None, **keys: Any) -> Message:
    """Ask for the verdict: on the node's own schedule, or on the given one."""
    request: dict[str, Any] = {"path": "verify-schedule", "target": name, **keys}
    if assignments is not None:
        if isinstance(assignments, list):
            assignments = {str(one["slot"]): one for one in assignments}
        request["body"] = Message({"process": name, "assignments": assignments, **keys})
    found = at.node.resolver.resolve(Message({"device": "scheduler@1.0"}), Message(request), frame(at.node)).value
    assert isinstance(found, Message)
    return found


def findings(found: Message) -> set[tuple[int, str]]:
    listed = found["findings"]
    assert isinstance(listed, tuple)
    assert found["valid"] is not bool(listed)
    return {(one["slot"], one.text("kind")) for one in listed}  # type: ignore[index, union-attr, misc]


def lying(assignment: Message, signer: str = "", **changes: Any) -> Message:
    """Return an assignment with other fields, signed anew."""
    return commit(assignment.with_commitments({}) | changes, wallet(signer) if signer else wallet())


def linked(
    name: str,
    assignments: list[Message],
    *,
    text_at: int = -1,
    older: bool = False,
    without: Callable[[int], str] = lambda slot: "",
    number: Callable[[int], Any] = int,
) -> list[Message]:
    """Return the assignments with chains made anew, signed by the scheduler.

    ``text_at``: the slot whose link is made from text, as after a restart; ``older``: no ``base-hashpath``;
    ``without``: the link that a slot lacks; ``number``: what a slot says it is.
    """
    made: list[Message] = []
    chain, path = b"", name
    for slot, one in enumerate(assignments):
        body = one["body"]
        assert isinstance(body, Message)
        before = urlsafe_b64encode(chain).rstrip(b"=") if slot == text_at else chain
        chain = hashlib.sha256(before + signed_id(body).encode()).digest()
        fresh = one.with_commitments({}) | {
            "slot": number(slot),
            "hash-chain": urlsafe_b64encode(chain).rstrip(b"="),
            "base-hashpath": path,
        }
        made.append(commit(fresh.without("base-hashpath" if older else without(slot)), wallet()))
        head, _, tail = path.partition("/")
        joined = hashlib.sha256(raw(head) + raw(tail)).digest() if tail else raw(head)
        path = f"{urlsafe_b64encode(joined).rstrip(b'=').decode()}/{signed_id(made[-1])}"
    return made


def raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=")
