"""Room behind the ledger's end: a commit into a file that need not grow waits less for the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hyperpy.store.lmdb import LmdbStore


def test_the_ledgers_file_is_longer_than_what_is_in_it(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    file = tmp_path / "ledger" / "data.mdb"
    found = set()
    for n in range(200):
        store.write([("assignments", b"%04d" % n, os.urandom(3000))])
        found.add(file.stat().st_size)
    assert len(found) < 20, "it grows now and then, not with every write"
    assert max(found) - (1 << 20) < store.stats()["ledger-bytes"] < max(found)
    store.close()
    store = LmdbStore(tmp_path)
    assert [key for key, _ in store.scan("assignments")] == [b"%04d" % n for n in range(200)]
    store.close()


def test_a_ledger_that_gets_no_room_ahead_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def full(*_: object) -> int:
        refused.append(1)
        raise OSError(errno.ENOSPC, "no space")

    store = LmdbStore(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    for n in range(100):
        store.write([("assignments", b"%04d" % n, os.urandom(3000))])
    assert refused
    assert len(list(store.scan("assignments"))) == 100
    monkeypatch.undo()
    store.close()
