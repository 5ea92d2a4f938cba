"""Who may read what was computed: ``[trail] public`` (design 5).

By default whoever holds an ID or a hashpath may read what it names. With ``public = false`` the
result of a recorded step is for the operator and for those who signed the request of that step
(and its path: a signature that covers no path fits every path). It is kept from all others where

* the ID is that of a result, whether asked for as a base, in a sub-path or by a device,
* a hashpath leads to it through the trail,
* a message that is no result names it by a link.

What lies inside a result is kept back with it, but not under an ID of its own: whoever knows that, or
the whole text it is computed from, may read it.

What somebody signed is a statement to the public: under its signed ID it stays readable. If several
requests had the same result, the first decides who reads it by its ID, and each its own hashpath.
Whoever can run the step again gets its result by doing so.
"""

from __future__ import annotations

from collections.abc import Callable

from hyperpy import commitments
from hyperpy.cache import Cache
from hyperpy.errors import Forbidden, HyperpyError
from hyperpy.message import Link, Message, Value
from hyperpy.trail import Record, Trail


class Gate:
    """Decides for a chain's ``readers``: addresses that signed its request, or None for everything."""

    def __init__(self, cache: Cache, trail: Trail) -> None:
        self._cache = cache
        self._trail = trail

    def by_hashpath(self, text: str, readers: frozenset[str] | None) -> Record | None:
        """Return the newest record of a hashpath that the readers may see, or None if there is none at all.

        Raises:
            Forbidden: there are some, and all belong to others.
        """
        found = None
        for record in self._trail.all_by_hashpath(text):
            if self._may(record, readers):
                return record
            found = record
        if found is not None:
            raise _refused()
        return None

    def opened(self, ref: str, item: Value, readers: frozenset[str] | None, read: Callable[[str], Value]) -> Value:
        """Return what an ID names as the readers may see it; ``read`` is how its links are followed.

        Raises:
            Forbidden: it is the result of somebody else's request.
        """
        if readers is None:
            return item
        record = self._trail.by_result(ref)
        if record is None:
            return _gated(item, read)
        if not self._may(record, readers):
            raise _refused()
        return item

    def may(self, record: Record, readers: frozenset[str] | None) -> bool:
        """Say whether a record is for the readers."""
        return self._may(record, readers)

    def _may(self, record: Record, readers: frozenset[str] | None) -> bool:
        if readers is None:
            return True
        if not readers:
            return False
        try:
            request = self._cache.read(record.request, exact=True)
        except HyperpyError:
            return False
        return isinstance(request, Message) and not readers.isdisjoint(commitments.committers(request))


def _gated(item: Value, read: Callable[[str], Value]) -> Value:
    """Return a value whose links are followed by ``read``."""
    if isinstance(item, tuple):
        return tuple(Link(one.id, read) if isinstance(one, Link) else one for one in item)
    if not isinstance(item, Message):
        return item
    items = {name: Link(one.id, read) if isinstance(one, Link) else one for name, one in item.raw_items().items()}
    return Message.make(items, item.commitments, item.private)


def loading(item: Value, read: Callable[[str], Value]) -> Value:
    """Return a value whose links, and those inside it, load by ``read`` where nothing loads them yet."""
    if isinstance(item, Link):
        return item if item.loader is not None else Link(item.id, read)
    if isinstance(item, tuple):
        listed = tuple([loading(one, read) for one in item])
        return item if all(one is other for one, other in zip(item, listed, strict=True)) else listed
    if type(item) is not Message:
        return item
    items = item.raw_items()
    if not any(type(one) is Link or type(one) is Message or type(one) is tuple for one in items.values()):
        return item
    made = {name: loading(one, read) for name, one in items.items()}
    if all(made[name] is one for name, one in items.items()):
        return item
    return Message.make(made, item.commitments, item.private)


def reachable(request: Message, read: Callable[[str], Value]) -> Message:
    """Return a request whose links lead to what ``read`` returns: a client sends no more than their IDs."""
    found = loading(request, read)
    return found if isinstance(found, Message) else request


def _refused() -> Forbidden:
    return Forbidden(
        "this node shows results only to the operator and to those who signed the request",
        hint="Sign the request and its path with the key that asked for the result.",
    )
