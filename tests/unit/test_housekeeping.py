"""The store stays within its quota while the node runs."""

from __future__ import annotations

import time
from pathlib import Path

from hyperpy import config, housekeeping, maintenance
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, wallet


def test_a_node_makes_room_by_itself(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, quota=3_000_000)
    settings = config.load(environ={}, flags={"http.sign": False})
    with Node(settings, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client = TestNode(node)
        asked = 0
        patience = time.monotonic() + 120
        while store.collections == 0 and time.monotonic() < patience:
            reply = client.get(f"/~message@1.0&n={asked}&pad={'x' * 400}/set&k={asked}")
            assert reply["status"] in (200, 503), "503: full until the collection under way is done"
            asked += 1
        assert store.collections > 0, "nothing was removed"
        node.housekeeping.close()
        assert client.get("/~message@1.0&n=-1/set&k=1")["status"] == 200
        assert list(maintenance.verify(store)) == []
    assert asked > housekeeping.EVERY


def test_a_node_that_writes_at_full_speed_stays_near_its_quota(tmp_path: Path) -> None:
    quota = 4_000_000
    store = LmdbStore(tmp_path, quota=quota)
    settings = config.load(environ={}, flags={"http.sign": False})
    most, refused = 0, 0
    with Node(settings, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client = TestNode(node)
        patience = time.monotonic() + 120
        asked = 0
        while store.collections < 3 and time.monotonic() < patience:
            reply = client.get(f"/~message@1.0&n={asked}&pad={'x' * 400}/set&k={asked}")
            assert reply["status"] in (200, 503)
            refused += reply["status"] == 503
            most = max(most, store.used)
            asked += 1
        assert store.collections >= 3
        node.housekeeping.close()
        assert list(maintenance.verify(store)) == []
    assert quota < most < quota * 1.25
    assert refused < asked / 20
