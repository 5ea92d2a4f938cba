"""The store stays within its quota while the node runs."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from hyperpy import Message, commitments, config, housekeeping, maintenance
from hyperpy.cache import Batch
from hyperpy.keys import RsaKey
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


def test_signed_messages_of_a_stranger_do_not_stop_a_node(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, quota=3_000_000)
    settings = config.load(environ={}, flags={"http.sign": False})
    stranger = RsaKey.generate(2048)
    with Node(settings, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client = TestNode(node)
        answers = []
        for n in range(30):
            signed = commitments.commit(Message({"n": n, "body": f"{n:07}" * 40_000}), stranger)
            form = commitments.http_form(signed, bundle=True)
            headers = {name: value.decode("latin-1") for name, value in form.headers.items()}
            answers.append(client.post("/~message@1.0/id", form.body or b"", headers)["status"])
            if answers[-1] == 503:  # which has room made at once
                with node.housekeeping._busy:
                    assert store.used < store.quota
        assert set(answers) == {200, 503}
        assert (503, 503) not in pairwise(answers)
        assert client.get("/~message@1.0&n=-1/set&k=1")["status"] == 200
        node.housekeeping.close()
        assert list(maintenance.verify(store)) == []


def test_what_only_reads_is_answered_while_the_store_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LmdbStore(tmp_path, quota=1_000_000)
    settings = config.load(environ={}, flags={"http.sign": False})
    with Node(settings, key=wallet(), store=store, operator=wallet("operator").address) as node:
        client, batch = TestNode(node), Batch()
        ident = node.cache.put(Message({"a": "1", "inner": {"b": "2"}}), batch)
        full = node.cache.put(Message({"body": "x" * 2_000_000}), batch)
        batch.put("names", b"one", ident.encode())
        batch.put("names", b"two", full.encode())
        batch.commit(store)
        store.flush()
        for _ in range(3):
            refused = client.http("GET", "/~message@1.0&n=1/set&k=1")
            assert refused.status == 503
            assert b"[store] quota" in dict(refused.headers)[b"hint"]
            assert client.get(f"/{ident}")["a"] == b"1"
            assert client.get(f"/{ident}/inner/b")["body"] == b"2"
            assert client.get("/~meta@1.0/info/address")["body"] == node.address.encode()
        assert client.post(f"/{ident}/a")["status"] == 503
        node.housekeeping.close()
        assert client.get(f"/{ident}")["a"] == b"1", "nothing that is needed went"
    assert any("raise [store] quota" in one.getMessage() for one in caplog.records)
