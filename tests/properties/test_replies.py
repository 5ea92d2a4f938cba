"""Replies: what a node signs and sends is read back verified and says the same, or it is a 4xx."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperpy import commitments
from hyperpy.errors import HyperpyError
from hyperpy.http.client import decode_reply
from hyperpy.http.wire import Wants, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from tests.properties.test_wire import safe

WORDS = (
    "content-type body data ao-types ao-body-key inline-body-key body-keys ao-ids ao-result status content-digest "
    "content-disposition content-length content-encoding transfer-encoding te connection host date server via vary "
    "set-cookie location @path @method path method signature signature-input unsigned_id codec-device device hint "
    "committed k.b A-b"
)
TEXTS = [b'multipart/form-data; boundary="b"', b"text/html", b'a="integer"', b"body", b"data", b"json@1.0", b"200"]
TEXTS += [b"x" * 5000, b"x\r\ny", b'x\n"y": z', b"", b" ", b'.="list"', b"close"]
LETTERS = 'ab"\\ \t%/:;=(),\x00\x01\x1f\x7f\x85é\udcff+A-.1\r\n@'
KEYS = (
    st.sampled_from(WORDS.split())
    | st.text(LETTERS, min_size=1, max_size=3)
    | st.sampled_from(["A" * 43, "a" * 32, "b" * 70])
).filter(lambda key: not key.startswith("priv") and key != "commitments")
SCALARS = (
    st.sampled_from(TEXTS)
    | st.text(LETTERS, max_size=4).map(lambda text: text.encode("utf-8", "surrogateescape"))
    | st.integers()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=6
)
ITEMS = st.dictionaries(KEYS, VALUES, max_size=5)
WIDE = {f"key{n}": b"1" for n in range(100)}


@cache
def key() -> RsaKey:
    return RsaKey.generate(2048)


def signed(items: dict[str, Any]) -> Message | HyperpyError:
    try:
        return commitments.commit(Message(items) | {"status": 200}, key(), tag="A" * 43 + "/" + "B" * 43)
    except HyperpyError as error:
        return error


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(ITEMS, st.booleans())
@example({"x\x00": b"2"}, False)
@example({"x\ty": b"2"}, False)
@example({"a": {"x\x01": b"1"}}, True)
@example({"content-type": b"text", "a": b"\n"}, False)
@example({"content-type": b"text", "a": {"b": b"1"}}, True)
@example({"content-type": b"text", **WIDE}, False)
@example({"@method": b"1"}, False)
@example({"ao-body-key": b"x", "x": b"1"}, False)
@example({"ao-body-key": b"x"}, False)
@example({"ao-ids": b"x"}, False)
@example({"inline-body-key": b"data", "data": {"b": b"1"}}, True)
@example({";": {"b": b"1"}, '"': b"1", "a/b": [b"1"]}, True)
@example({"a": {"b+link": b"x"}}, True)
@example(WIDE, False)
def test_a_signed_reply_comes_back_verified_or_is_refused(items: dict[str, Any], bundle: bool) -> None:
    made = signed(items)
    if isinstance(made, HyperpyError):
        assert 400 <= made.status < 500
        return
    reply = write(made, Wants(bundle=bundle))
    safe(reply.headers)
    if reply.status != 200:
        assert 400 <= reply.status < 500
        assert b"signature" not in dict(reply.headers)
        return
    stripped = [(name, value.strip(b" \t")) for name, value in reply.headers]
    found = decode_reply(reply.status, stripped, reply.body)
    assert commitments.committers(found) == (key().address,)
    covered = commitments.committed(made, ids="all")
    wanted = Message.make({name: value for name, value in made.raw_items().items() if name in covered})
    assert commitments.content_id(Message.make(found.raw_items())) == commitments.content_id(wanted)


@pytest.mark.parametrize("bundle", [False, True])
@pytest.mark.parametrize(
    "items",
    [
        {"content-type": b"text/html", "body": b"<p>"},
        {"content-type": b"text/html", "a": b"1"},
        {"content-type": b"text/html", "A b": b"1", "c": b"2"},
        {"codec-device": b"json@1.0", "a": b"1"},
        {"content-length": b"5", "te": b"x", "connection": b"x"},
        {"A" * 43: b"1", "a": b"\r\n", "body": b"\r\n"},
        WIDE,
    ],
)
def test_what_ordinary_clients_ask_for_is_not_refused(items: dict[str, Any], bundle: bool) -> None:
    """The property above would hold for a node that refuses everything; this would not."""
    made = commitments.commit(Message(items) | {"status": 200}, key())
    reply = write(made, Wants(bundle=bundle))
    expected = 400 if "A b" in items else 200  # its own content-type and that of the parts
    assert reply.status == expected
