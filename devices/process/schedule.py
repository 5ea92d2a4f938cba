"""Finding a message in a process's schedule. What makes assignments a schedule: :mod:`hyperpy.schedule_rules`."""

from __future__ import annotations

from typing import Final

from hyperpy import Message, commitments
from hyperpy.capabilities import Slots
from hyperpy.errors import KeyNotFound
from hyperpy.message import Link
from hyperpy.schedule_rules import slot_of

_SEARCHED: Final = 10_000
_PAGE: Final = 256


def slot_with(slots: Slots, process: str, ident: str) -> int:
    """Return the newest slot whose message has that ID, of the newest 10,000 slots.

    Raises:
        KeyNotFound: there is none.
    """
    last = slots.head(process).slot
    lowest = max(0, last - _SEARCHED + 1)
    while last >= lowest:
        first = max(lowest, last - _PAGE + 1)
        for one in reversed(list(slots.range(process, first, last))):
            body = one.raw("body")
            if isinstance(body, (Link, Message)) and _ident(body) == ident:
                return slot_of(one)
        last = first - 1
    raise KeyNotFound(f"no message {ident} is scheduled to this process", hint="Name the slot by its number.")


def _ident(body: Link | Message) -> str:
    return body.id if isinstance(body, Link) else commitments.signed_id(body)
