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

from hyperpy.commitments.ambiguity import refuse_ambiguous, refuse_untyped
from hyperpy.commitments.fields import committer_of
from hyperpy.commitments.ids import (
    Committers,
    committed,
    committers,
    content_id,
    content_key,
    covered,
    hashpath_id,
    message_id,
    only_committed,
    signed_id,
    unsigned_id,
    whole_signers,
)
from hyperpy.commitments.proven import proven
from hyperpy.commitments.replies import is_own_word, without_reply_signatures
from hyperpy.commitments.signing import bundled, commit
from hyperpy.commitments.verifying import check, verify
from hyperpy.commitments.wire import http_form, unsigned_member, wire_member

__all__ = [
    "Committers",
    "bundled",
    "check",
    "commit",
    "committed",
    "committer_of",
    "committers",
    "content_id",
    "content_key",
    "covered",
    "hashpath_id",
    "http_form",
    "is_own_word",
    "message_id",
    "only_committed",
    "proven",
    "refuse_ambiguous",
    "refuse_untyped",
    "signed_id",
    "unsigned_id",
    "unsigned_member",
    "verify",
    "whole_signers",
    "wire_member",
    "without_reply_signatures",
]
