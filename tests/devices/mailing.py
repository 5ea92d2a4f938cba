"""What tests of push share: a process that sends what it is told to, and ways to talk to it."""

from __future__ import annotations

from typing import Any

from hyperpy import Message, device, key
from hyperpy.commitments import http_form
from hyperpy.http.wire import RawReply
from tests.devices.parts import Place


@device("mailer@1.0")
class Mailer:
    """Sends what a message's body tells it to: ``outbox`` as it is, or an answer to whoever pinged."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Put the outbox where push finds it."""
        body = request["body"]
        assert isinstance(body, Message)
        outbox = body.get("outbox", Message())
        if body.get("action") == b"Ping":
            outbox = Message({"1": {"target": body["from-process"], "Action": "Pong", "hop": body.get("hop", 0)}})
        if body.get("action") == b"Echo":
            hop = body.get("hop", 0)
            assert isinstance(hop, int)
            outbox = Message({"1": {"target": body["from-process"], "Action": "Echo", "hop": hop + 1}})
        got = base.get("got", ())
        assert isinstance(got, tuple)
        return base | {"got": (*got, body.get("action", b"none")), "last": body, "results": {"outbox": outbox}}


def spawn(here: Place, seed: str, **more: Any) -> str:
    return here.spawn("mailer@1.0", **{"random-seed": seed, "authority": here.node.address, **more})


def send(here: Place, process: str, **items: Any) -> int:
    """Schedule a message; return its slot."""
    slot = here.send(process, **items)["slot"]
    assert isinstance(slot, int)
    return slot


def post(here: Place, path: str, message: Message, **headers: str) -> RawReply:
    """Post a signed message whose signature does not cover the path."""
    form = http_form(message)
    return here.web.http(
        "POST", path, {**{k: v.decode() for k, v in form.headers.items()}, **headers}, form.body or b""
    )


def child(tree: Message, *names: str) -> Any:
    found: Any = tree
    for name in names:
        found = found[name]
    return found
