"""Where an audit reads from, and what it is to look at: the plan of steps that one reference means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyperpy.cache import Cache
from hyperpy.store.base import Store
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Edge, Finding

if TYPE_CHECKING:
    from hyperpy.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was recorded, wherever it lies; an audit only reads it.

    Attributes:
        store: LMDB opened read-only, a serving node's store, or the memory a receipt was loaded into.
        where: how to name it to people, for "looked for in ...".
        roots: records that are meant where nothing else is named: a receipt's.
        attested_by: who signed all of it: a receipt's signers.
    """

    store: Store
    cache: Cache
    trail: Trail
    where: str
    roots: tuple[bytes, ...] = ()
    attested_by: tuple[str, ...] = ()

    @classmethod
    def of_store(
        cls, store: Store, where: str, *, roots: Iterable[bytes] = (), attested_by: Iterable[str] = ()
    ) -> Evidence:
        """Return a store's evidence."""
        return cls(store, Cache(store), Trail(store), where, tuple(roots), tuple(attested_by))

    @classmethod
    def of_receipt(cls, receipt: Receipt, where: str = "the receipt") -> Evidence:
        """Return a receipt's evidence, in a store of its own in memory."""
        from hyperpy.receipt.loading import load

        return cls.of_store(load(receipt), where, roots=receipt.roots, attested_by=receipt.signers)


@dataclass(slots=True)
class Planned:
    """One step to be looked at.

    Attributes:
        name: the record's ID (32 bytes).
        slot: the process and slot that the step computed, if it did.
        gaps: what is missing or wrong around it, seen without making anything again.
        unled: the gap of a base that no recorded step led to; a sub-path may have.
        inside: it was reached as a part of another step that is looked at; what its record says of that is no proof.
    """

    name: bytes
    record: Record
    slot: tuple[str, int] | None = None
    gaps: list[Finding] = field(default_factory=list)
    unled: Finding | None = None
    inside: bool = False


@dataclass(slots=True)
class Plan:
    """The steps that a reference means, backwards to the roots.

    Attributes:
        ref: what was asked about.
        roots: IDs of the records that ``ref`` itself means.
        steps: each after all that it needs.
        edges: how they hang together.
        missing: what was looked for in vain and belongs to no step at hand.
        schedules: processes whose definition and schedule the steps need.
    """

    ref: str
    roots: list[bytes] = field(default_factory=list)
    steps: list[Planned] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    schedules: set[str] = field(default_factory=set)
