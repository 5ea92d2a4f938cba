"""Comparison forms: what two references write differently and mean the same (design.md 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperpy.codecs.structured import as_commitment
from hyperpy.commitments import unsigned_id
from hyperpy.errors import HyperpyError
from hyperpy.message import Message, same


def refused(work: Callable[[], Any]) -> str | None:
    """Run what must be refused; return a problem, or None if it raised one of our errors."""
    try:
        found = work()
    except HyperpyError:
        return None
    return f"accepted what must be refused: {brief(found)}"


def brief(item: Any) -> str:
    """Return a value's repr, cut."""
    text = repr(item)
    return text if len(text) <= 160 else text[:157] + "..."


def differs(name: str, ours: Any, theirs: Any) -> list[str]:
    """Return one problem text if two values are not the same value of the same type."""
    if same(ours, theirs):
        return []
    return [f"{name}: {brief(ours)} is not {brief(theirs)}"]


def attempt(name: str, work: Callable[[], Any], answer: Any, read: Callable[[Any], Any]) -> list[str]:
    """Compare ``work()`` with a recorded ``{"ok": x}`` (``x`` through ``read``) or ``{"error": ..}``."""
    if "error" in answer:
        problem = refused(work)
        return [f"{name}: {problem}"] if problem else []
    try:
        ours = work()
    except HyperpyError as error:
        return [f"{name}: {type(error).__name__} {error.message[:120]}"]
    return differs(name, ours, read(answer["ok"]))


def normal(item: Any) -> Any:
    """Return a value with ``committed`` as lists and without derivable unsigned commitments, at every depth."""
    if isinstance(item, tuple):
        return tuple(normal(member) for member in item)
    if not isinstance(item, Message):
        return item
    inner = Message.make({key: normal(found) for key, found in item.raw_items().items()})
    kept = {}
    for name, commitment in item.commitments.items():
        if commitment.get("keyid") == b"constant:ao" and name == unsigned_id(inner):
            continue
        kept[name] = as_commitment(name, commitment)
    return inner.with_commitments(kept)
