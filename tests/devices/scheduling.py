"""What tests of schedules share: processes, messages to them, and ways to schedule those."""

from __future__ import annotations

from typing import Any

from hyperpy.commitments import commit, http_form, signed_id
from hyperpy.context import Frame
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.testing import TestNode, wallet

SCHEDULE = "/~scheduler@1.0/schedule"


def process(at: TestNode, **keys: Any) -> Message:
    """Return a process that the node schedules, signed by its owner."""
    known = {"device": "process@1.0", "type": "Process", "scheduler": at.node.address, "random-seed": "a"}
    return commit(Message({**known, **keys}), wallet("owner"))


def spawn(at: TestNode, **keys: Any) -> str:
    """Schedule a process; return its ID."""
    made = process(at, **keys)
    assert post(at, made)["slot"] == 0
    return signed_id(made)


def said(target: str, signer: str = "alice", **keys: Any) -> Message:
    """Return a signed message to a process."""
    return commit(Message({"target": target, "type": "Message", "data": "hello", **keys}), wallet(signer))


def post(at: TestNode, message: Message, path: str = SCHEDULE) -> Message:
    """Post a message as a client does."""
    form = http_form(message, bundle=True)
    return at.post(path, form.body or b"", {key: value.decode() for key, value in form.headers.items()})


def post_body(at: TestNode, body: Message, path: str = SCHEDULE, **private: Any) -> Any:
    """Schedule a message as a device inside the node does."""
    request = Message({"path": "schedule", "method": "POST", "body": body}).with_private(**private)
    return at.node.resolver.resolve(Message({"device": "scheduler@1.0"}), request, frame(at.node)).value


def batch_put(at: TestNode, message: Message) -> None:
    at.node._lend["store"].write(message)


def frame(inner: Node) -> Frame:
    """Return a top-level frame that records nothing."""
    return Frame(inner.resolver, inner.chain(None), 0, None)


def own(at: TestNode, name: str) -> list[Message]:
    """Return the node's own schedule of a process."""
    return list(at.node._lend["slots"].range(name, 0, 10**6))
