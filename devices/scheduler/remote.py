"""Other schedulers: where they are, and what they answer (devices/02-scheduler, 2, 3 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hyperpy import Message
from hyperpy.capabilities import Http, Storage
from hyperpy.errors import MessageNotFound
from hyperpy.message import Value, as_text

from .assignment import VARIANT
from .targets import Reference

MAX_HOPS: Final = 3
"""Redirects followed, and nodes a request is passed on by."""

_HOPS: Final = "scheduler-hops"


class Remote:
    """Finds the node of a scheduler, and asks it if the operator lets this node talk to it.

    Args:
        http: the way to peers.
        store: holds the location records of location@1.0.
    """

    def __init__(self, http: Http, store: Storage) -> None:
        self._http = http
        self._store = store

    def redirect(self, references: Sequence[Reference]) -> Message | None:
        """Return where the first scheduler is that can be found, in the list's order; None for none."""
        for one in references:
            if one.hint:
                return redirection(one.hint, VARIANT)
            record = self._record(one.address)
            if record is not None:
                url = record.get("url", record.get("location", b"/"))
                return redirection(as_text(url, "url"), record.get("variant", VARIANT))
        return None

    def _record(self, address: str) -> Message | None:
        name = self._store.named("location/" + address)
        try:
            found = None if name is None else self._store.read(name)
        except MessageNotFound:
            return None
        return found if isinstance(found, Message) else None

    def follow(self, redirect: Message, request: Message, asked: Message) -> Message:
        """Return the answer of the node a redirect names, or the redirect if it may not be asked.

        Args:
            request: what to send; its path is on the other node.
            asked: what this node was asked, which counts the hops.
        """
        hops = asked.get(_HOPS, 0)
        for hop in range(hops if isinstance(hops, int) and not isinstance(hops, bool) else MAX_HOPS, MAX_HOPS):
            url = redirect.text("location", "")
            if redirect.get("variant", VARIANT) != VARIANT or not self._http.allowed(url):
                return redirect
            answered = self._http.call(url, request | {_HOPS: hop + 1})
            if answered.get("status") not in (307, 308) or "location" not in answered:
                return answered
            redirect = redirection(answered.text("location"), answered.get("variant", VARIANT))
        return redirect


def redirection(url: str, variant: Value) -> Message:
    """Return the answer that sends a client to another node."""
    return Message(
        {
            "status": 307,
            "location": url,
            "body": f"Redirecting to scheduler: {url}",
            "variant": variant,
        }
    )
