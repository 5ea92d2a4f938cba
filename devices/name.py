"""name@1.0: finds what a name stands for by asking the node's resolvers in turn."""

from __future__ import annotations

from hyperpy import device
from hyperpy.capabilities import NodeControl
from hyperpy.encoding import is_id
from hyperpy.errors import KeyNotFound
from hyperpy.message import Message, Value, value
from hyperpy.sdk import Context, default


@device("name@1.0", needs=("node",), excludes=("keys", "set"))
class Name:
    """Answers every key with what the first resolver that knows the name says.

    Resolvers are the messages of the setting ``name-resolvers``; each answers ``lookup``.
    """

    def start(self, node: NodeControl) -> None:
        """Take the settings."""
        self._node = node

    @default(deterministic=False, reads=True)
    def find(self, key: str, ctx: Context, load: bool = True) -> Value:
        """Return the message that the name stands for; with ``load=false`` what the resolver says."""
        resolvers = value(self._node.setting("name-resolvers", ()))
        for resolver in resolvers if isinstance(resolvers, tuple) else (resolvers,):
            if not isinstance(resolver, Message):
                continue
            try:
                result = ctx.step(resolver, Message({"path": "lookup", "key": key}))
            except KeyNotFound:
                continue
            if result.status == "ok":
                found = result.value
                return ctx.resolve(found) if load and isinstance(found, bytes) and is_id(found) else found
        raise KeyNotFound(f"no resolver of this node knows the name '{key[:100]}'")
