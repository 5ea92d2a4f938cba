"""IDs, signatures and the HTTP form: what must hold for every message."""

from __future__ import annotations

import contextlib
import time
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hyperpy import commitments
from hyperpy.codecs import httpsig, multipart, plan, structured
from hyperpy.codecs import signature as sig
from hyperpy.commitments.ids import base_of
from hyperpy.errors import HyperpyError, InvalidSignature, MessageError
from hyperpy.keys import RsaKey
from hyperpy.message import Message, atom

WORDS = frozenset(
    {"ao-types", "ao-ids", "ao-body-key", "body-keys", "inline-body-key", "content-type", "content-length"}
    | {"signature", "signature-input", "commitments", "content-disposition", "content-digest"}
)

KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,11}", fullmatch=True).filter(
    lambda key: not key.startswith("priv") and key not in structured.REGENERATED | WORDS
)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.encode)
LONG = st.integers(4090, 4100).map(lambda n: b"x" * n)
SCALARS = st.one_of(
    PRINTABLE, LONG, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.just(atom("ok"))
)
FLAT = st.dictionaries(KEYS, SCALARS, max_size=8).map(Message)
MESSAGES = st.recursive(
    FLAT,
    lambda inner: st.dictionaries(
        KEYS, st.one_of(SCALARS, inner, st.lists(st.one_of(SCALARS, inner), max_size=3)), max_size=5
    ).map(Message),
    max_leaves=6,
)


@cache
def key() -> RsaKey:
    """A small key, made once."""
    return RsaKey.generate(1024 + 512)


def _shuffled(msg: Message, draw: Any) -> Message:
    names = draw.draw(st.permutations(list(msg)))
    return Message.make({name: msg.raw_items()[name] for name in names})


@given(MESSAGES, st.data())
def test_id_ignores_order(msg: Message, data: Any) -> None:
    """The order of construction does not show; the planned base is the general one."""
    other = _shuffled(msg, data)
    assert commitments.unsigned_id(other) == commitments.unsigned_id(msg)
    general = httpsig.signed(structured.encode(msg, link=commitments.signed_id)).base(plan.UNSIGNED_PARAMS)
    assert plan.unsigned_base(other, commitments.signed_id) in (None, general)


@given(MESSAGES, st.data())
def test_signature_base_by_shape(msg: Message, data: Any) -> None:
    """The base of a signature over any of the keys is that of the general encoder, also where the shape gives it."""
    every = httpsig.signed(structured.encode(msg, link=commitments.signed_id)).committed
    some = st.lists(st.sampled_from(every or ("a",)), unique=True)
    names = data.draw(st.one_of(st.just(every), st.permutations(every), some))
    general = httpsig.signed(structured.encode(msg, link=commitments.signed_id), tuple(names))
    assert base_of(msg, tuple(names), False, b";x=1") == general.base(b";x=1")


@given(MESSAGES, KEYS, SCALARS)
def test_id_notices_any_change(msg: Message, name: str, value: Any) -> None:
    """Another value, another type of the same text, one key more or less: another ID."""
    changed = Message.make({**msg.raw_items(), name: value})
    before = msg.raw(name)
    assume(before is None or type(before) is not type(value) or before != value)
    assert commitments.unsigned_id(changed) != commitments.unsigned_id(msg)


@given(MESSAGES)
def test_linked_form_comes_back(msg: Message) -> None:
    """Decoding what was encoded gives the message, nested ones as links, and the same ID."""
    form = httpsig.encode(structured.encode(msg, link=commitments.signed_id))
    back = structured.decode(httpsig.decode(form.headers, form.body))
    assert isinstance(back, Message)
    assert back.keys() == msg.keys()
    assert commitments.unsigned_id(back) == commitments.unsigned_id(msg)


@given(MESSAGES)
def test_bundle_comes_back(msg: Message) -> None:
    """The bundled form holds everything, if no nested body is empty (which has no form)."""
    assume(not _has_empty_body(msg, 0))
    form = httpsig.encode(structured.encode(msg))
    back = structured.decode(httpsig.decode(form.headers, form.body))
    assert back == msg


def _has_empty_body(item: Any, depth: int) -> bool:
    if isinstance(item, tuple):
        return any(_has_empty_body(one, depth + 1) for one in item)
    if not isinstance(item, Message):
        return False
    return bool(depth and item.raw("body") == b"") or any(
        _has_empty_body(one, depth + 1) for one in item.raw_items().values()
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.booleans())
def test_signed_messages_travel(msg: Message, bundle: bool) -> None:
    """What is signed verifies, also after the wire; it keeps its content and its unsigned ID."""
    assume(not bundle or not _has_empty_body(msg, 0))
    made = commitments.commit(msg, key(), bundle=bundle)
    commitments.check(made)
    assert commitments.content_id(made.with_commitments({})) == commitments.content_id(msg)
    assert commitments.committers(made) == (key().address,)
    form = commitments.http_form(made, bundle=bundle)
    back = structured.decode(httpsig.decode(form.headers, form.body))
    assert isinstance(back, Message)
    commitments.check(back)
    assert commitments.signed_id(back) == commitments.signed_id(made)
    assert commitments.hashpath_id(back) == commitments.hashpath_id(made)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(FLAT.filter(len), st.data())
def test_one_flipped_byte_never_verifies(msg: Message, data: Any) -> None:
    """Flip a byte of a header or of the body of a signed message: refused, or nothing changed."""
    made = commitments.commit(msg, key())
    form = commitments.http_form(made)
    name = data.draw(st.sampled_from(sorted(form.headers) + (["(body)"] if form.body else [])))
    raw = bytearray(form.body or b"" if name == "(body)" else form.headers[name])
    assume(raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    headers = form.headers if name == "(body)" else {**form.headers, name: bytes(raw)}
    try:
        back = structured.decode(httpsig.decode(headers, bytes(raw) if name == "(body)" else form.body))
        assert isinstance(back, Message)
        commitments.check(back)
    except HyperpyError:
        return
    signed = [one for one in back.commitments.values() if commitments.committer_of(one) == key().address]
    if signed:  # what was flipped is no part of the message: a name of a parameter, the length of a label
        kept = commitments.only_committed(back)
        assert all(kept.raw_items()[one] == msg.raw_items()[one] for one in kept)
        assert commitments.signed_id(back) in (commitments.signed_id(made), *back.commitments)


@given(FLAT.filter(len), st.data())
def test_unverified_claims_are_refused(msg: Message, data: Any) -> None:
    """A commitment under another ID, or with another committer, is refused by check, not by verify."""
    made = commitments.commit(msg, key())
    name = commitments.signed_id(made)
    one = made.commitments[name]
    moved = made.with_commitments({"x" * 43: one})
    other = made.with_commitments({name: one | {"committer": "y" * 43}})
    for claimed in (moved, other):
        assert commitments.verify(claimed)
        with pytest.raises(InvalidSignature):
            commitments.check(claimed)


@given(st.dictionaries(st.text(max_size=8).map(str.lower), st.binary(max_size=60), max_size=6), st.binary(max_size=200))
def test_decode_raises_only_ours(headers: dict[str, bytes], body: bytes) -> None:
    """Arbitrary headers and bodies: a TABM or an error of ours."""
    with contextlib.suppress(HyperpyError):
        httpsig.decode(headers, body)


BITS = st.lists(
    st.sampled_from(
        [
            b'comm-a=("a" "b")',
            b"=",
            b":",
            b'"',
            b"\\",
            b"(",
            b")",
            b";",
            b",",
            b'sig1=("@path");alg="x"',
            b"AAAA",
            b" ",
            b';keyid="publickey:AAAA"',
            b";created=1",
            b"%41",
            b"%",
            b"\xff",
            b"sig1=:AAAA:",
            b"comm-a=:AAAA:",
        ]
    ),
    max_size=12,
).map(b"".join)


@given(BITS, BITS, st.sampled_from([b"v", b'v\n"b": 1', b""]))
def test_signature_headers_raise_only_ours(given_: bytes, inputs: bytes, value: bytes) -> None:
    """Broken signature headers, and verifying what came out of them."""
    with contextlib.suppress(HyperpyError):
        found = structured.decode(httpsig.decode({"signature": given_, "signature-input": inputs, "a": value}, None))
        assert isinstance(found, Message)
        commitments.verify(found)
        commitments.signed_id(found)
        commitments.hashpath_id(found)
        commitments.only_committed(found)


PARTS = st.lists(
    st.sampled_from(
        [
            b"--B",
            b"--",
            b"\r\n",
            b"\r\n\r\n",
            b'content-disposition: form-data;name="',
            b'a/b"',
            b"inline",
            b": ",
            b"k: v",
            b"content-disposition: inline",
            b"ao-types: empty-message",
            b'a="integer"',
            b"/",
            b"%2f",
            b"\x00",
            b"B",
        ]
    ),
    max_size=30,
).map(b"".join)


@given(st.one_of(PARTS, PARTS.map(lambda raw: b"--B\r\n" + raw + b"\r\n--B--"), st.binary(max_size=300)))
def test_multipart_raises_only_ours(body: bytes) -> None:
    """Arbitrary multipart bodies: parts or an error of ours."""
    with contextlib.suppress(HyperpyError):
        multipart.decode(body, b"B", "body")


HOSTILE = [
    lambda n: ("headers", {"signature-input": b'a=("' + b"x" * n, "signature": b""}),
    lambda n: ("headers", {"signature-input": b"a=(" + b'"a" ' * n + b")", "signature": b"a=:AAAA:"}),
    lambda n: ("headers", {"signature-input": b"a=()" + b";a" * n, "signature": b"a=:AAAA:"}),
    lambda n: ("headers", {"signature-input": b"a=()" + b" " * n + b"x", "signature": b""}),
    lambda n: ("headers", {"signature": b"a=:" + b"A" * n, "signature-input": b""}),
    lambda n: ("headers", {"content-type": b";" + b" " * n + b"x", "a": b""}),
    lambda n: ("body", b"--B\r\n" + b"\r\n--B" * n),
    lambda n: ("body", b"--B\r\n" + b"a: b\r\n" * n + b"\r\n--B--"),
    lambda n: ("body", b"--B\r\ncontent-disposition: form-data" + b';name="' * n + b"\r\n--B--"),
    lambda n: ("body", b"--B\r\n" + b'content-disposition: form-data;name="' + b"a/" * n + b'"\r\n--B--'),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_parsing_is_linear(number: int) -> None:
    """Eight times the input takes far less than 64 times the time."""

    def cost(n: int) -> float:
        kind, made = HOSTILE[number](n)
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            with contextlib.suppress(HyperpyError):
                if kind == "body":
                    multipart.decode(made, b"B", "body")  # type: ignore[arg-type]
                else:
                    httpsig.decode(made, b"x")  # type: ignore[arg-type]
            best = min(best, time.process_time() - start)
        return best

    small, large = cost(20_000), cost(160_000)
    assert large < 24 * small + 0.02


@given(KEYS, st.binary(max_size=20), st.binary(max_size=20))
def test_smuggled_lines_are_not_signed(name: str, head: bytes, tail: bytes) -> None:
    """A header value that goes on as another component is refused; its unsigned ID is defined."""
    assume(name not in ("b", "body", "data"))
    msg = Message({name: head + b'\n"b": ' + tail, "b": "2"})
    assert len(commitments.unsigned_id(msg)) == 43
    with pytest.raises(MessageError):
        commitments.commit(msg, key())


def test_signature_texts() -> None:
    """Names of parameters with quotes and backslashes come back."""
    text = sig.wire_names(['a"b', "c\\d"]) + b";tag=" + sig.quoted(b'x"y\\z')
    member = sig.parse_input(b"l=" + text)[0]
    assert (member.covered, member.params, member.raw) == (('a"b', "c\\d"), {"tag": 'x"y\\z'}, text)
