"""Signatures that only say "this node answered so" (design 5, b)."""

from __future__ import annotations

from collections.abc import Collection

from hyperpy.commitments.fields import ANS104, committer_of, device_of
from hyperpy.message import Message, committed_list


def without_reply_signatures(message: Message, signers: Collection[str]) -> Message:
    """Return a message without the commitments that only say "this node answered so" (design 5, b).

    Such is a commitment by one of ``signers`` (the node, its schedulers and authorities) that covers an
    integer ``status``; in ANS-104 items, whose tags have no types, and in the older dialects, which
    sign texts, any ``status``.
    """
    if not message.commitments:
        return message
    whole = isinstance(message.raw("status"), int)
    kept = {
        name: fields
        for name, fields in message.commitments.items()
        if not (
            committer_of(fields) in signers
            and "status" in committed_list(fields)
            and (whole or device_of(fields) == ANS104 or "dialect" in fields)
        )
    }
    return message if len(kept) == len(message.commitments) else message.with_commitments(kept)


_FOR_OTHERS = frozenset({"status", "from-process"})


def is_own_word(commitment: Message) -> bool:
    """Say whether a signature can be its signer's own will.

    A node signs what it answers, with a ``status``, and what the processes it pushes for send, with their
    ``from-process``: all else in these anybody may have chosen.
    """
    return _FOR_OTHERS.isdisjoint(committed_list(commitment))
