"""Whether commitments are genuine (ao-core 3.5). :func:`check` raises, :func:`verify` answers."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

from hyperpy import keys
from hyperpy.codecs import ans104, envelope, httpsig, signature, structured
from hyperpy.codecs.httpsig import Signed
from hyperpy.codecs.structured import Tabm
from hyperpy.commitments.ambiguity import refuse_ambiguous
from hyperpy.commitments.fields import (
    ANS104,
    CONSTANT,
    HTTPSIG_DEVICES,
    committer_of,
    device_of,
    fields_of,
    is_bundle,
    is_rebuilt,
)
from hyperpy.commitments.ids import (
    Committers,
    base_of,
    only,
    select,
    signed_form,
    tabm_of,
)
from hyperpy.encoding import b64u, b64u_decode, key_bytes, key_text, sha256
from hyperpy.errors import (
    HyperpyError,
    InvalidSignature,
    MessageError,
    SizeError,
    UnknownCommitment,
)
from hyperpy.message import Message, committed_list


def verify(
    msg: Message,
    *,
    committers: Committers = "all",
    ids: Literal["all"] | Sequence[str] | None = None,
    secret: bytes | None = None,
) -> bool:
    """Say whether every selected commitment fits the message; true if there is none (3.5).

    Asks as the reference does: whether IDs and committers are rightly named is not looked at.
    Use :func:`check` for what somebody relies on.
    """
    try:
        for name in select(msg, committers, ids):
            _verify_one(msg, name, secret)
    except HyperpyError:
        return False
    return True


def check(
    msg: Message,
    *,
    committers: Committers = "all",
    ids: Literal["all"] | Sequence[str] | None = None,
    secret: bytes | None = None,
) -> None:
    """Refuse the message unless every selected commitment is genuine; the rules are above.

    Raises:
        UnknownCommitment: one that was asked for is not there, or is of an unknown device.
        InvalidSignature: a commitment is not what it claims.
    """
    genuine: frozenset[str] = msg.memo.get("genuine", frozenset())
    for name in select(msg, committers, ids):
        if name in genuine:
            continue
        one = msg.commitments[name]
        try:
            _check_claims(name, one)
            if is_rebuilt(one):
                refuse_ambiguous(msg, committed_list(one), is_bundle(one))
            _verify_one(msg, name, secret)
        except (MessageError, SizeError) as error:
            raise InvalidSignature(f"commitment {name!a}: {error.message}", hint=error.hint) from None
        if secret is None:
            genuine = msg.memo["genuine"] = msg.memo.get("genuine", frozenset()) | {name}


def _check_claims(name: str, one: Message) -> None:
    claimed = one.get("committer")
    actual = committer_of(one)
    if (key_text(claimed) if isinstance(claimed, bytes) else claimed) != actual:
        raise InvalidSignature(f"commitment {name!a} names a committer that its key is not", hint=None)
    raw = b64u_decode(fields_of(one).get("signature", b""))
    if envelope.commitment_id(raw) != name and not (device_of(one) == ANS104 and actual is None):
        raise InvalidSignature(f"commitment {name!a} is not named by the ID of its signature")


def _verify_one(msg: Message, name: str, secret: bytes | None) -> None:
    one = msg.commitments[name]
    device = device_of(one)
    if device == ANS104:
        if not ans104.item_verify(tabm_of(msg, is_bundle(one)), structured.encode(one), name):
            raise InvalidSignature("an ANS-104 signature does not fit the message")
    elif device not in HTTPSIG_DEVICES:
        raise UnknownCommitment(f"commitments of the device {device!a} cannot be verified here")
    elif "dialect" in one:
        _verify_envelope(msg, one)
    else:
        _verify_rebuilt(msg, one, secret)


def _verify_rebuilt(msg: Message, one: Message, secret: bytes | None) -> None:
    fields = fields_of(one)
    names = committed_list(one)
    items = msg.raw_items()
    for name in names:
        if name not in items and name != "ao-types" and name + "+link" not in items:
            raise InvalidSignature(f"the committed key {name!a} is not in the message")
    params = signature.base_params(fields)
    given = b64u_decode(fields.get("signature", b""))
    usual = base_of(msg, names, is_bundle(one), params)
    if _fits(fields, usual, given, secret):
        return
    tried = {usual}
    for form in _other_forms(msg, names, is_bundle(one)):
        base = form.base(params)
        if base not in tried and _fits(fields, base, given, secret):
            return
        tried.add(base)
    raise InvalidSignature("the signature does not fit the message")


def _other_forms(msg: Message, names: tuple[str, ...], bundle: bool) -> Iterable[Signed]:
    """Yield the less usual forms that a signer may have seen.

    Types of keys that were added later stand in ``ao-types`` too, so it is made again for the
    committed keys alone. A bundle may have been signed before its children got their unsigned
    commitments, or by a node that writes ``committed`` as a map (v0.9-final 1.2).
    """
    own = only(msg, names)
    if len(own) != len(msg):
        yield signed_form(own, names, bundle)
    if bundle:
        yield httpsig.signed(_with_committed_maps(tabm_of(own, bundle)), names)
        yield httpsig.signed(_without_commitments(tabm_of(own, bundle)), names)


def _with_committed_maps(tabm: Tabm) -> Tabm:
    out: Tabm = {}
    for key, value in tabm.items():
        if type(value) is dict:
            value = _with_committed_maps(value)
            if key == "committed" and value.get("ao-types") == envelope.LIST_TYPE:
                value.pop("ao-types")
        out[key] = value
    return out


def _without_commitments(tabm: Tabm) -> Tabm:
    return {
        key: _without_commitments(value) if type(value) is dict else value
        for key, value in tabm.items()
        if key != "commitments"
    }


def _fits(fields: Mapping[str, bytes], base: bytes, given: bytes, secret: bytes | None) -> bool:
    kind = fields.get("type")
    keyid = key_text(fields.get("keyid", b""))
    if kind == b"rsa-pss-sha512":
        modulus = envelope.public_key(keyid)
        return bool(modulus) and keys.verify_pss(cast(bytes, modulus), given, base, "sha512")
    if kind != b"hmac-sha256":
        raise UnknownCommitment(f"commitments of type {kind!a} cannot be verified here")
    if keyid.startswith("secret:"):
        if secret is None or keyid != "secret:" + b64u(sha256(secret)):
            raise InvalidSignature("the commitment was made with another secret")
        key = secret
    elif keyid.startswith("publickey:"):
        raise InvalidSignature("a MAC cannot be made with a public key")
    else:
        key = key_bytes(keyid or CONSTANT)
    return hmac.compare_digest(given, hmac.digest(key, base, "sha256"))


def _verify_envelope(msg: Message, one: Message) -> None:
    """Check a D1 or D2 commitment: the signature over the envelope, the envelope's content."""
    fields = fields_of(one)
    opened = envelope.open_envelope(fields)
    raw = b64u_decode(fields.get("signature", b""))
    if not any(_fits(fields, base, raw, None) for base in opened.bases):
        raise InvalidSignature("the signature does not fit its envelope")
    digest = opened.headers.get("content-digest")
    body = None if digest is None else opened.body
    if digest is not None and body is None:
        found = msg.get(httpsig.body_key(opened.headers))
        body = found if isinstance(found, bytes) else None
    if digest is not None and not signature.digest_matches(digest, body or b""):
        raise InvalidSignature("the signed digest does not fit the body")
    seen = structured.decode(httpsig.decode(opened.headers, body))
    if not isinstance(seen, Message):
        raise InvalidSignature("the signed envelope holds a list, not a message")
    own, theirs = tabm_of(msg), tabm_of(seen)
    for name in committed_list(one):
        if name == "ao-types":
            continue
        key = name if name in theirs else name + "+link"
        kind = type(msg.raw(name))
        is_typed = kind is type(seen.raw(name)) or key is not name
        if key not in theirs or own.get(key) != theirs[key] or not is_typed:
            raise InvalidSignature(f"the committed key {name!a} is not what was signed")
