"""Which fields an assignment has: what a scheduler signs, and nobody's reply is (design 5)."""

from __future__ import annotations

from typing import Final

LINKS: Final = frozenset({"base-hashpath", "hash-chain"})
"""What links an assignment to those before it: newer nodes sign the first, older ones the second."""

FIELDS: Final = frozenset(
    {"path", "data-protocol", "variant", "process", "epoch", "slot", "block-height", "block-hash", "block-timestamp"}
    | {"timestamp", "body", "type"}
)
"""What every assignment holds besides (devices/02-scheduler, 4; v0.9-final 3.1)."""
