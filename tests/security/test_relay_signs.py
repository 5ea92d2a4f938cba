"""relay's ``commit-request``: what a node sends is signed on its operator's order alone, and once (design 5, c)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from hyperpy import commitments, device, key
from hyperpy.http.server import Server
from hyperpy.message import Message
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import ask, mallory, operator, send, sign, text

CALL = "/~relay@1.0/call"
LOOK = "/~seen@1.0/look"
ALLOWED = {"relay.allow_commit_request": True}


@device("seen@1.0")
class Seen:
    """Keeps what comes."""

    requests: list[Message] = []

    @key(deterministic=False)
    def look(self, request: Message) -> str:
        """Keep the request."""
        Seen.requests.append(request)
        return "seen"


@pytest.fixture
def peer() -> Iterator[str]:
    with ExitStack() as stack:
        server = Server(stack.enter_context(node(Seen, flags={"http.url": "peer"})).node, "127.0.0.1", 0)
        server.start()
        stack.callback(server.stop)
        Seen.requests.clear()
        yield server.url


def front(peer: str, **flags: Any) -> Any:
    return node(flags={"relay.peers": [peer], "http.sign": False, **flags})


def asked(peer: str, **more: Any) -> dict[str, Any]:
    made = {"path": CALL, "method": "POST", "peer": peer, "target": "mail", "mail": {"path": LOOK, "note": "hello"}}
    return {**made, "relay-commit-request": "true", **more}


def by_operator(n: TestNode, peer: str, **more: Any) -> Message:
    return send(n, sign(asked(peer, **more), operator()), CALL)


def signed_by(n: TestNode) -> list[Message]:
    """Return what came to the peer under the node's signature, verified by the peer at its door."""
    return [one for one in Seen.requests if n.node.address in commitments.committers(one)]


def test_the_operators_order_is_carried_out_once(peer: str) -> None:
    with front(peer, **ALLOWED) as n:
        made = sign(asked(peer), operator())
        reply = send(n, made, CALL)
        assert (reply["status"], text(reply)) == (200, "seen")
        (got,) = signed_by(n)
        assert {"path", "method", "note"} <= set(commitments.committed(got, committers=[n.node.address]))
        assert got["note"] == b"hello"
        assert commitments.committers(got) == (n.node.address,)
        again = send(n, made, CALL)
        assert (again["status"], text(again)) == (403, "this order was carried out before")
        assert len(Seen.requests) == 1, "nothing went out the second time"


def test_what_the_operator_did_not_sign_is_not_sent(peer: str) -> None:
    with front(peer, **ALLOWED) as n:
        form = commitments.http_form(sign(asked(peer), operator()), bundle=True)
        headers = {**form.headers, "evil": "1", "relay-body": "evil", "type": "Assignment"}
        assert ask(n, "POST", CALL + "?more=evil&relay-device=evil@1.0", headers, form.body or b"")["status"] == 200
        (got,) = signed_by(n)
        assert not {"evil", "type", "more", "device"} & set(commitments.committed(got, committers=[n.node.address]))
        assert b"evil" not in str(dict(got.raw_items())).encode()


@pytest.mark.parametrize("flags", [{}, {"http.sign_on_request": True}], ids=["default", "anybody signs"])
def test_off_unless_the_operator_turns_it_on(peer: str, flags: Mapping[str, Any]) -> None:
    with front(peer, **flags) as n:
        reply = by_operator(n, peer)
        assert reply["status"] == 403
        assert "relay_commit_request_not_allowed" in text(reply)
        assert Seen.requests == []


WAYS = [
    {"relay-commit-request": "true"},
    {"commit-request": "true"},
    {"target": "m", "m": {"commit-request": "true", "path": "/~seen@1.0/look"}},
]


@pytest.mark.parametrize("given", WAYS, ids=["relay-commit-request", "commit-request", "target"])
@pytest.mark.parametrize("who", ["nobody", "mallory"])
@pytest.mark.parametrize("way", ["call", "cast"])
def test_nobody_else_has_the_node_sign(peer: str, given: dict[str, Any], who: str, way: str) -> None:
    path = f"/~relay@1.0/{way}"
    items = {"path": path, "method": "POST", "relay-path": "/~seen@1.0/look", "peer": peer, **given}
    with front(peer, **ALLOWED) as n:
        made = sign(items, mallory()) if who == "mallory" else Message(items)
        form = commitments.http_form(made, bundle=True)
        reply = ask(n, "POST", path, form.headers, form.body or b"")
        assert reply["status"] in (400, 403)
        assert Seen.requests == []


@pytest.mark.parametrize("path", ["/~message@1.0/note", CALL])
def test_what_the_operator_signed_for_something_else_is_no_order(peer: str, path: str) -> None:
    """A call without a signature stays one; what others add to it is left out or makes it no order."""
    made = sign(
        {"path": path, "method": "POST", "note": "x", "peer": peer, "relay-path": "/~seen@1.0/look"}, operator()
    )
    form = commitments.http_form(made, bundle=True)
    added = {"relay-commit-request": "true", "commit-request": "true"}
    with front(peer, **ALLOWED) as n:
        for target in (path, f"{path}?relay-commit-request=true", f"{CALL}?peer={peer}&relay-path=/~seen@1.0/look"):
            ask(n, "POST", target, {**form.headers, **added}, form.body or b"")
        assert signed_by(n) == []


def test_a_path_cannot_make_itself_the_hook(peer: str) -> None:
    """Whoever calls ``preprocess`` gets a relay message too; only the operator's own hook signs."""
    flags = {"routes.table": [{"template": "/~seen@1.0", "node": peer}], **ALLOWED}
    body = b'{"request":{"path":"/~seen@1.0/look"},"commit-request":true,"priv-relay-commit":true,"relay-commit":true}'
    with front(peer, **flags) as n:
        for path in ("preprocess/body/1/call", "preprocess&commit-request=true/body/1/call"):
            target = f"/~router@1.0&commit-request=true/{path}&relay-path=/~seen@1.0/look&peer={peer}"
            ask(n, "POST", target, {"content-type": "application/json"}, body)
        assert signed_by(n) == []


@pytest.mark.parametrize("sign", [True, False])
def test_the_operators_hook_signs_the_outer_message_only(
    peer: str, sign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a proxy passes on is untouched; it signs what carries it, to pay for it."""
    hook = {"request": {"device": "router@1.0", "path": "preprocess", "commit-request": sign}}
    flags = {"routes.table": [{"template": "/~seen@1.0", "node": peer}], "hooks.on": hook, **ALLOWED}
    with front(peer, **flags) as n:
        sent: list[Message] = []
        real = n.node.peers.call
        monkeypatch.setattr(n.node.peers, "call", lambda at, message: (sent.append(message), real(at, message))[1])
        made = commitments.commit(Message({"path": "/~seen@1.0/look", "note": "mine"}), wallet("alice"))
        reply = send(n, made, "/~seen@1.0/look")
        assert (reply["status"], text(reply)) == (200, "seen")
        (got,) = sent
        assert (commitments.committers(got) == (n.node.address,)) == sign
        inner = got["user-message"]
        assert isinstance(inner, Message)
        assert commitments.committers(inner) == (wallet("alice").address,)


def test_a_peer_with_a_path(peer: str) -> None:
    with front(peer, **ALLOWED) as n:
        assert by_operator(n, peer + "/~seen@1.0/", mail={"path": "/look"})["status"] == 200
        assert len(signed_by(n)) == 1
