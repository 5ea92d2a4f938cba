"""From a reference to the steps it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from hyperpy import Message
from hyperpy.audit.collect import Limits, collect
from hyperpy.audit.source import Evidence, Plan
from hyperpy.cache import Batch
from hyperpy.encoding import b64u, native
from hyperpy.errors import MessageNotFound, ParameterError, SizeError
from hyperpy.message import Link
from hyperpy.store.base import Store
from hyperpy.testing import TestNode, node
from hyperpy.trail import Trail
from tests.audit.lies import DEVICES, forge, keep, last
from tests.devices.parts import place


@pytest.fixture
def here() -> Iterator[TestNode]:
    with node(*DEVICES) as made:
        yield made


def plan(store: Store, ref: str, **options: object) -> Plan:
    return collect(Evidence.of_store(store, "the test"), ref, **options)  # type: ignore[arg-type]


def test_what_a_step_needs_comes_before_it(here: TestNode) -> None:
    reply = here.get("/~dice@1.0/twice/set&x=(/~dice@1.0/roll)/set&y=2")
    made = plan(here.node.store, reply.hashpath or "")
    place_of = {b64u(step.name): at for at, step in enumerate(made.steps)}
    assert len(place_of) == len(made.steps) == 6  # twice, its two rolls, set, its roll, set
    assert all(place_of[edge.source] < place_of[edge.target] for edge in made.edges)
    assert sorted(edge.kind for edge in made.edges) == ["next", "next", "part", "part", "part"]
    assert [b64u(name) for name in made.roots] == [b64u(made.steps[-1].name)]


def test_the_step_that_made_a_base_named_by_its_id(here: TestNode) -> None:
    here.get("/~message@1.0&a=1/set&b=2")
    made = last(here.node.store, here.get("/~message@1.0&a=1/set&b=2").hashpath or "")
    reply = here.get(f"/{made.result}/set&c=3")
    found = plan(here.node.store, reply.hashpath or "")
    assert len(found.steps) >= 2
    assert {edge.kind for edge in found.edges} <= {"next", "input"}


def test_a_step_that_changes_nothing_is_no_circle(here: TestNode) -> None:
    base = keep(here.node.store, Message({"a": b"1"}))
    reply = here.get(f"/{base}/set&a=1/set&a=1")
    made = plan(here.node.store, reply.hashpath or "")
    assert len(made.steps) == 2


def test_records_that_name_each_other_end(here: TestNode) -> None:
    """A circle that a liar makes through the index of hashpaths."""
    reply = here.get("/~message@1.0&a=1/set&b=2/set&c=3")
    store = here.node.store
    end = last(store, reply.hashpath or "")
    first = Trail(store).by_hashpath(end.hashpath_before)
    assert first is not None
    forge(store, first, hashpath_before=end.hashpath_after)
    made = plan(store, reply.hashpath or "")
    assert len(made.steps) == 2


def test_what_no_step_is_meant_by(here: TestNode) -> None:
    store = here.node.store
    for ref in ("A" * 43, f"{'A' * 43}/key"):
        with pytest.raises(MessageNotFound, match="looked for in the test"):
            plan(store, ref)
    with pytest.raises(ParameterError):
        plan(store, "not a reference")


def test_limits(here: TestNode) -> None:
    reply = here.get("/~message@1.0&a=1" + "".join(f"/set&k{at}=1" for at in range(10)))
    ref = reply.hashpath or ""
    assert len(plan(here.node.store, ref, limits=Limits(10, 10)).steps) == 10
    with pytest.raises(SizeError):
        plan(here.node.store, ref, limits=Limits(9, 10))


def test_slots_and_ranges() -> None:
    with place() as at:
        process = at.spawn("count@1.0")
        for number in range(4):
            at.send(process, action=str(number))
        at.get(process, "now")
        store = at.node.store
        assert [step.slot for step in plan(store, process).steps] == [(process, slot) for slot in range(5)]
        made = plan(store, process, slots=(2, 3))
        assert [step.slot for step in made.steps] == [(process, 2), (process, 3)]
        assert made.schedules == {process}
        with pytest.raises(ParameterError):
            plan(store, process, slots=(3, 2))
        with pytest.raises(SizeError):
            plan(store, process, slots=(0, 5), limits=Limits(100, 5))
        with pytest.raises(MessageNotFound):
            plan(store, process, slots=(70, 80))
        store.write([], [("by-slot", native(process) + (3).to_bytes(8, "big"))])
        made = plan(store, process)
        assert [one.rule for one in made.missing] == ["record"]
        assert len(made.steps) == 4


def test_a_state_of_a_slot_far_from_any_record_costs_little(here: TestNode) -> None:
    """Who makes a trail writes the slot's number; it must not say how long an audit counts."""
    store = here.node.store
    record = last(store, here.get("/~message@1.0&a=1/set&b=2").hashpath or "")
    asked = 0
    honest = type(store).get

    class Counting(type(store)):  # type: ignore[misc]
        def get(self, table: str, key: bytes) -> bytes | None:
            nonlocal asked
            asked += 1
            return honest(self, table, key)

    roots = []
    for number in range(20):
        process = keep(store, Message({"type": "Process", "number": number}))
        state = Message({"at-slot": 999_000, "process": Link(process)})
        batch = Batch()
        changed = dataclasses.replace(record, device="process@1.0", key="now", result=keep(store, state))
        roots.append(Trail(store).append(changed, batch))
        if number % 2:
            Trail(store).append(dataclasses.replace(record, origin=b"", result="A" * 43), batch, slot=(process, 7))
        batch.commit(store)
    store.__class__ = Counting
    made = collect(Evidence.of_store(store, "the test", roots=tuple(roots)))
    assert asked < 20_000
    assert sum(edge.kind == "slot" for edge in made.edges) == 10, "the only recorded slot is found"
    assert len(made.missing) == 100
    assert "slot 999000 of" in made.missing[0].text
