"""A process killed in the middle of a collection leaves a sound store behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpy import maintenance
from hyperpy.store.lmdb import LmdbStore

CHILD = """
import os, signal, sys
from hyperpy import commitments, config, maintenance
from hyperpy.cache import Batch
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from hyperpy.node import Node
from hyperpy.store import collect
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import wallet

collect._PURGE = 100
store = LmdbStore(sys.argv[1])
node = Node(config.load(environ={}), key=wallet(), store=store, operator=wallet("operator").address)
stranger = RsaKey.generate(2048)
for n in range(60):
    node.resolve(f"/~message@1.0&a={n}/set&b=(~meta@1.0/info/address)/b")
    if n % 4 == 0:
        batch = Batch()
        node.cache.put(commitments.commit(Message({"n": n, "nested": {"n": n}}), stranger), batch)
        batch.commit(store)
store.flush()
parts = 0

def after(real):
    def call(rows):
        global parts
        real(rows)
        parts += 1
        if parts == int(sys.argv[2]):
            if int(sys.argv[3]):
                store.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return call

store.tables.purge, store.tables.write = after(store.tables.purge), after(store.tables.write)
maintenance.collect(store, target=0)
print(parts)
"""


def collect(folder: Path, kill_at: int, flushed: bool) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", CHILD, str(folder), str(kill_at), str(int(flushed))]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("kill_at", "flushed"), [(1, True), (2, False), (3, True), (5, True), (7, False)])
def test_a_kill_in_a_collection_leaves_a_sound_store(tmp_path: Path, kill_at: int, flushed: bool) -> None:
    done = collect(tmp_path, kill_at, flushed)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    store = LmdbStore(tmp_path)
    assert list(maintenance.verify(store)) == []
    maintenance.collect(store, target=0)
    assert list(maintenance.verify(store)) == []
    left = maintenance.stats(store)["tables"]
    assert (left["trail"], left["aliases"], left["commitments"]) == (0, 0, 0), "and the next one removes the rest"
    store.close()
