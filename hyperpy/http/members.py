"""The two signature headers of a reply (ao-core 4.7, 10.5; http-clients.md 0 rows 7 and 8).

RSA members come first in both headers: readers take the first one and its ``tag``. Labels hold no
underscore, which some readers cannot parse. A commitment of the older dialects, whose signed text
is not rebuilt from the message, has no place here; it travels in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hyperpy import commitments
from hyperpy.codecs import envelope, httpsig, signature, structured
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import b64u_decode, key_bytes
from hyperpy.message import Message, committed_list

_MAX_VALUE: Final = 4096
_KNOWN: Final = frozenset({"alg", "keyid", "tag", "created", "expires", "nonce"})
_LEFT_OUT: Final = frozenset({"committed", "signature", "type", "commitment-device", "committer"})


def signature_headers(reply: Message, linked: Tabm) -> list[tuple[bytes, bytes]]:
    """Return ``signature`` and ``signature-input``, or nothing for an unsigned message.

    Args:
        linked: the message's TABM with nested messages as links.
    """
    if not reply.commitments:
        return []
    members: list[tuple[bool, bytes, bytes]] = []
    for name, commitment in reply.commitments.items():
        made = _member(name, commitment, reply, linked)
        if made is not None:
            members.append(made)
    if not members:
        return []
    members.sort(key=lambda member: (not member[0], member[1]))
    own = _unsigned_member(reply, linked)
    size = sum(len(text) for _, _, text in members)
    if own is not None and size + len(own[1]) <= _MAX_VALUE:
        members.append((False, *own))
    return [
        (b"signature", b", ".join([one for _, one, _ in members])),
        (b"signature-input", b", ".join([text for _, _, text in members])),
    ]


def _member(name: str, commitment: Message, reply: Message, linked: Tabm) -> tuple[bool, bytes, bytes] | None:
    fields = {key: found for key, found in commitment.raw_items().items() if isinstance(found, bytes)}
    if "dialect" in fields or "signature" not in fields:
        return None
    raw = b64u_decode(fields["signature"])
    components = _components(reply, committed_list(commitment), linked, "bundle" in fields)
    extra = {key: found for key, found in fields.items() if key not in _LEFT_OUT and key not in _KNOWN}
    tags = commitment.get("original-tags")
    if isinstance(tags, Message):
        extra["original-tags"] = envelope.original_tags_text(_tags(tags))
    if envelope.commitment_id(raw) != name:
        extra["id"] = key_bytes(name)
    label = signature.label(raw).replace("_", "-")
    params = signature.wire_names(components) + signature.wire_params(fields, extra)
    is_rsa = not fields.get("type", b"").startswith(b"hmac")
    return is_rsa, signature.signature_member(label, raw), label.encode() + b"=" + params


def _components(reply: Message, names: tuple[str, ...] | None, linked: Tabm, bundle: bool) -> list[str]:
    """Return the names that a signature over ``names`` (None: all keys) covers, as signing left them in the memo."""
    whole = reply.memo.get(("signed", None, bundle))  # type: ignore[call-overload]
    if isinstance(whole, httpsig.Signed) and (names is None or whole.committed == names):
        return whole.components
    return httpsig.signed(structured.encode(reply) if bundle else linked, names).components


def _tags(tags: Message) -> dict[str, Mapping[str, bytes]]:
    out: dict[str, Mapping[str, bytes]] = {}
    for number in tags:
        tag = tags[number]
        if isinstance(tag, Message):
            out[number] = {k: found for k, found in tag.raw_items().items() if isinstance(found, bytes)}
    return out


def _unsigned_member(reply: Message, linked: Tabm) -> tuple[bytes, bytes] | None:
    """Return the HMAC member, which names the unsigned ID, unless the message carries it."""
    name = commitments.unsigned_id(reply)
    if name in reply.commitments:
        return None
    raw = b64u_decode(name)
    label = signature.label(raw).replace("_", "-")
    fields = {"type": b"hmac-sha256", "keyid": b"constant:ao"}
    params = signature.wire_names(_components(reply, None, linked, False)) + signature.wire_params(fields, {})
    return signature.signature_member(label, raw), label.encode() + b"=" + params
