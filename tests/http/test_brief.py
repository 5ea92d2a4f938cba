"""What the event loop answers itself: small requests that wait for nothing, and no others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest

from hyperpy import config, device, key
from hyperpy.http.brief import is_brief
from hyperpy.http.form import RawRequest
from hyperpy.http.server import Server
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.haste import WouldWait, haste
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import node, wallet

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
        *(f"/~message@1.0&a={'A' * size}/a" for size in (32, 42, 43)),
        *(f"/~message@1.0&a=1/set&b=2/{'a' * size}" for size in (32, 42, 43)),
        # what comes after anything but set may be asked of whatever an ID names
        "/~message@1.0&a=1/a/b",
        "/~message@1.0/id/a",
        "/~message@1.0/set&a=1/id/a",
        "/~message@1.0/user-agent/a",
        "/~message@1.0/x-request-id/a",
        "/~message@1.0/keys/1",
        "/~message@1.0&a=1/set/set/set/set/a",
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


@device("sleeper@1.0")
class Sleeper:
    """Says where it runs."""

    seen: ClassVar[list[str]] = []

    @key(deterministic=False)
    def delay(self) -> bytes:
        """Note the thread."""
        self.seen.append(threading.current_thread().name)
        return b"ran"


def test_no_stored_message_runs_in_the_loop() -> None:
    """Whatever text names it: a value, a header, its own ID, a list's member."""
    with (
        node(Sleeper, flags={"rate-limit.requests": 0, "http.sign": False}) as n,
        Server(n.node, "127.0.0.1", 0) as server,
    ):
        server.start()
        sleeper = {"device": "sleeper@1.0"}
        ref = httpx2.post(server.url + "/~message@1.0/set/id", json=sleeper).text
        assert len(ref) == 43
        ran = []
        for path, headers in (
            (f"/~message@1.0&a={ref}/a/delay", {}),
            (f"/~message@1.0/set&a={ref}/a/delay", {}),
            ("/~message@1.0/x-request-id/delay", {"x-request-id": ref}),
            ("/~message@1.0/set&b=1/user-agent/delay", {"user-agent": ref}),
            ("/~message@1.0/accept/delay", {"accept": ref}),
            ("/~message@1.0/id/delay", {}),
            (f"/~message@1.0&a={ref}/keys/1/delay", {}),
            (f"/{ref}/delay", {}),
        ):
            ran.append(httpx2.get(server.url + path, headers=headers).text == "ran")
        assert ran.count(True) >= 5, "the message must have run, else this attacks nothing"
    assert Sleeper.seen
    assert LOOP not in Sleeper.seen


# -- where the store would have to wait after all ----------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LmdbStore]:
    store = LmdbStore(tmp_path / "store")
    yield store
    store.close()


def growing(store: LmdbStore, done: threading.Event) -> None:
    """Be as while the map grows, until somebody waits for it or ``done``."""
    cache = store._cache
    cache._open.clear()
    cache._blocked = True
    done.wait(20)
    cache._blocked = False
    cache._open.set()


def writing(store: LmdbStore, done: threading.Event) -> None:
    """Hold the writers' lock until ``done``."""
    with store.tables._group.lock:
        done.wait(20)


def touch(store: LmdbStore) -> None:
    store.get("messages", b"k" * 32)
    store.write([("messages", b"l" * 32, b"v")])


@pytest.mark.parametrize("trouble", [growing, writing])
def test_a_thread_in_haste_leaves_where_it_would_wait(trouble: Any, disk: LmdbStore) -> None:
    disk.write([("messages", b"k" * 32, b"v")])
    disk.flush()
    done = threading.Event()
    other = threading.Thread(target=trouble, args=(disk, done))
    other.start()
    try:
        while not (disk._cache._blocked or disk.tables._group.lock.locked()):
            done.wait(0.001)
        with pytest.raises(WouldWait), haste():
            touch(disk)
    finally:
        done.set()
        other.join()
    with haste():
        assert disk.get("messages", b"k" * 32) == b"v"
    with haste(), pytest.raises(WouldWait):
        disk.write([("config", b"a", b"b")])
    disk.write([("config", b"a", b"b")])


def test_a_worker_answers_what_the_loop_gave_up(tmp_path: Path) -> None:
    """The store says that it is prompt, and then is not."""
    store = LmdbStore(tmp_path / "store")
    settings = config.load(environ={}, flags={"http.sign": False, "rate-limit.requests": 0})
    with Node(settings, key=wallet(), store=store, operator=wallet("operator").address) as inner:
        inner.is_prompt = lambda peer: True
        names: list[str] = []
        answer = inner.handle

        def handle(*args: Any, **options: Any) -> Message:
            names.append(threading.current_thread().name)
            if names == [LOOP]:
                other.start()
                while not store.tables._group.lock.locked():
                    done.wait(0.001)
            else:
                done.set()
                other.join()
            return answer(*args, **options)

        done = threading.Event()
        other = threading.Thread(target=writing, args=(store, done))
        inner.handle = handle
        with Server(inner, "127.0.0.1", 0) as server:
            server.start()
            reply = httpx2.get(server.url + SMALL)
        assert (reply.status_code, reply.text) == (200, "hello")
        assert names[0] == LOOP
        assert len(names) == 2
        assert names[1] != LOOP


def test_reading_the_settings_waits_for_no_change_of_them() -> None:
    with node() as n:
        before = n.node.settings.info()
        assert "zone" not in before
        with n.node.settings._lock:
            found: list[Message] = []
            n.node.settings._values = {**n.node.settings._values, "zone": b"x"}
            reader = threading.Thread(target=lambda: found.append(n.node.settings.info()), daemon=True)
            reader.start()
            reader.join(20)
        assert found
        assert found[0]["zone"] == b"x"
