"""What a node signs for others is not its own will: its replies, and the mail of processes it pushes for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from hyperpy import commitments, config
from hyperpy.codecs import json
from hyperpy.commitments import http_form
from hyperpy.errors import HyperpyError, InvalidSignature
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import INFO, ask, http, mallory, operator, send, sign, text

JSON = {"content-type": "application/json"}
KNOWN = "/~location@1.0/known"
VICTIM = wallet()
RECORD = {"type": "location", "url": "http://evil.example", "nonce": 99}
MAIL = {"from-process": "P" * 43, "type": "Message"}


@contextmanager
def elsewhere() -> Iterator[TestNode]:
    """Run another node than the victim's."""
    settings = config.load(environ={})
    key = wallet("elsewhere")
    with Node(settings, key=key, store=MemoryStore(), operator=operator().address) as inner:
        yield TestNode(inner)


def taken(n: TestNode) -> str | None:
    """Return the URL that a node knows the victim by."""
    found = ask(n, "GET", f"/~location@1.0/{VICTIM.address}")
    return found.text("url") if found["status"] == 200 else None


def offered(n: TestNode, record: Message) -> None:
    """Offer a record as the request itself and inside it, in both forms."""
    for target, body in ((KNOWN, record), (KNOWN, Message({"body": record}))):
        try:
            ask(n, "POST", target, JSON, json.encode(body))
        except HyperpyError:
            continue
    send(n, record, KNOWN)


def test_a_reply_is_no_location_record() -> None:
    """The reply as its victim, an ordinary node, gives it to anybody."""
    with node() as victim:
        assert victim.node.address == VICTIM.address
        made = ask(victim, "GET", "/~message@1.0/set&type=location&url=http%3A%2F%2Fevil.example&nonce=99")
        assert commitments.verify(made, committers=[VICTIM.address])
        offered(victim, made)
        assert taken(victim) is None
    with elsewhere() as other:
        offered(other, made)
        assert taken(other) is None


def test_mail_of_a_process_is_no_location_record() -> None:
    with elsewhere() as other:
        offered(other, sign({**RECORD, **MAIL}, VICTIM))
        assert taken(other) is None
        offered(other, sign(RECORD, VICTIM))
        assert taken(other) == "http://evil.example", "its own record must be taken, else this attacks nothing"


def test_neither_is_a_route() -> None:
    route = {"template": "/evil", "node": "http://evil.example"}
    asked = {"path": "/~router@1.0/routes", "method": "POST", "route": route}
    with elsewhere() as n:
        n.node.settings.put("route-owners", (VICTIM.address.encode(),))
        for more in ({"status": 200}, MAIL):
            reply = send(n, sign({**asked, **more}, VICTIM), "/~router@1.0/routes")
            assert text(reply) == "not_authorized"
        assert not n.node.settings.setting("routes")
        assert text(send(n, sign(asked, VICTIM), "/~router@1.0/routes")) == "Route added."


def test_neither_is_an_order_of_an_operator_who_runs_a_node_too() -> None:
    for more in ({"status": 200}, MAIL):
        made = sign({"path": "/~meta@1.0/info", "method": "POST", "zone": "mine", **more}, operator())
        with node() as n:
            assert http(n, "GET", "/~meta@1.0/info").status == 200
            assert text(send(n, made, "/~meta@1.0/info")) == "Unauthorized"
            assert "zone" not in n.node.settings


@pytest.mark.parametrize("form", ["json", "http"])
@pytest.mark.parametrize("left_out", [{"path"}, {"method"}, {"path", "method"}])
def test_a_second_signature_takes_no_key_out_of_the_first(form: str, left_out: set[str]) -> None:
    """A request is what all its signatures cover: a stranger's may not turn the operator's to another path."""
    with node() as n:
        wanted = sign({"path": "/~message@1.0&a=1/a", "method": "GET", "evil": "1", "other": "2"}, operator())
        assert send(n, wanted, "/~message@1.0&a=1/a", "GET")["status"] == 200
        names = {"path", "method", "evil", "other"} - left_out
        both = commitments.commit(wanted, mallory(), committed=tuple(sorted(names)))
        sent: tuple[Mapping[str, bytes | str], bytes] = (JSON, json.encode(both))
        if form == "http":
            made = http_form(both, bundle=True)
            sent = (made.headers, made.body or b"")
        with pytest.raises(InvalidSignature):
            ask(n, "POST", INFO, *sent)
        assert "evil" not in ask(n, "GET", INFO)
        whole = commitments.commit(wanted, mallory(), committed=("evil", "method", "other", "path"))
        assert text(send(n, whole, "/~message@1.0&a=1/a", "GET")) == "1", "two may sign the same request"
