"""Forged, moved and smuggled signatures: refused at ingress with 400, or worth nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.codecs import ans104, json
from hyperpy.codecs.signature import digest_header
from hyperpy.commitments import http_form
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import HyperpyError, InvalidSignature
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import Ed25519Signer
from hyperpy.message import Message
from hyperpy.testing import TestNode, node
from tests.security.attack import ask, http, mallory, operator, sign

JSON = {"content-type": "application/json"}
PATH = "/~message@1.0/committers"


@pytest.fixture(scope="module")
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def victim() -> RsaKey:
    return operator()


def signed() -> Message:
    return sign({"x": "1", "y": "2"}, victim())


def status_of(n: TestNode, target: str, headers: dict[str, Any], body: bytes = b"") -> int:
    """Return the status of the reply, that of a refusal at ingress included."""
    try:
        return http(n, "POST", target, headers, body).status
    except HyperpyError as error:
        return error.status


def changed(message: Message, change: Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]) -> bytes:
    """Return a message as JSON, each signer's commitment changed."""
    made = {}
    for name, one in message.commitments.items():
        if commitments.committer_of(one):
            name, fields = change(name, dict(one.raw_items()))
            made[name] = Message(fields)
    return json.encode(Message.make(dict(message.raw_items()), made))


def test_the_genuine_one_is_taken(n: TestNode) -> None:
    form = http_form(signed())
    assert status_of(n, PATH, dict(form.headers), form.body or b"") == 200
    assert status_of(n, PATH, JSON, json.encode(signed())) == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda name, one: (name, one | {"committer": mallory().address}),
        lambda name, one: (name, {k: v for k, v in one.items() if k != "committer"}),
        lambda name, one: (b64u(hashlib.sha256(b"another").digest()), one),
        lambda name, one: (name, one | {"keyid": mallory().keyid}),
        lambda name, one: (name, one | {"keyid": mallory().keyid, "committer": mallory().address}),
        lambda name, one: (name, one | {"keyid": "publickey:AQAB"}),
        lambda name, one: (name, one | {"keyid": "constant:ao"}),
        lambda name, one: (name, one | {"committed": (b"x", b"y", b"z")}),
        lambda name, one: (name, one | {"committed": (b"x",)}),
        lambda name, one: (name, one | {"committed": ()}),
        lambda name, one: (name, one | {"committed": "x"}),
        lambda name, one: (name, one | {"committed": {"²": "x"}}),
        lambda name, one: (name, one | {"committed": {"1" * 5000: "x"}}),
        lambda name, one: (name, one | {"committed": [["x"]]}),
        lambda name, one: (name, one | {"type": "rsa-pss-sha256"}),
        lambda name, one: (name, one | {"type": "hmac-sha256"}),
        lambda name, one: (name, one | {"type": "none"}),
        lambda name, one: (name, one | {"commitment-device": "ans104@1.0"}),
        lambda name, one: (name, one | {"commitment-device": "trustme@1.0"}),
        lambda name, one: (name, one | {"tag": "A/b"}),
        lambda name, one: (name, one | {"bundle": "true"}),
        lambda name, one: (name, one | {"signature": b64u(bytes(256))}),
        lambda name, one: (name, one | {"signature": b""}),
        lambda name, one: (name, one | {"signature": b"!!"}),
        lambda name, one: (name, {}),
    ],
    ids=range(25),
)
def test_a_forged_commitment_is_refused(n: TestNode, change: Any) -> None:
    body = changed(signed(), change)
    assert status_of(n, PATH, JSON, body) == 400


@pytest.mark.parametrize(
    ("key", "text"),
    [("x", b"2"), ("x", b"1, 1"), ("y", b""), ("ao-types", b'x="integer"'), ("ao-types", b'x="atom", y="list"')],
)
def test_a_changed_value_is_refused(n: TestNode, key: str, text: bytes) -> None:
    form = http_form(signed())
    assert status_of(n, PATH, {**form.headers, key: text}, form.body or b"") == 400


def test_types_that_nobody_signed_are_refused(n: TestNode) -> None:
    """Without this, one signature fits the text ``1`` and the number 1: two messages with one signed ID."""
    genuine = signed()
    body = json.encode(Message.make({**genuine.raw_items(), "x": 1}, genuine.commitments))
    assert status_of(n, PATH, JSON, body) == 400
    typed = http_form(sign({"x": 1, "y": "2"}, victim()))
    assert status_of(n, PATH, dict(typed.headers)) == 200
    assert status_of(n, PATH, {k: v for k, v in typed.headers.items() if k != "ao-types"}) == 400


def test_a_signature_header_without_its_other_half_is_nothing(n: TestNode) -> None:
    form = http_form(signed())
    reply = ask(n, "POST", PATH, {k: v for k, v in form.headers.items() if k != "signature-input"})
    assert reply["status"] == 200
    assert "1" not in reply


def test_a_missing_key_is_refused(n: TestNode) -> None:
    form = http_form(signed())
    assert status_of(n, PATH, {k: v for k, v in form.headers.items() if k != "y"}) == 400


def test_keys_beside_the_signed_ones_are_dropped(n: TestNode) -> None:
    form = http_form(signed())
    reply = ask(n, "POST", "/~message@1.0/z", {**form.headers, "z": "evil"}, form.body or b"")
    assert reply["status"] == 404


def test_a_tampered_body_is_refused(n: TestNode) -> None:
    form = http_form(sign({"body": "pay alice", "x": "1"}, victim()))
    assert status_of(n, PATH, dict(form.headers), form.body or b"") == 200
    assert status_of(n, PATH, dict(form.headers), b"pay mallo") == 400
    assert status_of(n, PATH, dict(form.headers), b"") == 400
    digest = digest_header(b"pay mallo")
    assert status_of(n, PATH, {**form.headers, "content-digest": digest}, b"pay mallo") == 400
    bare = {k: v for k, v in form.headers.items() if k != "content-digest"}
    assert status_of(n, PATH, bare, b"pay mallo") == 400


@pytest.mark.parametrize("digest", ["sha-256=:AAAA:", "sha-256=:x", "md5=:AAAA:", "", "sha-512=:AAAA:"])
def test_a_digest_that_does_not_fit_is_refused(n: TestNode, digest: str) -> None:
    assert status_of(n, PATH, {"content-digest": digest}, b"hello") == 400


def test_another_messages_signature_is_refused(n: TestNode) -> None:
    mine = http_form(sign({"x": "1", "y": "3"}, victim()))
    form = http_form(signed())
    for name in ("signature", "signature-input"):
        assert status_of(n, PATH, {**form.headers, name: mine.headers[name]}) == 400


@pytest.mark.parametrize(
    ("signature", "described"),
    [
        (b"", b"sig=()"),
        (b"sig=:AAAA:", b"other=()"),
        (b"sig=1", b"sig=()"),
        (b"sig=:AAAA:", b'sig=("x");keyid="publickey:AAAA"'),
        (b"sig=:AAAA:", b'sig=("x" "x");keyid="publickey:AAAA"'),
        (b"comm-x=:AAAA:", b'comm-x=("missing");keyid="publickey:AAAA"'),
        (b"\xff", b"\xff"),
        (b"sig=:" + b"A" * 60000 + b":", b"sig=()"),
    ],
    ids=range(8),
)
def test_broken_signature_headers_are_refused(n: TestNode, signature: bytes, described: bytes) -> None:
    assert status_of(n, PATH, {"x": "1", "signature": signature, "signature-input": described}) in (400, 413)


# -- one signed text, two messages ---------------------------------------------------------------


def test_a_value_that_smuggles_a_line_is_not_signed(n: TestNode) -> None:
    smuggled = 'harmless\n"operator": mallory'
    with pytest.raises(HyperpyError):
        sign({"a": smuggled}, victim())
    with node(flags={"http.sign-on-request": True}) as open_node:
        body = json.encode(Message({"a": smuggled}))
        assert status_of(open_node, "/~message@1.0/commit", JSON, body) == 400


def test_a_signature_over_the_smuggled_reading_is_refused(n: TestNode) -> None:
    """The same text is signed for {a, b}; sent as {a: 'x\\n"b": y'} it must not verify."""
    genuine = sign({"a": "x", "b": "y"}, victim())
    one = {
        name: fields | {"committed": (b"a",)}
        for name, fields in genuine.commitments.items()
        if commitments.committer_of(fields)
    }
    forged = Message.make({"a": b'x\n"b": y'}, {name: Message(fields) for name, fields in one.items()})
    with pytest.raises(InvalidSignature):
        commitments.check(forged)
    assert status_of(n, PATH, JSON, json.encode(forged)) == 400


def test_a_key_with_percent_is_refused_when_signed(n: TestNode) -> None:
    with pytest.raises(HyperpyError):
        sign({"a%2fb": "1"}, victim())
    unsigned = json.encode(Message({"a%2fb": "1"}))
    assert status_of(n, PATH, JSON, unsigned) in (200, 404)


def test_a_nested_key_that_marks_a_derived_name_is_not_signed() -> None:
    """Its unsigned commitment would cover no key: read again, the message would have another ID."""
    with pytest.raises(HyperpyError):
        commitments.commit(Message({"x": {"@y": "1"}}), victim(), bundle=True)


@pytest.mark.parametrize("key", ["a\nb", "a\rb", "a%"])
def test_keys_that_end_a_line_are_not_signed(key: str) -> None:
    with pytest.raises(HyperpyError):
        commitments.check(sign({key: "1", "b": "2"}, victim()))


# -- ANS-104 ---------------------------------------------------------------------------------------


def test_tampered_items_are_refused(n: TestNode) -> None:
    signer = Ed25519Signer(bytes(range(32)))
    item = bytearray(ans104.encode_message(commitments.commit(Message({"x": "1"}), signer, device="ans104@1.0")))
    headers = {"content-type": "application/ans104"}
    assert status_of(n, PATH, headers, bytes(item)) == 200
    for at in range(0, len(item), 5):
        flipped = bytes(item[:at]) + bytes([item[at] ^ 1]) + bytes(item[at + 1 :])
        assert status_of(n, PATH, headers, flipped) in (400, 413), at
    for cut in (0, 1, 2, 50, len(item) - 1):
        assert status_of(n, PATH, headers, bytes(item[:cut])) == 400
    assert status_of(n, PATH, headers, bytes(item) + b"more") == 400


# -- what the store makes of it ----------------------------------------------------------------------


def test_a_forged_signature_gets_no_alias(n: TestNode) -> None:
    """A message with a forged commitment inside another one is not read under the forged signature's ID."""
    genuine = signed()
    name = next(key for key, one in genuine.commitments.items() if commitments.committer_of(one))
    forged = Message.make({"x": b"evil", "y": b"2"}, {name: genuine.commitments[name]})
    ask(n, "POST", "/~message@1.0/inner", JSON, json.encode(Message({"inner": forged})))
    reply = ask(n, "GET", f"/{name}")
    assert reply.get("x") != b"evil"


def test_a_signature_kept_by_the_node_still_verifies(n: TestNode) -> None:
    genuine = signed()
    form = http_form(genuine)
    ask(n, "POST", PATH, form.headers, form.body or b"")
    kept = n.node.cache.read(commitments.signed_id(genuine))
    assert isinstance(kept, Message)
    commitments.check(kept)
    assert b64u_decode(commitments.signed_id(kept))
