"""Equal states and hashpaths at every slot: in whatever order, on whatever node, with other hash seeds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpy import Message, commitments
from tests.devices.parts import copy, place

LAST = 14
STACK = {
    "device-stack": ["dedup@1.0", "count@1.0", "test-device@1.0", "patch@1.0", "multipass@1.0"],
    "passes": 2,
    "patch-from": "/results",
}
CHILD = """
import json, sys
from pathlib import Path
from tests.devices.parts import place

with place(store=Path(sys.argv[1])) as here:
    found = {}
    for process in sys.argv[3:]:
        for slot in map(int, sys.argv[2].split(",")):
            assert here.get(process, f"compute={slot}")["status"] == 200
        found[process] = here.states(process, 14)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def schedules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Message]]]:
    """A store with three processes and their schedules, and the assignments."""
    folder = tmp_path_factory.mktemp("schedules") / "s"
    with place(store=folder) as here:
        made = [here.spawn(), here.spawn("heap@1.0"), here.spawn("stack@1.0", **STACK)]
        for number in range(LAST):
            path = "absent" if number % 5 == 3 else "compute"
            for process in made:
                nested = {"n": number, "z": {"b": [1, {"c": "d"}], "a": True}, "list": [3, 1, 2]}
                here.send(process, path, action=f"a{number % 4}", **nested)
        listed = {process: list(here.slots.range(process, 0, LAST)) for process in made}
    return folder, listed


def computed(folder: Path, order: str, processes: list[str], seed: str) -> dict[str, Any]:
    """Return what another Python with its own hash seed computes from a copy of the store."""
    mine = folder.with_name(f"copy-{seed}")
    shutil.copytree(folder, mine)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(mine), order, *processes],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.timeout(180)
def test_other_hash_seeds_and_other_orders(schedules: tuple[Path, dict[str, list[Message]]]) -> None:
    folder, listed = schedules
    processes = list(listed)
    first = computed(folder, str(LAST), processes, "1")
    assert computed(folder, "3,9,0,14", processes, "2") == first
    assert all(len(found) == LAST + 1 for found in first.values())
    with place() as here:
        for process, assignments in listed.items():
            for one in assignments:
                copy(here, process, one)
            readers = [
                threading.Thread(target=here.get, args=(process, f"compute={slot}"))
                for slot in (LAST, 2, 5, LAST, 7, 1, 11, 3)
            ]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            assert [list(one) for one in here.states(process, LAST)] == first[process]


@settings(max_examples=12)
@given(
    order=st.lists(st.tuples(st.integers(0, LAST), st.booleans()), min_size=1, max_size=6),
    every=st.sampled_from([0, 1, 4]),
)
def test_any_order_of_requests_and_restarts(
    schedules: tuple[Path, dict[str, list[Message]]], order: list[tuple[int, bool]], every: int
) -> None:
    """The live state may be let go of at any time, whenever snapshots are taken."""
    _, listed = schedules
    for process, assignments in listed.items():
        with place(flags={"process.snapshot-slots": every}) as here:
            for one in assignments:
                copy(here, process, one)
            for slot, retired in order:
                assert here.get(process, f"compute={slot}")["at-slot"] == slot
                if retired:
                    here.node._lend["workers"].retire("process", process)
            assert here.get(process, "now")["at-slot"] == LAST
            assert here.states(process, LAST) == _straight(process, assignments)


_kept: dict[str, list[tuple[str, str | None]]] = {}


def _straight(process: str, assignments: list[Message]) -> list[tuple[str, str | None]]:
    """Return the states computed in one go on a fresh node."""
    if process not in _kept:
        with place() as other:
            for one in assignments:
                copy(other, process, one)
            other.get(process, "now")
            _kept[process] = other.states(process, LAST)
    return _kept[process]


def test_states_differ_where_the_messages_do() -> None:
    """What the tests above compare is not always the same."""
    with place() as here:
        found = []
        for action in ("a", "b"):
            process = here.spawn(**{"random-seed": action})
            here.send(process, action=action)
            here.get(process, "now")
            found.append(here.states(process, 1))
    assert found[0][1] != found[1][1]
    assert len({commitments.unsigned_id(Message({"x": 1})), found[0][0][0], found[0][1][0]}) == 3
