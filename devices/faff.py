"""faff@1.0: friends and family. A pricing device for p4@1.0 that serves those on a list, and nobody else."""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.capabilities import NodeControl
from hyperpy.commitments import committers
from hyperpy.message import Message, Value, as_text


@device("faff@1.0", needs=("node",), excludes=("set", "keys"))
class Faff:
    """Costs nothing for requests whose signers are all in the setting ``faff-allow-list``, and for the operator.

    Whoever did not sign is no friend.
    """

    def start(self, node: NodeControl) -> None:
        """Take the settings."""
        self._node = node

    @key(deterministic=False, reads=True)
    def estimate(self, request: Message) -> Value:
        """Return 0 for a ``request`` of friends, else ``infinity``."""
        asked = request.get("request")
        if not isinstance(asked, Message):
            return b"infinity"
        listed = self._node.setting("faff-allow-list", ())
        friends = {as_text(item) for item in (listed if isinstance(listed, tuple) else (listed,))}
        signers = committers(asked)
        if self._node.is_operator(asked) or (signers and friends.issuperset(signers)):
            return 0
        return b"infinity"

    @key(deterministic=False, reads=True)
    def price(self, request: Message) -> Value:
        """Return what was estimated."""
        return self.estimate(request)

    @key
    def charge(self) -> bool:
        """Take nothing."""
        return True
