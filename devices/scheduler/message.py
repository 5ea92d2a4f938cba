"""What may be scheduled (devices/02-scheduler, 3; design 5)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import is_
from typing import Final

from hyperpy import Message, commitments
from hyperpy.commitments import without_reply_signatures
from hyperpy.commitments.signing import with_commitments
from hyperpy.errors import HyperpyError, MessageError, MessageNotFound, SizeError
from hyperpy.message import Link, Value, as_text, committed_list

MAX_BYTES: Final = 64 << 20
MAX_PARTS: Final = 100_000
MAX_DEPTH: Final = 64
_TRANSPORT: Final = frozenset(
    {"path", "method", "host", "accept", "accept-bundle", "accept-encoding", "user-agent", "connection", "subject"}
    | {"content-length", "ao-peer", "ao-peer-port", "codec-device", "commitments"}
)
"""Keys of an unsigned request that are no part of the message it carries."""


class NotValid(MessageError):
    """The message cannot be scheduled, because of who signed it or what was signed."""


def subject(request: Message) -> Message:
    """Return the message to be scheduled.

    Raises:
        MessageError: ``subject`` names a key that holds no message.
    """
    name = request.get("subject")
    if name is not None:
        if name == b"self":
            return request
        found = request.get(as_text(name, "subject"))
        if not isinstance(found, Message):
            raise MessageError(f"the subject {as_text(name)[:60]!a} is no message")
        return found
    body = request.get("body")
    return body if isinstance(body, Message) else request


def admitted(message: Message, signers: Collection[str], *, unsigned: bool) -> Message:
    """Return what is scheduled of a message: the keys that every signature covers, and the signatures.

    Args:
        signers: whose signature over a status is only a reply's, and no signature here.
        unsigned: whether nobody need have signed.

    Raises:
        NotValid: it is not signed, or a signature does not hold.
    """
    message = without_reply_signatures(message, signers)
    signed = [name for name, one in message.commitments.items() if commitments.committer_of(one)]
    if not signed:
        if not unsigned:
            raise NotValid("nobody signed the message", hint="Sign the inner message, then send it again.")
        return Message.make({k: v for k, v in message.raw_items().items() if k not in _TRANSPORT})
    try:
        if len(signed) < len(message.commitments):  # what anybody can compute says nothing
            message = with_commitments(message, {name: message.commitments[name] for name in signed})
        commitments.check(message)
        kept = commitments.only_committed(message)
        for name in signed:
            _refuse_partial(kept, kept.commitments[name])
            commitments.refuse_untyped(kept, kept.commitments[name])
    except HyperpyError as error:
        raise NotValid(error.message, hint=error.hint) from None
    return kept.with_private(**dict.fromkeys(kept.private)) if kept.private else kept


def _refuse_partial(message: Message, commitment: Message) -> None:
    """Refuse a signature over more than is scheduled."""
    for name in committed_list(commitment):
        if name not in message and name != "ao-types":
            raise NotValid(f"not every signature covers {name[:64]!a}", hint="Let all signers sign the same keys.")


def loaded(message: Message, read: Callable[[str], Value]) -> Message:
    """Return the message with everything it links to inside it: what is scheduled stands alone.

    Raises:
        MessageNotFound: a link leads nowhere.
        SizeError: the whole is too large.
    """
    budget = [MAX_PARTS, MAX_BYTES]
    found = _loaded(message, read, 0, budget)
    assert isinstance(found, Message)
    return found


def _loaded(item: Value, read: Callable[[str], Value], depth: int, budget: list[int]) -> Value:
    if type(item) is Link:
        item = _followed(item, read)
    budget[0] -= 1
    budget[1] -= len(item) if type(item) is bytes else 8
    if budget[0] < 0 or budget[1] < 0 or depth > MAX_DEPTH:
        raise SizeError("the message to schedule is too large with all it links to")
    if type(item) is tuple:
        made = tuple(_loaded(one, read, depth + 1, budget) for one in item)
        return item if all(map(is_, made, item)) else made
    if type(item) is not Message:
        return item
    budget[1] -= sum(map(len, item.raw_items()))
    items = {key: _loaded(one, read, depth + 1, budget) for key, one in item.raw_items().items()}
    if all(items[key] is one for key, one in item.raw_items().items()):
        return item
    return Message.make(items, item.commitments)


def _followed(link: Link, read: Callable[[str], Value]) -> Value:
    try:
        found = link.load() if link.loader is not None else read(link.id)
    except MessageNotFound:
        raise MessageNotFound(
            "Cannot fully load message to schedule.", hint=f"Send the message {link.id[:60]} first, or inline."
        ) from None
    if isinstance(found, Message) and commitments.signed_id(found) != link.id:
        found = found.with_commitments({})  # named by its content
    if isinstance(found, (Message, tuple, bytes)) and commitments.signed_id(found) == link.id:
        return found
    raise MessageNotFound("Cannot fully load message to schedule.", hint=f"{link.id[:60]} is another message here.")
