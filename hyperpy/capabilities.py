"""What the node can lend to a device that names it in ``needs`` (design 5).

A capability arrives as a keyword argument of the device's ``start`` method, before its first key.
Bundled devices get what they name; others only what ``[devices] grant`` allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hyperpy.message import Message, Value


class NodeControl(Protocol):
    """``node``: the node's public settings, its operator and its hooks."""

    address: str

    def info(self) -> Message:
        """Return the public settings, address and identities (ao-core 10.8)."""

    def build(self) -> Message:
        """Return what software runs."""

    def setting(self, name: str, default: Any = None) -> Any:
        """Return one setting as a message value or Python value, by its ``-`` name."""

    def change(self, request: Message) -> int:
        """Merge the request's uncommitted-or-committed keys into the settings; return the history's length.

        Raises:
            Forbidden: the request is not signed by the operator, or the node is permanent.
        """

    def put(self, name: str, item: Value) -> None:
        """Store one durable setting on the node's own account."""

    def is_operator(self, request: Message) -> bool:
        """Say whether a verified signature of the operator is on the request."""

    def hooks(self, event: str) -> Sequence[Message]:
        """Return the handlers of a hook, in order."""

    def devices(self) -> Mapping[str, str]:
        """Return device names and who brought each."""


class Timers(Protocol):
    """``timers``: run a path later or again and again, on the node's own account."""

    def once(self, path: str, delay_s: float = 0.0) -> str:
        """Resolve a path once; return the task's ID."""

    def every(self, path: str, interval_s: float) -> str:
        """Resolve a path at an interval; return the task's ID."""

    def stop(self, task: str) -> bool:
        """Stop a task; False if there is none of that ID."""

    def list(self) -> Mapping[str, Message]:
        """Return the running tasks by ID."""


class Keys(Protocol):
    """``keys``: the node's own signing key."""

    address: str

    def sign(self, message: Message, **options: Any) -> Message:
        """Return the message signed by the node; options as :func:`hyperpy.commitments.commit`."""


class Http(Protocol):
    """``http``: requests to peers the operator allowed."""

    def call(self, peer: str, request: Message) -> Message:
        """Send a request (keys ``path``, ``method``, others) and return the decoded, verified reply.

        Raises:
            Forbidden: the peer is not on the operator's list.
            UpstreamError: the peer cannot be reached or answers garbage.
        """

    def allowed(self, peer: str) -> bool:
        """Say whether the operator lets this node talk to the peer."""


class Storage(Protocol):
    """``store``: the node's message store and its names."""

    def read(self, ref: str) -> Value:
        """Return the message or binary with that ID; raise MessageNotFound."""

    def write(self, item: Value) -> str:
        """Store a message, list or binary now; return its unsigned ID."""

    def link(self, name: str, ref: str) -> None:
        """Make a name stand for an ID, durably."""

    def named(self, name: str) -> str | None:
        """Return the ID a name stands for."""

    def names(self, prefix: str = "") -> Mapping[str, str]:
        """Return all names with a prefix, and their IDs."""


class Metrics(Protocol):
    """``metrics``: the node's counters."""

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
