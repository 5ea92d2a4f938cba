"""The two signature headers of a reply (ao-core 4.7, 10.5; http-clients.md 0 rows 7 and 8).

RSA members come first in both headers: readers take the first one and its ``tag``. Labels hold no
underscore, which some readers cannot parse. A commitment of the older dialects, whose signed text
is not rebuilt from the message, has no place here; it travels in JSON.
"""

from __future__ import annotations

import re
from typing import Final

from hyperpy import commitments
from hyperpy.codecs import signature
from hyperpy.message import Message

_MAX_VALUE: Final = 4096
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def signature_headers(reply: Message) -> list[tuple[bytes, bytes]]:
    """Return ``signature`` and ``signature-input``, or nothing for an unsigned message."""
    members: list[tuple[bool, bytes, bytes]] = []
    for name, one in reply.commitments.items():
        if "dialect" in one or type(one.raw("signature")) is not bytes:
            continue
        kind = one.raw("type")
        unsigned = type(kind) is bytes and kind.startswith(b"hmac")
        members.append((unsigned, *_texts(*commitments.wire_member(reply, name, one))))
    if not members:
        return []
    members.sort(key=lambda member: member[:2])
    own = commitments.unsigned_member(reply)
    if own is not None:
        texts = _texts(*own)
        fits = sum([len(text) for _, _, text in members]) + len(texts[1]) <= _MAX_VALUE
        if fits and _CONTROL.search(texts[1]) is None:  # it covers what nobody signed, too
            members.append((True, *texts))
    return [
        (b"signature", b", ".join([one for _, one, _ in members])),
        (b"signature-input", b", ".join([text for _, _, text in members])),
    ]


def _texts(label: str, raw: bytes, described: bytes) -> tuple[bytes, bytes]:
    """Return the entries of the two headers."""
    label = label.replace("_", "-")
    return signature.signature_member(label, raw), label.encode("ascii") + b"=" + described
