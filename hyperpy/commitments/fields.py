"""What one commitment says of itself, and who stands behind it (ao-core 3.1, 3.2)."""

from __future__ import annotations

from typing import Final, cast

from hyperpy.codecs import ans104, envelope, structured
from hyperpy.encoding import key_text
from hyperpy.errors import (
    CodecError,
)
from hyperpy.message import Message

HTTPSIG: Final = "httpsig@1.0"
ANS104: Final = "ans104@1.0"
CONSTANT: Final = "constant:ao"
RSA_TYPE: Final = "rsa-pss-sha512"
HMAC_TYPE: Final = "hmac-sha256"
HTTPSIG_DEVICES: Final = frozenset({HTTPSIG, "http-auth@1.0", "cookie@1.0", "secret@1.0"})
"""Devices whose commitments are made and checked the way httpsig's are."""
_PLAIN: Final = frozenset(
    {"commitment-device", "type", "keyid", "signature", "committer", "bundle", "tag", "created", "expires", "nonce"}
)
"""Names of fields that stand for themselves; the values of most are bytes."""
_NESTED: Final = frozenset({tuple, Message})
_BYTES: Final = frozenset({bytes})


def committer_of(commitment: Message) -> str | None:
    """Return the address behind a commitment's key; None for an unsigned one.

    Where the key gives it, the ``committer`` field is not looked at.
    """
    known = commitment.memo.get("committer", commitment)
    if known is commitment:
        fields = fields_of(commitment)
        keyid = fields.get("keyid", b"").decode("utf-8", "surrogateescape")
        try:
            if device_of(commitment) == ANS104:
                known = ans104.committer(fields)
            else:
                known = envelope.committer_of(keyid, key_text(fields.get("type", b"")))
        except CodecError:
            known = None
        commitment.memo["committer"] = known
    return cast("str | None", known)


def device_of(commitment: Message) -> str:
    """Return the device that made a commitment."""
    return commitment.text("commitment-device", HTTPSIG)


def is_bundle(commitment: Message) -> bool:
    """Say whether a commitment covers nested messages inline."""
    return commitment.text("bundle", "false") == "true"


def fields_of(commitment: Message) -> dict[str, bytes]:
    """Return a commitment's scalar fields as text."""
    known = commitment.memo.get("fields")
    if known is None:
        scalars = {key: item for key, item in commitment.raw_items().items() if type(item) not in _NESTED}
        if _PLAIN.issuperset(scalars) and _BYTES.issuperset(map(type, scalars.values())):
            known = scalars
        else:
            written = structured.encode(Message.make(scalars))
            known = {key: value for key, value in written.items() if type(value) is bytes and key != "ao-types"}
        commitment.memo["fields"] = known
    return cast("dict[str, bytes]", known)


def is_rebuilt(commitment: Message) -> bool:
    """Say whether a commitment is verified over the rebuilt message (D3)."""
    return device_of(commitment) in HTTPSIG_DEVICES and "dialect" not in commitment
