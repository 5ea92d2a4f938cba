"""Lists: how many members are read, and that a long one is hashed once, not once for each message it is in."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.codecs import json, sfv, structured
from hyperpy.commitments import ids
from hyperpy.errors import SizeError
from hyperpy.http.wire import RawRequest, read
from hyperpy.message import Message
from hyperpy.testing import node

MOST = 10_000


def array(count: int) -> bytes:
    return b"[" + b",".join([b"0"] * count) + b"]"


def test_json_lists_have_a_limit_on_members() -> None:
    made = json.decode(b'{"a":' + array(MOST) + b"}")
    assert isinstance(made, Message)
    assert len(made["a"]) == MOST  # type: ignore[arg-type]
    with pytest.raises(SizeError, match="10000 members"):
        json.decode(b'{"a":' + array(MOST + 1) + b"}")


def test_many_json_values_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"[" + b",".join([array(5000)] * 20) + b"]"
    assert len(json.decode(text)) == 20

    class Unread:
        def decode(self, text: str) -> Any:
            raise AssertionError("the text was parsed")

    monkeypatch.setattr(json, "_DECODER", Unread())
    with pytest.raises(SizeError, match="100000 values"):
        json.decode(b"[" + b",".join([array(5000)] * 21) + b"]")


def test_commas_in_json_texts_are_no_values() -> None:
    made = json.decode(b'{"a":"' + b'\\",' * 150_000 + b'","b":"' + b"," * 150_000 + b'"}')
    assert isinstance(made, Message)
    assert made["b"] == b"," * 150_000


@pytest.mark.parametrize("member", [b"1", b'"(ao-type-integer) 1"'])
def test_lists_of_one_line_have_a_limit(member: bytes) -> None:
    assert len(sfv.decode_value("list", b", ".join([member] * MOST))) == MOST  # type: ignore[arg-type]
    with pytest.raises(SizeError):
        sfv.decode_value("list", b", ".join([member] * (MOST + 1)))


def test_unquoted_lists_have_the_same_limit() -> None:
    text = b", ".join([b"(ao-type-integer) 1"] * (MOST + 1))
    with pytest.raises(SizeError):
        sfv.decode_value("list", text)


def test_maps_and_types_of_one_line_have_a_limit() -> None:
    entries = [b"k%d=1" % n for n in range(MOST + 1)]
    with pytest.raises(SizeError):
        sfv.decode_value("map", b", ".join(entries))
    with pytest.raises(SizeError):
        structured.parse_types(b", ".join(b'k%d="integer"' % n for n in range(MOST + 1)))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the lengths of the lists that are hashed, from no memory of earlier ones on."""
    seen: list[int] = []
    encode = structured.encode

    def counting(item: Any, **options: Any) -> Any:
        if type(item) is tuple:
            seen.append(len(item))
        return encode(item, **options)

    monkeypatch.setattr(ids.structured, "encode", counting)
    monkeypatch.setattr(ids, "_long_lists", {})
    return seen


def test_a_long_list_is_hashed_once(hashed: list[int]) -> None:
    members = tuple(range(1000))
    first = commitments.content_id(Message.make({"a": 1, "list": members}))
    assert commitments.content_id(Message.make({"a": 1, "list": tuple(range(1000))})) == first
    assert hashed == [1000, 1000]  # equal, yet another list
    for n in range(5):
        commitments.content_id(Message.make({"n": n, "list": members}))
    assert hashed == [1000, 1000]


def test_few_long_lists_are_remembered(hashed: list[int]) -> None:
    lists = [tuple(range(n, n + 100)) for n in range(200)]
    found = [commitments.content_id(one) for one in lists]
    assert len(set(found)) == 200
    assert len(ids._long_lists) <= 32
    assert [commitments.content_id(one) for one in lists] == found


def test_a_request_hashes_its_list_once(hashed: list[int]) -> None:
    headers = ((b"content-type", b"application/json"),)
    asked = read(RawRequest("POST", b"/~message@1.0/keys", headers, b'{"a":' + array(500) + b"}"))
    with node() as made:
        reply = made.node.handle(asked)
    assert reply["status"] == 200
    assert hashed.count(500) == 1
