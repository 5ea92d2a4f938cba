"""Every limit of design 5 answers with a 4xx or 5xx in time, and the node goes on."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hyperpy.devices.http_auth import HttpAuth

from hyperpy import Context, Message, Result, device, key
from hyperpy.codecs import json
from hyperpy.errors import HyperpyError, TooManyRequests
from hyperpy.message import Value
from hyperpy.testing import TestNode, node
from tests.security.attack import STRANGER, ask, http

JSON = {"content-type": "application/json"}


@device("greedy@1.0")
class Greedy:
    """Uses more of everything than it should."""

    @key
    def again(self, base: Message, ctx: Context) -> Value:
        return ctx.resolve(base, "again")

    @key
    def many(self, base: Message, ctx: Context, times: int) -> int:
        for _ in range(times):
            ctx.resolve(base, "nothing")
        return times

    @key
    def nothing(self) -> int:
        return 0

    @key
    def wide(self, base: Message, ctx: Context) -> Result:
        ctx.resolve(base, "wide")
        return Result("ok", b"")


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node(Greedy) as made:
        yield made
        assert made.get("/~message@1.0&a=1/a")["body"] == b"1", "the node must go on"


def status_of(n: TestNode, method: str, target: str, headers: dict[str, Any] | None = None, body: bytes = b"") -> int:
    started = time.monotonic()
    try:
        return http(n, method, target, headers, body).status
    except HyperpyError as error:
        return error.status
    finally:
        assert time.monotonic() - started < 10


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [66, 1000, 100_000])
def test_nesting(n: TestNode, depth: int) -> None:
    assert status_of(n, "POST", "/~message@1.0/a", JSON, nested(depth)) in (400, 413)
    assert status_of(n, "POST", "/~message@1.0/a", JSON, b"[" * depth + b"]" * depth) in (400, 413)
    assert status_of(n, "GET", "/" + "(" * depth + "x" + ")" * depth) in (400, 413, 414)


def test_nesting_within_the_limit(n: TestNode) -> None:
    assert status_of(n, "POST", "/~message@1.0/a", JSON, nested(40)) == 200


def test_keys(n: TestNode) -> None:
    wide = json.encode(Message({f"k{i}": "v" for i in range(9000)}))
    assert status_of(n, "POST", "/~message@1.0/k1", JSON, wide) == 200
    wider = b'{"x":{' + b",".join(b'"k%d":1' % i for i in range(10_001)) + b"}}"
    assert status_of(n, "POST", "/~message@1.0/x", JSON, wider) == 413
    assert status_of(n, "GET", "/~message@1.0/a?" + "&".join(f"k{i}=1" for i in range(10_001))) == 413


def test_keys_times_parts(n: TestNode) -> None:
    """Keys of the request go to each part of the path: the product is limited too."""
    wide = json.encode(Message({f"k{i}": "v" for i in range(9000)}))
    assert status_of(n, "POST", "/~message@1.0" + "/a" * 200, JSON, wide) == 413


@pytest.mark.parametrize("parts", [300, 5000])
def test_path_parts(n: TestNode, parts: int) -> None:
    assert status_of(n, "GET", "/~message@1.0" + "/a" * parts) == 413
    assert status_of(n, "GET", "/~message@1.0&x=1" + "/(a)" * parts) == 413


def test_path_bytes(n: TestNode) -> None:
    assert status_of(n, "GET", "/~message@1.0/" + "a" * 70_000) in (400, 413)
    assert status_of(n, "GET", "/~message@1.0/a?x=" + "a" * 70_000) in (400, 413)


def test_limits_of_paths_are_settings() -> None:
    with node(flags={"limits.parts": 3, "limits.path": 40}) as n:
        assert n.get("/~message@1.0&a=1/a")["status"] == 200
        assert n.get("/~message@1.0/a/b/c")["status"] == 413
        assert n.get("/~message@1.0&a=1/a?b=" + "x" * 40)["status"] == 413


def test_sub_steps(n: TestNode) -> None:
    assert status_of(n, "GET", "/~greedy@1.0/many&times=9000") == 200
    assert status_of(n, "GET", "/~greedy@1.0/many&times=10001") == 413


def test_recursion(n: TestNode) -> None:
    assert status_of(n, "GET", "/~greedy@1.0/again") == 508
    assert status_of(n, "GET", "/~greedy@1.0/wide") == 508


def test_recursion_and_steps_are_settings() -> None:
    with node(Greedy, flags={"limits.recursion": 3, "limits.steps": 5}) as n:
        assert n.get("/~greedy@1.0/again")["status"] == 508
        assert n.get("/~greedy@1.0/many&times=3")["status"] == 200
        assert n.get("/~greedy@1.0/many&times=9")["status"] == 413


@pytest.mark.parametrize(
    "path",
    [
        "/~apply@1.0&p=p/p",
        "/~apply@1.0&p=%2Fp/p",
        "/~stack@1.0&device-stack+list=%22stack@1.0%22/x",
        "/~multipass@1.0&passes+integer=1000000000/x",
        "/~test-device@1.0/infinite",
    ],
)
def test_paths_that_resolve_themselves_end(path: str) -> None:
    with node(flags={"limits.deadline": 2.0}) as n:
        started = time.monotonic()
        assert n.get(path)["status"] < 600
        assert time.monotonic() - started < 8
        assert n.get("/~message@1.0&a=1/a")["body"] == b"1"


@pytest.mark.parametrize(
    "text",
    [b"9" * 5000, b"-" + b"9" * 100_000, b"1e999999999", b"1" * 4300 + b"e5", b"NaN", b"Infinity", b"0x" + b"f" * 9999],
    ids=range(7),
)
def test_numbers_that_cost_quadratic_time(n: TestNode, text: bytes) -> None:
    headers = {"ao-types": b'x="integer"', "x": text}
    assert status_of(n, "GET", "/~message@1.0/x", headers) < 500
    assert status_of(n, "POST", "/~message@1.0/x", JSON, b'{"x":' + text + b"}") < 500
    assert status_of(n, "GET", "/~message@1.0/x?x+integer=" + text.decode()) < 500


def test_strangers_are_counted_and_loopback_is_not() -> None:
    with node(flags={"rate-limit.requests": 5, "rate-limit.min": 0}) as n:
        seen = [ask(n, "GET", "/~message@1.0&a=1/a", peer=STRANGER)["status"] for _ in range(12)]
        assert seen[0] == 200
        assert seen[-1] == 429
        assert {ask(n, "GET", "/~message@1.0&a=1/a")["status"] for _ in range(12)} == {200}
        assert ask(n, "GET", "/~message@1.0&a=1/a", peer="203.0.113.10")["status"] == 200


def test_who_asks_is_the_socket_not_a_header() -> None:
    with node(flags={"rate-limit.requests": 3, "rate-limit.min": 0}) as n:
        for number in range(9):
            spoofed = {"x-forwarded-for": f"10.0.0.{number}", "x-real-ip": "127.0.0.1", "ao-peer": "127.0.0.1"}
            last = ask(n, "GET", "/~message@1.0&a=1/a", spoofed, peer=STRANGER)
        assert last["status"] == 429


def test_an_uninitialised_node_answers_nothing_else() -> None:
    with node(flags={"meta.initialized": "false"}) as n:
        assert n.get("/~meta@1.0/info")["status"] == 200
        assert n.get("/~meta@1.0/info/address")["status"] == 200
        for path in (
            "/~message@1.0&a=1/a",
            "/~meta@1.0/info~message@1.0/set&a=1",
            "/~meta@1.0/info/(~message@1.0&a=1/a)",
            "/~meta@1.0/info/address/x~message@1.0",
            "/~meta@1.0/infox",
            "/~meta@1.0/build",
        ):
            assert n.get(path)["status"] == 400, path


def test_new_credentials_are_checked_so_often_for_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a secret of them takes a second or more, before their sender has any right."""
    derived: list[bytes] = []

    def derive(alg: str, credentials: bytes, salt: bytes, rounds: int, length: int) -> bytes:
        derived.append(credentials)
        return b"s" * length

    monkeypatch.setattr("hashlib.pbkdf2_hmac", derive)

    guard = HttpAuth()
    guard.start()

    def passes(who: str, peer: str) -> bool:
        header = b"Basic " + base64.b64encode(who.encode())
        try:
            guard.generate(Message.make({}, private={"authorization": header, "peer": peer}))
        except TooManyRequests as error:
            return not error.retry_after
        return True

    found = [passes(f"user-{number}:x", STRANGER) for number in range(30)]
    assert found == [True] * 10 + [False] * 20
    assert len(derived) == 10
    assert passes("user-0:x", STRANGER), "what is known costs nothing"
    assert passes("user-29:x", "198.51.100.7"), "others are not held up"
    assert len(derived) == 11
    assert all(passes(f"user-{number}:y", "127.0.0.1") for number in range(30))
