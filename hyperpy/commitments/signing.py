"""Making commitments: RSA signatures, MACs, ANS-104 items (ao-core 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from hyperpy import keys
from hyperpy.codecs import ans104, envelope, signature, structured
from hyperpy.codecs.httpsig import Signed
from hyperpy.codecs.structured import MAX_DEPTH
from hyperpy.commitments.ambiguity import refuse_ambiguous
from hyperpy.commitments.fields import (
    ANS104,
    CONSTANT,
    HMAC_TYPE,
    HTTPSIG,
    HTTPSIG_DEVICES,
    RSA_TYPE,
    committer_of,
    device_of,
    fields_of,
)
from hyperpy.commitments.ids import (
    committed,
    content_id,
    mac_of,
    select,
    signed_form,
    tabm_of,
    unsigned_fields,
)
from hyperpy.encoding import b64u, b64u_decode, key_bytes, sha256
from hyperpy.errors import (
    MessageError,
    MessageNotFound,
    SizeError,
)
from hyperpy.message import UNDEFINED, Atom, Link, Message, Value

_OF_CONTENT = ("content-id", "content-key", "tabm", "bundle", "signed", "smuggles")


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
    if device not in HTTPSIG_DEVICES:
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
        if committed is None and names is not None:
            names = _default_names(msg)
    elif type not in ("unsigned", HMAC_TYPE):
        raise MessageError(f"httpsig cannot make commitments of type {type!a}")
    named = key_bytes(keyid if keyid and type in ("unsigned", HMAC_TYPE) else CONSTANT)
    return _commit_mac(msg, {**fields, "type": HMAC_TYPE.encode(), "keyid": named}, names, named)


def _default_names(msg: Message) -> tuple[str, ...] | None:
    """Return the names that earlier commitments cover, None for all keys (3.3, step 3)."""
    chosen = select(msg, "all")
    return None if not chosen else committed(msg, ids=chosen, committers="none")


def _commit_rsa(
    msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: keys.RsaKey, tag: str | None
) -> Message:
    own = {**fields, "type": RSA_TYPE.encode(), "keyid": key.keyid.encode("ascii")}
    own["committer"] = key.address.encode("ascii")
    if tag is not None:
        own["tag"] = key_bytes(tag)
    form = signed_form(msg, names, "bundle" in fields)
    raw = key.sign_pss_sha512(form.base(signature.base_params(own)))
    return _added(msg, envelope.commitment_id(raw), own, form, raw)


def _commit_mac(msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: bytes) -> Message:
    kept = {
        name: one
        for name, one in msg.commitments.items()
        if fields_of(one).get("keyid") != fields["keyid"] or device_of(one) not in HTTPSIG_DEVICES
    }
    raw = mac_of(msg, fields, names, key)
    if len(kept) != len(msg.commitments):
        genuine = msg.memo.get("genuine", frozenset())
        msg = with_commitments(msg, kept)
        msg.memo["genuine"] = genuine & kept.keys()
    form = signed_form(msg, names, "bundle" in fields)
    made = _added(msg, b64u(raw), fields, form, raw)
    if key == CONSTANT.encode() and not fields.get("bundle"):
        whole = {name.removesuffix("+link") for name in tabm_of(msg)}
        if whole.issubset(form.committed):
            made.memo["content-key"] = raw
    return made


def _added(msg: Message, name: str, fields: Mapping[str, bytes], form: Signed, raw: bytes) -> Message:
    items: dict[str, Value] = {**fields, "committed": tuple(map(key_bytes, form.committed))}
    items["signature"] = b64u(raw).encode("ascii")
    one = Message.make(items)
    one.memo["fields"] = {key: item for key, item in items.items() if type(item) is bytes}
    one.memo["committed-list"] = tuple([name.removesuffix("+link") for name in form.committed])
    made = with_commitments(msg, {**msg.commitments, name: one})
    if "secret" not in fields.get("keyid", b"").decode("latin-1"):
        made.memo["genuine"] = msg.memo.get("genuine", frozenset()) | {name}
    return made


def with_commitments(msg: Message, commitments: Mapping[str, Message]) -> Message:
    """Return the message with other commitments; what depends on content alone is kept."""
    made = msg.with_commitments(commitments)
    made.memo.update({name: msg.memo[name] for name in _OF_CONTENT if name in msg.memo})
    return made


def _commit_item(msg: Message, key: Any, names: Sequence[str] | None, bundle: bool) -> Message:
    """Return the message with an ANS-104 commitment; its keys are in lower case then (13.4)."""
    if names is not None:
        raise MessageError("an ANS-104 item covers the whole message; 'committed' cannot choose")
    tabm = dict(tabm_of(msg, bundle))
    if msg.commitments:
        tabm["commitments"] = structured.encode(msg)["commitments"]
    made = structured.decode(ans104.sign(tabm, key))
    if not isinstance(made, Message):
        raise MessageError("a list cannot be an ANS-104 item of its own")
    kept = Message.make(
        cast("dict[str, Value]", made.raw_items()), {**msg.commitments, **made.commitments}, msg.private
    )
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
    if any(committer_of(one) is None and device_of(one) == HTTPSIG for one in value.commitments.values()):
        return made
    fields = unsigned_fields()
    form = signed_form(made, None, False)
    return _added(made, content_id(made), fields, form, b64u_decode(content_id(made)))
