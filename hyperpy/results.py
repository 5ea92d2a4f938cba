"""What clients of a process expect of its results beyond AO-Core (http-clients.md 0, rows 15 and 16; 1).

``/P/compute/results=N`` is slot N, not the newest; N may be the ID of the slot's message. Who asks for JSON
by ``require-codec``, as aoconnect does, also gets ``raw``: the results in the words of the older network.
Nothing of it is part of a state, an ID or a hashpath.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from hyperpy.codecs import aos2
from hyperpy.commitments import committers, unsigned_id
from hyperpy.encoding import number_keys
from hyperpy.message import As, Link, Message, Value, as_text

_SLOTS: Final = ("slot", "compute")
_MOST: Final = 1000
"""Messages of one list that are shown."""


def with_slots(members: Sequence[Value]) -> Sequence[Value]:
    """Return a parsed path in which ``compute/results=N`` asks for slot N, and ``/graphql`` query@1.0."""
    if len(members) < 3:
        return _with_query(members)
    made = list(members)
    for place in range(1, len(members) - 1):
        asked, following = members[place], members[place + 1]
        if isinstance(asked, Message) and isinstance(following, Message) and asked.raw("path") == b"compute":
            number = following.raw("results") if following.raw("path") == b"results" else None
            named = isinstance(number, bytes) and (number.isdigit() or len(number) == 43)
            if named and all(asked.raw(name) is None for name in _SLOTS):
                made[place] = asked | {"slot": number}
    return made


def _with_query(members: Sequence[Value]) -> Sequence[Value]:
    """Return a path that clients know from gateways as they mean it, also where it lies in a signed message."""
    if len(members) != 2:
        return members
    base, asked = members
    if type(base) is not Message or type(asked) is not Message or asked.raw("path") != b"graphql":
        return members
    return members if "device" in base else (As("query@1.0", base), asked)


def with_raw(made: Message, members: Sequence[Value]) -> Message:
    """Return a reply, about to be written as JSON, with ``raw`` where it holds a process's results.

    Args:
        made: the reply: a process's state, the result of its execution device, its ``results``, or what
            push answered.
        members: the path that led to it.
    """
    ident = made.private.get("pushed-id")
    if isinstance(ident, str):
        return made | {"id": ident, "raw": raw(made)} if "id" not in made else made | {"raw": raw(made)}
    results = made.get("results")
    if isinstance(results, Message) and ("at-slot" in made or "process" in made):
        shown = raw(results)
        return made | {"raw": shown, "results": results | {"raw": shown}}
    last = members[-1] if members else None
    if isinstance(last, Message) and last.raw("path") == b"results" and made.get("status") == 200:
        return made | {"raw": raw(made)}
    return made


def raw(results: Message) -> Message:
    """Return results as ``{Output, Messages, Spawns, Assignments, Error}``; an own ``raw`` is left as it is."""
    own = results.get("raw")
    if isinstance(own, Message):
        return own
    found: dict[str, Any] = {"Output": _output(results)}
    for name, place in (("Messages", "outbox"), ("Spawns", "spawns"), ("Assignments", "assignments")):
        found[name] = tuple(_struct(item) for item in _members(results.get(place)) if isinstance(item, Message))
    error = results.get("error")
    if isinstance(error, Message):  # callers of the older network print it
        error = error.get("body", error)
    if error is not None:
        found["Error"] = error if isinstance(error, (Message, tuple)) else as_text(error)
    return Message(found)


def _output(results: Message) -> Value:
    found = results.get("output")
    if found is not None:
        return found
    data = results.get("data")
    return Message() if data is None else Message.make({"data": data})


def _members(item: Value | None) -> list[Value]:
    if isinstance(item, tuple):
        return list(item[:_MOST])
    if not isinstance(item, Message):
        return []
    numbered = number_keys(item)
    names = numbered if len(numbered) == len(item) else sorted(item)
    return [item[name] for name in names[:_MOST]]


def _struct(item: Message) -> Message:
    plain = Message.make({name: one for name, one in item.raw_items().items() if name != "tags"}, item.commitments)
    found = aos2.encode(plain, ident="", owner=next(iter(committers(item)), ""), link=_named)
    return Message({name: found[name] for name in ("Target", "Data", "Anchor", "Tags")})


def _named(item: Value) -> str:
    return item.id if isinstance(item, Link) else unsigned_id(item)


# -- requests that only read ----------------------------------------------------------------------

_INFO: Final = re.compile(r"/*~meta@1\.0/info(/[a-z0-9-]+)?/?([?&].*)?", re.DOTALL)
_BY_ID: Final = re.compile(r"/*[A-Za-z0-9_-]{43}(/[a-z0-9-]+)*/?", re.DOTALL)


def is_info(request: Message) -> bool:
    """Say whether a request asks for the node's info."""
    return _INFO.fullmatch(request.text("path", "")) is not None


def is_read(request: Message) -> bool:
    """Say whether a request only reads what is there, by its method and path: then it needs no record."""
    if request.commitments or request.text("method", "GET").upper() not in ("GET", "HEAD"):
        return False
    return is_info(request) or _BY_ID.fullmatch(request.text("path", "")) is not None
