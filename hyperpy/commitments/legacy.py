"""A message in the JSON of aos, with the ID and the owner that its signatures give it."""

from __future__ import annotations

import json

from hyperpy.codecs import aos2
from hyperpy.commitments.ids import committers, signed_id
from hyperpy.message import Message, Value


def as_aos2(item: Value, request: Message) -> Value:
    """Return a message as the JSON of aos where ``accept: application/aos-2`` asks for it, else as it is.

    Raises:
        CodecError: the message has no such form.
    """
    if request.get("accept") != aos2.CONTENT_TYPE.encode() or not isinstance(item, Message):
        return item
    owner = next(iter(committers(item)), "")
    struct = aos2.encode(item, ident=signed_id(item), owner=owner, link=signed_id)
    return Message({"content-type": aos2.CONTENT_TYPE, "body": json.dumps(struct)})
