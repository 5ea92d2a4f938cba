"""Which device and which key answer (ao-core 7.4, 7.5)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from hyperpy import Message, device, key
from hyperpy.dispatch import find
from hyperpy.errors import DeviceNotFound
from hyperpy.registry import Registry
from hyperpy.sdk import default, handler
from hyperpy.testing import TestNode, node


@device("plain@1.0")
class Plain:
    @key
    def own(self) -> str:
        return "own"

    @key(name="other-name")
    def named(self) -> str:
        return "named"

    @key
    def two_words(self) -> str:
        return "two words"


@device("handled@1.0", excludes=("keys", "two_words"))
class Handled:
    @key
    def own(self) -> str:
        return "own"

    @handler
    def all(self, key: str) -> str:
        return f"handler {key}"


@device("defaulted@1.0", excludes=("set",))
class Defaulted:
    @key
    def own(self) -> str:
        return "own"

    @default
    def rest(self, key: str) -> str:
        return f"default {key}"


@device("listed@1.0")
class Listed:
    def exports(self, base: Message) -> Collection[str] | None:
        return None if base.get("open") is not None else ["own", "two_words"]

    @key
    def own(self) -> str:
        return "own"

    @key
    def two_words(self) -> str:
        return "two words"

    @key
    def hidden(self) -> str:
        return "hidden"


@pytest.fixture(scope="module")
def n() -> Iterator[TestNode]:
    with node(Plain, Handled, Defaulted, Listed) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/~plain@1.0/own", "own"),
        ("/~plain@1.0/OWN", "own"),
        ("/~plain@1.0/other-name", "named"),
        ("/~plain@1.0/two-words", "two words"),
        ("/~plain@1.0/two_words", "two words"),
        ("/~plain@1.0&x=fallback/x", "fallback"),
        ("/~plain@1.0&own=shadowed/own", "own"),
        ("/~handled@1.0/own", "handler own"),
        ("/~handled@1.0/anything", "handler anything"),
        ("/~handled@1.0&two-words=excluded/two-words", "excluded"),
        ("/~defaulted@1.0/own", "own"),
        ("/~defaulted@1.0/anything", "default anything"),
        ("/~defaulted@1.0&x=1/x", "default x"),
        ("/~listed@1.0/own", "own"),
        ("/~listed@1.0/two-words", "two words"),
        ("/~listed@1.0&hidden=key/hidden", "key"),
        ("/~listed@1.0&open=1/hidden", "hidden"),
    ],
)
def test_who_answers(n: TestNode, path: str, body: str) -> None:
    assert n.get(path)["body"] == body.encode()


@pytest.mark.parametrize("path", ["/~plain@1.0/named", "/~listed@1.0/hidden", "/~handled@1.0/two-words"])
def test_nobody_answers(n: TestNode, path: str) -> None:
    assert n.get(path)["status"] == 404


def test_excluded_keys_are_the_messages(n: TestNode) -> None:
    reply = n.get("/~handled@1.0&x=1/keys")
    assert b"x" in [reply[name] for name in reply]
    assert n.get("/~defaulted@1.0/set&y=2")["y"] == b"2"


def test_info_is_always_the_devices(n: TestNode) -> None:
    for name in ("plain@1.0", "handled@1.0", "defaulted@1.0"):
        assert n.get(f"/~{name}/info")["name"] == name.encode()


def test_unknown_devices_are_404_with_a_suggestion(n: TestNode) -> None:
    reply = n.http("GET", "/~plian@1.0/own")
    assert reply.status == 404
    assert b"Did you mean 'plain@1.0'?" in reply.body
    far = n.http("GET", "/~zzzzzzzz@9/own")
    assert b"hyperpy devices" in far.body


def test_unknown_keys_are_404_with_a_suggestion(n: TestNode) -> None:
    reply = n.http("GET", "/~message@1.0&colour=red/color", {"accept": "text/html"})
    assert reply.status == 404
    assert b"colour" in reply.body


@pytest.mark.parametrize("at", [5, True, Message(), ("plain@1.0",)])
def test_a_device_that_is_no_text(at: object) -> None:
    with pytest.raises(DeviceNotFound):
        find(Registry([Plain]), Message({"device": at}), "own")


def test_found_keys_are_remembered_but_not_without_end() -> None:
    registry = Registry([Plain, Defaulted])
    base = Message({"device": "defaulted@1.0"})
    for number in range(2000):
        assert find(registry, base, f"k{number}").name == f"k{number}"
    assert len(registry.lookup("defaulted@1.0").found) < 1000


def test_message_itself_has_no_fallback() -> None:
    assert find(Registry(), Message(), "anything").device.spec.name == "message@1.0"
