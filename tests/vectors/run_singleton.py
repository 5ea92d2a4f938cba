"""singleton: a path or request to the sequence it describes, and back (ao-core 6)."""

from __future__ import annotations

from typing import Any

import rules
import schema
from compare import differs, refused
from outcome import Outcome, verdict

from hyperpy import path
from hyperpy.commitments import signed_id
from hyperpy.errors import HyperpyError
from hyperpy.message import As, Link, Message, Resolve

JUNK = "path-junk-ignored"


def run(header: Any, case: Any) -> Outcome:
    """Compare one call; where the older reference refuses junk and the newer ignores it, we refuse."""
    want = rules.expected(case)
    answer, label = want.case["out"], want.label
    if JUNK in want.rules:
        answer, label = want.base["out"], "rule"
    call = path.parse if case["op"] == "from" else path.format
    given = schema.value(want.case["in"])
    if "error" in answer:
        problem = refused(lambda: call(given))
        return verdict(label, want.rules, [problem] if problem else [])
    try:
        found = call(given)
        problems = _compare("out", found, answer)
        if case["op"] == "to":
            problems += _compare("from_of_to", path.parse(found), want.case["from_of_to"])
    except HyperpyError as error:
        problems = [f"{type(error).__name__}: {error.message}"]
    return verdict(label, want.rules, problems)


def _compare(name: str, ours: Any, answer: Any) -> list[str]:
    theirs = schema.value(answer["ok"])
    return differs(name, _linked(tuple(ours) if isinstance(ours, list) else ours), theirs)


def _linked(item: Any, depth: int = 0) -> Any:
    """Return a sequence with the maps and lists inside its messages as links, as it is recorded."""
    if isinstance(item, tuple):
        return tuple(_linked(member) for member in item)
    if isinstance(item, As):
        return As(_linked(item.device), _linked(item.message))
    if isinstance(item, Resolve):
        return Resolve(_linked(item.messages))
    if isinstance(item, Message):
        return Message({key: _value(found) for key, found in item.raw_items().items()})
    return item


def _value(found: Any) -> Any:
    if isinstance(found, (Message, tuple)):
        return Link(signed_id(found))
    return _linked(found)
