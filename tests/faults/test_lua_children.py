"""No child that runs Lua outlives its node, however the node ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, threading, time
from hyperpy import Message
from hyperpy.testing import node
slow = b"function run() local a, b = ('x'):rep(8 << 20), ('x'):rep((8 << 20) - 1) .. 'x' while a == b do end end"
with node() as at:
    base = Message({"device": "lua@5.3a", "module": {"content-type": "application/lua", "body": slow}})
    threading.Thread(target=lambda: at.node.resolve(base, "run"), daemon=True).start()
    pool = None
    while pool is None or not pool.pids() or not any(child.busy for child in pool._children):
        time.sleep(0.05)
        pool = at.node.registry.lookup("lua@5.3a").instance._pool
    time.sleep(0.5)
    print(*pool.pids(), flush=True)
    time.sleep(60)
"""


def _gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has waited for yet counts."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_busy_child_ends_when_the_node_is_killed() -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert program.stdout is not None
        pids = [int(text) for text in program.stdout.readline().split()]
        assert pids
        assert not any(map(_gone, pids))
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.communicate()
    until = time.monotonic() + 10
    while not all(map(_gone, pids)):
        assert time.monotonic() < until, "a child outlived its node"
        time.sleep(0.02)
