"""Asking a node for its receipt of what it computed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hyperpy.client import Client
from hyperpy.errors import UpstreamError

if TYPE_CHECKING:
    from hyperpy.audit.fault import Asked


def is_url(ref: str) -> bool:
    """Say whether a reference is a URL: what a node answers to a GET of it is meant."""
    return re.match(r"https?://", ref) is not None


def named_by(url: str) -> tuple[str, Asked]:
    """Ask for a URL; return the node, and its answer with the path as the node saw it. The answer has a hashpath.

    Raises:
        UpstreamError: there is no such node, or its answer has no hashpath.
    """
    from hyperpy.audit.fault import Peer

    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    node = f"{scheme}://{host}"
    with Peer(node) as peer:
        asked = peer.ask(slash + path)
    if asked.reply.hashpath is None:
        raise UpstreamError(f"the reply to {url[:200]} has no hashpath: there is nothing to replay")
    return node, asked


def receipt_of(
    node: str, ref: str, *, slots: str = "", part: str = "", sign: bool = True, most: int | None = None
) -> tuple[bytes, int]:
    """Return the receipt that a node makes for a reference, and until when the node keeps what it is about.

    That is in seconds since 1970; 0: it does not keep it, or does not say.

    Args:
        most: bytes of messages that it may hold; None leaves it to the node.

    Raises:
        UpstreamError: there is no such node, or it gives no receipt.
    """
    asked = {"ref": ref, "slots": slots, "part": part, "sign": "" if sign else "false"}
    if most is not None:
        asked["max-bytes"] = str(most)
    with Client(node) as client:
        reply = client.get("/~audit@1.0/receipt", {name: text for name, text in asked.items() if text})
    body = reply.get("body")
    if reply.get("status") == 200 and isinstance(body, bytes):
        until = reply.get("kept-until")
        return body, until if type(until) is int else 0
    told = body.decode("utf-8", "replace") if isinstance(body, bytes) else ""
    raise UpstreamError(
        f"{node} gives no receipt for {ref[:200]}; it answers {reply.get('status')!r}: {told[:300]}",
        hint="Only hyperpy nodes give receipts, and only of what they recorded.",
    )
