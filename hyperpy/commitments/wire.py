"""A message as HTTP carries it, with its signature headers (ao-core 4.7)."""

from __future__ import annotations

from typing import Any, cast

from hyperpy.codecs import envelope, httpsig, signature, structured
from hyperpy.codecs.httpsig import HttpForm
from hyperpy.commitments.fields import (
    fields_of,
    is_bundle,
)
from hyperpy.commitments.ids import (
    content_id,
    signed_form,
    signed_id,
    tabm_of,
    unsigned_fields,
    unsigned_id,
)
from hyperpy.encoding import b64u_decode, key_bytes, ordered, sha256
from hyperpy.message import Message, Value, committed_list

_NOT_PARAMS = frozenset(
    {
        "committed", "signature", "type", "commitment-device", "committer", "alg", "keyid", "tag", "created",
        "expires", "nonce", "dialect", "envelope", "signature-input",
    }
)  # fmt: skip


def http_form(msg: Message | tuple[Value, ...], *, bundle: bool = False) -> HttpForm:
    """Return a message as HTTP carries it, signature headers included (4.7).

    Args:
        bundle: nested messages inline, as parts of a multipart body, instead of by ID.
    """
    if type(msg) is tuple:
        return httpsig.encode(structured.encode(msg, link=None if bundle else signed_id))
    assert isinstance(msg, Message)
    form = httpsig.encode(tabm_of(msg, bundle))
    if msg.commitments:
        given, inputs = {}, {}
        for name, one in msg.commitments.items():
            label, raw, described = wire_member(msg, name, one)
            given[label] = signature.signature_member(label, raw)
            inputs[label] = label.encode("ascii") + b"=" + described
        form.headers["signature"] = b", ".join(given[label] for label in ordered(given))
        form.headers["signature-input"] = b", ".join(inputs[label] for label in ordered(inputs))
    return form


def wire_member(msg: Message, name: str, one: Message) -> tuple[str, bytes, bytes]:
    """Return how a commitment of the message travels: label, raw signature, ``signature-input`` value.

    Args:
        name: the commitment's ID, as the message has it.
        one: its fields.
    """
    fields = fields_of(one)
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
    covers = signature.wire_names(signed_form(msg, committed_list(one), is_bundle(one)).components)
    return signature.label(raw), raw, covers + signature.wire_params(fields, extra)


def unsigned_member(msg: Message) -> tuple[str, bytes, bytes] | None:
    """Return the member that names the unsigned ID, as :func:`wire_member`; None if a commitment does already."""
    if content_id(msg) in msg.commitments:
        return None
    name = unsigned_id(msg)
    if name in msg.commitments:
        return None
    raw = b64u_decode(name)
    covers = signature.wire_names(signed_form(msg, None, False).components)
    return signature.label(raw), raw, covers + signature.wire_params(unsigned_fields(), {})
