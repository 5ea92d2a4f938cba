"""lookup@1.0: reads a message by its ID."""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.commitments.legacy import as_aos2
from hyperpy.encoding import is_id
from hyperpy.errors import ParameterError
from hyperpy.message import Message, Value
from hyperpy.sdk import Context


@device("lookup@1.0")
class Lookup:
    """The store of this node, read by ID."""

    @key(deterministic=False, reads=True)
    def read(self, request: Message, target: str, ctx: Context) -> Value:
        """Return the message with the ID ``target``; 404 if this node does not hold it.

        With ``accept: application/aos-2``, as the JSON of aos.
        """
        if not is_id(target.encode()):
            raise ParameterError("read: 'target' must be a message ID of 43 characters", name="target")
        return as_aos2(ctx.resolve(target), request)
