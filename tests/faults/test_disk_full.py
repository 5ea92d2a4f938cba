"""A full disk: writing fails with StoreError, nothing acknowledged is lost, and space helps.

A file-size limit on a child stands in for the disk: LMDB's writes fail as they do on a full one.
A refused batch may leave its synced part behind, which is committed first (design 3).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyperpy import maintenance
from hyperpy.cache import Batch, Cache
from hyperpy.encoding import b64u_decode
from hyperpy.message import Message
from hyperpy.store.lmdb import LmdbStore

CHILD = """
import os, resource, sys
from hyperpy.cache import Batch, Cache
from hyperpy.errors import StoreError
from hyperpy.message import Message
from hyperpy.store.lmdb import LmdbStore

store = LmdbStore(sys.argv[1])
cache = Cache(store)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written, refused = [], 0
for n in range(20_000):
    batch = Batch()
    message = Message({"n": n, "pad": os.urandom(int(sys.argv[3]))})
    name = cache.put(message, batch)
    if n % 20 == 0:
        batch.put("names", b"%d" % n, name.encode())
    try:
        batch.commit(store)
    except StoreError as error:
        assert error.status == 503 and error.retry_after, error
        refused += 1
        if refused == 20:
            break
        continue
    written.append(name)
    print("ok", name, flush=True)
print("refused", refused, flush=True)
assert all(cache.has(name) for name in written)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
batch = Batch()
name = cache.put(Message({"after": "space was made"}), batch)
for _ in range(3):
    try:
        batch.commit(store)
        print("ok", name, flush=True)
        break
    except StoreError as error:
        last = error
else:
    raise last
if sys.argv[4] == "close":
    store.close()
os._exit(0)
"""


@pytest.mark.parametrize("end", ["close", "die"])
@pytest.mark.parametrize(("limit", "size"), [(400_000, 500), (400_000, 8000), (2_000_000, 3000)])
def test_full_disk(tmp_path: Path, limit: int, size: int, end: str) -> None:
    folder = tmp_path / "store"
    LmdbStore(folder).close()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(limit), str(size), end],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    lines = [line.split() for line in child.stdout.splitlines()]
    assert ["refused", "20"] in lines
    acknowledged = [line[1] for line in lines if line[0] == "ok"]
    assert len(acknowledged) > 10
    store = LmdbStore(folder)
    cache = Cache(store)
    assert [name for name in acknowledged if not cache.has(name)] == []
    named = {value.decode() for _, value in store.scan("names")}
    assert named.issuperset(name for n, name in enumerate(acknowledged[:-1]) if n % 20 == 0 and n < 40)
    assert list(maintenance.verify(store)) == []
    batch = Batch()
    name = cache.put(Message({"again": 1}), batch)
    batch.commit(store)
    store.flush()
    assert store.get("messages", b64u_decode(name)) is not None
    store.close()
