"""hook@1.0: shows the handlers of a hook (ao-core 10.6)."""

from __future__ import annotations

from typing import Any

from hyperpy import Message, device, key
from hyperpy.capabilities import NodeControl
from hyperpy.message import as_text


@device("hook@1.0", needs=("node",))
class Hook:
    """Finds the handlers that run on ``start``, ``request``, ``step`` and ``response``."""

    def start(self, node: NodeControl) -> None:
        """Take the node's settings."""
        self._node = node

    @key(deterministic=False, reads=True)
    def find(self, request: Message, target: str = "body") -> list[Any]:
        """List the handlers of the hook whose name stands in the request under ``target``."""
        return list(self._node.hooks(as_text(request[target], target)))
