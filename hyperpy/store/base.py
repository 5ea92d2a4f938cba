"""What a store is: named tables of byte keys and byte values, written in transactions.

Every table lives in one of two places. *Synced* tables (assignments, snapshot heads,
configuration, names, pins) are on the disk when a write returns. The others survive the end of
the process at any instant, but a power cut may take the last moments (design 4); a ``durable``
write asks for the disk for them too.

The header ``{format, hyperpy, created}`` says which layout a folder holds: a newer one is
refused, an older one is named to ``hyperpy store migrate``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol, TypeAlias

from hyperpy.errors import ConfigError, StoreError

FORMAT = 2
"""Layout that this version reads and writes. 0 is what early builds wrote; 1 had its journal in LMDB."""

MAX_VALUE = 1 << 30
"""Bytes; the longest value a store takes."""

Put: TypeAlias = tuple[str, bytes, bytes]
Delete: TypeAlias = tuple[str, bytes]


class Table(NamedTuple):
    """Where a table lives: the byte its keys begin with, and whether each write is synced."""

    prefix: bytes
    synced: bool
    meaning: str


TABLES: dict[str, Table] = {
    "messages": Table(b"m", False, "unsigned ID (32 bytes) -> canonical bytes of the items; also lists and binaries"),
    "ambiguous": Table(b"q", False, "unsigned ID -> nothing: the message's encoding may stand for another one too"),
    "commitments": Table(
        b"c", False, "unsigned ID + commitment ID -> 1 if it verified, else 0; canonical bytes of the fields"
    ),
    "claims": Table(b"l", False, "parent's unsigned ID + link -> ID of the nested message, where no alias may be made"),
    "aliases": Table(b"a", False, "signed or combined ID (32 bytes) -> unsigned ID and the commitments it stands for"),
    "results": Table(b"r", False, "digest of base, request and implementation -> result"),
    "trail": Table(b"t", False, "record ID (32 bytes) -> record"),
    "by-result": Table(b"x", False, "result ID (32 bytes) -> newest record's ID"),
    "by-hashpath": Table(b"h", False, "digest of the hashpath + age -> record ID; newest first"),
    "by-slot": Table(b"s", False, "process ID (32 bytes) + slot (8 bytes) -> record ID"),
    "by-parent": Table(b"p", False, "parent's record ID (32 bytes) + age -> record ID of a sub-step; oldest first"),
    "attested": Table(b"e", False, "record ID (32 bytes) -> the newest attestation of a reply with that step's result"),
    "states": Table(b"S", False, "process ID (32 bytes) + slot, newest first (8 bytes) -> ID of the state after it"),
    "unindexed": Table(b"u", False, "as in commitments: a signed message that by-word does not have yet -> nothing"),
    "by-word": Table(b"w", False, "digest of key and value (16 bytes) + unsigned ID of a signed message -> nothing"),
    "origins": Table(b"o", False, "SHA-256 -> the raw request as cleaned at ingress"),
    "age": Table(b"z", False, "sequence number (8 bytes) -> what was written then; kept by the store itself"),
    "header": Table(b"\x00", True, "format of the folder"),
    "assignments": Table(b"A", True, "process ID (32 bytes) + slot (8 bytes) -> assignment, whole"),
    "heads": Table(b"H", True, "process ID -> end of its schedule; with a slot as in states: its snapshot"),
    "config": Table(b"C", True, "setting -> value"),
    "names": Table(b"N", True, "name -> ID"),
    "timers": Table(b"T", True, "task ID -> what to run, and when"),
    "pins": Table(b"P", True, "ID (32 bytes) -> why it must be kept"),
}

PREFIXES = {name: place.prefix for name, place in TABLES.items()}
"""The byte that a table's keys begin with."""

HEADER_KEY = b"header"


class Store(Protocol):
    """Tables of bytes. Safe to use from many threads."""

    collections: int
    """How often old entries were removed; see :mod:`hyperpy.store.collect`."""
    crowded: bool
    """Whether what must be kept fills the store: then nothing more of that kind is to be put."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None."""

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, durable: bool = False) -> None:
        """Write in at most two transactions: first the synced tables', then the others'.

        Returns when everything is committed; what is synced, or asked to be ``durable``, is on
        the disk. Each transaction is whole or absent, whatever fails.

        Raises:
            StoreError: the store is full, closed or read-only; that transaction left no trace.
        """

    def write_rows(self, rows: Sequence[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        """Do what :meth:`write` does, with keys that begin with their table's prefix. ``rows`` is kept."""

    def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs whose key begins with ``prefix`` and is greater than ``after``, by key.

        Not a snapshot: what is written meanwhile may or may not be seen.
        """

    def stats(self) -> dict[str, Any]:
        """Return sizes in bytes and counts."""

    def close(self) -> None:
        """Finish and release; safe to call twice."""


def table(name: str) -> Table:
    """Return the table's place; raise StoreError for an unknown name."""
    try:
        return TABLES[name]
    except KeyError:
        raise StoreError(f"the store has no table '{name}'") from None


def by_table(rows: Sequence[tuple[bytes, bytes]]) -> list[Put]:
    """Return rows whose keys begin with their table's prefix as puts."""
    return [(_NAMES[name[:1]], name[1:], value) for name, value in rows]


_NAMES = {prefix: name for name, prefix in PREFIXES.items()}


def check_value(value: bytes) -> None:
    """Raise StoreError if the value is longer than a store takes."""
    if len(value) > MAX_VALUE:
        raise StoreError(f"a value of {len(value)} bytes is too long for the store", hint="Split it.")


def new_header(number: int = FORMAT) -> bytes:
    """Return the header of a folder in that format: a new one's, or a migrated one's."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"format": number, "hyperpy": _version(), "created": created}).encode()


def check_header(raw: bytes | None, where: str) -> dict[str, Any]:
    """Return the header's fields.

    Raises:
        ConfigError: it is missing, unreadable, newer or older than this version's.
    """
    try:
        header = json.loads(raw or b"")
        found = header["format"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{where} is no hyperpy store", hint="Name another folder in [store] dir.") from None
    if not isinstance(found, int) or isinstance(found, bool) or found > FORMAT:
        raise ConfigError(
            f"{where} was written by hyperpy {header.get('hyperpy')} in format {found}; this version reads {FORMAT}",
            hint="Install that version or a newer one.",
        )
    if found < FORMAT:
        raise ConfigError(
            f"{where} is in the older format {found}; this version reads {FORMAT}",
            hint="Run `hyperpy store migrate`; it makes a backup first.",
        )
    return dict(header)


def _version() -> str:
    try:
        return version("hyperpy")
    except PackageNotFoundError:
        return "0.1.0"
