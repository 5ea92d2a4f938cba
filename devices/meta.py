"""meta@1.0: the node's settings and build, readable by anybody, changed by the operator alone."""

from __future__ import annotations

from hyperpy import Message, Result, device, key
from hyperpy.capabilities import NodeControl
from hyperpy.errors import Forbidden


@device("meta@1.0", needs=("node",))
class Meta:
    """Describes the node; a signed POST by the operator changes its settings."""

    def start(self, node: NodeControl) -> None:
        """Take the node's settings."""
        self._node = node

    @key(deterministic=False)
    def info(self, request: Message) -> Message | Result:
        """Return the settings (GET), or merge the request's keys into them (POST by the operator)."""
        if request.get("method") != b"POST":
            return self._node.info()
        try:
            count = self._node.change(request)
        except Forbidden as error:
            return Result("error", Message({"status": 400, "body": error.message}))
        return Message({"body": f"Node message updated. History: {count} updates.", "history-length": count})

    @key(deterministic=False, reads=True)
    def build(self) -> Message:
        """Return the name and version of the software."""
        return self._node.build()
