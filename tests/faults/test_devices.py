"""Devices that misbehave: their caller gets a clear error in time, and the node lives."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from hyperpy import Context, Message, Result, device, key
from hyperpy.http.server import serve
from hyperpy.message import Value
from hyperpy.sdk import default
from hyperpy.testing import TestNode, node

DEADLINE = 1.0
HANG_S = 50.0
"""Seconds after which a test that waits gives up: far more than anything here takes. Nothing is measured by it."""


@device("bad@1.0")
class Bad:
    """Fails in every way that is not its own error class."""

    @key
    def bug(self) -> int:
        return 1 // 0

    @key
    def unicode(self) -> int:
        raise ValueError("\udcff\x00\x1b[31m secret detail")

    @key
    def exit(self) -> int:
        sys.exit(3)

    @key
    def generator(self) -> int:
        raise GeneratorExit

    @key
    def interrupt(self) -> int:
        raise KeyboardInterrupt

    @key
    def memory(self) -> int:
        raise MemoryError

    @key
    def stop(self) -> int:
        raise StopIteration

    @key
    def deep(self) -> int:
        return self.deep()

    @key
    def nothing(self) -> None:
        return None

    @key
    def thing(self) -> object:
        return object()

    @key
    def inner(self) -> dict[str, Any]:
        return {"a": {"b": [object()]}}

    @key
    def keys_of_numbers(self) -> dict[int, int]:
        return {1: 2}

    @key
    def circle(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        made["self"] = made
        return made

    @key
    def nan(self) -> float:
        return float("nan")

    @key
    def status(self) -> Result:
        return Result("what\r\nx: y", b"odd")

    @key
    def code(self) -> Message:
        return Message({"status": 99999999999, "body": b"x"})

    @key
    def header(self) -> Message:
        return Message({"a\r\nb": "c", "x": "line\r\nset-cookie: a=b", "é": "é", "": "empty"})

    @key
    def huge(self, size: int) -> bytes:
        return b"x" * size

    @key
    def wide(self, count: int) -> Message:
        return Message({f"k{n}": n for n in range(count)})

    @key
    def tall(self, depth: int) -> Message:
        made = Message({"end": "1"})
        for _ in range(depth):
            made = Message.make({"a": made})
        return made


GATE = threading.Event()


@device("slow@1.0")
class Slow:
    """Takes its time, politely and not."""

    @key
    def loop(self) -> int:
        while True:
            pass

    @key
    def stubborn(self) -> int:
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    @key
    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return 1

    @key
    def gate(self) -> int:
        """Wait until the test opens the gate, which nothing but the test does."""
        return int(GATE.wait(HANG_S))

    @key
    def polite(self, base: Message, ctx: Context) -> int:
        while True:
            ctx.resolve(base, "one")

    @key
    def one(self) -> int:
        return 1


@device("self@1.0")
class Itself:
    """Calls itself through the node."""

    @key
    def plain(self, base: Message, ctx: Context) -> Value:
        return ctx.resolve(base, "plain")

    @key
    def by_path(self, ctx: Context) -> Value:
        return ctx.resolve("/~self@1.0/by-path")

    @default
    def any(self, key: str, base: Message, ctx: Context) -> Value:
        return ctx.resolve(base, key)


@device("lonely@1.0", one_per="who")
class Lonely:
    """An actor that calls itself."""

    @key
    def again(self, base: Message, ctx: Context) -> Value:
        return ctx.resolve(base, "again")

    @key(reentrant=True)
    def twice(self, base: Message, ctx: Context, deep: bool = False) -> Value:
        return 2 if deep else ctx.resolve(base, Message({"path": "twice", "deep": True}))

    @key
    def fine(self) -> int:
        return 1

    @key
    def crash(self) -> int:
        raise RuntimeError("broken")

    @key
    def loop(self) -> int:
        while True:
            pass


BARRIER = threading.Barrier(2, timeout=HANG_S)


@device("pair@1.0", one_per="who")
class Pair:
    """Two of these wait for each other."""

    @key
    def meet(self, base: Message, ctx: Context, other: str) -> Value:
        BARRIER.wait()
        return ctx.resolve(Message({"device": "pair@1.0", "who": other}), "fine")

    @key
    def fine(self) -> int:
        return 1


@device("cannot-start@1.0")
class CannotStart:
    def start(self) -> None:
        raise RuntimeError("no licence")

    @key
    def x(self) -> int:
        return 1


@device("cannot-stop@1.0")
class CannotStop:
    def stop(self) -> None:
        raise RuntimeError("no way")

    @key
    def x(self) -> int:
        return 1


ALL = (Bad, Slow, Itself, Lonely, Pair, CannotStart, CannotStop)


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node(*ALL, flags={"limits.deadline": DEADLINE}) as made:
        yield made
        assert_alive(made)


def assert_alive(n: TestNode) -> None:
    reply = n.get("/~message@1.0&a=1/a")
    assert (reply["status"], reply["body"]) == (200, b"1")
    assert n.get("/~lonely@1.0&who=x/fine")["body"] == 1


def answered(n: TestNode, path: str) -> Message:
    """Return the reply to a request that would hang, were something wrong."""
    found: list[Message] = []
    thread = threading.Thread(target=lambda: found.append(n.get(path)), daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert found, f"{path} hangs"
    return found[0]


def eventually(check: Callable[[], bool]) -> bool:
    """Say whether something comes true once the watchdog had its time."""
    pauses = int(HANG_S / 0.05)
    return any(check() or bool(time.sleep(0.05)) for _ in range(pauses))


# -- raising -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["bug", "unicode", "exit", "generator", "memory", "stop", "deep", "circle", "nothing", "thing", "inner"]
)
def test_bugs_are_500_with_an_incident_number(n: TestNode, name: str, caplog: pytest.LogCaptureFixture) -> None:
    reply = answered(n, f"/~bad@1.0/{name}")
    assert reply["status"] in (400, 500), reply
    text = reply.text("body")
    assert "Traceback" not in text
    assert "secret detail" not in text
    if reply["status"] == 500:
        incident = text.rpartition("incident ")[2]
        assert incident in caplog.text


def test_an_interrupt_in_a_worker_thread_is_a_bug_too(n: TestNode) -> None:
    found: list[Message] = []
    thread = threading.Thread(target=lambda: found.append(n.get("/~bad@1.0/interrupt")))
    thread.start()
    thread.join(HANG_S)
    assert found[0]["status"] == 500


@pytest.mark.parametrize("name", ["nan", "status", "code", "header", "keys_of_numbers", "nothing", "thing"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html"])
def test_rubbish_makes_a_reply_all_the_same(n: TestNode, name: str, accept: str) -> None:
    reply = n.http("GET", f"/~bad@1.0/{name}", {"accept": accept})
    assert 200 <= reply.status < 600
    for header, text in reply.headers:
        assert b"\n" not in header + text
        assert b"\r" not in header + text
    assert not [1 for header, _ in reply.headers if header == b"set-cookie"]


def test_huge_results(n: TestNode) -> None:
    assert n.get("/~bad@1.0/huge&size=20000000")["status"] == 200
    assert n.get("/~bad@1.0/wide&count=20000")["status"] < 600
    for depth in (60, 70, 500, 5000):
        assert answered(n, f"/~bad@1.0/tall&depth={depth}")["status"] < 600


def test_a_parameter_of_the_wrong_type_is_400(n: TestNode) -> None:
    assert n.get("/~bad@1.0/huge&size=much")["status"] == 400
    assert n.get("/~bad@1.0/huge")["status"] == 400


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/~slow@1.0/loop", "/~slow@1.0/stubborn", "/~lonely@1.0&who=y/loop"])
def test_a_pure_python_loop_is_stopped(n: TestNode, path: str) -> None:
    reply = answered(n, path)
    assert reply["status"] == 504
    assert eventually(lambda: n.node.watchdog.stopped >= 1)


def test_a_loop_of_steps_ends_at_a_limit(n: TestNode) -> None:
    assert answered(n, "/~slow@1.0/polite")["status"] in (413, 504)


def test_a_sleeper_is_told_when_it_wakes(n: TestNode) -> None:
    assert answered(n, "/~slow@1.0/sleep&seconds=2.6")["status"] == 504


def test_others_are_served_meanwhile(n: TestNode) -> None:
    thread = threading.Thread(target=n.get, args=("/~slow@1.0/loop",))
    thread.start()
    assert n.get("/~message@1.0&a=1/a")["body"] == b"1"
    assert thread.is_alive(), "the answer came after the loop had ended"
    thread.join(HANG_S)
    assert not thread.is_alive()


def test_an_actor_is_free_again_after_its_loop(n: TestNode) -> None:
    assert answered(n, "/~lonely@1.0&who=z/loop")["status"] == 504
    assert eventually(lambda: n.get("/~lonely@1.0&who=z/fine")["body"] == 1)


def test_over_http_the_caller_of_a_sleeper_is_answered_in_time() -> None:
    """While the device still waits, that is: nothing but the test lets it go on."""
    with (
        node(*ALL, flags={"limits.deadline": DEADLINE}) as n,
        serve(n.node) as server,
        httpx2.Client(trust_env=False, timeout=HANG_S) as client,
    ):
        GATE.clear()
        try:
            reply = client.get(f"{server.url}/~slow@1.0/gate")
            assert not GATE.is_set(), "the answer came while the device still waits"
        finally:
            GATE.set()
        assert reply.status_code == 504
        assert reply.headers["retry-after"]
        assert client.get(f"{server.url}/~message@1.0&a=1/a").text == "1"
        for path in ("/~bad@1.0/exit", "/~bad@1.0/interrupt", "/~slow@1.0/loop", "/~self@1.0/plain"):
            assert client.get(server.url + path).status_code in (500, 504, 508)
        assert client.get(f"{server.url}/~message@1.0&a=1/a").text == "1"


# -- calling each other ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/~self@1.0/plain", "/~self@1.0/by-path", "/~self@1.0/whatever"])
def test_plain_recursion_is_508(n: TestNode, path: str) -> None:
    reply = answered(n, path)
    assert reply["status"] == 508
    assert b"deep" in reply["body"]


def test_an_actor_that_calls_itself_is_508_and_named(n: TestNode) -> None:
    reply = answered(n, "/~lonely@1.0&who=me/again")
    assert reply["status"] == 508
    assert b"lonely@1.0[me] -> lonely@1.0[me]" in reply["body"]


def test_a_reentrant_key_may(n: TestNode) -> None:
    assert answered(n, "/~lonely@1.0&who=me/twice")["body"] == 2


def test_two_actors_that_wait_for_each_other_are_told(n: TestNode) -> None:
    BARRIER.reset()
    for who in ("a", "b"):
        assert n.get(f"/~pair@1.0&who={who}/fine")["body"] == 1
    found: dict[str, Message] = {}

    def ask(who: str, other: str) -> None:
        found[who] = n.get(f"/~pair@1.0&who={who}/meet&other={other}")

    threads = [threading.Thread(target=ask, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()
    statuses = sorted(int(str(reply["status"])) for reply in found.values())
    assert statuses[-1] == 508
    assert set(statuses) <= {200, 508}
    assert n.get("/~pair@1.0&who=a/fine")["body"] == 1
    assert n.get("/~pair@1.0&who=b/fine")["body"] == 1


def test_a_crash_does_not_end_an_actor(n: TestNode) -> None:
    for _ in range(20):
        assert n.get("/~lonely@1.0&who=c/crash")["status"] == 500
    assert n.get("/~lonely@1.0&who=c/fine")["body"] == 1


# -- starting and stopping -----------------------------------------------------------------------------


def test_a_device_that_does_not_start(n: TestNode) -> None:
    for _ in range(2):
        reply = n.get("/~cannot-start@1.0/x")
        assert reply["status"] == 500
        assert b"no licence" not in reply["body"]


def test_a_device_that_does_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    with node(*ALL) as n:
        assert n.get("/~cannot-stop@1.0/x")["body"] == 1
    assert "no way" in caplog.text, "its error is logged, and the rest of the node is closed"
    assert n.node.watchdog._thread is not None
    assert not n.node.watchdog._thread.is_alive()


# -- many at once -------------------------------------------------------------------------------------


def test_all_of_it_at_once() -> None:
    paths = [
        *("/~bad@1.0/bug", "/~bad@1.0/exit", "/~bad@1.0/deep", "/~self@1.0/plain", "/~lonely@1.0&who=m/again"),
        *("/~slow@1.0/loop", "/~lonely@1.0&who=m/loop", "/~bad@1.0/thing"),
    ]
    logging.getLogger("hyperpy").setLevel(logging.CRITICAL)
    try:
        with node(*ALL, flags={"limits.deadline": DEADLINE}) as n:
            threads = [threading.Thread(target=n.get, args=(path,)) for path in paths]
            for thread in threads:
                thread.start()
            good = [n.get(f"/~message@1.0&a={i}/a") for i in range(20)]
            for thread in threads:
                thread.join(HANG_S)
                assert not thread.is_alive()
            assert [reply["body"] for reply in good] == [b"%d" % i for i in range(20)]
            assert_alive(n)
    finally:
        logging.getLogger("hyperpy").setLevel(logging.NOTSET)
