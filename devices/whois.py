"""whois@1.0: the node's address on the network, and the caller's."""

from __future__ import annotations

from typing import Any

from hyperpy import Message, device, key
from hyperpy.capabilities import Http, NodeControl
from hyperpy.errors import KeyNotFound
from hyperpy.message import as_text


@device("whois@1.0", needs=("node", "http"))
class Whois:
    """Tells who is who."""

    def start(self, node: NodeControl, http: Http) -> None:
        """Take the node's settings and the way to its peers."""
        self._node, self._http = node, http

    @key(deterministic=False, reads=True)
    def echo(self, request: Message) -> Any:
        """Return the caller's address as this node sees it, or ``unknown``."""
        return request.get("ao-peer", b"unknown")

    @key(deterministic=False, reads=True)
    def node(self) -> str:
        """Return this node's host, asking the bootstrap node once if it does not know."""
        known = self._node.setting("host")
        if known:
            return as_text(known)
        peer = self._node.setting("host-bootstrap-node")
        if not peer:
            raise KeyNotFound("No bootstrap node configured.", hint="Set host or host-bootstrap-node.")
        reply = self._http.call(as_text(peer), Message({"path": "/~whois@1.0/echo", "method": "GET"}))
        found = reply.text("body")
        self._node.put("host", found.encode())
        return found
