"""A node that is killed while it schedules loses no slot it acknowledged, and gives none twice.

``HYPERPY_KILLS`` sets how often it is killed (10).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from hyperpy import commitments, config, maintenance
from hyperpy.commitments import commit, signed_id
from hyperpy.context import Frame
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import wallet

KILLS = int(os.environ.get("HYPERPY_KILLS", "10"))

CHILD = """
import os, sys, threading
from pathlib import Path
from hyperpy import commitments, config
from hyperpy.commitments import commit, signed_id
from hyperpy.context import Frame
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore

folder = Path(sys.argv[1])
key, user = RsaKey.load(folder / "node.json"), RsaKey.load(folder / "user.json")
node = Node(config.load(environ={}), key=key, store=LmdbStore(folder / "store"), operator="")

def schedule(message):
    request = Message({"path": "schedule", "method": "POST", "body": message})
    frame = Frame(node.resolver, node.chain(None), 0, None)
    return node.resolver.resolve(Message({"device": "scheduler@1.0"}), request, frame).value

targets = sys.argv[3:]

def work(thread):
    n = 0
    while True:
        n += 1
        body = Message({"target": targets[thread % 2], "n": n, "who": sys.argv[2] + str(thread), "l": [n, {"x": n}]})
        made = schedule(commit(body, user))
        line = " ".join([targets[thread % 2], str(made["slot"]), signed_id(made), signed_id(made["body"])]) + "\\n"
        os.write(1, line.encode())

for thread in range(4):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def opened(folder: Path, key: RsaKey) -> Node:
    return Node(config.load(environ={}), key=key, store=LmdbStore(folder / "store"), operator="")


def schedule(at: Node, request: Message) -> Message:
    found = at.resolver.resolve(
        Message({"device": "scheduler@1.0"}), request, Frame(at.resolver, at.chain(None), 0, None)
    )
    assert isinstance(found.value, Message)
    return found.value


def run_and_kill(folder: Path, seed: int, targets: list[str]) -> list[list[str]]:
    """Let a child schedule for a random while, kill it, and return the lines it acknowledged."""
    rng = random.Random(seed)
    command = [sys.executable, "-c", CHILD, str(folder), f"{seed}-", *targets]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.4))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
    return [line.split() for line in (first + rest).decode().split("\n")[:-1]]


@pytest.mark.timeout(600)
def test_no_acknowledged_slot_is_lost_or_given_twice(tmp_path: Path) -> None:
    key, user = wallet(), wallet("user")
    key.save(tmp_path / "node.json")
    user.save(tmp_path / "user.json")
    node = opened(tmp_path, key)
    targets = []
    for seed in ("a", "b"):
        made = commit(Message({"type": "Process", "scheduler": key.address, "seed": seed}), user)
        assert schedule(node, Message({"path": "schedule", "method": "POST", "body": made}))["slot"] == 0
        targets.append(signed_id(made))
    node.close()
    told: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for seed in range(KILLS):
        lines = run_and_kill(tmp_path, seed, targets)
        assert lines, "the child scheduled nothing"
        for process, slot, *names in lines:
            assert int(slot) not in told[process], "a slot was given twice"
            told[process][int(slot)] = names
    node = opened(tmp_path, key)
    slots = node._lend["slots"]
    for process in targets:
        last = slots.head(process).slot
        kept = list(slots.range(process, 0, last))
        assert [one["slot"] for one in kept] == list(range(last + 1))
        for slot, names in told[process].items():
            assert [signed_id(kept[slot]), signed_id(kept[slot]["body"])] == names
            commitments.check(kept[slot])
        found = schedule(node, Message({"path": "verify-schedule", "target": process}))
        assert (found["valid"], found["checked"]) == (True, last + 1)
        more = commit(Message({"target": process}), user)
        assert schedule(node, Message({"path": "schedule", "method": "POST", "body": more}))["slot"] == last + 1
        for one in kept[-3:]:
            assert node.cache.has(signed_id(one))
    assert list(maintenance.verify(node.store)) == []
    node.close()
