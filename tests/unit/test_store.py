"""Both stores keep the protocol; what only LMDB does is in test_store_lmdb.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy.errors import ConfigError, StoreError
from hyperpy.store import base
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store")
    yield made
    made.close()


def settle(store: Store) -> None:
    if isinstance(store, LmdbStore):
        store.flush()


def test_put_get_delete(store: Store) -> None:
    store.write([("messages", b"k" * 32, b"v"), ("config", b"name", b"x")])
    assert store.get("messages", b"k" * 32) == b"v"
    assert store.get("config", b"name") == b"x"
    assert store.get("trail", b"k" * 32) is None
    settle(store)
    assert store.get("messages", b"k" * 32) == b"v"
    store.write([], [("messages", b"k" * 32), ("config", b"name")])
    assert store.get("messages", b"k" * 32) is None
    settle(store)
    assert store.get("messages", b"k" * 32) is None
    assert store.get("config", b"name") is None


@pytest.mark.parametrize("size", [0, 1, 40, 41, 1900, 1901, 5000, 200_000])
def test_values_of_every_size_come_back(store: Store, size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    store.write([("messages", b"a", value[:size])])
    assert store.get("messages", b"a") == value[:size]
    settle(store)
    assert store.get("messages", b"a") == value[:size]
    store.write([("messages", b"a", b"other")])
    settle(store)
    assert store.get("messages", b"a") == b"other"


def test_scan_is_in_order_across_what_is_settled_and_what_is_not(store: Store) -> None:
    keys = [b"p" + n.to_bytes(4, "big") for n in range(1500)]
    store.write([("names", key, b"n") for key in keys[::2]] + [("by-slot", key, b"s" * 50) for key in keys[::3]])
    settle(store)
    store.write([("by-slot", key, b"s") for key in keys if key not in keys[::3]], [("by-slot", keys[0])])
    store.write([("by-slot", b"q", b"other"), ("by-slot", b"o", b"other")])
    assert [key for key, _ in store.scan("by-slot", b"p")] == keys[1:]
    assert [key for key, _ in store.scan("by-slot", b"p", after=keys[700])] == keys[701:]
    assert next(key for key, _ in store.scan("by-slot")) == b"o"
    assert [key for key, _ in store.scan("names", b"p", after=b"a")] == keys[::2]
    assert list(store.scan("names", b"zz")) == []


def test_scan_by_a_long_prefix(store: Store) -> None:
    mine, other = b"m" * 32, b"m" * 16 + b"n" * 16
    rows = [(mine + bytes([n]) * 43, b"v") for n in range(5)]
    store.write([("commitments", key, value) for key, value in rows[:2]] + [("commitments", other + b"x" * 43, b"w")])
    settle(store)
    store.write([("commitments", key, value) for key, value in rows[2:]])
    assert list(store.scan("commitments", mine)) == rows
    assert len(list(store.scan("commitments", mine[:16]))) == 6


def test_long_keys(store: Store) -> None:
    keys = [b"k" * 480 + bytes([n]) * (30 + n) for n in range(5)] + [b"k" * 2000]
    store.write([("names", key, b"%d" % n) for n, key in enumerate(keys)])
    store.write([("by-slot", key, b"%d" % n) for n, key in enumerate(keys)])
    for table in ("names", "by-slot"):
        assert [store.get(table, key) for key in keys] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert sorted(key for key, _ in store.scan(table, b"k")) == sorted(keys)
        assert store.get(table, b"k" * 1999) is None
    store.write([], [("names", keys[5]), ("by-slot", keys[5])])
    assert store.get("names", keys[5]) is None
    assert store.get("by-slot", keys[5]) is None


def test_unknown_tables_and_closed_stores_are_store_errors(store: Store) -> None:
    for work in (
        lambda: store.get("nothing", b""),
        lambda: list(store.scan("nothing")),
        lambda: store.write([("nothing", b"", b"")]),
        lambda: store.write([], [("nothing", b"")]),
    ):
        with pytest.raises(StoreError):
            work()
    store.close()
    store.close()
    for work in (lambda: store.get("names", b""), lambda: store.write([("names", b"", b"")])):
        with pytest.raises(StoreError):
            work()


def test_many_writers(store: Store) -> None:
    def work(n: int) -> None:
        for i in range(20):
            store.write([("messages", b"%d-%d" % (n, i), b"v" * i), ("assignments", b"%d-%d" % (n, i), b"w")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        for i in range(20):
            assert store.get("messages", b"%d-%d" % (n, i)) == b"v" * i
    assert sum(1 for _ in store.scan("assignments")) == 160


def test_every_table_has_its_own_prefix() -> None:
    assert len({place.prefix for place in base.TABLES.values()}) == len(base.TABLES)
    assert all(len(place.prefix) == 1 for place in base.TABLES.values())


def test_headers() -> None:
    assert base.check_header(base.new_header(), "x")["format"] == base.FORMAT
    for raw, words in (
        (None, "no hyperpy store"),
        (b"\xff", "no hyperpy store"),
        (b"[]", "no hyperpy store"),
        (b'{"format": 99, "hyperpy": "9.0"}', "9.0"),
        (b'{"format": "1"}', "format"),
        (b'{"format": true}', "format"),
        (b'{"format": 0}', "older format"),
    ):
        with pytest.raises(ConfigError, match=words):
            base.check_header(raw, "the folder")
    with pytest.raises(ConfigError) as caught:
        base.check_header(b'{"format": 0}', "x")
    assert "hyperpy store migrate" in caught.value.diagnostics()
