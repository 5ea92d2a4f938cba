"""Replies that clients could not read or verify are 4xx, in words that say what to do (ADR 6)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.errors import InvalidSignature, MessageError
from hyperpy.http.client import decode_reply
from hyperpy.http.wire import Wants, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message


@cache
def key() -> RsaKey:
    return RsaKey.generate(2048)


def signed(items: dict[str, Any], *names: str) -> Message:
    return commitments.commit(Message(items) | {"status": 200}, key(), committed=names or None)


@pytest.mark.parametrize(
    "name", ["x\x00", "x\ty", "\x01", "x\x1f", "x\x7f", "x\n", "@path", "@", "ao-ids", "ao-body-key"]
)
def test_keys_whose_signature_nobody_could_read_are_not_signed(name: str) -> None:
    with pytest.raises(MessageError, match="cannot be signed"):
        signed({name: b"1"})


@pytest.mark.parametrize("name", ["x\x00", "x\ty", "x\x7f"])
def test_nested_keys_with_control_characters_are_not_bundled(name: str) -> None:
    nested = Message({"a": {name: b"1"}})
    commitments.commit(nested, key())
    with pytest.raises(MessageError, match="cannot be signed"):
        commitments.commit(nested, key(), bundle=True)


def test_a_derived_name_does_not_pass_for_the_key_it_is_named_after() -> None:
    """``@path`` and ``path`` have one signed text; a commitment over the first must not verify on the second."""
    honest = signed({"path": b"/~meta@1.0/info"})
    forged = Message.make({"@path": b"/~meta@1.0/info", "status": 200}, honest.commitments)
    with pytest.raises(InvalidSignature):
        commitments.check(forged)


def test_a_key_nobody_signed_does_not_break_the_signature_headers() -> None:
    made = signed({"a": b"1", "x\x01": b"2"}, "a", "status")
    reply = write(made, Wants())
    assert reply.status == 200
    assert b"\x01" not in dict(reply.headers)[b"signature-input"]
    found = decode_reply(reply.status, reply.headers, reply.body)
    assert commitments.committers(found) == (key().address,)
    assert dict(found.raw_items()) == {"a": b"1", "status": 200}


@pytest.mark.parametrize(
    ("items", "bundle"),
    [
        ({"content-type": b"text", "a": b"\n"}, False),
        ({"content-type": b"text", "a": {"b": b"1"}}, True),
        ({"content-type": b"text", **{f"k{n}": b"1" for n in range(100)}}, False),
        ({"inline-body-key": b"data", "data": {"b": b"1"}}, True),
        ({'"': {"b": b"1"}}, True),
    ],
)
def test_what_would_not_verify_is_refused_and_json_is_proposed(items: dict[str, Any], bundle: bool) -> None:
    reply = write(signed(items), Wants(bundle=bundle))
    assert reply.status == 400
    assert b"Ask for JSON" in reply.body
    assert write(signed(items), Wants("json@1.0", bundle=bundle)).status == 200


@pytest.mark.parametrize("width", [8, 60])
def test_more_keys_than_headers_can_name_are_413(width: int) -> None:
    items = {f"{n:05d}".ljust(width, "x"): b"1" for n in range(8000)}
    reply = write(signed(items), Wants())
    assert reply.status == 413
    assert b"Ask for JSON" in reply.body
    assert write(signed(items), Wants("json@1.0")).status == 200


def test_a_thousand_keys_are_no_trouble() -> None:
    made = signed({f"key{n}": b"1" for n in range(1000)})
    reply = write(made, Wants())
    assert reply.status == 200
    assert len(decode_reply(reply.status, reply.headers, reply.body)) == 1001
