"""What the attacks share: requests as they come from a socket, and people who sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpy import commitments
from hyperpy.commitments import http_form
from hyperpy.http.wire import Ingress, RawReply, RawRequest, read, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.testing import TestNode, wallet

INFO = "/~meta@1.0/info"
STRANGER = "203.0.113.9"


def operator() -> RsaKey:
    """Return the key whose address ``hyperpy.testing.node`` makes the operator."""
    return wallet("operator")


def mallory() -> RsaKey:
    """Return the key of somebody without any rights."""
    return wallet("mallory")


def sign(items: Mapping[str, Any], key: RsaKey, **options: Any) -> Message:
    """Return a signed message."""
    return commitments.commit(Message(items), key, **options)


def arrive(
    n: TestNode,
    method: str,
    target: str | bytes,
    headers: Mapping[str, bytes | str] | None = None,
    body: bytes = b"",
    peer: str = "127.0.0.1",
) -> Ingress:
    """Return a request as the socket's reader hands it to the node; raises what ingress raises."""
    lines = [
        (name.lower().encode("utf-8", "surrogateescape"), text.encode() if isinstance(text, str) else text)
        for name, text in (headers or {}).items()
    ]
    raw = target if isinstance(target, bytes) else target.encode("utf-8")
    return read(RawRequest(method, raw, tuple(lines), body, peer), n.rules)


def ask(n: TestNode, method: str, target: str | bytes, *args: Any, **more: Any) -> Message:
    """Return the node's reply as a message."""
    return n.node.handle(arrive(n, method, target, *args, **more))


def http(n: TestNode, method: str, target: str | bytes, *args: Any, **more: Any) -> RawReply:
    """Return the node's reply as HTTP carries it."""
    ingress = arrive(n, method, target, *args, **more)
    return write(n.node.handle(ingress), ingress.wants)


def send(n: TestNode, message: Message, target: str = "/", method: str = "POST", **more: Any) -> Message:
    """Return the reply to a message sent in the HTTP form, its signatures in the headers."""
    form = http_form(message, bundle=True)
    return ask(n, method, target, form.headers, form.body or b"", **more)


def order(n: TestNode, key: RsaKey, **settings: Any) -> Message:
    """Return the reply to a change of settings signed by a key, as an operator sends it."""
    return send(n, sign({"path": INFO, "method": "POST", **settings}, key), INFO)


def text(reply: Message) -> str:
    """Return the body of a reply as text."""
    return reply.text("body", "")
