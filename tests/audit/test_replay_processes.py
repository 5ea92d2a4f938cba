"""Processes made again from their schedules: Python, Lua and WebAssembly, and lies planted in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import Context, Message, device, key
from hyperpy.audit.collect import collect
from hyperpy.audit.pool import Source
from hyperpy.audit.receipts import build
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.encoding import native
from hyperpy.store.base import Store
from hyperpy.store.schedule import read_assignment, write_assignment
from hyperpy.testing import TestNode
from hyperpy.trail import Record, Trail
from hyperpy.verdicts import Report, StepReport, Verdict
from tests.audit.lies import audit, everything, forge, keep, rules
from tests.devices.lua_parts import module
from tests.devices.mailing import Mailer, send, spawn
from tests.devices.parts import Count, Place, place
from tests.devices.test_lua_processes import LAST, story
from tests.devices.test_wasm_processes import image_of
from tests.devices.wasm_images import STATE, wasm

OPTIONS: dict[str, Any] = {"devices": (Count,)}
LUA = b"""
function compute(base, req)
  base.count = (base.count or 0) + 1
  seen = (seen or 0) + 10
  base.seen = seen
  return base
end
"""


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.fixture
def store(here: Place) -> Store:
    return here.node.store


def counted(here: Place, slots: int = 6) -> str:
    """Return a process with that many slots, all computed."""
    process = here.spawn("count@1.0")
    for number in range(slots - 1):
        here.send(process, action=f"a{number}")
    assert here.get(process, "now")["status"] == 200
    return process


def record(store: Store, process: str, slot: int) -> Record:
    found = Trail(store).by_slot(process, slot)
    assert found is not None
    return found


def at(report: Report, slot: int) -> StepReport:
    return next(step for step in report.steps if step.slot is not None and step.slot[1] == slot)


def test_a_process_is_computed_again(here: Place, store: Store) -> None:
    process = counted(here)
    report = audit(store, process, **OPTIONS)
    assert [step.slot for step in report.steps] == [(process, slot) for slot in range(6)]
    assert (report.verdict, report.given, report.findings) == (Verdict.REPRODUCED, 0, [])
    assert {step.attested_by for step in report.steps} == {(here.node.address,)}


def test_failures_are_results_too(here: Place, store: Store) -> None:
    process = here.spawn("count@1.0")
    for path in ("fail", "bare", "selfish", "forgetful", "init"):
        here.send(process, path=path)
    here.get(process, "now")
    assert audit(store, process, **OPTIONS).verdict is Verdict.REPRODUCED


@device("weather@1.0")
class Weather:
    """Another one every time."""

    @key(deterministic=False)
    def compute(self, base: Message, ctx: Context) -> Message:
        return base | {"now": int(ctx.now())}

    @key
    def asks(self, base: Message, ctx: Context) -> Any:
        return base | {"found": ctx.resolve(base, "compute")}


def test_a_slot_refused_as_not_deterministic_has_a_record() -> None:
    """Its error is its result, like any other: it is in the trail, and made again."""
    with place(Weather) as at:
        process = at.spawn("weather@1.0")
        at.send(process)
        at.send(process, path="asks")
        assert at.get(process, "now")["status"] == 200
        assert b"not deterministic" in at.value(process, "compute=1/results/error")
        for slot in range(3):
            assert record(at.node.store, process, slot).status == "error"
        report = audit(at.node.store, process, devices=(Weather,))
        assert [step.slot for step in report.steps if step.slot] == [(process, slot) for slot in range(3)]
        assert report.verdict is Verdict.REPRODUCED


def test_lua_from_the_beginning_and_from_a_snapshot(here: Place, store: Store) -> None:
    process = story(here)
    assert here.get(process, f"compute={LAST // 2}")["status"] == 200
    assert here.get(process, f"compute={LAST}")["status"] == 200
    report = audit(store, process)
    assert (report.verdict, report.given, len(report.steps)) == (Verdict.REPRODUCED, 0, LAST + 1)
    some = audit(store, process, slots=(LAST - 1, LAST))
    assert (some.verdict, some.given, len(some.steps)) == (Verdict.REPRODUCED, 1, 2)


def test_lua_whose_globals_live_beside_the_state(here: Place, store: Store) -> None:
    process = here.spawn("lua@5.3a", **module(LUA))
    for _ in range(3):
        here.send(process, action="x")
    assert here.value(process, "now/seen") == 40
    report = audit(store, roots=everything(store))
    assert {step.record: step.findings for step in report.steps if step.findings} == {}
    assert report.verdict is Verdict.REPRODUCED


def test_webassembly(here: Place, store: Store) -> None:
    process = here.spawn("wasm-64@1.0", image=image_of(here, wasm(STATE)))
    for name in ("step", "step", "spoil", "grow", "step"):
        here.send(process, function=name, parameters=[])
    for slot in (3, 5):
        assert here.get(process, f"compute={slot}")["status"] == 200
    assert audit(store, process).verdict is Verdict.REPRODUCED
    some = audit(store, process, slots=(5, 5))
    assert (some.verdict, some.given) == (Verdict.REPRODUCED, 1)
    sampled = audit(store, process, sample=2, seed=3)
    assert (sampled.verdict, len(sampled.steps)) == (Verdict.REPRODUCED, 2)


def test_what_callers_were_told_is_made_again_too(here: Place, store: Store) -> None:
    process = counted(here)
    asked = TestNode(here.node)
    for path in (
        f"/{process}/compute=3/count",
        f"/{process}/now/results/output",
        f"/{process}~process@1.0/compute&slot=2",
    ):
        assert asked.get(path)["status"] == 200
    report = audit(store, roots=everything(store), **OPTIONS)
    assert {step.record: step.findings for step in report.steps if step.findings} == {}
    states = [step for step in report.steps if step.device == "process@1.0" and step.key in ("compute", "now")]
    assert len(states) >= 3
    assert {step.verdict for step in states} == {Verdict.REPRODUCED}


# -- lies ---------------------------------------------------------------------------------------


def test_a_changed_state_is_found_at_its_slot(here: Place, store: Store) -> None:
    process = counted(here)
    honest = here.node.cache.read(record(store, process, 3).result, exact=True)
    assert isinstance(honest, Message)
    forge(store, record(store, process, 3), result=keep(store, honest | {"count": 99}))
    report = audit(store, process, **OPTIONS)
    fault = report.first_fault
    assert fault is not None
    assert (fault.slot, fault.verdict, rules(fault)) == ((process, 3), Verdict.DIVERGED, {"result"})


def test_a_node_that_goes_on_from_its_lie(here: Place, store: Store) -> None:
    """The slot after the lie is computed honestly, from the wrong state: the first fault is where the lie is."""
    process = counted(here)
    third, fourth = record(store, process, 3), record(store, process, 4)
    honest, base = (here.node.cache.read(one, exact=True) for one in (third.result, fourth.base))
    assert isinstance(honest, Message)
    assert isinstance(base, Message)
    forge(store, third, result=keep(store, honest | {"count": 99}))
    forge(store, fourth, base=keep(store, base | {"count": 99}))
    report = audit(store, process, **OPTIONS)
    assert report.first_fault is at(report, 3)
    assert rules(at(report, 4)) == {"base"}


def test_a_request_that_was_not_scheduled(here: Place, store: Store) -> None:
    process = counted(here)
    second = record(store, process, 2)
    forge(store, second, request=keep(store, Message({"slot": 2, "process": process, "path": "compute"})))
    found = at(audit(store, process, **OPTIONS), 2)
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"request"})


def test_the_record_of_another_slot(here: Place, store: Store) -> None:
    process = counted(here)
    key = native(process) + (2).to_bytes(8, "big")
    store.write([("by-slot", key, record(store, process, 3).id)])
    report = audit(store, process, **OPTIONS)
    assert report.verdict is Verdict.INVALID
    found = next(one for one in report.findings if one.rule == "slot")
    assert (found.expected, found.got) == ("2", "3")
    assert at(report, 3).verdict is Verdict.REPRODUCED


def test_a_slot_on_another_base(here: Place, store: Store) -> None:
    process = counted(here)
    forge(store, record(store, process, 4), base=record(store, process, 2).base)
    found = at(audit(store, process, **OPTIONS), 4)
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"base-link"})


def test_a_lost_record_and_a_lost_assignment(here: Place, store: Store) -> None:
    process = counted(here)
    store.write([], [("by-slot", native(process) + (2).to_bytes(8, "big"))])
    report = audit(store, process, **OPTIONS)
    assert report.verdict is Verdict.MISSING
    assert [one.rule for one in report.findings] == ["record"]
    assert {step.verdict for step in report.steps} == {Verdict.REPRODUCED}
    store.write([], [("assignments", native(process) + (2).to_bytes(8, "big"))])
    report = audit(store, process, **OPTIONS)
    assert at(report, 1).verdict is Verdict.REPRODUCED
    assert (at(report, 3).verdict, rules(at(report, 3))) == (Verdict.MISSING, {"schedule"})


def altered(store: Store, process: str, slot: int, **changes: Any) -> None:
    """Change an assignment that is signed."""
    key = native(process) + slot.to_bytes(8, "big")
    data = store.get("assignments", key)
    assert data is not None
    chain, assignment = read_assignment(data)
    made = Message.make({**assignment.raw_items(), **changes}, assignment.commitments)
    store.write([("assignments", key, write_assignment(made, chain))])


def test_a_schedule_that_nobody_signed(here: Place, store: Store) -> None:
    process = counted(here)
    altered(store, process, 3, timestamp=1)
    found = at(audit(store, process, **OPTIONS), 3)
    assert found.verdict is Verdict.INVALID
    assert {"schedule-signature", "schedule-time"} <= rules(found)


def test_assignments_that_changed_places(here: Place, store: Store) -> None:
    process = counted(here)
    keys = [native(process) + slot.to_bytes(8, "big") for slot in (2, 3)]
    two, three = (store.get("assignments", key) for key in keys)
    assert two is not None
    assert three is not None
    store.write([("assignments", keys[0], three), ("assignments", keys[1], two)])
    report = audit(store, process, **OPTIONS)
    assert at(report, 1).verdict is Verdict.REPRODUCED
    assert (at(report, 2).verdict, rules(at(report, 2))) == (Verdict.INVALID, {"schedule-slot"})


def snapshots(store: Store, process: str) -> list[tuple[bytes, bytes]]:
    return [(key, row) for key, row in store.scan("heads", native(process)) if len(key) == 40]


def test_an_altered_snapshot(here: Place, store: Store) -> None:
    process = counted(here)
    key, row = snapshots(store, process)[0]
    slot = (1 << 64) - 1 - int.from_bytes(key[32:], "big")
    name, *rest = row.decode().split("\n")
    state = here.node.cache.read(name, exact=True)
    assert isinstance(state, Message)
    store.write([("heads", key, "\n".join([keep(store, state | {"count": 50}), *rest]).encode())])
    found = at(audit(store, process, **OPTIONS), slot)
    assert (found.verdict, rules(found)) == (Verdict.INVALID, {"snapshot"})


def test_computing_from_an_altered_snapshot(here: Place, store: Store) -> None:
    process = here.spawn("lua@5.3a", **module(LUA))
    for _ in range(3):
        here.send(process, action="x")
        assert here.get(process, "now")["status"] == 200
    newest = min(key for key, _ in snapshots(store, process))
    assert len(snapshots(store, process)) >= 2
    first = max(key for key, _ in snapshots(store, process))
    store.write([("heads", newest, dict(snapshots(store, process))[first])])
    slot = (1 << 64) - 1 - int.from_bytes(newest[32:], "big")
    report = audit(store, process)
    assert (at(report, slot).verdict, rules(at(report, slot))) == (Verdict.INVALID, {"snapshot"})


def test_a_reply_that_is_not_the_state(here: Place, store: Store) -> None:
    process = counted(here)
    asked = TestNode(here.node)
    hashpath = asked.get(f"/{process}/compute=3").hashpath or ""
    told = Trail(store).by_hashpath(hashpath)
    assert told is not None
    state = here.node.cache.read(told.result, exact=True)
    assert isinstance(state, Message)
    lie = forge(store, told, result=keep(store, state | {"count": 12}))
    report = audit(store, lie.hashpath_after, **OPTIONS)
    assert report.first_fault is not None
    assert (report.first_fault.key, rules(report.first_fault)) == ("compute", {"result"})
    assert {step.verdict for step in report.steps if step.slot is not None} == {Verdict.REPRODUCED}


def test_a_reply_that_is_the_state_of_another_slot_or_process(here: Place, store: Store) -> None:
    """Both states are honest; neither is what was asked for."""
    process, other = counted(here), here.spawn("count@1.0", **{"random-seed": "other"})
    asked = TestNode(here.node)
    told = Trail(store).by_hashpath(asked.get(f"/{process}/compute=3").hashpath or "")
    early, foreign = asked.get(f"/{process}/compute=2").hashpath, asked.get(f"/{other}/compute=0").hashpath
    assert told is not None
    for hashpath in (early, foreign):
        found = Trail(store).by_hashpath(hashpath or "")
        assert found is not None
        told = forge(store, told, result=found.result)
        report = audit(store, told.hashpath_after, **OPTIONS)
        assert report.first_fault is not None
        assert (report.first_fault.verdict, rules(report.first_fault)) == (Verdict.INVALID, {"state"})


def test_mail_from_process_to_process() -> None:
    """An honest mixture: pushes, states of two processes, sub-paths; and the same from receipts."""
    with place(Mailer) as here:
        first, second = spawn(here, "1"), spawn(here, "2")
        slot = send(here, first, outbox={"1": {"target": second, "Action": "Ping"}})
        asked = TestNode(here.node)
        for path in (
            f"/{first}/push&slot={slot}",
            f"/{first}/now/got/3",
            f"/{second}~process@1.0/compute=1/got",
            f"/~message@1.0&a=1/set&b=(/{first}/now/got/3)",
        ):
            reply = asked.get(path)
            assert reply["status"] == 200
        store = here.node.store
        report = audit(store, roots=everything(store), devices=(Mailer,))
        assert {step.record: step.findings for step in report.steps if step.findings} == {}
        assert {step.verdict for step in report.steps} == {Verdict.REPRODUCED, Verdict.ATTESTED}
        assert {step.device for step in report.steps if step.verdict is Verdict.ATTESTED} <= {
            "push@1.0", "process@1.0", "scheduler@1.0", "message@1.0"
        }  # fmt: skip
        evidence = Evidence.of_store(store, "the test")
        hashpath = reply.hashpath or ""
        data = build(evidence, collect(evidence, hashpath))
        with Source(data=data).open() as held:
            again = replay(held, collect(held), Options(devices=(Mailer,)))
        assert [step.as_json() for step in again.steps] == [
            step.as_json() for step in audit(store, hashpath, devices=(Mailer,)).steps
        ]
        assert again.verdict is Verdict.REPRODUCED
