"""What the event loop answers itself: small requests that wait for nothing, and no others."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest

from hyperpy import device, key
from hyperpy.http.brief import is_brief
from hyperpy.http.form import RawRequest
from hyperpy.http.server import Server
from hyperpy.message import Message
from hyperpy.testing import node

HEADERS = ((b"host", b"h"), (b"accept", b"*/*"), (b"user-agent", b"u"))
SMALL = "/~message@1.0&a=hello/a"


@device("elsewhere@1.0")
class Elsewhere:
    """Says which thread runs it."""

    @key(deterministic=False)
    def thread(self) -> str:
        """Return the name of the thread."""
        return threading.current_thread().name


def brief(target: str, headers: tuple[tuple[bytes, bytes], ...] = HEADERS, **changes: Any) -> bool:
    return is_brief(RawRequest(changes.get("method", "GET"), target.encode(), headers, changes.get("body", b"")))


@pytest.mark.parametrize(
    "target",
    [
        SMALL,
        "/~message@1.0&a=1&b=two.three-4_5/b",
        "/~message@1.0&a=1/set&b=2/keys",
        "/~message@1.0/id",
        "/~meta@1.0/info/address",
        "/~meta@1.0/build/version",
    ],
)
def test_small_requests_are_brief(target: str) -> None:
    assert brief(target)
    assert brief(target, method="HEAD")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/~meta@1.0/info",  # as long as the operator's settings are
        "/~meta@1.0/info/info",
        "/~meta@1.0/info&method=POST/x",
        "/~hyperbuddy@1.0/metrics",
        "/~relay@1.0/call",
        "/~message@1.0&a=1/commit",
        "/~message@1.0&a=1/commit&type=unsigned",
        "/~message@1.0&a=1/index",
        "/~message@1.0/info",
        "/~message@1.0&device=elsewhere@1.0/thread",
        "/~message@1.0&device=elsewhere/thread",
        "/~message@1.0&a=1/set&device=elsewhere/thread",
        "/~message@1.0&a=1/~elsewhere@1.0/thread",
        "/~message@1.0&a+resolve=x/a",
        "/~message@1.0&a=(/~elsewhere@1.0/thread)/a",
        "/~message@1.0&a=%28/a",
        "/~message@1.0&1.device=elsewhere/a",
        "/~message@1.0&a=1/a?device=elsewhere@1.0",
        "/~message@1.0&priv-a=1/a",
        "/~message@1.0&cache-control=only-if-cached/a",
        "/~message@1.0&a=1/a/b/c/d/e",
        "/~message@1.0&" + "&".join(f"a{n}=1" for n in range(20)) + "/a1",
        "/~message@1.0&a=" + "x" * 600 + "/a",
        "/" + "A" * 43 + "/a",
    ],
)
def test_all_others_are_not(target: str) -> None:
    assert not brief(target)


@pytest.mark.parametrize(
    "headers",
    [
        ((b"device", b"elsewhere@1.0"),),
        ((b"1.device", b"elsewhere@1.0"),),
        ((b"a+resolve", b"/~elsewhere@1.0/thread"),),
        ((b"codec-device", b"ans104@1.0"),),
        ((b"signature-input", b'a=("b")'), (b"signature", b"a=:AA==:")),
        ((b"authorization", b"Basic QTpC"),),
        ((b"cookie", b"a=b"),),
        ((b"accept", b"x" * 3000),),
    ],
)
def test_other_headers_are_not(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert not brief(SMALL, headers)


def test_no_body_and_no_other_method() -> None:
    assert not brief(SMALL, method="POST")
    assert not brief(SMALL, body=b"x")


# -- on a running node -----------------------------------------------------------------------------


def threads_of(flags: dict[str, Any], *targets: str, change: Any = None) -> list[str]:
    """Return the thread in which the node answered each request."""
    names: list[str] = []
    with node(Elsewhere, flags={"rate-limit.requests": 0, **flags}) as n:
        answer = n.node.handle

        def handle(*args: Any, **options: Any) -> Message:
            names.append(threading.current_thread().name)
            return answer(*args, **options)

        n.node.handle = handle
        with Server(n.node, "127.0.0.1", 0) as server:
            server.start()
            if change is not None:
                change(n.node)
            for target in targets:
                assert httpx2.get(server.url + target).status_code < 500
    return names


LOOP = "hyperpy-server"


def test_small_unsigned_replies_come_from_the_event_loop_and_others_do_not() -> None:
    found = threads_of({"http.sign": False}, SMALL, "/~message@1.0&a=1/b", "/~elsewhere@1.0/thread", "/~meta@1.0/info")
    assert [name == LOOP for name in found] == [True, True, False, False]


def hook(event: str) -> Any:
    def change(inner: Any) -> None:
        inner.settings.put("on", {event: {"device": "elsewhere@1.0", "path": "thread"}})

    return change


def step_hook(inner: Any) -> None:
    inner.resolver.step_hook = lambda base, request, result: result


def full_store(inner: Any) -> None:
    inner.store.prompt = False


@pytest.mark.parametrize("change", [hook("request"), hook("response"), step_hook, full_store])
def test_where_the_node_would_wait_a_thread_answers(change: Any) -> None:
    assert LOOP not in threads_of({"http.sign": False}, SMALL, change=change)


def test_signed_replies_come_from_a_thread() -> None:
    assert LOOP not in threads_of({}, SMALL)


def test_peers_that_are_counted_are_answered_by_a_thread() -> None:
    with node(flags={"http.sign": False}) as n:
        assert n.node.is_prompt("127.0.0.1")
        assert not n.node.is_prompt("192.0.2.1")


def test_a_replaced_device_runs_in_a_thread() -> None:
    with node(flags={"http.sign": False, "devices.override": ["message@1.0"]}) as n:
        assert not n.node.is_prompt("127.0.0.1")


def test_what_the_loop_answers_is_recorded_and_the_same_as_from_a_thread() -> None:
    replies = []
    for prompt in (True, False):
        with node(flags={"http.sign": False}) as n:
            n.node.store.prompt = prompt
            with Server(n.node, "127.0.0.1", 0) as server:
                server.start()
                reply = httpx2.get(server.url + SMALL, headers={"host": "h"})
                again = httpx2.get(server.url + "/~message@1.0&a=hello/nothing")
                records = [data for _, data in n.node.store.scan("trail")]
            replies.append((reply.content, dict(reply.headers), again.status_code, again.text, len(records)))
    first, second = (({**one[1], "date": ""}, one[0], *one[2:]) for one in replies)
    assert first == second
    assert replies[0][0] == b"hello"
    assert replies[0][4] == 2
