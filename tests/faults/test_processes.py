"""A node that is killed while it computes processes, or while timed tasks run, goes on as if nothing had been."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperpy import commitments, device, key, maintenance
from hyperpy.errors import ParameterError
from hyperpy.message import Message
from tests.devices.parts import Heap, Place, place

SLOTS = 240
ROUNDS = 10

CHILD = """
import os, sys
from pathlib import Path
from hyperpy.commitments import unsigned_id
from tests.devices.parts import place
from tests.faults.test_processes import Paced

folder, start, *processes = sys.argv[1:]
with place(Paced, store=Path(folder)) as here:
    slot = int(start)
    while True:
        for process in processes:
            state = here.get(process, f"compute={slot}")
            if state["status"] == 404:
                os.write(1, b"end\\n")
                sys.exit()
            kept = here.slots.state(process, slot)
            os.write(1, f"{process} {slot} {unsigned_id(kept)} {kept.hashpath}\\n".encode())
        slot += 3
"""


@device("paced@1.0")
class Paced:
    """A counter in its private part that takes a moment, so that a kill finds it at work."""

    init, snapshot, normalize = Heap.init, Heap.snapshot, Heap.normalize

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Count one more; every seventh slot fails."""
        heap = base.private["heap"]
        if isinstance(request["slot"], int) and request["slot"] % 7 == 6:
            raise ParameterError("unlucky")
        time.sleep(0.001)
        heap["n"] += 1
        return base | {"sum": heap["n"], "results": {"output": {"body": str(heap["n"])}}}


def scheduled(folder: Path) -> list[str]:
    """Make a store with two processes and their schedules; return the processes."""
    with place(Paced, store=folder) as here:
        made = [here.spawn("paced@1.0", **{"random-seed": str(number)}) for number in range(2)]
        bodies = [commitments.commit(Message({"target": one, "type": "Message"}), here.author) for one in made]
        for _ in range(SLOTS):
            for process, body in zip(made, bodies, strict=True):
                here.schedule(process, body)
    return made


def killed(folder: Path, start: int, processes: list[str], rng: random.Random) -> list[list[str]]:
    """Let a child compute for a random while, kill it, and return the lines it acknowledged."""
    command = [sys.executable, "-c", CHILD, str(folder), str(start), *processes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.08))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
    whole = (first + rest).rpartition(b"\n")[0]
    return [line.decode().split() for line in whole.splitlines()]


def check(here: Place, lines: list[list[str]]) -> None:
    for process, slot, ident, path in lines:
        state = here.slots.state(process, int(slot))
        assert state is not None, (process, slot)
        assert (commitments.unsigned_id(state), state.hashpath) == (ident, path)


@pytest.mark.timeout(240)
def test_killed_while_computing(tmp_path: Path) -> None:
    """No acknowledged state is missing or another one, and the end is that of a node nobody killed."""
    rng = random.Random(7)
    processes = scheduled(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "clean")
    acknowledged: list[list[str]] = []
    start = 0
    for _ in range(ROUNDS):
        lines = killed(tmp_path / "s", start, processes, rng)
        assert lines
        assert lines[-1] != ["end"], "nothing was left to be killed"
        acknowledged += lines
        start = int(lines[-1][1])
        with place(Paced, store=tmp_path / "s") as here:
            check(here, lines)
    with place(Paced, store=tmp_path / "s") as here, place(Paced, store=tmp_path / "clean") as clean:
        for process in processes:
            for node in (here, clean):
                assert node.get(process, "now")["at-slot"] == SLOTS
            assert [here.states(process, SLOTS)] == [clean.states(process, SLOTS)]
        check(here, acknowledged)
        assert list(maintenance.verify(here.node.store)) == []


RINGING = """
import sys, time
from pathlib import Path
from tests.devices.parts import place
from tests.faults.test_processes import Bell

Bell.file = Path(sys.argv[2])
with place(Bell, store=Path(sys.argv[1])) as here:
    here.node.timers.resume()
    if sys.argv[3:]:
        task = here.web.get("/~cron@1.0/every?cron-path=/~bell@1.0/ring&interval=100-milliseconds").text("body")
        print(task, flush=True)
    else:
        print(" ".join(here.node.timers.list()), flush=True)
    time.sleep(60)
"""


@device("bell@1.0")
class Bell:
    """Writes a line each time it rings."""

    file = Path("nowhere")

    @key(deterministic=False)
    def ring(self) -> str:
        """Ring once."""
        with Bell.file.open("a") as out:
            out.write("x")
        return "rung"


def test_a_timed_task_survives_a_kill(tmp_path: Path) -> None:
    rung = tmp_path / "rung"
    rung.touch()
    tasks = []
    for more in (["start"], [], []):
        before = rung.stat().st_size
        command = [sys.executable, "-c", RINGING, str(tmp_path / "s"), str(rung), *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
            assert child.stdout is not None
            tasks.append(child.stdout.readline())
            end = time.monotonic() + 20
            while rung.stat().st_size < before + 2 and time.monotonic() < end:
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
        assert rung.stat().st_size >= before + 2
    assert len(set(tasks)) == 1
    assert len(tasks[0]) == 44
