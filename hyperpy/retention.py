"""How long steps are kept: what a receipt or snapshot needs until that expires, the rest as ``[trail]`` says.

A receipt that this node gave pins its records (table ``pins``): nothing that they name is removed before
the pin expires. What a schedule, a snapshot, a name, a setting or a task needs stays for good. Every removal is
noted, so that who misses a step can be told why.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

from hyperpy.codecs import canonical
from hyperpy.config import Config
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import Message
from hyperpy.store.base import Delete, Store
from hyperpy.store.collect import Collected, collect
from hyperpy.store.lmdb import LmdbStore

log = logging.getLogger("hyperpy.store")

GRACE_S: Final = 3600.0
"""How long steps stay where only receipts are kept: long enough to ask for one."""
EVERY_S: Final = 3600.0
"""Between two looks at what is too old."""
DAY_S: Final = 86400.0
"""Seconds of a day."""
_NOTE: Final = b"removed"


def pin(store: Store, records: Iterable[bytes], until: float, most: int) -> bool:
    """Keep records, and all that they name, until a moment; durable when this returns.

    Args:
        records: record IDs, 32 bytes each.
        until: seconds since 1970.
        most: pins that there may be; with more than that nothing is pinned.

    Returns:
        Whether they are pinned.

    Raises:
        StoreError: it cannot be written now.
    """
    wanted = dict.fromkeys(records)
    value = canonical.encode({"until": int(until), "why": "receipt"})
    with _lock:
        rows = {name: store.get("pins", name) for name in wanted}
        known = {name: _until(row) for name, row in rows.items() if row is not None}
        total = _count(store) + len(wanted) - len(known)
        if total > most:
            return False
        later = [name for name in wanted if name not in known or 0 < known[name] < int(until)]
        store.write([("pins", name, value) for name in later], durable=True)
        _counts[store] = total
    return True


_lock = threading.Lock()
_counts: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
"""How many pins a store holds: they are counted once, and again where some expire."""


def _count(store: Store) -> int:
    found = _counts.get(store)
    if found is None:
        found = _counts[store] = sum(1 for _ in store.scan("pins"))
    return found


def expire(store: Store, now: float) -> int:
    """Remove pins whose time has come; return how many. Pins of other kinds stay."""
    with _lock:
        old: list[Delete] = [("pins", key) for key, value in store.scan("pins") if 0 < _until(value) <= now]
        if old:
            store.write([], old, durable=True)
        _counts.pop(store, None)
    return len(old)


def _until(value: bytes) -> int:
    """Return when a pin expires; 0 if never."""
    try:
        found = canonical.decode(value)
    except (CodecError, SizeError):
        return 0
    until = found.get("until") if isinstance(found, Message) else None
    return until if isinstance(until, int) else 0


def is_limited(config: Config) -> bool:
    """Say whether steps go because of their age."""
    return config.trail.receipts_only or config.trail.days > 0


def age_s(config: Config) -> float:
    """Return the age, in seconds, at which steps go."""
    days = config.trail.days * DAY_S
    if not config.trail.receipts_only:
        return days
    return min(days, GRACE_S) if days else GRACE_S


def apply(store: LmdbStore, config: Config, now: float | None = None) -> Collected:
    """Remove what the settings say is too old, and note what was removed.

    Raises:
        StoreError: the store failed.
    """
    now = time.time() if now is None else now
    expire(store, now)
    limited = is_limited(config)
    moment = now - age_s(config) if limited else 0.0
    done = collect(store, store.quota, older_ns=int(moment * 1e9) if limited else None)
    note(store, done, moment)
    return done


def note(store: Store, done: Collected, moment: float = 0.0) -> None:
    """Note a removal, for who misses what went; say so in the log.

    Args:
        moment: steps recorded before it went (seconds since 1970); 0 if room was made.
    """
    if not done.records and not done.messages:
        return
    before = f", recorded before {_text(moment)}" if moment else " to make room"
    log.info("removed %d records and %d messages%s", done.records, done.messages, before)
    known = removed(store)
    row = {
        "at": _text(time.time()),
        "before": _text(moment) if moment else known.get("before", ""),
        "records": known.get("records", 0) + done.records,
        "messages": known.get("messages", 0) + done.messages,
    }
    store.write([("header", _NOTE, json.dumps(row).encode())])


def removed(store: Store) -> dict[str, Any]:
    """Return what was removed so far: ``at``, ``before``, ``records``, ``messages``; empty if nothing was."""
    data = store.get("header", _NOTE)
    return dict(json.loads(data)) if data is not None else {}


def named(store: Store, name: str) -> str:
    """Return how to name a store to who looks for something in it: with what was removed from it, if anything was."""
    known = removed(store)
    if not known:
        return name
    before = f"recorded before {known['before']}" if known["before"] else "to make room"
    return f"{name}, from which {known['records']} steps were removed ({before})"


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
