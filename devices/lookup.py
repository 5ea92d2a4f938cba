"""lookup@1.0: reads a message by its ID."""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.encoding import is_id
from hyperpy.errors import ParameterError
from hyperpy.message import Value
from hyperpy.sdk import Context


@device("lookup@1.0")
class Lookup:
    """The store of this node, read by ID."""

    @key(deterministic=False)
    def read(self, target: str, ctx: Context) -> Value:
        """Return the message with the ID ``target``; 404 if this node does not hold it."""
        if not is_id(target.encode()):
            raise ParameterError("read: 'target' must be a message ID of 43 characters", name="target")
        return ctx.resolve(target)
