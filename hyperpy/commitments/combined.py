"""The combined ID: the sum of what a message says and who signed it."""

from __future__ import annotations

from typing import Final

from hyperpy.commitments.ids import content_id
from hyperpy.encoding import accumulate_256, b64u, b64u_decode, native, sha256
from hyperpy.errors import CodecError
from hyperpy.message import Message

MAX_SUMMED: Final = 16
"""A sum of more IDs gets no alias: sums of many hashes can be steered to a chosen value."""


def raw_id(ref: str) -> bytes | None:
    """Return the 32 bytes of an ID in either form, or None if the text is no such ID."""
    try:
        raw = native(ref)
    except CodecError:
        return None
    return raw if len(raw) == 32 else None


def derivable(fields: Message) -> bool:
    """Say whether a commitment is the unsigned one, which everybody can compute again."""
    return fields.get("keyid") == b"constant:ao" and "committer" not in fields


def combined_id(item: Message) -> str | None:
    """Return the sum of the ID of a message's content and those of its commitments, the unsigned one left out.

    None if a commitment's ID is not computed from its signature, or they are too many.
    """
    added = [name for name, fields in item.commitments.items() if not derivable(fields)]
    if not all(_fits(name, item.commitments[name]) for name in added):
        return None
    found = _sum([*added, content_id(item)])
    return None if found is None else b64u(found)


def _fits(name: str, fields: Message) -> bool:
    """Say whether a commitment's ID is computed from its signature, as all types do (ao-core 3.3)."""
    signature = fields.get("signature")
    raw = raw_id(name)
    if not isinstance(signature, bytes) or raw is None:
        return False
    try:
        decoded = b64u_decode(signature)
    except CodecError:
        return False
    return raw in (sha256(decoded), decoded)


def _sum(names: list[str]) -> bytes | None:
    """Return the sum of IDs (ao-core 3.4), or None if one is no ID or they are too many."""
    if not 0 < len(names) <= MAX_SUMMED:
        return None
    total = bytes(32)
    for name in names:
        raw = raw_id(name)
        if raw is None:
            return None
        total = accumulate_256(total, raw)
    return total
