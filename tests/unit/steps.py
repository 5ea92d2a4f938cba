"""Steps recorded as a resolver records them, for tests of what is kept."""

from __future__ import annotations

import os

from hyperpy import commitments
from hyperpy.cache import Batch, Cache
from hyperpy.message import Message
from hyperpy.store.lmdb import LmdbStore
from hyperpy.trail import Record, Trail


def recorded(store: LmdbStore, base: Message, n: int, *, parent: bytes = b"", size: int = 100) -> tuple[Message, bytes]:
    """Record one step on a base, with a nested message in its result; return the result and the record's ID."""
    cache, trail, batch = Cache(store), Trail(store), Batch()
    request = Message({"path": "next", "n": n})
    result = Message({"n": n + 1, "child": {"n": n}, "pad": os.urandom(size)})
    cache.put(result, batch)
    record = Record(
        parent=parent,
        base=cache.reference(base, batch),
        request=cache.reference(request, batch),
        result=commitments.unsigned_id(result),
        status="ok",
        device="test@1.0",
        key="next",
        implementation="i",
        hashpath_before=commitments.hashpath_id(base),
        hashpath_after=f"{commitments.hashpath_id(base)}/{commitments.hashpath_id(request)}",
        origin=trail.put_origin(b"GET %d" % n, batch),
    )
    name = trail.append(record, batch)
    cache.put_result(cache.result_key(base, request, "i"), result, "ok", name, batch)
    batch.commit(store)
    return result, name
