"""Which of a receipt's records its roots need, in the order in which they were computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from hyperpy import commitments
from hyperpy.errors import HyperpyError
from hyperpy.receipt.content import Receipt
from hyperpy.trail import Oracle, Record

PROCESS = "process@1.0"


def computed(receipt: Receipt) -> tuple[bytes, ...]:
    """Return the IDs of the records that the roots need, each after all that it needs itself."""
    needs = _Needs(receipt)
    done: dict[bytes, None] = {}
    seen: set[bytes] = set()
    for root in receipt.roots:
        if root not in receipt.steps or root in seen:
            continue
        seen.add(root)
        doing = [(root, needs.of(root))]
        while doing:
            name, more = doing[-1]
            for source in more:
                if source not in seen:
                    seen.add(source)
                    doing.append((source, needs.of(source)))
                    break
            else:
                done[name] = None
                doing.pop()
    return tuple(done)


def outcome(record: Record) -> Oracle:
    """Return what the enclosing step's record says of this one, if it cannot be made again."""
    return Oracle(record.device, record.key, record.request, record.result, record.status)


class _Needs:
    """What finds the records that a record needs. Each list is gone through once: those in it are seen then."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self._by_after: dict[str, list[bytes]] = defaultdict(list)
        self._by_result: dict[str, list[bytes]] = defaultdict(list)
        self._parts: dict[bytes, list[bytes]] = defaultdict(list)
        self._slots: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        self._asked: set[str] = set()
        for name, record in receipt.steps.items():
            self._by_after[record.hashpath_after].append(name)
            self._by_result[record.result].append(name)
            if record.parent:
                self._parts[record.parent].append(name)
        for one in receipt.slots:
            if one.record in receipt.steps:
                self._slots[one.process].append((one.slot, one.record))
        for line in self._slots.values():
            line.sort()
        self._earlier = {name: before for line in self._slots.values() for (_, before), (_, name) in pairwise(line)}
        self._computed = {one.record for one in receipt.slots}

    def of(self, name: bytes) -> Iterator[bytes]:
        """Yield the IDs of the records that one needs."""
        record, steps = self._receipt.steps[name], self._receipt.steps
        if "/" in record.hashpath_before:
            yield from self._by_after.pop(record.hashpath_before, ())
        if record.base not in self._asked:
            self._asked.add(record.base)
            yield from self._by_result.pop(record.base, ())
            yield from self._by_result.pop(self._content(record.base), ())
        if record.cached_from in steps:
            yield record.cached_from
        places = {one: at for at, one in enumerate(record.oracles)}
        parts = self._parts.get(name, ())
        yield from sorted(parts, key=lambda one: (places.get(outcome(steps[one]), -1), one))
        if name in self._computed:
            yield from [self._earlier[name]] if name in self._earlier else []
        elif record.device == PROCESS:
            yield from (line[-1][1] for line in self._slots.values())

    def _content(self, ref: str) -> str:
        try:
            return commitments.content_id(self._receipt.read(ref))
        except HyperpyError:
            return ""
