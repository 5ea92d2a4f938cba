"""Commitments: IDs, signing, checking, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import http_message_signatures as rfc9421
import pytest

from hyperpy import commitments, hashpath
from hyperpy.codecs import envelope, httpsig, structured
from hyperpy.encoding import b64, b64u, b64u_decode, sha256
from hyperpy.errors import (
    CodecError,
    HyperpyError,
    InvalidSignature,
    MessageError,
    MessageNotFound,
    UnknownCommitment,
)
from hyperpy.keys import RsaKey
from hyperpy.message import Link, Message

ONE, TWO = RsaKey.generate(2048), RsaKey.generate(2048)
PLAIN = Message({"a": "1", "body": "hello", "z": 2})


def wire(msg: Message, *, bundle: bool = False) -> Message:
    """Return the message after a trip in HTTP form."""
    form = commitments.http_form(msg, bundle=bundle)
    found = structured.decode(httpsig.decode(form.headers, form.body))
    assert isinstance(found, Message)
    return found


# -- IDs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({}, "TWaabU6nSWpn7zPaiWSd9gQkfNwa1t3onrDRNB-bFiI"),
        ({"a": "1", "body": "hello", "z": "2"}, "5aDj2V_uHyH-bZVoiqLqO8aq2XVZPgp-ZiSyjmPq0-E"),
        ({"a": "1", "data": "hello", "z": "2"}, "K-CLfxqiFug9DZm8LixsHAHzaklEqRq2SO_n-vKvOWU"),
        ({"a": "1", "data": "D", "body": "B"}, "NeqBag_MsK4vgkReqgnDTFr_eEItr7vrfBJK9Kuu6Ds"),
        ([1, "a", True], "Uxj3Vl0zE5sHYv40iseN4QJw8-YOM8yOZ4F_8ylSV4c"),
        ([], "KPzA9jjXbcmApVKFmxQSWQ2jjgAr1RhaDISQsL2etsg"),
        ({"path": "compute", "method": "GET", "status": 200}, "sJ2nUG0g4KKXBld4jNj47kUO1k4j66XTe1YaObBmEkg"),
        ({"big": "x" * 4097, "ok": "yyy"}, "KGsfXXHpEhdSRQG4nxtlqDH2wHTMqHxciDy2jeAwi6I"),
        ({"a": "1", "path": "/x/y", "n": {"b": 2}}, "46fp9ZfjbD40PI6vDUzLIO2fpPhXPm8ynXVWbc3O0W4"),
        (
            {"a": "1", "n": {"b": "2", "c": {"d": 3}, "body": "bb"}, "e": {}, "o": {"body": "only"}},
            "2GCXhVy7xRPDGofsdKyaQXbefv5CH6kquFJVVa7GQNo",
        ),
    ],
)
def test_worked_examples(item: Any, name: str) -> None:
    """The protocol's own examples (ao-core 14)."""
    value = Message({"v": item})["v"]
    assert commitments.unsigned_id(value) == commitments.signed_id(value) == commitments.hashpath_id(value) == name


def test_ids_of_other_values() -> None:
    """Bytes by their hash, links by what they name; numbers have none."""
    assert commitments.content_id(b"abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
    assert commitments.unsigned_id(Link("x" * 43)) == "x" * 43
    for item in (1, 1.5, True):
        with pytest.raises(MessageError, match="has no ID"):
            commitments.content_id(item)


def test_three_ids() -> None:
    """Unsigned, signed and hashpath ID of a signed message are three values, related as 3.4 says."""
    made = commitments.commit(PLAIN, ONE)
    signed, unsigned = commitments.signed_id(made), commitments.unsigned_id(made)
    assert unsigned == commitments.unsigned_id(PLAIN) != signed
    total = sum(int.from_bytes(b64u_decode(one), "big") for one in (signed, unsigned)) % 2**256
    assert commitments.hashpath_id(made) == b64u(total.to_bytes(32, "big"))
    assert hashpath.start(made) == commitments.hashpath_id(made)


def test_hashpath_id_ignores_derivable_commitments() -> None:
    """With or without the unsigned commitment on the message: one hashpath."""
    made = commitments.commit(PLAIN, ONE)
    signed = commitments.signed_id(made)
    alone = PLAIN.with_commitments({signed: made.commitments[signed]})
    assert commitments.hashpath_id(alone) == commitments.hashpath_id(made)
    partly = commitments.commit(PLAIN, ONE, committed=["a"])
    assert commitments.unsigned_id(partly) == commitments.unsigned_id(Message({"a": "1"}))
    assert commitments.content_id(partly) == commitments.unsigned_id(PLAIN)


def test_two_signers() -> None:
    """Each by address, both by sum; the unsigned commitment is there once."""
    made = commitments.commit(commitments.commit(PLAIN, ONE), TWO)
    assert set(commitments.committers(made)) == {ONE.address, TWO.address}
    assert len(made.commitments) == 3
    parts = [commitments.message_id(made, [key.address]) for key in (ONE, TWO)]
    total = sum(int.from_bytes(b64u_decode(one), "big") for one in parts) % 2**256
    assert commitments.signed_id(made) == b64u(total.to_bytes(32, "big"))
    commitments.check(made)
    commitments.check(wire(made))


def test_claimed_unsigned_ids_are_recomputed() -> None:
    """An unsigned commitment under another message's ID changes no ID."""
    fake = {
        "committed": ["a", "ao-types", "body", "z"],
        "keyid": "constant:ao",
        "type": "hmac-sha256",
        "signature": "x",
    }
    lying = Message(PLAIN, commitments={"T" * 43: fake})
    assert commitments.unsigned_id(lying) == commitments.unsigned_id(PLAIN)
    assert commitments.hashpath_id(lying) == commitments.unsigned_id(PLAIN)
    with pytest.raises(HyperpyError):
        commitments.check(lying)


# -- checking ------------------------------------------------------------------------------------


def _changed(made: Message, **fields: Any) -> Message:
    name = commitments.signed_id(made)
    return made.with_commitments({name: made.commitments[name] | fields})


def test_claims_are_checked() -> None:
    """ID, committer, key, tag, type, names: whatever is changed, check raises."""
    made = commitments.commit(PLAIN, ONE, tag="A/b")
    commitments.check(made)
    name = commitments.signed_id(made)
    assert made.commitments[name]["tag"] == b"A/b"
    damaged = [
        made.with_commitments({TWO.address: made.commitments[name]}),
        _changed(made, committer=TWO.address),
        _changed(made, keyid=TWO.keyid),
        _changed(made, keyid=TWO.keyid, committer=TWO.address),
        _changed(made, keyid=b64(ONE.modulus)),
        _changed(made, tag="A/c"),
        _changed(made, type="hmac-sha256"),
        _changed(made, type="ed25519"),
        _changed(made, committed=["a"]),
        _changed(made, committed=["a", "ao-types", "body", "z", "more"]),
        _changed(made, committed=7),
        _changed(made, signature="!"),
        _changed(made, bundle="true"),
        _changed(made, **{"commitment-device": "other@1.0"}),
        _changed(made, dialect="D1"),
    ]
    for one in damaged:
        with pytest.raises(HyperpyError):
            commitments.check(one, ids=list(one.commitments))


def test_content_is_checked() -> None:
    """A changed, retyped, dropped or replaced key does not verify; an added one does not matter."""
    made = commitments.commit(PLAIN, ONE)
    kept = dict(made.commitments)
    for items in (
        {"a": "2", "body": "hello", "z": 2},
        {"a": "1", "body": "hello", "z": "2"},
        {"a": 1, "body": "hello", "z": 2},
        {"a": "1", "z": 2},
        {"a": "1", "body": {"hello": 1}, "z": 2},
        {"a": "1", "data": "hello", "z": 2},
    ):
        changed = Message(items, commitments=kept)
        assert not commitments.verify(changed)
        with pytest.raises(InvalidSignature):
            commitments.check(changed)
    more = Message({**PLAIN, "extra": 5, "other": True}, commitments=kept)
    commitments.check(more)
    assert commitments.only_committed(more) == Message(PLAIN, commitments=kept)
    assert set(commitments.committed(more)) == {"a", "ao-types", "body", "z"}


def test_selection() -> None:
    """Unknown addresses and IDs are named; without commitments everything is true."""
    made = commitments.commit(PLAIN, ONE)
    with pytest.raises(UnknownCommitment):
        commitments.message_id(made, [TWO.address])
    with pytest.raises(UnknownCommitment):
        commitments.message_id(PLAIN, [TWO.address])
    with pytest.raises(UnknownCommitment):
        commitments.check(made, ids=["nothing"])
    assert not commitments.verify(made, committers=[TWO.address])
    assert commitments.verify(PLAIN)
    assert commitments.committers(PLAIN) == ()
    assert commitments.only_committed(PLAIN) is PLAIN


def test_secret() -> None:
    """A MAC with a secret: the secret's hash is the committer; without the secret nothing verifies."""
    made = commitments.commit(Message({"basic": "value"}), None, secret=b"test-secret")
    assert commitments.committers(made) == ("nK8Gu0Q2zb-iCvkSGmJrwQk8T1SzHA-pN5V4VhNTRbY",)
    assert commitments.signed_id(made) == "g1FAKomUG9-3pthy23AVuX-giO4HX6EjMLjydkAyK10"
    commitments.check(made, secret=b"test-secret")
    for secret in (None, b"other"):
        with pytest.raises(InvalidSignature):
            commitments.check(made, secret=secret)


# -- refusing to sign ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items",
    [
        {"a": 'x\n"b": 2'},
        {"a": 'x\n"@signature-params": ()'},
        {"data": 'x\n"b": 2', "body": "b"},
        {"a%20b": "1"},
        {"a\nb": "1"},
        {"signature": "x"},
        {"ao-types": 'a="integer"', "a": "1"},
    ],
)
def test_ambiguous_messages_are_not_signed(items: Any) -> None:
    """Their unsigned ID is defined; signing raises, and a signature somebody made is refused."""
    msg = Message(items)
    assert len(commitments.unsigned_id(msg)) == 43
    with pytest.raises(MessageError):
        commitments.commit(msg, ONE)


def test_ambiguous_signatures_are_refused() -> None:
    """A genuine signature over a smuggled line does not pass check."""
    honest = Message({"a": "x", "b": '1\n"b": 2'})
    smuggled = Message({"a": 'x\n"b": 1', "b": "2"})
    forms = [httpsig.signed(structured.encode(msg)).base(b"") for msg in (honest, smuggled)]
    assert forms[0] == forms[1]
    fields = {"commitment-device": b"httpsig@1.0", "type": b"rsa-pss-sha512", "keyid": ONE.keyid.encode()}
    form = httpsig.signed(structured.encode(smuggled))
    raw = ONE.sign_pss_sha512(form.base(b';alg="rsa-pss-sha512";keyid="' + fields["keyid"] + b'"'))
    one = {**fields, "committer": ONE.address, "committed": ["a", "b"], "signature": b64u(raw)}
    for msg in (honest, smuggled):
        claimed = Message(msg, commitments={b64u(sha256(raw)): one})
        assert commitments.verify(claimed)
        with pytest.raises(InvalidSignature, match="reads as another key"):
            commitments.check(claimed)


@pytest.mark.parametrize(
    "child",
    [
        {"a/b": {"c": "1"}},
        {"a": "1\r\nb: 2"},
        {"a\r\nb: 2": "1"},
        {"a: b": "1"},
        {'a"b': {"c": 1}},
        {"content-disposition": "x"},
        {"ao-types": "empty-message"},
    ],
)
def test_ambiguous_bundles_are_not_signed(child: Any) -> None:
    """Names and lines of parts have no escapes; linked, the same child may be signed."""
    with pytest.raises(MessageError):
        commitments.commit(Message({"n": child}), ONE, bundle=True)
    commitments.check(commitments.commit(Message({"n": child}), ONE))


def test_bundle() -> None:
    """Children carry their unsigned commitments, the signature travels, links must be at hand."""
    msg = Message({"a": "1", "n": {"b": 2, "deep": {"c": "x" * 5000}}, "l": [1, {"k": "v"}], "e": {}})
    made = commitments.commit(msg, ONE, bundle=True)
    child = made["n"]
    assert isinstance(child, Message)
    assert list(child.commitments) == [commitments.content_id(child)]
    back = wire(made, bundle=True)
    commitments.check(back)
    assert back == made
    found = Message({"n": Link("x" * 43, {"x" * 43: Message({"b": 2})}.__getitem__)})
    commitments.check(commitments.commit(found, ONE, bundle=True))
    with pytest.raises(MessageNotFound):
        commitments.commit(Message({"n": Link("x" * 43)}), ONE, bundle=True)


def test_what_cannot_be_signed() -> None:
    """A key that is not there, a kind that is unknown, no key at all."""
    with pytest.raises(MessageError, match="not in the message"):
        commitments.commit(PLAIN, ONE, committed=["missing"])
    with pytest.raises(MessageError, match="RSA key"):
        commitments.commit(PLAIN, None)
    for options in ({"type": "ed25519"}, {"device": "other@1.0"}):
        with pytest.raises(MessageError):
            commitments.commit(PLAIN, ONE, **options)


# -- dialects ----------------------------------------------------------------------------------------


def _d1(headers: dict[str, bytes], covered: str, body: bytes | None = None, label: str = "http-sig-6f91") -> Any:
    """Sign header lines the way D1 clients do."""
    names = covered.split()
    params = f';alg="rsa-pss-sha512";keyid="{b64u(ONE.modulus)}"'.encode()
    listed = b"(" + b" ".join(b'"%s"' % name.encode() for name in names) + b")"
    lines = [b'"%s": %s\n' % (n.lstrip("@").encode(), headers[n.lstrip("@")]) for n in names]
    raw = ONE.sign_pss_sha512(b"".join(lines) + b'"@signature-params": ' + listed + params, 190)
    own = {"signature-input": label.encode() + b"=" + listed + params}
    own["signature"] = label.encode() + b"=:" + b64(raw).encode() + b":"
    found = structured.decode(httpsig.decode({**headers, **own}, body))
    assert isinstance(found, Message)
    return found


@pytest.mark.parametrize(("label", "dialect"), [("http-sig-6f91", b"D1"), ("sig-abc", b"D2"), ("sig1", b"D1")])
def test_older_dialects(label: str, dialect: bytes) -> None:
    """Any label; names in the sender's order; the commitment holds what a later check needs."""
    made = _d1({"path": b"/x", "b": b"2", "a": b"1", "more": b"no"}, "@path b a", label=label)
    commitments.check(made)
    (one,) = made.commitments.values()
    assert one["dialect"] == dialect
    assert one["signature-input"].startswith(b'("@path" "b" "a");alg=')  # type: ignore[union-attr]
    assert commitments.committers(made) == (ONE.address,)
    assert commitments.only_committed(made).keys() == {"path", "a", "b"}
    again = wire(made)
    commitments.check(again)
    assert commitments.signed_id(again) == commitments.signed_id(made)


def test_d1_covers_no_more_than_it_says() -> None:
    """Claiming further names, an uncovered body, or another envelope does not pass."""
    made = _d1({"path": b"/x", "a": b"1"}, "@path", body=b"not covered")
    ((name, one),) = made.commitments.items()
    assert commitments.committed(made) == ("path",)
    wider = one | {"committed": ["path", "a"]}
    forged = one | {"committed": ["path", "body"], "envelope": b"path: /x\r\n\r\nnot covered"}
    moved = one | {"envelope": b"path: /y\r\n\r\n"}
    longer = one | {"envelope": b"path: /x\r\na: 1\r\n\r\n", "committed": ["path", "a"]}
    for claimed in (wider, forged, moved, longer):
        with pytest.raises(InvalidSignature):
            commitments.check(made.with_commitments({name: claimed}))
    retyped = Message({**made, "path": [1]}, commitments=dict(made.commitments))
    with pytest.raises(InvalidSignature):
        commitments.check(retyped)


def test_d1_digest_must_fit() -> None:
    """The digest is compared with the body when it arrives."""
    digest = envelope.sig.digest_header(b"hello")
    headers = {"content-digest": digest, "inline-body-key": b"data"}
    made = _d1(headers, "content-digest inline-body-key", b"hello")
    assert commitments.committed(made) == ("data",)
    assert made["data"] == b"hello"
    commitments.check(made)
    for body in (b"hellO", None):
        with pytest.raises(CodecError):
            _d1(headers, "content-digest inline-body-key", body)


# -- an independent implementation of RFC 9421 ----------------------------------------------------------


class _Keys(rfc9421.HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> Any:
        return ONE._key

    def resolve_public_key(self, key_id: str) -> Any:
        return ONE._key.public_key()


OPTIONS = {"signature_algorithm": rfc9421.algorithms.RSA_PSS_SHA512, "key_resolver": _Keys()}
TEXTS = {"a": "1", "content-length": "5", "x-note": "hello, world"}


def _request(headers: dict[str, str]) -> Any:
    return SimpleNamespace(method="GET", url="http://host/x", headers=headers)


@pytest.mark.filterwarnings("ignore:Using only a label")
def test_rfc_library_verifies_ours() -> None:
    """Plain texts and no derived names: the base is RFC 9421's."""
    made = commitments.commit(Message(TEXTS), ONE)
    signed = made.with_commitments({commitments.signed_id(made): made.commitments[commitments.signed_id(made)]})
    headers = {name: text.decode() for name, text in commitments.http_form(signed).headers.items()}
    verifier = rfc9421.HTTPMessageVerifier(**OPTIONS)
    verifier.require_created = False
    verifier.allow_label_only_selection = True
    label = headers["signature"].partition("=")[0]
    (result,) = verifier.verify(_request(headers), max_age=None, expect_label=label)
    assert {name.strip('"') for name in result.covered_components} >= set(TEXTS)
    with pytest.raises(rfc9421.InvalidSignature):
        verifier.verify(_request({**headers, "a": "2"}), max_age=None, expect_label=label)


def test_we_verify_the_rfc_librarys() -> None:
    """Its labels, its order of parameters, its ``created``."""
    request = _request(dict(TEXTS))
    signer = rfc9421.HTTPMessageSigner(**OPTIONS)
    signer.sign(request, key_id=ONE.keyid, covered_component_ids=("x-note", "a"), nonce="n", tag="t")
    headers = {name.lower(): text.encode() for name, text in request.headers.items()}
    made = structured.decode(httpsig.decode(headers, None))
    assert isinstance(made, Message)
    commitments.check(made)
    assert commitments.committers(made) == (ONE.address,)
    assert commitments.committed(made) == ("x-note", "a")
    with pytest.raises(InvalidSignature):
        commitments.check(Message({**made, "a": "2"}, commitments=dict(made.commitments)))


def test_what_was_checked_once_counts_for_that_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy import keys

    key = RsaKey.generate(2048)
    signed = commitments.commit(Message({"a": 1, "b": "x"}), key)
    again = Message.make(dict(signed.raw_items()), signed.commitments)
    commitments.check(again)
    calls: list[int] = []
    real = keys.verify_pss
    monkeypatch.setattr(keys, "verify_pss", lambda *args: calls.append(1) or real(*args))
    commitments.check(again)
    commitments.check(signed)
    commitments.check(again.with_private(x=1))
    assert calls == []
    for other in (
        Message.make({**again.raw_items(), "a": 2}, again.commitments),
        again.with_commitments({"C" * 43: next(iter(again.commitments.values()))}),
    ):
        with pytest.raises(InvalidSignature):
            commitments.check(other)
    commitments.check(again.with_commitments(again.commitments))
    assert calls
