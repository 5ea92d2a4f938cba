"""key_order: the order in which the reference lists a map's keys (ao-core 1.8)."""

from __future__ import annotations

from typing import Any

import schema
from outcome import Outcome, verdict

from hyperpy.encoding import bytewise, ordered
from hyperpy.message import Message


def run(header: Any, case: Any) -> Outcome:
    """Compare both orders, from keys given in reverse."""
    wanted = [schema.key(key) for key in case["keys_erlang_order"]]
    by_bytes = [schema.key(key) for key in case["keys_sorted"]]
    problems = []
    if ordered(reversed(by_bytes)) != wanted:
        problems.append("canonical order")
    if list(Message(dict.fromkeys(reversed(by_bytes), b""))) != wanted:
        problems.append("iteration of a message")
    if bytewise(reversed(wanted)) != by_bytes:
        problems.append("bytewise order")
    return verdict("equal", (), problems)
