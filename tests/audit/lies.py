"""What tests of audits share: devices, a store to plant lies in, and ways to plant them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hyperpy import Message, device, key
from hyperpy.audit.collect import collect
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.cache import Batch, Cache
from hyperpy.encoding import b64u, native
from hyperpy.sdk import Context
from hyperpy.store.base import Store
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Report, StepReport


@device("dice@1.0")
class Dice:
    """Asks what cannot be asked again."""

    @key(deterministic=False)
    def roll(self, ctx: Context, most: int = 6) -> Message:
        """Return a number nobody can foresee."""
        return Message({"fell": int.from_bytes(ctx.random(4), "big") % most})

    @key
    def twice(self, ctx: Context) -> Message:
        """Roll two dice."""
        rolls = [ctx.resolve(Message({"device": "dice@1.0"}), {"path": "roll", "most": most}) for most in (6, 1 << 30)]
        return Message({"first": rolls[0]["fell"], "second": rolls[1]["fell"]})

    @key(deterministic=False)
    def broken(self) -> Message:
        """Fail."""
        raise ValueError("on purpose")

    @key
    def careful(self, ctx: Context) -> Message:
        """Say what went wrong, if anything did."""
        try:
            ctx.resolve(Message({"device": "dice@1.0"}), {"path": "broken"})
        except Exception as error:
            return Message({"wrong": type(error).__name__})
        return Message({"wrong": "nothing"})

    @key
    def fails(self) -> Message:
        """Fail in the same way on every machine."""
        raise ValueError("always")


@device("box@1.0")
class Box:
    """Keeps an object that no store keeps."""

    @key
    def open(self, base: Message) -> Message:
        """Return the base with a list in its private part."""
        return base.with_private(box=[1])

    @key
    def fill(self, base: Message) -> Message:
        """Put one more into the box."""
        box = base.private["box"]
        assert isinstance(box, list)
        return (base | {"held": len(box) + 1}).with_private(box=[*box, 1])


DEVICES: tuple[type, ...] = (Dice, Box)


def audit(store: Store, ref: str = "", roots: tuple[bytes, ...] = (), **options: Any) -> Report:
    """Return the report about a reference, or about records."""
    evidence = Evidence.of_store(store, "the test", roots=roots)
    options.setdefault("devices", DEVICES)
    made = Options(**options)
    return replay(evidence, collect(evidence, ref, slots=made.slots), made)


def everything(store: Store) -> tuple[bytes, ...]:
    """Return the IDs of all records."""
    return tuple(name for name, _ in store.scan("trail"))


def rules(step: StepReport) -> set[str]:
    """Return the rules a step breaks."""
    return {one.rule for one in step.findings}


def of(report: Report, record: Record) -> StepReport:
    """Return what a report says of a record."""
    return next(step for step in report.steps if step.record == b64u(record.id))


def last(store: Store, hashpath: str) -> Record:
    """Return the newest record that led to a hashpath."""
    found = Trail(store).by_hashpath(hashpath)
    assert found is not None
    return found


def keep(store: Store, item: Message) -> str:
    """Store a message; return its unsigned ID."""
    batch = Batch()
    ident = Cache(store).put(item, batch)
    batch.commit(store)
    return ident


def forge(store: Store, record: Record, **changes: Any) -> Record:
    """Put a changed record in the place of an honest one, in every index; its parts become those of the new one."""
    made = dataclasses.replace(record, **changes)
    batch = Batch()
    Trail(store).append(made, batch)
    batch.commit(store)
    for table in ("by-result", "by-hashpath", "by-slot", "by-parent"):
        for row, name in list(store.scan(table)):
            if name == record.id:
                store.write([(table, row, made.id)])
            elif table == "by-parent" and row[:32] == record.id:
                child = Trail(store).read(name)
                assert child is not None
                store.write([], [(table, row)])
                forge(store, child, parent=made.id)
    store.write([], [("trail", record.id)])
    return made


def damage(store: Store, ident: str, item: Message) -> None:
    """Write another message's content under an ID."""
    other = keep(store, item)
    data = store.get("messages", native(other))
    assert data is not None
    store.write([("messages", native(ident), data)])
