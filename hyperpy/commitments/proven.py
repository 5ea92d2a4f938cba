"""The message that really has an ID, whoever says so."""

from __future__ import annotations

from collections.abc import Callable

from hyperpy.commitments.ids import only_committed, signed_id, unsigned_id
from hyperpy.commitments.verifying import check
from hyperpy.errors import CommitmentError, InvalidSignature, MessageNotFound
from hyperpy.message import Message, Value


def proven(ident: str, given: Message, read: Callable[[str], Value]) -> Message:
    """Return the message with this ID, committed keys only: the stored one, else the given one if it verifies.

    Args:
        read: returns a stored message by its ID.

    Raises:
        InvalidSignature: there is no stored one, and the given one is altered or another message.
    """
    try:
        found = read(ident)
        if isinstance(found, Message) and signed_id(found) == ident:
            return _verified(found)
    except (MessageNotFound, CommitmentError):
        pass
    kept = _verified(given)
    if ident not in (signed_id(kept), unsigned_id(kept)):
        raise InvalidSignature(f"the message given for {ident} is another one, or some of its keys are not signed")
    return kept


def _verified(message: Message) -> Message:
    kept = only_committed(message)
    if kept.commitments:
        check(kept)
    return kept
