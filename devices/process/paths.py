"""Which key of the execution device an assignment may call.

An assignment's ``path`` is what the sender of the message wrote, and the sender may be anybody.
"""

from __future__ import annotations

import re
from typing import Final

from hyperpy import Message

COMPUTE: Final = b"compute"

_SIMPLE: Final = re.compile(rb"[A-Za-z0-9_.-]{1,200}")
_RESERVED: Final = frozenset(
    (
        # a device's life, and what shows or replaces the whole state
        b"init normalize snapshot restore terminate import functions info keys set set-path get remove path "
        b"id commit commitments committers committed verify index encode decode transform patches all device process "
        # what a guest of WebAssembly asks of wasi@1.0
        b"stdout path-open fd-read fd-write clock-time-get random-get"
    ).split()
)


_GENERAL: Final = frozenset((b"lua@5.3a", b"stack@1.0", b"wasm-64@1.0", b"genesis-wasm@1.0"))
"""Devices that answer with the state's own keys before their own, or whose parts may."""


def only_read(assignment: Message, state: Message, made: Message) -> bool:
    """Say whether a slot's result is no new state, but the value of a state's key that the path named."""
    path = assignment.raw("path")
    if path == COMPUTE or not isinstance(path, bytes):
        return False
    found = state.get(path.decode("utf-8", "surrogateescape"))
    return isinstance(found, Message) and found == made


def ordered(assignment: Message, state: Message) -> Message:
    """Return an assignment as the request of its slot: ``compute`` where its path may not be called.

    Not called are keys that begin, end or store a state (init, snapshot, set and the like), what is no plain
    key, and, where the execution device is one for any code, the state's own keys.

    Args:
        state: the state as the execution device gets it.
    """
    path = assignment.raw("path")
    if path == COMPUTE:
        return assignment
    if isinstance(path, bytes) and _SIMPLE.fullmatch(path):
        name = path.lower().replace(b"_", b"-")
        text = path.decode("ascii")
        own = state.get("device") in _GENERAL and (
            text in state or text.lower() in state or name.decode("ascii") in state
        )
        if name not in _RESERVED and not name.startswith((b"priv", b"-", b".")) and not own:
            return assignment
    return assignment | {"path": COMPUTE}
