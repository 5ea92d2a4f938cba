"""The node is no way into a network: relay reaches listed peers and nothing else (design 5).

Two real servers listen: one is allowed, the other stands for what must not be reached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hyperpy.codecs import json
from hyperpy.message import Message
from hyperpy.testing import TestNode, node
from tests.security.attack import ask, operator, order

SECRET = b"internal-only-4711"


class Listener:
    """A real HTTP server that notes who came."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, body: bytes = SECRET) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                given = {name.lower(): text for name, text in self.headers.items()}
                listener.seen.append((self.command, self.path, given, self.rfile.read(length)))
                self.send_response(status)
                for name, text in (headers or {}).items():
                    self.send_header(name, text)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def inside() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()
    assert not made.seen, "the node was led to where it must not go"


@pytest.fixture
def friend() -> Iterator[Listener]:
    made = Listener(body=b"hello")
    yield made
    made.close()


def call(n: TestNode, key: str = "call", **given: str) -> Message:
    return ask(n, "POST", f"/~relay@1.0/{key}", given)


@pytest.mark.parametrize("key", ["call", "cast"])
def test_no_peers_by_default(inside: Listener, key: str) -> None:
    with node() as n:
        for given in (
            {"relay-path": f"{inside.url}/x"},
            {"relay-path": "/x", "peer": inside.url},
            {"relay-path": "/x", "peer": f"127.0.0.1:{inside.port}"},
            {"relay-path": f"//127.0.0.1:{inside.port}/x"},
        ):
            reply = call(n, key, **given)
            assert reply["status"] >= 400, given
            assert SECRET not in reply["body"]  # type: ignore[operator]


def test_the_allowed_peer_is_reached(friend: Listener) -> None:
    with node(flags={"relay.peers": [friend.url]}) as n:
        reply = ask(n, "GET", "/~relay@1.0/call", {"relay-path": f"{friend.url}/x?y=1"})
        assert (reply["status"], reply["body"]) == (200, b"hello")
        assert friend.seen[0][:2] == ("GET", "/x?y=1")


def evil_urls(friend: Listener, inside: Listener) -> list[dict[str, str]]:
    good, bad = f"127.0.0.1:{friend.port}", f"127.0.0.1:{inside.port}"
    paths = [
        f"http://{bad}/x",
        f"http://{good}@{bad}/x",
        f"http://user:{friend.port}@{bad}/x",
        f"http://{good}\\@{bad}/x",
        f"http://{good}#@{bad}/x",
        f"http://{good}?@{bad}/x",
        f"http://{bad}#{good}/x",
        f"http:\\\\{bad}\\x",
        f"http://{good}:{inside.port}/x",
        f"http://localhost:{inside.port}/x",
        f"http://localhost:{friend.port}/x",
        f"http://127.1:{friend.port}/x",
        f"http://2130706433:{friend.port}/x",
        f"http://0x7f000001:{friend.port}/x",
        f"http://0:{friend.port}/x",
        f"http://[::ffff:127.0.0.1]:{friend.port}/x",
        f"http://[::1]:{friend.port}/x",
        f"http://127.0.0.1.:{friend.port}/x",
        f"HTTP://{bad}/x",
        f"https://{good}/x",
        f"ftp://{good}/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "unix:/var/run/docker.sock",
        f"//{bad}/x",
        f"http:{bad}/x",
        f"http:///{bad}/x",
        f" http://{bad}/x",
        f"http://{bad}",
        f"http://{good}\t.evil/x",
        f"http://{good.replace('.', '。')}/x",
        f"http://127.0.0.1:{friend.port + 65536}/x",
        f"http://127.0.0.1:0{inside.port}/x",
        "http://127.0.0.1:/x",
        "http://",
        "http:///",
    ]
    found = [{"relay-path": path} for path in paths]
    found += [{"relay-path": "/x", "peer": path} for path in paths]
    found += [
        {"relay-path": f"http://{bad}/x", "peer": f"http://{good}", "host": bad},
        {"relay-path": f"@{bad}/x", "peer": f"http://{good}"},
        {"relay-path": f":{inside.port}/x", "peer": "http://127.0.0.1"},
    ]
    return found


def test_no_spelling_leads_elsewhere(friend: Listener, inside: Listener) -> None:
    with node(flags={"relay.peers": [friend.url]}) as n:
        for given in evil_urls(friend, inside):
            lines = {name: text for name, text in given.items() if "\t" not in text or name != "host"}
            reply = call(n, **lines)
            assert reply["status"] >= 400 or reply["body"] == b"hello", given
            assert SECRET not in (reply["body"] if isinstance(reply["body"], bytes) else b"")
        assert not [path for _, path, headers, _ in friend.seen if headers["host"] != f"127.0.0.1:{friend.port}"]


def test_redirects_are_not_followed(inside: Listener) -> None:
    for status in (301, 302, 303, 307, 308):
        guide = Listener(status, {"location": f"{inside.url}/x"}, b"")
        with node(flags={"relay.peers": [guide.url]}) as n:
            reply = call(n, **{"relay-path": f"{guide.url}/x"})
            assert SECRET not in (reply.get("body") or b"")  # type: ignore[operator]
        guide.close()


def test_environment_proxies_are_not_used(friend: Listener, inside: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, inside.url)
    with node(flags={"relay.peers": [friend.url]}) as n:
        assert call(n, **{"relay-path": f"{friend.url}/x"})["body"] == b"hello"


@pytest.mark.parametrize(
    "path",
    ["/x\r\nhost: evil", "/x HTTP/1.1\r\nx: y", "/x\ny", "/x y", "/\x00"],
    ids=range(5),
)
def test_no_line_break_reaches_the_request_line(friend: Listener, path: str) -> None:
    with node(flags={"relay.peers": [friend.url]}) as n:
        body = json.encode(Message({"relay-path": path, "peer": friend.url}))
        assert ask(n, "POST", "/~relay@1.0/call", {"content-type": "application/json"}, body)["status"] >= 400
        assert not friend.seen


def test_credentials_stay_here(friend: Listener) -> None:
    with node(flags={"relay.peers": [friend.url]}) as n:
        given = {"cookie": "a=SEKRIT", "secret": "SEKRIT", "priv-x": "SEKRIT", "x-forwarded-for": "10.1.1.1"}
        reply = call(n, **{"relay-path": f"{friend.url}/x", **given})
        assert reply["status"] == 200
        for _, path, headers, body in friend.seen:
            assert "SEKRIT" not in path + str(headers) + body.decode()
            assert "10.1.1.1" not in str(headers)


def test_other_devices_ask_the_same_list(inside: Listener) -> None:
    with node() as n:
        for path in (
            f"/~relay@1.0/request?relay-path={inside.url}/x",
            f"/~cron@1.0/once?cron-path=/~relay@1.0/call%26relay-path={inside.url}",
            f"/~router@1.0/route?route-path={inside.url}/x",
        ):
            ask(n, "GET", path)


def test_the_operator_lists_peers_and_nobody_else(friend: Listener) -> None:
    with node() as n:
        ask(n, "POST", "/~meta@1.0/info", {"relay-peers": friend.url})
        assert call(n, **{"relay-path": f"{friend.url}/x"})["status"] == 403
        assert order(n, operator(), **{"relay-peers": [friend.url]})["status"] == 200
        assert call(n, **{"relay-path": f"{friend.url}/x"})["body"] == b"hello"


@pytest.mark.parametrize(
    "headers",
    [
        {"signature": "sig=:AAAA:", "signature-input": 'sig=("body");keyid="publickey:AAAA"'},
        {"ao-types": 'body="integer"'},
        {"content-type": 'multipart/form-data; boundary="x"'},
        {"codec-device": "json@1.0"},
        {"set-cookie": "a=SEKRIT"},
        {"content-encoding": "gzip"},
    ],
    ids=range(6),
)
def test_what_a_peer_answers_is_not_believed(headers: dict[str, str]) -> None:
    peer = Listener(200, headers, b"not a number")
    try:
        with node(flags={"relay.peers": [peer.url]}) as n:
            reply = call(n, **{"relay-path": f"{peer.url}/x"})
            assert reply["status"] in (200, 502), reply
            assert "set-cookie" not in reply
            assert n.get("/~message@1.0&a=1/a")["status"] == 200
    finally:
        peer.close()
