"""Cookies reach the browser and nothing else does; ``[http] cors = false`` closes the node to other origins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hyperpy import Message, device, key
from hyperpy.http.app import App
from hyperpy.store.base import TABLES
from hyperpy.testing import TestNode, node, wallet

HOOK = {"device": "auth-hook@1.0", "path": "request", "secret-provider": {"device": "cookie@1.0"}}


@device("jar@1.0")
class Jar:
    """Puts lines of its own choosing among the cookies to set."""

    @key
    def open(self, request: Message) -> Message:
        """Answer with a good line and bad ones."""
        bad = [b"a=1\r\nx: y", b"a=\x00", " no bytes", b"x" * 5000]
        return Message({"a": 1}).with_private(**{"set-cookie": [*bad, b"good=1; Path=/"]})


def cookies(n: TestNode, path: str, **headers: str) -> list[bytes]:
    return [text for name, text in n.http("GET", path, headers).headers if name == b"set-cookie"]


def test_what_cookie_stores_is_set() -> None:
    with node() as n:
        lines = cookies(n, "/~cookie@1.0/store&theme=dark&lang=en")
        assert sorted(line.partition(b";")[0] for line in lines) == [b"lang=en", b"theme=dark"]
        made = n.http("GET", "/~cookie@1.0/store&theme=dark", {"accept": "application/json"})
        assert b"set-cookie" in dict(made.headers)
        assert b"set-cookie" not in made.body


def test_nobody_signs_or_keeps_a_cookie() -> None:
    with node(flags={"hooks.on": {"request": HOOK | {"when": {"keys": "always"}}}}) as n:
        made = n.http("GET", "/~message@1.0&a=1/set&b=2")
        lines = [text for name, text in made.headers if name == b"set-cookie"]
        assert len(lines) == 1
        secret = lines[0].partition(b"=")[2].partition(b";")[0]
        assert len(secret) > 40
        fields = [text for name, text in made.headers if name == b"signature-input"]
        assert fields
        assert b"cookie" not in fields[0]
        for table in TABLES:
            for name, data in n.node.store.scan(table):
                assert secret not in name + data, table
        back = cookies(n, "/~message@1.0&a=1/set&b=2", cookie=lines[0].partition(b";")[0].decode())
        assert back == [], "who has one gets no other"


def test_the_hook_signs_for_the_cookie() -> None:
    with node(flags={"hooks.on": {"request": HOOK | {"when": {"keys": "always"}}}}) as n:
        line = cookies(n, "/~message@1.0&a=1/a")[0].partition(b";")[0].decode()
        first = n.get("/~message@1.0&a=1/committers", {"cookie": line})
        again = n.get("/~message@1.0&a=1/committers", {"cookie": line})
        assert first["1"] == again["1"] != wallet().address.encode()


def test_a_line_that_breaks_the_reply_is_not_sent() -> None:
    with node(Jar) as n:
        made = n.http("GET", "/~jar@1.0/open")
        assert [text for name, text in made.headers if name == b"set-cookie"] == [b"good=1; Path=/"]
        assert all(b"\r" not in text and b"\n" not in text for _, text in made.headers)


def test_a_header_of_that_name_comes_not_back() -> None:
    with node() as n:
        assert cookies(n, "/~message@1.0&a=1/set&b=2", **{"set-cookie": "evil=1"}) == []


@pytest.mark.parametrize("cors", [True, False])
@pytest.mark.parametrize(("method", "path"), [("GET", "/~message@1.0&a=1/a"), ("OPTIONS", "/x"), ("GET", "/~no@1.0/x")])
def test_cors_is_obeyed(cors: bool, method: str, path: str) -> None:
    with node(flags={"http.cors": cors}) as n:
        names = _headers(App(n.node), method, path)
        assert any(name.startswith(b"access-control-") for name in names) is cors


def _headers(app: App, method: str, path: str) -> list[bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Any) -> None:
        sent.append(event)

    lines = [(b"access-control-request-headers", b"x"), (b"origin", b"https://elsewhere")]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    try:
        asyncio.run(app({**scope, "headers": lines, "client": ("127.0.0.1", 1)}, receive, send))
    finally:
        app.close()
    return [name for name, _ in sent[0]["headers"]]


@pytest.mark.parametrize("name", ["allow-origin", "allow-methods", "expose-headers", "allow-headers", "max-age", "new"])
def test_no_message_opens_what_the_operator_closed(name: str) -> None:
    with node(flags={"http.cors": False}) as n:
        for value in ("evil", "*"):
            names = _headers(App(n.node), "GET", f"/~message@1.0/set&access-control-{name}={value}")
            assert not [one for one in names if one.startswith(b"access-control-")]
            assert b"%61ccess-control-" + name.encode() in names, "what is signed still travels"
