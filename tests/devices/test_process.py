"""process@1.0: states, errors as results, snapshots, resuming, forks, readers and the time of callers."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hyperpy.devices.process.definition import proven

from hyperpy import Message, commitments, device, hashpath, key
from hyperpy.cache import Batch
from hyperpy.errors import HyperpyError, InvalidSignature
from hyperpy.message import Link
from hyperpy.store.memory import MemoryStore
from hyperpy.trail import Trail
from tests.devices.parts import Count, Heap, Place, copy, place

# -- states --------------------------------------------------------------------------------------


def test_the_state_after_a_slot(here: Place) -> None:
    process = here.spawn()
    here.send(process, action="Inc")
    here.send(process, action="Dec")
    state = here.get(process, "compute=1")
    definition = here.node._lend["store"].read(process)
    assert {name: state.raw(name) for name in definition} == dict(definition.raw_items())
    assert isinstance(state["process"], Message)
    assert commitments.signed_id(state["process"]) == process
    assert (state["at-slot"], state["count"], state["last"]) == (1, 2, b"Inc")
    assert (state["initialized"], state["input-prefix"], state["device"]) == (b"true", b"process", b"process@1.0")
    assert "snapshot" not in state
    assert "output-prefixes" not in state
    assert not state.commitments
    assert here.value(process, "now/count") == 3
    assert here.value(process, "compute&slot+integer=0/count") == 1


def test_results_are_those_of_one_slot(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    results = here.get(process, "compute=1/results")
    assert results["seen"] == ()
    assert here.value(process, "compute=1/results/output/body") == b"count 2"


@pytest.mark.parametrize("path", ["compute=0", "compute&slot=0", "compute&slot+integer=0", "compute?slot=0"])
def test_ways_to_name_a_slot(here: Place, path: str) -> None:
    process = here.spawn()
    here.send(process)
    assert here.get(process, path)["at-slot"] == 0


@pytest.mark.parametrize("slot", ["x", "-1", "1.0", "9" * 30, ""])
def test_what_is_no_slot_is_the_callers_mistake(here: Place, slot: str) -> None:
    process = here.spawn()
    assert here.get(process, f"compute&slot={slot}")["status"] == 400


def test_a_slot_that_is_not_scheduled(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    reply = here.get(process, "compute=99")
    assert reply["status"] == 404
    assert reply["reason"] == b"Requested slot not yet available in schedule."
    assert (reply["phase"], reply["attempted-slot"]) == (b"get-schedule", 2)
    assert here.slots.state(process, 1) is not None


def test_without_a_slot_the_newest_kept_state(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    assert here.get(process, "compute")["at-slot"] == 1, "nothing kept: everything is computed"
    here.send(process)
    assert here.get(process, "compute")["at-slot"] == 1
    assert here.get(process, "now")["at-slot"] == 2
    assert here.get(process, "compute")["at-slot"] == 2


def test_a_slot_is_computed_once(here: Place) -> None:
    process = here.spawn()
    for _ in range(3):
        here.send(process)
    before = Count.computed
    for path in ("now", "compute=3", "compute=2", "now/count", "compute=0", "compute"):
        assert here.get(process, path)["status"] == 200
    assert Count.computed == before + 4


@pytest.mark.parametrize(("kept", "slot"), [("false", 1), ("true", 0), ("always", 0)])
def test_now_from_kept_states(kept: str, slot: int) -> None:
    with place(flags={"process.now-from-cache": kept}) as here:
        process = here.spawn()
        first = here.get(process, "now")
        if kept == "always":
            assert (first["status"], first["body"]) == (500, b"No cached state available.")
            here.get(process, "compute=0")
        here.send(process)
        assert here.get(process, "now")["at-slot"] == slot


def test_results_n_is_that_slot(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    here.send(process)
    assert here.value(process, "compute/results=1/output/body") == b"count 2"
    assert here.value(process, "compute/results=0/output/body") == b"count 1"
    assert here.value(process, "now/results/output/body") == b"count 3"
    assert here.value(process, "compute=2/results=1/output/body") == b"count 3", "what was asked first holds"


def test_raw_results_only_for_who_asks_for_json(here: Place) -> None:
    process = here.spawn()
    wanted = {"require-codec": "application/json", "accept-bundle": "true"}
    results = here.web.request("POST", f"/{process}~process@1.0/compute/results=0", wanted)
    raw = {"Output": {"body": "count 1"}, "Messages": (), "Spawns": (), "Assignments": ()}
    assert results["raw"] == Message(raw)
    assert here.web.request("POST", f"/{process}/compute=0", wanted)["results"]["raw"] == Message(raw)  # type: ignore[index,call-overload]
    assert "raw" not in here.web.get(f"/{process}/compute=0/results", {"accept": "application/json"})


# -- other roles -----------------------------------------------------------------------------------


def test_as_execution_runs_and_changes_nothing(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    here.get(process, "now")
    dry = here.web.request("POST", f"/{process}~process@1.0/as=execution/compute&action=Dry")
    assert (dry["count"], dry["device"], dry["status"]) == (3, b"count@1.0", 200)
    assert here.value(process, "now/count") == 2
    assert here.value(process, "compute=0/as=execution/compute/count") == 2, "a state asked for stays that state"
    assert here.get(process, "as=execution")["device"] == b"count@1.0"
    assert here.get(process, "as=scheduler")["device"] == b"scheduler@1.0"
    assert here.get(process, "as=nothing")["status"] == 400


def test_the_definition_that_counts_is_the_stored_one(here: Place) -> None:
    """A message that copies a process's signatures cannot have other code run in its name."""
    process = here.spawn()
    real = here.node._lend["store"].read(process)
    forged = Message.make({**real.raw_items(), "execution-device": b"heap@1.0"}, real.commitments)
    base = Message({"device": "process@1.0", "process": forged})
    found = here.node.resolve(base, {"path": "compute", "slot": 0})
    assert found["count"] == 1  # type: ignore[index,call-overload]
    with place(store=MemoryStore(), name="other") as other:
        with pytest.raises(HyperpyError):
            other.node.resolve(base, {"path": "compute", "slot": 0})
        assert other.slots.latest(process) is None
        with pytest.raises(InvalidSignature):
            proven(process, base, other.node._lend["store"].read)
    assert proven(process, base, here.node._lend["store"].read) == real


def test_a_given_state_is_not_computed_on(here: Place) -> None:
    process = here.spawn()
    here.send(process)
    rich = here.get(process, "compute=0").without("status") | {"count": 1_000_000}
    found = here.node.resolve(rich, {"path": "compute", "slot": 1})
    assert found["count"] == 2  # type: ignore[index,call-overload]


# -- failing slots ---------------------------------------------------------------------------------


def test_a_slot_that_fails_is_a_result_and_blocks_nothing(here: Place) -> None:
    process = here.spawn()
    here.send(process, "fail")
    here.send(process)
    state = here.get(process, "compute=1")
    assert (state["status"], state["at-slot"], state["count"]) == (200, 1, 1)
    error = state["results"]["error"]  # type: ignore[index,call-overload]
    assert error == b"device 'count@1.0' failed in key 'fail' (ValueError)"
    assert here.value(process, "compute=2/count") == 2
    assert "error" not in here.get(process, "compute=2/results")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("bare", b"no message"),
        ("absent", b"no key 'absent'"),
        ("selfish", b"process@1.0/now is not deterministic"),
    ],
)
def test_more_failures_that_every_node_meets(here: Place, path: str, says: bytes) -> None:
    process = here.spawn()
    here.send(process, path)
    here.send(process)
    assert says in here.value(process, "compute=1/results/error")
    assert here.value(process, "now/count") == 2


def test_a_device_that_forgets_the_process_does_not_end_it(here: Place) -> None:
    process = here.spawn()
    here.send(process, "forgetful")
    here.send(process)
    state = here.get(process, "now")
    assert (state["count"], state["at-slot"], "execution-device" in state) == (101, 2, False)
    assert commitments.signed_id(state["process"]) == process


def test_a_missing_device_is_no_result(here: Place) -> None:
    process = here.spawn("absent@1.0")
    assert here.get(process, "now")["status"] == 404
    assert here.slots.latest(process) is None


def test_a_slot_that_takes_too_long_is_no_result() -> None:
    with place(flags={"limits.deadline": 0.6}) as here:
        process = here.spawn()
        here.send(process, "for-ever")
        here.get(process, "compute=0")
        reply = here.get(process, "now")
        assert reply["status"] == 504
        assert here.slots.state(process, 1) is None
        other = here.spawn(**{"random-seed": "2"})
        assert here.value(other, "now/count") == 1, "other processes are unaffected"


def test_who_waits_too_long_is_told_and_the_work_is_kept() -> None:
    with place(flags={"limits.deadline": 0.5}) as here:
        process = here.spawn()
        for _ in range(12):
            here.send(process, "slow")
        reply = here.web.http("GET", f"/{process}~process@1.0/now")
        assert reply.status == 504
        assert dict(reply.headers)[b"retry-after"]
        done = here.slots.latest(process)
        assert done is not None
        assert 0 < done[0] < 12
        for _ in range(10):
            if here.get(process, "now")["status"] == 200:
                break
        assert here.value(process, "now/slow") == 12


# -- the trail -------------------------------------------------------------------------------------


def test_every_slot_is_a_recorded_step(here: Place) -> None:
    process = here.spawn()
    assignment = here.send(process)
    here.get(process, "now")
    trail = Trail(here.node.store)
    assert [slot for slot, _ in trail.slots(process)] == [0, 1]
    record = trail.by_slot(process, 1)
    assert record is not None
    state = here.slots.state(process, 1)
    assert state is not None
    assert (record.device, record.key, record.status) == ("count@1.0", "compute", "ok")
    assert record.request == commitments.signed_id(assignment)
    assert record.hashpath_after == state.hashpath
    again = here.node.resolver.rerun(record, time.monotonic() + 10)
    assert commitments.unsigned_id(again.value) == record.result  # type: ignore[arg-type]


def test_the_hashpath_goes_from_slot_to_slot(here: Place) -> None:
    process = here.spawn()
    assignment = here.send(process)
    here.get(process, "now")
    first, second = here.slots.state(process, 0), here.slots.state(process, 1)
    assert first is not None
    assert second is not None
    assert second.hashpath == hashpath.combine(first.hashpath or "", commitments.hashpath_id(assignment))


# -- snapshots, resuming, forks --------------------------------------------------------------------


def test_a_node_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with place(store=tmp_path / "s") as here:
        process = here.spawn()
        for _ in range(5):
            here.send(process)
        here.get(process, "compute=3")
        before = here.states(process, 3)
    computed = Count.computed
    with place(store=tmp_path / "s") as here:
        assert here.value(process, "now/count") == 6
        assert Count.computed == computed + 2
        assert here.states(process, 3) == before


def test_what_lies_beside_the_state_comes_back_from_the_snapshot(tmp_path: Path) -> None:
    with place(store=tmp_path / "s") as here:
        process = here.spawn("heap@1.0")
        for _ in range(4):
            here.send(process)
        here.get(process, "compute=2")
    normalized = Heap.normalized
    with place(store=tmp_path / "s") as here:
        assert here.value(process, "now/results/output/body") == b"5"
        assert Heap.normalized == normalized + 1
        assert here.value(process, "as=execution/peek") == 5


@pytest.mark.parametrize("every", [0, 1, 3])
def test_snapshots_change_no_state(every: int) -> None:
    with place(flags={"process.snapshot-slots": every, "process.snapshot-time": 0}) as here:
        process = here.spawn("heap@1.0")
        for _ in range(7):
            here.send(process)
        here.get(process, "now")
        found = here.states(process, 7)
        schedule = [here.slots.read(process, slot) for slot in range(8)]
        taken = [slot for slot in range(8) if here.slots.latest(process, slot, snapshot=True)[0] == slot]  # type: ignore[index]
    assert taken == {0: [0, 7], 1: list(range(8)), 3: [0, 3, 6, 7]}[every]
    order = range(8) if every == 0 else (7,)
    assert elsewhere(process, schedule, order) == found


def test_an_earlier_slot_whose_state_is_gone_is_computed_again(here: Place) -> None:
    """Where the reference answers 500, ``already_calculated_slot``."""
    process = here.spawn("heap@1.0")
    for _ in range(5):
        here.send(process)
    here.get(process, "compute=1")
    here.get(process, "now")
    before = here.states(process, 5)
    rows = list(here.node.store.scan("states"))
    here.node.store.write([], [("states", key) for key, _ in rows])
    assert here.slots.state(process, 3) is None
    assert here.value(process, "compute=3/results/output/body") == b"4"
    assert here.value(process, "now/results/output/body") == b"6"
    third = here.slots.state(process, 3)
    assert third is not None
    assert (commitments.unsigned_id(third), third.hashpath) == before[3]


def test_a_state_of_another_schedule_is_not_served(here: Place) -> None:
    """The same process, the same node, but the schedule that led to the kept states is another one now."""
    process = here.spawn()
    for action in ("a", "b"):
        here.send(process, action=action)
    assert here.get(process, "now")["last"] == b"b"
    here.node.store.write([], [("heads", key) for key, _ in here.node.store.scan("heads") if len(key) == 32])
    here.node.actors.retire(lambda name: name[0] == "slots")
    here.schedule(process, here.node._lend["store"].read(process))
    for action in ("c", "d", "e"):
        here.send(process, action=action)
    assert here.get(process, "compute=1")["last"] == b"c"
    assert here.get(process, "now")["last"] == b"e"
    assert [here.get(process, f"compute={n}")["last"] for n in (1, 2, 3)] == [b"c", b"d", b"e"]


# -- many at once ----------------------------------------------------------------------------------


def test_readers_of_kept_slots_need_not_wait(here: Place) -> None:
    process = here.spawn()
    here.get(process, "now")
    here.send(process, "slow")
    worker = threading.Thread(target=here.get, args=(process, "now"))
    worker.start()
    time.sleep(0.03)
    started = time.monotonic()
    assert here.get(process, "compute=0")["at-slot"] == 0
    waited = time.monotonic() - started
    worker.join()
    assert here.slots.state(process, 1) is not None
    assert waited < 5


def test_equal_states_whoever_computes_and_reads(here: Place) -> None:
    """Eight readers at once, a node resumed in the middle, and one reader slot by slot: the same states."""
    process = here.spawn("heap@1.0")
    for number in range(12):
        here.send(process, "absent" if number == 5 else "compute")
    schedule = [here.slots.read(process, slot) for slot in range(13)]
    threads = [
        threading.Thread(target=here.get, args=(process, f"compute={slot}")) for slot in (12, 3, 7, 12, 1, 9, 5, 11)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = here.states(process, 12)
    for order in ((12,), range(13), (4, 12)):
        assert elsewhere(process, schedule, order) == found


def elsewhere(process: str, schedule: list[Message | None], order: object) -> list[tuple[str, str | None]]:
    """Compute the same schedule on a node of its own, letting go of the live state between requests."""
    with place() as other:
        for assignment in schedule:
            assert assignment is not None
            copy(other, process, assignment)
        for slot in order:  # type: ignore[attr-defined]
            assert other.get(process, f"compute={slot}")["status"] == 200
            other.node._lend["workers"].retire("process", process)
        return other.states(process, len(schedule) - 1)


def test_links_of_states_lead_to_the_definition(here: Place) -> None:
    process = here.spawn()
    here.get(process, "now")
    kept = here.slots.state(process, 0)
    assert kept is not None
    assert kept.raw("process") == Link(process)


@pytest.mark.parametrize("path", ["compute=1", "now", "push&slot=0", "compute"])
def test_what_is_no_process_gets_no_actor(here: Place, path: str) -> None:
    before = here.node.actors.stats()["made"]
    assert here.web.get(f"/~process@1.0&execution-device=count@1.0&x=1/{path}")["status"] in (400, 404)
    assert here.node.actors.stats()["made"] == before


@device("moody@1.0")
class Moody:
    """A counter in its private part that once does not come to an end after it has counted."""

    moody = False
    init, snapshot, normalize = Heap.init, Heap.snapshot, Heap.normalize

    @key
    def compute(self, base: Message) -> Message:
        """Count one more, and then perhaps go on for ever."""
        base.private["heap"]["n"] += 1
        while Moody.moody:
            pass
        return base | {"results": {"output": {"body": str(base.private["heap"]["n"])}}}


def test_half_a_slot_leaves_nothing_behind() -> None:
    """What the device had done beside the state when its time was up is not there when it is asked again."""
    with place(Moody, flags={"limits.deadline": 0.4}) as here:
        process = here.spawn("moody@1.0")
        here.send(process)
        assert here.value(process, "compute=1/results/output/body") == b"2"
        here.send(process)
        Moody.moody = True
        try:
            assert here.get(process, "now")["status"] == 504
        finally:
            Moody.moody = False
        here.send(process)
        assert here.value(process, "now/results/output/body") == b"4"


def test_a_snapshot_that_is_of_no_use_is_passed_over(tmp_path: Path) -> None:
    with place(store=tmp_path / "s") as here:
        process = here.spawn("heap@1.0")
        for _ in range(6):
            here.send(process)
        for slot in (2, 6):
            here.get(process, f"compute={slot}")
        before = here.states(process, 6)
        newest = here.slots.latest(process, snapshot=True)
        assert newest is not None
        assert newest[0] == 6
        batch = Batch()
        spoilt = newest[1] | {"snapshot": {"nothing": "here"}}
        here.slots.put_state(process, 6, spoilt, batch, snapshot=True)
        batch.commit(here.node.store)
    with place(store=tmp_path / "s") as here:
        here.send(process)
        assert here.value(process, "now/results/output/body") == b"8"
        assert here.states(process, 6) == before


def test_snapshots_do_not_pile_up(here: Place) -> None:
    """A request's own snapshot gives way to the next one's; the newest is always there."""
    process = here.spawn("heap@1.0")
    for slot in range(12):
        here.send(process)
        assert here.get(process, f"compute={slot}")["status"] == 200
        newest = here.slots.latest(process, snapshot=True)
        assert newest is not None
        assert newest[0] == slot
    rows = [key for key, _ in here.node.store.scan("heads") if len(key) == 40]
    assert len(rows) == 2, "the first of all, and the newest"
    here.node._lend["workers"].retire("process", process)
    assert here.value(process, "now/results/output/body") == b"13"
