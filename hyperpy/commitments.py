"""Commitments: signing messages, checking signatures, and the IDs that follow (ao-core 3).

A message has three IDs. Keep them apart:

- :func:`unsigned_id`  what it says, whoever signed it; equal for equal content
- :func:`signed_id`    the sum of its signatures' IDs; the unsigned ID where there are none
- :func:`hashpath_id`  the sum over signatures and content, from which hashpaths start

:func:`content_id` is the unsigned ID over every key, whatever unsigned commitments over fewer
keys came along. Nothing a commitment claims is believed: its ID is recomputed from its
signature, its committer from its key, and an unsigned one from the content.

:func:`check` refuses, in this order:

1. a commitment this node cannot verify, or a key name it commits to that is not there
2. a committer that is not the address of the key, an ID that is not that of the signature
3. a text that two messages could share (a value that smuggles a line, a key with ``%``)
4. a signature or MAC that does not fit
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

from hyperpy import keys
from hyperpy.codecs import ans104, envelope, httpsig, plan, signature, structured
from hyperpy.codecs.httpsig import HttpForm, Signed
from hyperpy.codecs.structured import MAX_DEPTH, Tabm
from hyperpy.encoding import b64u, b64u_decode, key_bytes, key_text, ordered, sha256
from hyperpy.errors import CodecError, HyperpyError, InvalidSignature, MessageError, MessageNotFound, SizeError, UnknownCommitment
from hyperpy.message import UNDEFINED, Atom, Link, Message, Value, committed_list

Committers: TypeAlias = Literal["none", "all"] | Sequence[str]

HTTPSIG: Final = "httpsig@1.0"
ANS104: Final = "ans104@1.0"
CONSTANT: Final = "constant:ao"
RSA_TYPE: Final = "rsa-pss-sha512"
HMAC_TYPE: Final = "hmac-sha256"

_HTTPSIG_DEVICES = frozenset({HTTPSIG, "http-auth@1.0", "cookie@1.0", "secret@1.0"})
_NOT_PARAMS = frozenset(
    {
        "committed", "signature", "type", "commitment-device", "committer", "alg", "keyid", "tag", "created",
        "expires", "nonce", "dialect", "envelope", "signature-input",
    }
)  # fmt: skip
_MODULUS = 1 << 256


# -- IDs -----------------------------------------------------------------------------------


def content_id(item: Value) -> str:
    """Return the unsigned ID over all of an item's keys: what it says, and nothing else.

    A binary's is its SHA-256, a list's that of its numbered map, a link's the ID it names.

    Raises:
        MessageError: the item is a number, an atom or a control object and has no ID.
    """
    if type(item) is Message:
        found = item.memo.get("content-id")
        if found is None:
            base = plan.unsigned_base(item, signed_id)
            if base is None:
                base = httpsig.signed(_tabm(item)).base(plan.UNSIGNED_PARAMS)
            found = item.memo["content-id"] = b64u(hmac.digest(plan.UNSIGNED_KEY, base, "sha256"))
        return cast(str, found)
    if type(item) is bytes:
        return b64u(sha256(item))
    if type(item) is tuple:
        base = httpsig.signed(structured.encode(item, link=signed_id)).base(plan.UNSIGNED_PARAMS)
        return b64u(hmac.digest(plan.UNSIGNED_KEY, base, "sha256"))
    if type(item) is Link:
        return item.id
    raise MessageError(f"a {type(item).__name__} has no ID; put it into a message")


def unsigned_id(item: Value) -> str:
    """Return the ID over what unsigned commitments cover: all keys, unless one covers fewer."""
    return message_id(item, "none")


def signed_id(item: Value) -> str:
    """Return the sum of the signatures' IDs, or the unsigned ID where there are none (3.4)."""
    return message_id(item, "all")


def message_id(item: Value, committers: Committers = "none", ids: Literal["all"] | Sequence[str] | None = None) -> str:
    """Return the ID over a selection of commitments (3.4).

    Args:
        committers: ``none``, ``all``, or addresses.
        ids: commitments by ID, in addition; ``all`` is every one.

    Raises:
        UnknownCommitment: an address or ID that was asked for is not there.
    """
    if type(item) is not Message or not item.commitments:
        if not isinstance(committers, str) and committers:
            raise UnknownCommitment(f"nobody signed the message, so not {committers[0]!a}")
        return content_id(item)
    memo = f"id {committers}" if ids is None and isinstance(committers, str) else None
    found = item.memo.get(memo) if memo else None
    if found is None:
        chosen = [_own_id(item, name) for name in _select(item, committers, ids)]
        found = _sum(chosen) if chosen else content_id(item)
        if memo:
            item.memo[memo] = found
    return cast(str, found)


def hashpath_id(item: Value) -> str:
    """Return the ID a hashpath starts from, or names a request by (5.1).

    The sum of the signatures' IDs and of the unsigned ID the httpsig ones come with. It does
    not depend on whether a derivable unsigned commitment is on the message or was left out.
    """
    if type(item) is not Message or not item.commitments:
        return content_id(item)
    found = item.memo.get("hashpath-id")
    if found is None:
        found = item.memo["hashpath-id"] = _sum(_hashpath_parts(item)) or content_id(item)
    return cast(str, found)


def _hashpath_parts(msg: Message) -> list[str]:
    everything = content_id(msg)
    signed = [name for name, one in msg.commitments.items() if committer_of(one)]
    unsigned = {_own_id(msg, name) for name in _select(msg, "none")}
    partial = sorted(unsigned - {everything})
    parts = [_own_id(msg, name) for name in signed]
    if not signed or partial:
        return parts + (partial or [everything])
    rebuilt = [msg.commitments[name] for name in signed if _is_rebuilt(msg.commitments[name])]
    if not rebuilt:
        return parts
    if everything in unsigned:
        return [*parts, everything]
    widest = max(rebuilt, key=lambda one: len(committed_list(one)))
    return [*parts, b64u(_mac(msg, _unsigned_fields(_is_bundle(widest)), committed_list(widest), CONSTANT.encode()))]


def _is_rebuilt(one: Message) -> bool:
    """Say whether a commitment is httpsig's, verified over the rebuilt message (D3)."""
    return one.text("commitment-device", HTTPSIG) == HTTPSIG and "dialect" not in one


def _sum(ids: Iterable[str]) -> str:
    """Return the sum of IDs mod 2^256; the empty text for none (3.4)."""
    found = list(ids)
    if len(found) < 2:
        return found[0] if found else ""
    total = sum(int.from_bytes(b64u_decode(one), "big") for one in found)
    return b64u((total % _MODULUS).to_bytes(32, "big"))


def _own_id(msg: Message, name: str) -> str:
    """Return a commitment's ID, recomputed from its signature, or from content if unsigned."""
    one = msg.commitments[name]
    fields = _fields(one)
    if committer_of(one) is None and _device(one) in _HTTPSIG_DEVICES and "dialect" not in fields:
        key, names = fields.get("keyid", CONSTANT.encode()), committed_list(one)
        found = b64u(_mac(msg, fields, names, key))
        if found != name and not msg.raw_items().keys() <= set(names):
            return b64u(_mac(_only(msg, names), fields, names, key))  # ``ao-types`` of these keys alone, see _forms
        return found
    return envelope.commitment_id(b64u_decode(fields.get("signature", b"")))


def _select(
    msg: Message, committers: Committers, ids: Literal["all"] | Sequence[str] | None = None
) -> list[str]:
    """Return the map keys of the commitments a selection names (3.4)."""
    found = msg.commitments
    if ids == "all":
        return list(found)
    chosen = dict.fromkeys(_known(msg, one) for one in ids or ())
    if committers == "all":
        signers = [name for name, one in found.items() if committer_of(one)]
        if not signers and not chosen:
            return _select(msg, "none")
        chosen.update(dict.fromkeys(signers))
    elif committers == "none":
        if ids is None:
            plain = [name for name, one in found.items() if not committer_of(one) and _device(one) == HTTPSIG]
            chosen.update(dict.fromkeys(plain))
    else:
        for address in committers:
            theirs = [name for name, one in found.items() if committer_of(one) == address]
            if not theirs:
                raise UnknownCommitment(f"the message has no commitment by {address!a}")
            chosen.update(dict.fromkeys(theirs))
    return list(chosen)


def _known(msg: Message, name: str) -> str:
    if name not in msg.commitments:
        raise UnknownCommitment(f"the message has no commitment {name!a}")
    return name


# -- reading commitments ---------------------------------------------------------------------


def committer_of(commitment: Message) -> str | None:
    """Return the address behind a commitment's key; None for an unsigned one.

    Where the key gives it, the ``committer`` field is not looked at.
    """
    known = commitment.memo.get("committer", commitment)
    if known is commitment:
        fields = _fields(commitment)
        keyid = fields.get("keyid", b"").decode("utf-8", "surrogateescape")
        try:
            if _device(commitment) == ANS104:
                known = ans104.committer(fields)
            else:
                known = envelope.committer_of(keyid, key_text(fields.get("type", b"")))
        except CodecError:
            known = None
        commitment.memo["committer"] = known
    return cast("str | None", known)


def committers(msg: Message) -> tuple[str, ...]:
    """Return the addresses that signed, each once, in the commitments' order."""
    found = (committer_of(msg.commitments[name]) for name in ordered(msg.commitments))
    return tuple(dict.fromkeys(one for one in found if one))


def committed(
    msg: Message, committers: Committers = "all", ids: Literal["all"] | Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the key names that every selected commitment covers (3.5).

    A message without commitments covers all its keys: its unsigned ID does.
    """
    chosen = _select(msg, committers, ids)
    if not chosen:
        return tuple(msg)
    lists = [committed_list(msg.commitments[name]) for name in chosen]
    common = frozenset(lists[0]).intersection(*lists[1:])
    return tuple(name for name in lists[0] if name in common)


def only_committed(msg: Message) -> Message:
    """Return the message with only the keys that every commitment covers (3.5).

    Without commitments it is returned as it is. Nothing is verified here.
    """
    if not msg.commitments:
        return msg
    kept = set(committed(msg, ids="all"))
    items = msg.raw_items()
    if kept.issuperset(items):
        return msg
    return Message.make({k: v for k, v in items.items() if k in kept}, msg.commitments, msg.private)


def _device(commitment: Message) -> str:
    return commitment.text("commitment-device", HTTPSIG)


def _is_bundle(commitment: Message) -> bool:
    return commitment.text("bundle", "false") == "true"


def _fields(commitment: Message) -> dict[str, bytes]:
    """Return a commitment's scalar fields as text."""
    known = commitment.memo.get("fields")
    if known is None:
        known = {key: value for key, value in structured.encode(commitment).items() if type(value) is bytes}
        known.pop("ao-types", None)
        commitment.memo["fields"] = known
    return cast("dict[str, bytes]", known)


# -- what is signed --------------------------------------------------------------------------


def _tabm(msg: Message, bundle: bool = False) -> Tabm:
    """Return the TABM without the message's own commitments, remembered. Do not change it."""
    memo = "bundle" if bundle else "tabm"
    found = msg.memo.get(memo)
    if found is None:
        bare = Message.make(cast("dict[str, Value]", msg.raw_items()))
        found = msg.memo[memo] = structured.encode(bare, link=None if bundle else signed_id)
    return cast(Tabm, found)


def _signed(msg: Message, names: tuple[str, ...] | None, bundle: bool) -> Signed:
    memo = ("signed", names, bundle)
    found = msg.memo.get(memo)  # type: ignore[call-overload]
    if found is None:
        found = msg.memo[memo] = httpsig.signed(_tabm(msg, bundle), names)  # type: ignore[index]
    return cast(Signed, found)


def covered(msg: Message, commitment: Message) -> Signed:
    """Return what a rebuilt commitment covers: components, header lines, key names (4.7)."""
    return _signed(msg, committed_list(commitment), _is_bundle(commitment))


def _mac(msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: bytes) -> bytes:
    bundle = fields.get("bundle") == b"true"
    return hmac.digest(key, _signed(msg, names, bundle).base(signature.base_params(fields)), "sha256")


def refuse_ambiguous(msg: Message, names: Iterable[str] | None = None, bundle: bool = False) -> None:
    """Refuse a message whose signed text another message could share (design: strictness).

    Raises:
        MessageError: a header value goes on with a line that reads as another component; a key
            holds ``%``, a line break or, bundled, anything that part names and lines give
            meaning to.
    """
    tabm = _tabm(msg, bundle)
    chosen = tabm if names is None else {k: v for k, v in tabm.items() if k.removesuffix("+link") in set(names)}
    _refuse_ambiguous(chosen, 0)


def _refuse_ambiguous(tabm: Tabm, depth: int) -> None:
    for key, value in tabm.items():
        odd = "%" in key or "\n" in key or "\r" in key or (depth and any(c in key for c in '/":'))
        if odd or (not depth and key in ("signature", "signature-input")):
            raise MessageError(
                f"the key {key[:60]!a} cannot be signed without ambiguity",
                hint="Use keys without percent signs and line breaks, and without / : \" in bundled maps.",
            )
        if type(value) is dict:
            if key != "commitments":
                _refuse_ambiguous(value, depth + 1)
        elif type(value) is bytes and len(value) <= httpsig.MAX_HEADER and b"\n" in value:
            if (depth and key != "body") or (b'\n"' in value and key not in ("body", "data")):
                raise MessageError(
                    f"the value of {key[:60]!a} holds a line that reads as another key",
                    hint="Put text with line breaks under 'body' or 'data'.",
                )


# -- verifying -------------------------------------------------------------------------------


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
        for name in _select(msg, committers, ids):
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
    for name in _select(msg, committers, ids):
        one = msg.commitments[name]
        try:
            _check_claims(name, one)
            if _is_rebuilt(one):
                refuse_ambiguous(msg, committed_list(one), _is_bundle(one))
            _verify_one(msg, name, secret)
        except (MessageError, SizeError) as error:
            raise InvalidSignature(f"commitment {name!a}: {error.message}", hint=error.hint) from None


def _check_claims(name: str, one: Message) -> None:
    claimed = one.get("committer")
    actual = committer_of(one)
    if (key_text(claimed) if isinstance(claimed, bytes) else claimed) != actual:
        raise InvalidSignature(f"commitment {name!a} names a committer that its key is not", hint=None)
    raw = b64u_decode(_fields(one).get("signature", b""))
    if envelope.commitment_id(raw) != name and not (_device(one) == ANS104 and actual is None):
        raise InvalidSignature(f"commitment {name!a} is not named by the ID of its signature")


def _verify_one(msg: Message, name: str, secret: bytes | None) -> None:
    one = msg.commitments[name]
    device = _device(one)
    if device == ANS104:
        if not ans104.item_verify(_tabm(msg, _is_bundle(one)), structured.encode(one), name):
            raise InvalidSignature("an ANS-104 signature does not fit the message")
    elif device not in _HTTPSIG_DEVICES:
        raise UnknownCommitment(f"commitments of the device {device!a} cannot be verified here")
    elif "dialect" in one:
        _verify_envelope(msg, one)
    else:
        _verify_rebuilt(msg, one, secret)


def _verify_rebuilt(msg: Message, one: Message, secret: bytes | None) -> None:
    fields = _fields(one)
    names = committed_list(one)
    items = msg.raw_items()
    for name in names:
        if name not in items and name != "ao-types" and name + "+link" not in items:
            raise InvalidSignature(f"the committed key {name!a} is not in the message")
    params = signature.base_params(fields)
    given = b64u_decode(fields.get("signature", b""))
    tried: set[bytes] = set()
    for form in _forms(msg, names, _is_bundle(one)):
        base = form.base(params)
        if base not in tried and _fits(fields, base, given, secret):
            return
        tried.add(base)
    raise InvalidSignature("the signature does not fit the message")


def _only(msg: Message, names: Iterable[str]) -> Message:
    """Return the content of these keys."""
    kept = set(names)
    return Message.make({name: value for name, value in msg.raw_items().items() if name in kept})


def _forms(msg: Message, names: tuple[str, ...], bundle: bool) -> Iterable[Signed]:
    """Yield the forms a signer may have seen, the usual one first.

    Types of keys that were added later stand in ``ao-types`` too, so it is made again for the
    committed keys alone. A bundle may have been signed before its children got their unsigned
    commitments, or by a node that writes ``committed`` as a map (v0.9-final 1.2).
    """
    yield _signed(msg, names, bundle)
    own = _only(msg, names)
    if len(own) != len(msg):
        yield _signed(own, names, bundle)
    if bundle:
        yield httpsig.signed(_with_committed_maps(_tabm(own, bundle)), names)
        yield httpsig.signed(_without_commitments(_tabm(own, bundle)), names)


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
    fields = _fields(one)
    opened = envelope.open_envelope(fields)
    if not _fits(fields, opened.base, b64u_decode(fields.get("signature", b"")), None):
        raise InvalidSignature("the signature does not fit its envelope")
    body_key = httpsig.body_key(opened.headers)
    body = opened.body
    if body is None and "content-digest" in opened.headers:
        found = msg.get(body_key)
        body = found if isinstance(found, bytes) else None
    if "content-digest" in opened.headers and not signature.digest_matches(opened.headers["content-digest"], body or b""):
        raise InvalidSignature("the signed digest does not fit the body")
    seen = structured.decode(httpsig.decode(opened.headers, body))
    if not isinstance(seen, Message):
        raise InvalidSignature("the signed envelope holds a list, not a message")
    own, theirs = _tabm(msg), _tabm(seen)
    for name in committed_list(one):
        if name == "ao-types":
            continue
        key = name if name in theirs else name + "+link"
        kind = type(msg.raw(name))
        is_typed = kind is type(seen.raw(name)) or key is not name
        if key not in theirs or own.get(key) != theirs[key] or not is_typed:
            raise InvalidSignature(f"the committed key {name!a} is not what was signed")


# -- committing ------------------------------------------------------------------------------


def commit(
    msg: Message,
    key: Any,
    *,
    device: str = HTTPSIG,
    type: str = "signed",
    committed: Sequence[str] | None = None,
    bundle: bool = False,
    tag: str | None = None,
    secret: bytes | None = None,
    keyid: str | None = None,
) -> Message:
    """Return the message with a commitment added (3.3).

    An RSA signature comes with the unsigned commitment over the same keys, as in the reference.

    Args:
        key: an :class:`~hyperpy.keys.RsaKey`; for ``ans104@1.0`` any signer of that codec;
            None for ``type="unsigned"`` and with ``secret``.
        committed: the key names; else those that earlier signatures cover; else all.
        bundle: sign nested messages inline rather than by their IDs. Each then carries its
            unsigned commitment, in the returned message too (v0.9-final 1, row 10).
        tag: the hashpath of the message, signed along.
        secret: make a MAC with this secret instead of a signature.
        keyid: names the constant that keys an unsigned commitment.

    Raises:
        MessageError: the text to be signed would be ambiguous, a named key is not there, or
            the kind of commitment is unknown.
        MessageNotFound: ``bundle`` needs a linked message that is not at hand.
    """
    if device == ANS104:
        return _commit_item(msg, key, committed, bundle)
    if device not in _HTTPSIG_DEVICES:
        raise MessageError(f"the device {device!a} does not commit messages")
    if bundle:
        msg = bundled(msg)
    names = tuple(committed) if committed is not None else _default_names(msg)
    for name in names or ():
        if msg.raw(name) is None and name != "ao-types" and msg.raw(name + "+link") is None:
            raise MessageError(f"the key {name!a} is to be signed and is not in the message")
    refuse_ambiguous(msg, names, bundle)
    fields: dict[str, bytes] = {"commitment-device": key_bytes(device)}
    if bundle:
        fields["bundle"] = b"true"
    if secret is not None:
        named = b64u(sha256(secret)).encode("ascii")
        fields |= {"type": HMAC_TYPE.encode(), "keyid": b"secret:" + named, "committer": named}
        return _commit_mac(msg, fields, names, secret)
    if type in ("signed", RSA_TYPE):
        if not isinstance(key, keys.RsaKey):
            raise MessageError("an httpsig signature needs an RSA key")
        msg = _commit_rsa(msg, fields, names, key, tag)
        names = tuple(committed) if committed is not None else _default_names(msg)
    elif type not in ("unsigned", HMAC_TYPE):
        raise MessageError(f"httpsig cannot make commitments of type {type!a}")
    named = key_bytes(keyid if keyid and type in ("unsigned", HMAC_TYPE) else CONSTANT)
    return _commit_mac(msg, {**fields, "type": HMAC_TYPE.encode(), "keyid": named}, names, named)


def _default_names(msg: Message) -> tuple[str, ...] | None:
    """Return the names that earlier commitments cover, None for all keys (3.3, step 3)."""
    chosen = _select(msg, "all")
    return None if not chosen else committed(msg, ids=chosen, committers="none")


def _commit_rsa(
    msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: keys.RsaKey, tag: str | None
) -> Message:
    own = {**fields, "type": RSA_TYPE.encode(), "keyid": key.keyid.encode("ascii")}
    own["committer"] = key.address.encode("ascii")
    if tag is not None:
        own["tag"] = key_bytes(tag)
    form = _signed(msg, names, "bundle" in fields)
    raw = key.sign_pss_sha512(form.base(signature.base_params(own)))
    return _added(msg, envelope.commitment_id(raw), own, form, raw)


def _commit_mac(
    msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: bytes
) -> Message:
    kept = {
        name: one
        for name, one in msg.commitments.items()
        if _fields(one).get("keyid") != fields["keyid"] or _device(one) not in _HTTPSIG_DEVICES
    }
    raw = _mac(msg, fields, names, key)
    if len(kept) != len(msg.commitments):
        msg = _with(msg, kept)
    return _added(msg, b64u(raw), fields, _signed(msg, names, "bundle" in fields), raw)


def _added(msg: Message, name: str, fields: Mapping[str, bytes], form: Signed, raw: bytes) -> Message:
    items: dict[str, Value] = {**fields, "committed": tuple(map(key_bytes, form.committed))}
    items["signature"] = b64u(raw).encode("ascii")
    return _with(msg, {**msg.commitments, name: Message.make(items)})


def _with(msg: Message, commitments: Mapping[str, Message]) -> Message:
    """Return the message with other commitments; what depends on content alone is kept."""
    made = msg.with_commitments(commitments)
    for memo, found in msg.memo.items():
        if memo in ("content-id", "tabm", "bundle") or type(memo) is tuple:
            made.memo[memo] = found
    return made


def _unsigned_fields(bundle: bool = False) -> dict[str, bytes]:
    fields = {"commitment-device": HTTPSIG.encode(), "type": HMAC_TYPE.encode(), "keyid": CONSTANT.encode()}
    return {**fields, "bundle": b"true"} if bundle else fields


def _commit_item(msg: Message, key: Any, names: Sequence[str] | None, bundle: bool) -> Message:
    """Return the message with an ANS-104 commitment; its keys are in lower case then (13.4)."""
    if names is not None:
        raise MessageError("an ANS-104 item covers the whole message; 'committed' cannot choose")
    tabm = dict(_tabm(msg, bundle))
    if msg.commitments:
        tabm["commitments"] = structured.encode(msg)["commitments"]
    made = structured.decode(ans104.sign(tabm, key))
    if not isinstance(made, Message):
        raise MessageError("a list cannot be an ANS-104 item of its own")
    kept = Message.make(cast("dict[str, Value]", made.raw_items()), {**msg.commitments, **made.commitments}, msg.private)
    return kept


def bundled(msg: Message) -> Message:
    """Return the message with links loaded and each child carrying its unsigned commitment."""
    items = {key: _bundled_child(value, 1) for key, value in msg.raw_items().items()}
    _refuse_link_keys(items)
    return Message.make(items, msg.commitments, msg.private)


def _refuse_link_keys(items: Mapping[str, Value]) -> None:
    """Refuse ``K+link`` as a plain key: it says that a message belongs there which is not at hand."""
    for key in items:
        if key.endswith("+link"):
            raise MessageNotFound(f"the message that {key[:60]!a} names is not at hand")


def _bundled_child(value: Value, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    if type(value) is Link:
        value = value.load()
    if type(value) is tuple:
        if any(type(one) is Atom and one == UNDEFINED for one in value):
            raise MessageError("a list that holds the atom undefined cannot be read back, so it is not bundled")
        return tuple(_bundled_child(one, depth + 1) for one in value)
    if type(value) is not Message or not len(value):
        return value
    items = {key: _bundled_child(one, depth + 1) for key, one in value.raw_items().items()}
    _refuse_link_keys(items)
    made = Message.make(items, value.commitments, value.private)
    if any(committer_of(one) is None and _device(one) == HTTPSIG for one in value.commitments.values()):
        return made
    fields = _unsigned_fields()
    form = _signed(made, None, False)
    return _added(made, content_id(made), fields, form, b64u_decode(content_id(made)))


# -- the HTTP form ---------------------------------------------------------------------------


def http_form(msg: Message | tuple[Value, ...], *, bundle: bool = False) -> HttpForm:
    """Return a message as HTTP carries it, signature headers included (4.7).

    Args:
        bundle: nested messages inline, as parts of a multipart body, instead of by ID.
    """
    if type(msg) is tuple:
        return httpsig.encode(structured.encode(msg, link=None if bundle else signed_id))
    assert isinstance(msg, Message)
    form = httpsig.encode(_tabm(msg, bundle))
    if msg.commitments:
        given, inputs = {}, {}
        for name, one in msg.commitments.items():
            label, raw, described = _wire(msg, name, one)
            given[label] = signature.signature_member(label, raw)
            inputs[label] = label.encode("ascii") + b"=" + described
        form.headers["signature"] = b", ".join(given[label] for label in ordered(given))
        form.headers["signature-input"] = b", ".join(inputs[label] for label in ordered(inputs))
    return form


def _wire(msg: Message, name: str, one: Message) -> tuple[str, bytes, bytes]:
    """Return label, raw signature and ``signature-input`` value of one commitment."""
    fields = _fields(one)
    raw = b64u_decode(fields.get("signature", b""))
    if "dialect" in fields:
        label = "sig-" if fields["dialect"] == b"D2" else "http-sig-"
        return label + sha256(raw)[:8].hex(), raw, fields.get("signature-input", b"()")
    extra = {key: value for key, value in fields.items() if key not in _NOT_PARAMS}
    tags = one.get("original-tags")
    if isinstance(tags, Message):
        extra["original-tags"] = envelope.original_tags_text(cast(Any, structured.encode(tags)))
    if envelope.commitment_id(raw) != name:
        extra["id"] = key_bytes(name)
    covered = signature.wire_names(_signed(msg, committed_list(one), _is_bundle(one)).components)
    return signature.label(raw), raw, covered + signature.wire_params(fields, extra)
