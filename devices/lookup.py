"""lookup@1.0: reads a message by its ID."""

from __future__ import annotations

import json

from hyperpy import commitments, device, key
from hyperpy.codecs import aos2
from hyperpy.encoding import is_id
from hyperpy.errors import ParameterError
from hyperpy.message import Message, Value
from hyperpy.sdk import Context


@device("lookup@1.0")
class Lookup:
    """The store of this node, read by ID."""

    @key(deterministic=False)
    def read(self, request: Message, target: str, ctx: Context) -> Value:
        """Return the message with the ID ``target``; 404 if this node does not hold it.

        With ``accept: application/aos-2``, as the JSON of aos.
        """
        if not is_id(target.encode()):
            raise ParameterError("read: 'target' must be a message ID of 43 characters", name="target")
        return _legacy(ctx.resolve(target), request)


def _legacy(item: Value, request: Message) -> Value:
    """Return a message as the JSON of aos where ``accept: application/aos-2`` asks for it."""
    if request.get("accept") != aos2.CONTENT_TYPE.encode() or not isinstance(item, Message):
        return item
    signers = commitments.committers(item)
    ident, owner = commitments.signed_id(item), signers[0] if signers else ""
    struct = aos2.encode(item, ident=ident, owner=owner, link=commitments.signed_id)
    return Message({"content-type": aos2.CONTENT_TYPE, "body": json.dumps(struct)})
