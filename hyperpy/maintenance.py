"""Looking after a store: its figures, a check of everything in it, making room, a newer format.

Plain functions; ``hyperpy store`` is a thin face on them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from hyperpy import attested, commitments
from hyperpy.cache import Cache, combined_id
from hyperpy.encoding import b64u, key_text, sha256
from hyperpy.errors import ConfigError, HyperpyError
from hyperpy.message import Message
from hyperpy.slots import read_head
from hyperpy.store.base import FORMAT, HEADER_KEY, TABLES, Store, new_header
from hyperpy.store.collect import Collected, collect
from hyperpy.store.environment import Environment
from hyperpy.store.lock import FolderLock, boot
from hyperpy.store.overlay import Overlay
from hyperpy.store.pour import pour
from hyperpy.store.schedule import read_assignment
from hyperpy.trail import Record, Trail, hashpath_key

__all__ = ["Collected", "Finding", "Progress", "collect", "migrate", "stats", "verify"]

Progress = Callable[[str, int], None]
"""Called now and then with the table being read and how many entries of it were."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a store: where, and what."""

    table: str
    key: str
    problem: str


def stats(store: Store) -> dict[str, Any]:
    """Return the store's sizes, and the number of entries per table."""
    return {**store.stats(), "tables": {name: sum(1 for _ in store.scan(name)) for name in TABLES}}


def verify(store: Store, progress: Progress = lambda table, count: None) -> Iterator[Finding]:
    """Read everything once and yield what is wrong.

    Every ID is computed again from what is stored under it, every byte sequence must be the
    canonical one, every signature that was genuine must still be, and every index entry must point
    to a record that belongs there.
    """
    cache, trail = Cache(store), Trail(store)
    for table, check in _CHECKS.items():
        count = 0
        rows = store.scan(table)
        while True:
            try:
                row = next(rows, None)
            except HyperpyError as error:
                yield Finding(table, "", f"{error.message}; the rest of the table was not read")
                break
            if row is None:
                break
            count += 1
            try:
                problem = check(cache, trail, *row)
            except HyperpyError as error:
                problem = error.message
            except (ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException):
                problem = "the entry does not decode"
            if problem:
                yield Finding(table, _shown(table, row[0]), problem)
            if not count % 500:
                progress(table, count)
        progress(table, count)


def _shown(table: str, key: bytes) -> str:
    if table == "commitments":
        return f"{b64u(key[:32])} {key_text(key[32:])}"
    return b64u(key[:32]) if len(key) >= 32 else key.hex()


def _message(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    cache.read(b64u(key), exact=True)
    return ""


def _commitment(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    name = key_text(key[32:])
    fields = cache.commitment(key)
    content = cache.read(b64u(key[:32]), exact=True)
    if not isinstance(content, Message):
        return "a commitment to what is no message"
    if value[:1] == b"\x01":
        commitments.check(content.with_commitments({name: fields}), committers=(), ids=[name])
    return ""


def _alias(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    item = cache.read(b64u(key))
    if not isinstance(item, Message):
        return "an alias of what is no message"
    own = {commitments.signed_id(item), commitments.hashpath_id(item), combined_id(item)}
    return "" if b64u(key) in own else "an alias of another message"


def _record(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    found = trail.read(key)
    assert found is not None
    if found.hashpath_after and not any(name == key for _, name in _by_hashpath(trail, found)):
        return "the record is missing from the index of hashpaths"
    return ""


def _by_hashpath(trail: Trail, record: Record) -> Iterator[tuple[bytes, bytes]]:
    return trail.store.scan("by-hashpath", hashpath_key(record.hashpath_after))


def _pointer(fits: Callable[[Record, bytes], bool]) -> Callable[[Cache, Trail, bytes, bytes], str]:
    def check(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
        record = trail.read(value)
        if record is None:
            return f"points to the record {b64u(value)}, which is not there"
        return "" if fits(record, key) else f"points to the record {b64u(value)}, which does not belong there"

    return check


def _result(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    return "" if cache.result(key) is not None else "points to a result that is not there"


def _assignment(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    _, found = read_assignment(value)
    if found.get("slot") != int.from_bytes(key[32:], "big") or found.get("process") != b64u(key[:32]).encode():
        return "an assignment of another process or slot"
    commitments.check(found)
    again = Message.make(dict(found.raw_items()), found.commitments)
    known = commitments.signed_id(again), commitments.hashpath_id(again)
    return "" if known == (commitments.signed_id(found), commitments.hashpath_id(found)) else "its IDs are wrong"


def _end(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    if len(key) != 32:
        return _state(cache, trail, key, value)
    head = read_head(value, b64u(key))
    at = key + max(0, head.slot).to_bytes(8, "big")
    last = trail.store.get("assignments", at)
    if last is None or next(trail.store.scan("assignments", key, at), None) is not None:
        return f"the schedule does not end at slot {head.slot}"
    return "" if read_assignment(last)[0] == head.chain else "the chain is not that of the last assignment"


def _state(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    cache.read(key_text(value.partition(b"\n")[0]), exact=True)
    return ""


def _word(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    return "" if len(key) != 48 or cache.has(b64u(key[16:])) else "points to a message that is not there"


def _origin(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    return "" if sha256(value) == key else "the request was damaged"


def _attestation(cache: Cache, trail: Trail, key: bytes, value: bytes) -> str:
    attested.decode(value)
    return "" if trail.read(key) is not None else "belongs to a record that is not there"


_CHECKS: dict[str, Callable[[Cache, Trail, bytes, bytes], str]] = {
    "messages": _message,
    "commitments": _commitment,
    "aliases": _alias,
    "trail": _record,
    "by-result": _pointer(lambda record, key: record.result == b64u(key)),
    "by-hashpath": _pointer(lambda record, key: hashpath_key(record.hashpath_after) == key[:16]),
    "by-slot": _pointer(lambda record, key: True),
    "by-parent": _pointer(lambda record, key: record.parent == key[:32]),
    "results": _result,
    "by-word": _word,
    "origins": _origin,
    "assignments": _assignment,
    "heads": _end,
    "states": _state,
    "attested": _attestation,
}


# -- an older format ---------------------------------------------------------------------------


def migrate(folder: str | Path, progress: Progress = lambda what, count: None) -> Path | None:
    """Bring a folder of an older format to this version's; return where the backup is.

    Returns None if nothing had to be done.

    Raises:
        ConfigError: no store, in use, of a newer format, or of a format there is no way from.
        StoreError: it could not be written; the folder is as it was.
    """
    path = Path(folder)
    if not (path / "ledger" / "data.mdb").is_file():
        raise ConfigError(f"there is no store at {path}", hint="Set [store] dir.")
    lock = FolderLock(path)
    try:
        found = _format(path)
        if found == FORMAT:
            return None
        if found > FORMAT:
            raise ConfigError(f"{path} is of the newer format {found}", hint="Install a newer hyperpy.")
        if any(step not in _STEPS for step in range(found, FORMAT)):
            raise ConfigError(f"there is no way from format {found} to {FORMAT}", hint="Start with a new folder.")
        backup = path.with_name(f"{path.name}-backup-{time.strftime('%Y%m%d-%H%M%S')}")
        progress("backup", 0)
        shutil.copytree(path, backup, ignore=shutil.ignore_patterns("lock", "lock.mdb"))
        for step in range(found, FORMAT):
            progress(f"format {step + 1}", step)
            _STEPS[step](path)
        return backup
    finally:
        lock.release()


def _ledger(path: Path) -> Environment:
    return Environment(path / "ledger", map_size=1 << 28, sync=True)


def _format(path: Path) -> int:
    ledger = _ledger(path)
    try:
        found = json.loads(ledger.get(TABLES["header"].prefix + HEADER_KEY) or b"{}").get("format")
    except (ValueError, AttributeError):
        found = None
    finally:
        ledger.close()
    if not isinstance(found, int) or isinstance(found, bool):
        raise ConfigError(f"{path} is no hyperpy store", hint="Name another folder in [store] dir.")
    return found


def _from_0(path: Path) -> None:
    """Format 0 differs from 1 in its header only."""
    _mark(path, 1)


def _from_1(path: Path) -> None:
    """Format 1 had its journal in LMDB: move what it holds into the tables.

    A journal that was open when the machine went down may be damaged; it was never read then, and goes unread.
    """
    journal, mark = path / "journal", path / "journal-boot"
    if (journal / "data.mdb").is_file():
        if not mark.is_file() or mark.read_text() == boot():
            _absorb(journal, path / "cache")
        shutil.rmtree(journal)
    mark.unlink(missing_ok=True)
    shutil.rmtree(path / "journal-set-aside", ignore_errors=True)
    _mark(path, 2)


def _absorb(journal: Path, cache: Path) -> None:
    source = Environment(journal, map_size=1 << 28, sync=False)
    target = Environment(cache, map_size=1 << 32, sync=True)
    try:
        after: bytes | None = None
        while rows := source.chunk(TABLES["age"].prefix, after, 256):
            overlay = Overlay()
            for _, packed in rows:
                overlay.add(msgpack.unpackb(packed, raw=True, use_list=False), len(packed))
            first = int.from_bytes(rows[0][0][1:], "big")
            pour(target, overlay, first)
            after = rows[-1][0]
    finally:
        source.close()
        target.close()


def _mark(path: Path, number: int) -> None:
    ledger = _ledger(path)
    try:
        ledger.write(lambda txn: txn.put(TABLES["header"].prefix + HEADER_KEY, new_header(number)))
    finally:
        ledger.close()


_STEPS: dict[int, Callable[[Path], None]] = {0: _from_0, 1: _from_1}
