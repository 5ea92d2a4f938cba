"""The server on real sockets, under granian and uvicorn: limits, slow clients, load, stopping."""

from __future__ import annotations

import http.client
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FuturesTimeout
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import httpx2
import pytest

from hyperpy.client import Client
from hyperpy.errors import ConfigError, Forbidden, InvalidSignature, PathError, UpstreamError
from hyperpy.http.app import Bounds
from hyperpy.http.client import PeerClient, decode_reply
from hyperpy.http.server import Server, serve
from hyperpy.message import Message
from hyperpy.testing import node, wallet
from tests.http.conftest import HANG_S

ADD = "/~calculator@1.0&a=1/add&b=2"


def raw(server: Any, data: bytes, *, timeout: float = 8.0, end: bool = False) -> bytes:
    """Send bytes; return everything that comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as at:
        at.sendall(data)
        if end:
            at.shutdown(socket.SHUT_WR)
        pieces = []
        try:
            while piece := at.recv(65536):
                pieces.append(piece)
        except (TimeoutError, ConnectionResetError):
            pass
    return b"".join(pieces)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


# -- answering -------------------------------------------------------------------------------------


def test_a_signed_reply(server: Any) -> None:
    reply = httpx2.get(server.url + ADD)
    assert (reply.status_code, reply.text, reply.headers["ao-result"]) == (200, "3", "body")
    message = decode_reply(reply.status_code, reply.headers.raw, reply.content)
    assert message["body"] == 3
    assert message.hashpath is not None


@pytest.mark.parametrize("start", ["granian"], indirect=True)
def test_http_2_by_prior_knowledge_makes_the_same_message(start: Any) -> None:
    """granian alone: uvicorn has no HTTP/2."""
    server = start()
    with httpx2.Client(http1=False, http2=True, headers={"connection": "", "user-agent": " a b "}) as client:
        reply = client.get(server.url + "/~message@1.0/set")
        assert reply.http_version == "HTTP/2"
    assert reply.headers["host"] == "127.0.0.1"
    assert reply.headers["user-agent"] == "a b"
    decode_reply(reply.status_code, reply.headers.raw, reply.content)


def test_header_values_are_the_same_under_both_servers(server: Any) -> None:
    lines = b"host: h\r\nX-Mixed:  a \r\nx-twice: 1\r\nx-twice:\t2 \r\nconnection: close\r\n\r\n"
    answer = raw(server, b"GET /~message@1.0/set HTTP/1.1\r\n" + lines).lower()
    assert status_of(answer.replace(b"http/1.1", b"HTTP/1.1", 1)) == 200
    for line in (b"\r\nx-mixed: a\r\n", b"\r\nx-twice: 1, 2\r\n", b"\r\nhost: h\r\n"):
        assert line in answer


def test_the_path_is_taken_raw(server: Any) -> None:
    with httpx2.Client() as client:
        target = b"/~message@1.0&a=%22x%2Fy%22/a"
        reply = client.get(server.url, extensions={"target": target})
    assert reply.text == "x/y"


def test_root_options_and_head(server: Any) -> None:
    root = httpx2.get(server.url + "/", follow_redirects=False)
    assert (root.status_code, root.headers["location"]) == (307, "/~meta@1.0/info")
    options = httpx2.options(server.url + ADD, headers={"access-control-request-headers": "x, y"})
    assert (options.status_code, options.headers["access-control-allow-headers"]) == (204, "x, y")
    head = httpx2.head(server.url + ADD)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1")


def test_posting_a_body(server: Any) -> None:
    reply = httpx2.post(server.url + "/~message@1.0/set/body", content=b"\0\1\r\n\xff")
    assert reply.content == b"\0\1\r\n\xff"


def test_errors_reach_the_caller(server: Any) -> None:
    assert httpx2.get(server.url + "/~nope@1.0/x").status_code == 404
    reply = httpx2.post(
        server.url + "/a", content=b"{", headers={"content-type": "application/json", "accept": "application/json"}
    )
    assert (reply.status_code, reply.json()["status"]) == (400, 400)
    assert "hint" in reply.headers


# -- limits ----------------------------------------------------------------------------------------


def test_long_path(server: Any) -> None:
    target = b"/" + b"a/" * 40_000
    assert status_of(raw(server, b"GET " + target + b" HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")) in (
        400,
        414,
        431,
    )
    assert httpx2.get(server.url + ADD).text == "3"


def test_long_header(server: Any) -> None:
    reply = httpx2.get(server.url + ADD, headers={"x": "a" * 70_000})
    assert reply.status_code == 431
    assert httpx2.get(server.url + ADD, headers={"x": "a" * 60_000}).status_code == 200


def test_headers_too_long_together(server: Any) -> None:
    headers = {f"x{n}": "a" * 50_000 for n in range(6)}
    assert httpx2.get(server.url + ADD, headers=headers).status_code == 431


def test_long_body(server: Any) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2000000\r\n\r\n"
    assert status_of(raw(server, head + b"x" * 1000)) == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = raw(server, b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 17)
    assert status_of(answer) in (0, 413)
    assert httpx2.get(server.url + ADD).text == "3"


# -- slow and broken clients -----------------------------------------------------------------------


def test_half_a_body(server: Any) -> None:
    answer = raw(server, b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhalf", timeout=HANG_S)
    assert status_of(answer) == 408


def test_a_client_that_goes_away(server: Any) -> None:
    answer = raw(server, b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhalf", end=True)
    assert status_of(answer) in (0, 400, 408)
    assert httpx2.get(server.url + ADD).text == "3"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many open files as two ends of a thousand connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    assert wanted >= 2500, f"the hard limit on open files is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HALVES = (
    b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhal",  # a body that does not go on
    b"GET /~message@1.0/id HTTP/1.1\r\nhost: h\r\nx-slow: ",  # a head that does not go on
    b"",  # nothing at all
    b"GET " + ADD.encode() + b" HTTP/1.1\r\nhost: h\r\n\r\n",  # answered, and then kept open
)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_hold_up_nobody(start: Any) -> None:
    """A thousand connections are open, idle or in the middle of something, while others are answered."""
    server = start(Bounds(deadline=50, threads=8, idle=120.0, receive=120.0))
    held = []
    try:
        for number in range(1000):
            at = socket.create_connection(("127.0.0.1", server.port), 20)
            at.sendall(HALVES[number % len(HALVES)])
            held.append(at)
        with httpx2.Client(timeout=HANG_S) as client:
            for number in range(50):
                reply = client.get(server.url + f"/~calculator@1.0&a={number}/add&b=1")
                assert (reply.status_code, reply.text) == (200, str(number + 1))
        answered = [at for at in held[3::4] if at.recv(12) == b"HTTP/1.1 200"]
        assert len(answered) == 250
        for at in held[::4]:  # none of the others was closed to make room
            at.setblocking(False)
            with pytest.raises(BlockingIOError):
                at.recv(1)
    finally:
        for at in held:
            at.close()
    assert httpx2.get(server.url + ADD, timeout=30).text == "3"


def test_two_hundred_at_once(start: Any) -> None:
    """Two hundred connections are open before the first request is sent; all are answered."""
    server = start(Bounds(deadline=50, threads=8))
    opened = threading.Barrier(200)

    def one(number: int) -> str:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=50)
        client.connect()
        opened.wait(50)
        client.request("GET", f"/~calculator@1.0&a={number}/add&b=1")
        with closing(client):
            return client.getresponse().read().decode()

    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(one, range(200))) == [str(number + 1) for number in range(200)]


def test_garbage_is_no_500(server: Any) -> None:
    for data in (
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: h\r\nx y: 1\r\n\r\n",
    ):
        assert status_of(raw(server, data, timeout=2)) < 500


# -- deadlines and full queues ---------------------------------------------------------------------


def test_the_deadline(start: Any, nap: Any) -> None:
    """The caller is answered while the device still sleeps."""
    server = start(Bounds(deadline=0.5, threads=4, queue=10))
    reply = httpx2.get(server.url + "/~nap@1.0/take", timeout=HANG_S)
    assert nap.asleep.acquire(timeout=HANG_S)
    assert not nap.morning.is_set()
    assert reply.status_code == 504
    assert "retry-after" in reply.headers
    assert httpx2.get(server.url + ADD, timeout=HANG_S).text == "3"


def test_a_full_queue(start: Any, nap: Any) -> None:
    """Two are answered, two wait, and the others are told at once, while the two still sleep."""
    server = start(Bounds(deadline=HANG_S, threads=2, queue=2))
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(httpx2.get, server.url + "/~nap@1.0/take", timeout=2 * HANG_S) for _ in range(12)]
        try:
            refused = list(islice(as_completed(asked, timeout=HANG_S), 8))
            waiting = [one for one in asked if one not in refused]
            assert not any(one.done() for one in waiting)
        finally:
            nap.morning.set()
    for one in refused:
        assert one.result().status_code == 503
        assert one.result().headers["retry-after"]
    assert [(one.result().status_code, one.result().text) for one in waiting] == [(200, "rested")] * 4
    assert httpx2.get(server.url + ADD).text == "3"


def test_stopping_lets_requests_end(start: Any, nap: Any) -> None:
    server = start()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(httpx2.get, server.url + "/~nap@1.0/take", timeout=HANG_S)
        assert nap.asleep.acquire(timeout=HANG_S)
        stopped = pool.submit(server.stop, HANG_S)
        with suppress(FuturesTimeout):
            stopped.result(timeout=0.3)
        assert not stopped.done(), "it did not wait for the request"
        nap.morning.set()
        assert asked.result(HANG_S).text == "rested"
        stopped.result(HANG_S)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url + ADD)


# -- the clients -----------------------------------------------------------------------------------


def test_client(server: Any) -> None:
    with Client(server.url, wallet("caller")) as client:
        reply = client.get(ADD)
        assert reply["body"] == 3
        assert len(client.signers(reply)) == 1
        again = client.post("/~message@1.0/set", {"a": "x\ny", "n": 5, "nested": {"b": "c"}, "body": b"\xff"})
        assert (again["a"], again["n"], again["body"]) == (b"x\ny", 5, b"\xff")
        assert again["nested"] == Message({"b": "c"})
        assert client.get("/~message@1.0&a=1/b")["status"] == 404
        assert client.get("/~message@1.0&secret-ish=1/secret-ish").text("body") == "1"
        with pytest.raises(PathError):
            client.get("/a b")
    with Client(server.url, signed_by="A" * 43) as client, pytest.raises(InvalidSignature):
        client.get(ADD)


def test_peers_must_be_allowed(server: Any) -> None:
    peers = PeerClient(lambda: [server.url])
    try:
        assert peers.call(server.url, Message({"path": ADD}))["body"] == 3
        assert peers.call(server.url + "/~calculator@1.0&a=1", Message({"path": "/add&b=2"}))["body"] == 3
        host = f"127.0.0.1:{server.port}"
        for bad in (
            "http://127.0.0.1:1",
            f"https://{host}",
            f"http://{host}@evil.example",
            f"http://user@{host}",
            f"http://{host}.evil.example/",
            f"http://{host}\\@evil.example/",
            f"http://localhost:{server.port}",
            f"http://[::ffff:127.0.0.1]:{server.port}",
            f"HTTP://{host}#@evil.example",
            f"http://{host}\r\nx: y",
            "file:///etc/passwd",
            "",
        ):
            assert not peers.allowed(bad), bad
            with pytest.raises((PathError, Forbidden)):
                peers.call(bad, Message({"path": "/"}))
    finally:
        peers.close()


def test_peers_that_misbehave() -> None:
    answers = [b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", b"nonsense\r\n\r\n"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            for data in answers:
                at, _ = listening.accept()
                with at:
                    at.recv(65536)
                    at.sendall(data)

        threading.Thread(target=answer, daemon=True).start()
        peers = PeerClient(lambda: [f"http://127.0.0.1:{port}"], timeout=2)
        assert peers.call(f"http://127.0.0.1:{port}", Message({"path": "/"}))["status"] == 302
        for _ in range(2):
            with pytest.raises(UpstreamError):
                peers.call(f"http://127.0.0.1:{port}", Message({"path": "/"}))
        peers.close()


def test_a_taken_port_is_an_error() -> None:
    with node() as n, serve(n.node) as server, pytest.raises(ConfigError, match="cannot listen"):
        Server(n.node, "127.0.0.1", server.port)


def test_damaged_chunks_are_said_to_be_so(server: Any) -> None:
    """The hint is about the body's form, not about its size."""
    answer = raw(server, b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n")
    assert status_of(answer) == 400
    assert b"whole chunks" in answer or b"Invalid HTTP request" in answer, "uvicorn says so itself"
    assert b"raise the limit" not in answer
