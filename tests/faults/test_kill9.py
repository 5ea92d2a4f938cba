"""A process that is killed at any moment loses nothing it acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperpy import maintenance
from hyperpy.cache import Cache
from hyperpy.encoding import b64u_decode
from hyperpy.store.lmdb import LmdbStore
from hyperpy.trail import Trail

CHILD = """
import os, sys, threading
from hyperpy import commitments
from hyperpy.cache import Batch, Cache
from hyperpy.encoding import b64u, native
from hyperpy.message import Message
from hyperpy.store import tables
from hyperpy.store.lmdb import LmdbStore
from hyperpy.trail import Record, Trail

if int(sys.argv[2].partition("-")[0]) % 3:  # so that it is killed while the journal is moved in, too
    tables._BATCHES = 10
store = LmdbStore(sys.argv[1])
cache, trail = Cache(store), Trail(store)

def work(thread):
    n = 0
    while True:
        n += 1
        batch = Batch()
        base = Message({"n": n, "who": sys.argv[2] + str(thread), "l": [n, {"x": n}], "pad": os.urandom(n % 3000)})
        request = Message({"path": "next", "n": n})
        ids = [cache.reference(base, batch), cache.reference(request, batch)]
        record = Record(base=ids[0], request=ids[1], result=ids[0], status="ok", device="d", key="k",
                        implementation="i", hashpath_before=ids[0], hashpath_after="/".join(ids))
        name = trail.append(record, batch)
        if n % 10 == 0:
            batch.put("names", native(ids[0]), b"slot")
        batch.commit(store)
        line = " ".join([ids[0], b64u(name), "synced" if n % 10 == 0 else "-"]) + "\\n"
        os.write(1, line.encode())

for thread in range(3):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def run_and_kill(folder: Path, seed: int) -> list[list[str]]:
    """Let a child write for a random while, kill it, and return the lines it acknowledged."""
    rng = random.Random(seed)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder), f"{seed}-"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.5))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
    text = (first + rest).decode()
    return [line.split() for line in text.split("\n")[:-1]]


def missing(store: LmdbStore, acknowledged: list[list[str]]) -> list[list[str]]:
    cache, trail = Cache(store), Trail(store)
    return [
        line
        for line in acknowledged
        if not cache.has(line[0])
        or trail.read(b64u_decode(line[1])) is None
        or (line[2] == "synced" and store.get("names", b64u_decode(line[0])) != b"slot")
    ]


def kill(folder: Path, times: int) -> None:
    acknowledged: list[list[str]] = []
    for seed in range(times):
        lines = run_and_kill(folder, seed)
        assert lines, "the child wrote nothing"
        acknowledged += lines
        reader = LmdbStore(folder, readonly=True)
        assert missing(reader, lines) == []
        reader.close()
    store = LmdbStore(folder)
    assert missing(store, acknowledged) == []
    assert list(maintenance.verify(store)) == []
    store.close()


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    kill(tmp_path, 5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_in_twenty_kills(tmp_path: Path) -> None:
    kill(tmp_path, 20)
