"""What a base and a request may be (ao-core 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Message, device, key
from hyperpy.cache import Batch
from hyperpy.commitments import content_id
from hyperpy.errors import HyperpyError, KeyNotFound, MessageError, ParameterError
from hyperpy.message import As, Atom, Link, Resolve
from hyperpy.normalise import has_control, key_of, part, says
from hyperpy.testing import TestNode, node


@device("say@1.0")
class Say:
    @key
    def what(self, base: Message, request: Message) -> str:
        return f"{base.text('x', '-')} {request.text('x', '-')}"

    @key
    def me(self, base: Message) -> Message:
        return base


@pytest.fixture(scope="module")
def n() -> Iterator[TestNode]:
    with node(Say) as made:
        yield made


def stored(n: TestNode, item: Any) -> str:
    batch = Batch()
    ref = n.node.cache.put(item, batch)
    batch.commit(n.node.store)
    return ref


SAY = {"device": "say@1.0", "x": "b"}


@pytest.mark.parametrize(
    ("base", "request_", "body"),
    [
        (Message(SAY), "what", b"b -"),
        (Message(SAY), Message({"path": "what", "x": "r"}), b"b r"),
        (Message(SAY), "me/what", b"b -"),
        (Message(SAY), Message({"path": "/me/what/"}), b"b -"),
        (Message(SAY), Message({"path": ["me", "what"], "x": "r"}), b"b r"),
        (Message({"x": "b"}), As("say@1.0", b"what"), b"b -"),
        (Message({"x": "b"}), As("say@1.0", Message({"path": "what", "x": "r"})), b"b r"),
        (Message({"x": "b"}), Message({"path": As("say@1.0", b"what"), "x": "r"}), b"b r"),
        (As("say@1.0", Message({"x": "b"})), "what", b"b -"),
        (As("say@1.0", Message({"x": "b", "device": "message@1.0"})), "x", b"b"),
        (Resolve((Message({"inner": SAY}), Message({"path": "inner"}))), "what", b"b -"),
        (Message(SAY), Message({"path": "what", "x": Resolve((Message({"y": "s"}), Message({"path": "y"})))}), b"b s"),
        (As(Resolve((Message({"y": "say@1.0"}), Message({"path": "y"}))), Message({"x": "b"})), "what", b"b -"),
        (("first", "second"), "2", b"second"),
        (Message({"list": ["first", {"deep": "down"}]}), "list/2/deep", b"down"),
        (Link("x" * 43, lambda ref: Message(SAY)), "what", b"b -"),
    ],
    ids=range(16),
)
def test_forms_of_base_and_request(n: TestNode, base: Any, request_: Any, body: bytes) -> None:
    assert n.node.resolve(base, request_, record=False) == body


def test_ids_as_bases(n: TestNode) -> None:
    ref = stored(n, Message(SAY))
    assert n.node.resolve(f"/{ref}/what") == b"b -"
    assert n.node.resolve(f"/{ref}~say@1.0/what") == b"b -"
    assert n.node.resolve(As("say@1.0", ref.encode()), "what", record=False) == b"b -"
    plain = stored(n, Message({"x": "c"}))
    assert n.node.resolve(f"/{plain}~say@1.0/what") == b"c -"
    assert n.node.resolve(f"/({ref})/what") == b"b -"


def test_lists_and_binaries_have_ids(n: TestNode) -> None:
    ref = stored(n, (b"one", b"two"))
    assert n.node.resolve(f"/{ref}/2") == b"two"
    text = stored(n, b"a binary")
    with pytest.raises(KeyNotFound, match="literal"):
        n.node.resolve(f"/{text}/x")


@pytest.mark.parametrize(
    ("base", "request_"),
    [
        (b"literal", "key"),
        (5, "key"),
        (True, "key"),
        (Message({"x": "1"}), "x/y"),
        (As("say@1.0", b"A" * 43), "what"),
        (As("say@1.0", Resolve((Message({"y": 5}), Message({"path": "y"})))), "what"),
        (Message({"x": "1"}), Message({"y": "2"})),
        (Message({"x": "1"}), Message({"path": Message({"a": "b"})})),
        (Message({"x": "1"}), Message({"path": Resolve((Message(), Message({"path": "absent"})))})),
        (Link("A" * 43), "x"),
    ],
    ids=range(10),
)
def test_what_is_refused(n: TestNode, base: Any, request_: Any) -> None:
    with pytest.raises(HyperpyError) as caught:
        n.node.resolve(base, request_, record=False)
    assert 400 <= caught.value.status < 500


def test_a_request_without_a_path_says_so() -> None:
    with pytest.raises(ParameterError, match="no 'path'") as caught:
        key_of(Message({"x": "1"}))
    assert caught.value.hint
    with pytest.raises(MessageError):
        key_of(Message({"path": ["a"]}))
    assert key_of(Message({"path": 3})) == "3"
    assert key_of(Message({"path": b"\xff"})) == "\udcff"


def test_parts() -> None:
    assert part(b"a") == "a"
    assert part(Message({"path": "a"})) == "a"
    assert part(Message({"path": 5})) is None
    assert part(5) is None


@pytest.mark.parametrize(
    ("control", "word", "found"),
    [
        (None, "no-cache", False),
        (b"no-cache", "no-cache", True),
        (b"max-age=0, no-cache", "no-cache", True),
        ((b"no-store", b"only-if-cached"), "only-if-cached", True),
        (Atom("no-cache"), "no-cache", True),
        (b"no-cache-please", "no-cache", False),
        (b"", "no-cache", False),
    ],
)
def test_cache_control(control: Any, word: str, found: bool) -> None:
    assert says(control, word) is found


def test_control_objects_are_seen() -> None:
    assert has_control(Message({"a": Resolve(())}))
    assert has_control(Message({"a": As("x@1.0", b"k")}))
    assert not has_control(Message({"a": "b", "c": {"d": "e"}}))


def test_content_is_the_same_however_it_came(n: TestNode) -> None:
    made = n.node.resolve(As("say@1.0", Message({"x": "b"})), "me", record=False)
    assert isinstance(made, Message)
    assert content_id(made) == content_id(Message(SAY))
