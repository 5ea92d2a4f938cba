"""The codecs as devices: round trips, texts, missing and broken input."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import check, commit, signed_id, unsigned_id
from hyperpy.context import Chain, Frame
from hyperpy.errors import CodecError, Forbidden, HyperpyError, InvalidSignature, KeyNotFound, ParameterError
from hyperpy.message import Link

PLAIN = Message({"alpha": "hello", "beta": 42, "flag": True, "list": [1, 2.5, "x"], "map": {"a": {"b": 1}}})


def _as(device: str, message: Message = PLAIN) -> Message:
    return message | {"device": device}


def test_json_serialize_is_the_reference_s(bench: Any) -> None:
    """Vector resolve/63."""
    base = Message({"alpha": "hello", "beta": 42, "device": "json@1.0"})
    made = bench.get(base, "serialize")
    body = '{"alpha":"hello","beta":42,"device":"json@1.0"}'
    assert made == Message({"body": body, "content-type": "application/json"})


@pytest.mark.parametrize("device", ["json@1.0", "flat@1.0", "httpsig@1.0"])
def test_texts_come_back(bench: Any, device: str) -> None:
    base = _as(device) if device != "flat@1.0" else _as(device, Message({"a": "1", "m": {"n": 2}}))
    text = bench.get(base, {"path": "serialize", "bundle": True})
    assert isinstance(text["body"], bytes)
    assert bench.get(text | {"device": device}, "deserialize") == base


def test_children_are_linked_unless_bundled(bench: Any) -> None:
    base = _as("json@1.0", Message({"map": {"a": 1}}))
    linked = bench.get(base, "serialize")["body"]
    assert unsigned_id(Message({"a": 1})).encode() in linked
    assert b'"map+link"' in linked
    assert bench.get(base, {"path": "serialize", "bundle": "true"})["body"] == b'{"device":"json@1.0","map":{"a":1}}'


def test_a_linked_child_can_be_read(bench: Any) -> None:
    child = Message({"a": 1})
    bench.store.write(child)
    text = f'{{"map+link":"{unsigned_id(child)}"}}'
    made = bench.get(Message({"device": "json@1.0", "body": text}), "deserialize")
    assert made["map"] == child
    assert isinstance(made.raw("map"), Link)


def test_json_to_and_from(bench: Any) -> None:
    text = bench.get(_as("json@1.0"), {"path": "to", "bundle": True})
    assert bench.get(Message({"device": "json@1.0", "note": text}), {"path": "from", "target": "note"}) == _as(
        "json@1.0"
    )


def test_json_without_text_is_404(bench: Any) -> None:
    """Vector resolve/65."""
    result = bench.step(Message({"device": "json@1.0"}), "deserialize")
    body = "JSON payload not found in the base message.Searched for: body"
    assert (result.status, result.value) == ("error", Message({"status": 404, "body": body}))


@pytest.mark.parametrize("text", [b"{", b"\xff", b'{"a":1,"a":2}', b"7", b"[" * 10_000])
def test_broken_json_is_refused(bench: Any, text: bytes) -> None:
    with pytest.raises(HyperpyError) as caught:
        bench.step(Message({"device": "json@1.0", "body": text}), "deserialize")
    assert caught.value.status in (400, 413)


def test_structured_from_and_to(bench: Any) -> None:
    made = bench.get(_as("structured@1.0"), {"path": "from", "bundle": True})
    assert made["beta"] == b"42"
    assert b'beta="integer"' in made["ao-types"]
    assert bench.get(made, "to") == _as("structured@1.0")


def test_flat_to_and_from(bench: Any) -> None:
    flat = bench.get(_as("flat@1.0", Message({"m": {"n": {"o": "1"}}})), "to")
    assert flat == Message({"device": "flat@1.0", "m/n/o": "1"})
    assert bench.get(flat, "from")["m"]["n"]["o"] == b"1"
    with pytest.raises(CodecError, match="holds no maps"):
        bench.get(_as("flat@1.0", Message({"m": {"n": "1"}})), "from")


def test_httpsig_keeps_signatures(bench: Any, alice: Any) -> None:
    signed = commit(Message({"a": "1", "n": 2}), alice)
    form = bench.get(signed | {"device": "httpsig@1.0"}, "to")
    assert "signature-input" in form
    back = bench.get(form, "from")
    check(back)
    assert signed_id(back) == signed_id(signed)


def test_httpsig_components(bench: Any) -> None:
    made = bench.get(
        _as("httpsig@1.0", Message({"a": "1", "body": "B"})), {"path": "serialize", "format": "components"}
    )
    assert (made["headers"]["a"], made["body"]) == (b"1", b"B")


def test_httpsig_line_breaks_are_refused(bench: Any) -> None:
    with pytest.raises(CodecError, match="line break"):
        bench.get(_as("httpsig@1.0", Message({"a": "1\nb: 2"})), "serialize")
    with pytest.raises(CodecError, match="no colon"):
        bench.get(Message({"device": "httpsig@1.0", "body": "nothing"}), "deserialize")


def test_ans104_round_trip(bench: Any, arweave: Any) -> None:
    signed = commit(Message({"action": "go", "data": "D"}), arweave, device="ans104@1.0")
    item = bench.get(signed | {"device": "ans104@1.0"}, "serialize")
    assert item["content-type"] == b"application/ans104"
    back = bench.get(item | {"device": "ans104@1.0"}, "deserialize")
    assert (back["action"], back["data"]) == (b"go", b"D")
    assert signed_id(back) == signed_id(signed)
    damaged = item["body"][:-1] + b"X"
    with pytest.raises(InvalidSignature):
        bench.get(Message({"device": "ans104@1.0", "body": damaged}), "deserialize")


def test_ans104_commit(bench: Any, arweave: Any) -> None:
    bench.key = arweave
    made = bench.get(Message({"device": "ans104@1.0", "a": "1"}), "commit")
    (one,) = made.commitments.values()
    assert one["commitment-device"] == b"ans104@1.0"
    assert bench.get(made, {"path": "verify", "committers": "all"}) is True


@pytest.mark.parametrize(
    ("device", "media"), [("json@1.0", b"application/json"), ("ans104@1.0", b"application/ans104")]
)
def test_content_type(bench: Any, device: str, media: bytes) -> None:
    assert bench.get(Message({"device": device}), "content-type") == media


@pytest.mark.parametrize("device", ["flat@1.0", "httpsig@1.0", "ans104@1.0"])
def test_missing_text(bench: Any, device: str) -> None:
    with pytest.raises(KeyNotFound, match="'body'"):
        bench.get(Message({"device": device}), "deserialize")
    with pytest.raises(ParameterError, match="must be text"):
        bench.get(Message({"device": device, "body": 1}), "deserialize")


def test_signing_on_request_is_the_operator_s(bench: Any, alice: Any) -> None:
    """A chain that may not sign refuses ``commit`` (design 5, c)."""

    bench.key = alice
    chain = Chain(deadline=time.monotonic() + 30, may_sign=False)
    with pytest.raises(Forbidden):
        bench.resolver.resolve(
            Message({"device": "ans104@1.0", "a": "1"}), "commit", Frame(bench.resolver, chain, 0, None)
        )
