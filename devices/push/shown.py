"""What the answer of a push can show: a process names its keys as it likes, and HTTP cannot carry every name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from hyperpy import Message
from hyperpy.errors import HyperpyError
from hyperpy.message import Link, Value

MAX_DEPTH: Final = 64

_NEVER: Final = frozenset({"ao-types", "ao-ids", "ao-body-key", "content-disposition", "commitments"})
"""Words of the codec: as a key, a reader takes them for its own."""
_NEVER_A_HEADER: Final = frozenset({"signature", "signature-input"})
_UNNAMED: Final = re.compile(r'[\x00-\x1f\x7f/"]|^@|\+link$')
"""What no header and no part of a body may have in its name."""


def fits(name: str, item: Value, *, top: bool) -> bool:
    """Say whether HTTP carries a key of an answer.

    Args:
        item: its value; a message or list is a part of the body, which has its key for a name.
        top: it is a key of the answer itself, and so a header, or a part.
    """
    low = name.lower()
    if "%" in name or low in _NEVER:
        return False
    inner = isinstance(item, (Message, tuple, Link))
    if inner and low == "content-type":
        return False
    return not (top or inner) or (_UNNAMED.search(name) is None and low not in _NEVER_A_HEADER)


def carried(item: Message) -> tuple[Message, int]:
    """Return a message without the keys, at any depth, that HTTP cannot carry, and how many they were.

    One that has none is returned as it is.
    """
    left = [0]
    found = _carried(item, 0, left)
    assert isinstance(found, Message)
    return found, left[0]


def _carried(item: Value, depth: int, left: list[int]) -> Value:
    held = item
    if isinstance(item, Link):
        try:
            held = item.load() if item.loader is not None else item
        except HyperpyError:
            return item
    if depth > MAX_DEPTH:
        return item  # refused for its depth by whoever writes it
    before = left[0]
    if isinstance(held, tuple):
        members = tuple([_carried(one, depth + 1, left) for one in held])
        return item if left[0] == before else members
    if not isinstance(held, Message):
        return item
    made: dict[str, Value] = {}
    for name, one in held.raw_items().items():
        if fits(name, one, top=depth == 0):
            made[name] = _carried(one, depth + 1, left)
        else:
            left[0] += 1
    return item if left[0] == before else Message.make(made)


def name_of(index: str, number: int, taken: Collection[str]) -> str:
    """Return the key under which an answer shows what became of an entry: the entry's own, where that can be one.

    Args:
        number: which entry of the outbox it is, from 0.
        taken: the names of all entries.
    """
    if fits(index, Message(), top=True):
        return index
    name = f"entry-{number + 1}"
    while name in taken:
        name += "-"
    return name


def entry_of(child: Message, index: str, name: str) -> Message:
    """Return what became of an entry, saying which one it is if its key in the answer does not."""
    return child if name == index else child | {"outbox-index": ascii(index)[1:-1][:200]}
