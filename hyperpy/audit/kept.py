"""Recorded steps compared with the raw request they answer: which part of its path each is, and whether it fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from hyperpy.audit import subpaths
from hyperpy.audit.scratch import Scratch
from hyperpy.audit.turns import Way, signed_with, unread, ways_of, written
from hyperpy.errors import HyperpyError
from hyperpy.message import Resolve
from hyperpy.trail import Record
from hyperpy.verdicts import Finding

_PLACES: Final = 64
"""Turns that a step may be of, as far as they are tried."""
_MATTERS: Final = re.compile(rb"\(|%|resolve|~[^~]*~", re.IGNORECASE)
_PLAIN: Final = re.compile(rb"target(?:\xc4.|\xc5..)/*~", re.DOTALL)
"""What begins with its only device."""


class FromPath(NamedTuple):
    """What came of comparing a step with its request.

    Attributes:
        puts: keys that the path may have put on the base; None: there is no telling.
        unknown: how much could not be made again.
        led: the sub-path that the path begins with gives the base, and its hashpath.
    """

    puts: frozenset[str] | None
    found: tuple[Finding, ...] = ()
    unknown: int = 0
    led: bool = False


_NOTHING: Final = FromPath(frozenset())
_REMEMBERED: Final = 4096


class Kept:
    """Compares steps with kept requests, one after another."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self.loose: dict[str, set[str]] = {}
        """Signatures that were found not to hold by themselves, by the message's ID; who compares takes them out."""
        self._looked: dict[bytes, bool] = {}
        self._begins: dict[bytes, frozenset[str]] = {}

    def compare(
        self, data: bytes, told: subpaths.Told, place: int, first: Record | None, begun: Sequence[Record]
    ) -> FromPath:
        """Compare a step with the request as it came.

        Args:
            data: the request, its digest checked.
            place, first, begun: see :class:`hyperpy.audit.steps.Neighbours`.
        """
        loose = self._loose(data, told)
        if not self._matters(told.record.origin, data):
            return FromPath(frozenset(), unknown=loose) if loose else _NOTHING
        made = self._compared(data, told, place, first, begun)
        return made._replace(unknown=made.unknown + loose) if loose else made

    def _loose(self, data: bytes, told: subpaths.Told) -> int:
        """Return how many signatures on base and request hold neither there nor in the request."""
        record, count = told.record, 0
        for ref, item in ((record.base, told.base), (record.request, told.request)):
            names = self.loose.pop(ref, None)
            if not names:
                continue
            try:
                sent = signed_with(data)
            except (HyperpyError, ValueError, TypeError, RecursionError):
                sent = frozenset()
            bare = item.with_commitments({name: item.commitments[name] for name in names})
            count += len(written(bare) - sent)
        return count

    def _compared(
        self, data: bytes, told: subpaths.Told, place: int, first: Record | None, begun: Sequence[Record]
    ) -> FromPath:
        try:
            ways = ways_of(data)
        except (HyperpyError, ValueError, TypeError, RecursionError) as error:
            if unread(data):
                return FromPath(None, (Finding("origin", f"what is kept as the request is none: {error!s:.200}"),))
            return FromPath(None, unknown=1)  # what was private in it is not kept, or it is longer than any path
        if told.record.parent:  # no part of the path is this step
            return FromPath(frozenset().union(*(_puts(way) for way in ways)))
        told = told._replace(until=self._scratch.deadline())  # however many turns and answers there are to try
        best: FromPath | None = None
        for way in ways:
            made = self._of_way(way, told, place, first, begun)
            if best is None or len(made.found) < len(best.found):
                best = made
            if not best.found:
                break
        assert best is not None
        return best

    def _matters(self, name: bytes, data: bytes) -> bool:
        """Say whether a request of that digest has anything to compare; a chain's steps share it."""
        known = self._looked.get(name)
        if known is None:
            if len(self._looked) >= _REMEMBERED:
                self._looked.clear()
            known = self._looked[name] = _matters(data)
        return known

    def _of_way(
        self, way: Way, told: subpaths.Told, place: int, first: Record | None, begun: Sequence[Record]
    ) -> FromPath:
        record, request = told.record, told.request
        begins = self._begins_with(way, first or record, begun if first is not None else told.parts)
        sure = (first or record).hashpath_before in begins
        places = way.places(record, request, place, first)
        if sure:
            places = [number for number in places if number == place]
        best: FromPath | None = None
        for number in places[:_PLACES]:
            try:
                found, unknown = subpaths.compared(way, number, told, self._scratch)
            except (HyperpyError, ValueError, TypeError, RecursionError) as error:
                found, unknown = [Finding("origin", f"the request cannot be compared: {error!s:.200}")], 0
            own = frozenset(way.turns[number].puts) | (frozenset(way.puts) if number == 0 else frozenset())
            made = FromPath(own, tuple(found), unknown + (len(places) > 1), sure and place == 0 and not unknown)
            if best is None or len(made.found) < len(best.found):
                best = made
            if not best.found:
                break
        if best is not None:
            return best if not best.found else best._replace(led=False)
        return FromPath(_puts(way), unknown=1)  # a hook of the node made another path of it

    def _begins_with(self, way: Way, first: Record, begun: Sequence[Record]) -> frozenset[str]:
        """Return the hashpaths that the sub-path may have which a path begins with; none if it begins otherwise."""
        if not isinstance(way.root, Resolve) or "/" not in first.hashpath_before:
            return frozenset()
        name = first.id
        if name not in self._begins:
            self._begins[name] = subpaths.hashpaths_of(way.root, begun, self._scratch)
        return self._begins[name]


def _puts(way: Way) -> frozenset[str]:
    """Return all keys that a path puts on bases."""
    return frozenset(name for one in way.turns for name in one.puts)


def _matters(data: bytes) -> bool:
    """Say whether a request may have sub-paths, or put something on a base that is no root."""
    return _MATTERS.search(data) is not None or (b"~" in data and _PLAIN.search(data) is None)
