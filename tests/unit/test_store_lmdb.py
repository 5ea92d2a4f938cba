"""What only the LMDB store does: files, locks, formats, the journal, growing, group commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import lmdb
import msgpack  # type: ignore[import-untyped]
import pytest

from hyperpy import maintenance
from hyperpy.errors import ConfigError, StoreError
from hyperpy.store import environment, tables
from hyperpy.store.base import TABLES
from hyperpy.store.group import Group
from hyperpy.store.journal import Journal
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.lock import boot

HEADER = TABLES["header"].prefix + b"header"


def set_format(folder: Path, number: int) -> None:
    with lmdb.open(str(folder / "ledger")) as env, env.begin(write=True) as txn:
        header = json.loads(txn.get(HEADER))
        txn.put(HEADER, json.dumps({**header, "format": number}).encode())


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    with_close = LmdbStore(tmp_path)
    with_close.write([("messages", b"a" * 32, b"1" * 100), ("heads", b"p", b"2")])
    with_close.close()
    again = LmdbStore(tmp_path)
    assert again.get("messages", b"a" * 32) == b"1" * 100
    assert again.get("heads", b"p") == b"2"
    assert again.stats()["journal-batches"] == 0
    again.close()


def test_second_opener_is_told_the_process(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    code = f"from hyperpy.store.lmdb import LmdbStore; LmdbStore({str(tmp_path)!r})"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in child.stderr
    assert f"in use by process {os.getpid()}" in child.stderr
    with pytest.raises(ConfigError, match=f"process {os.getpid()}") as told:
        LmdbStore(tmp_path)
    assert "[store] dir" in told.value.hint
    store.write([("names", b"n", b"v")])
    store.close()
    LmdbStore(tmp_path).close()


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = LmdbStore(tmp_path / "store")
        store.write([("messages", b"a" * 32, b"1"), ("names", b"n", b"v")])
        found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*")}
        folders = {path for path in found if path.is_dir()} | {tmp_path / "store"}
        store.close()
    finally:
        os.umask(before)
    assert {path.name for path in folders} == {"store", "ledger", "cache", "journal"}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert {mode for path, mode in found.items() if path not in folders} == {0o600}


def test_read_only_beside_the_writer(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.write([("messages", b"settled", b"v" * 99)])
    store.flush()
    store.write([("messages", b"fresh", b"w"), ("names", b"n", b"x")])
    code = (
        "import sys; from hyperpy.store.lmdb import LmdbStore\n"
        f"s = LmdbStore({str(tmp_path)!r}, readonly=True)\n"
        "print([len(s.get('messages', k) or b'') for k in (b'settled', b'fresh')], s.get('names', b'n'))\n"
        "sys.stdin.readline()\n"
        "print(s.get('messages', b'later'), len(list(s.scan('messages'))))\n"
        "try: s.write([('names', b'a', b'b')])\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "[99, 1] b'x'\n"
    store.write([("messages", b"later", b"y")])
    out, _ = child.communicate("\n", timeout=20)
    assert out == "b'y' 3\nStoreError\n"
    store.close()


def test_read_only_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store"):
        LmdbStore(tmp_path / "absent", readonly=True)
    assert not (tmp_path / "absent").exists()


def test_a_reader_beside_the_writer_reads_each_batch_of_the_journal_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LmdbStore(tmp_path)
    store.write([("names", b"n", b"x")])
    code = (
        "import sys; from hyperpy.store.lmdb import LmdbStore; from hyperpy.store.overlay import Overlay\n"
        "added, add = [], Overlay.add\n"
        "Overlay.add = lambda self, batch, size: (added.append(1), add(self, batch, size))[1]\n"
        "store = LmdbStore(sys.argv[1], readonly=True)\n"
        "for line in sys.stdin:\n"
        "    found = store.get('messages', line.strip().encode())\n"
        "    print(len(added), (found or b'-').decode(), flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def asked(key: bytes) -> list[str]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(key.decode() + "\n")
        child.stdin.flush()
        return child.stdout.readline().split()

    try:
        for n in range(30):
            store.write([("messages", b"%d" % n, b"v%d" % n), ("messages", b"last", b"v%d" % n)])
            assert asked(b"last") == [str(n + 1), f"v{n}"]
        store.flush()
        store.write([("messages", b"new", b"w")])
        assert asked(b"last") == ["31", "v29"]
        assert asked(b"new") == ["31", "w"]
        store.write([("messages", b"last", b"v30")], [("messages", b"new")])
        assert asked(b"last") == ["32", "v30"]
        assert asked(b"new") == ["32", "-"]
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(20)
    store.close()


def test_newer_format_is_refused_and_older_one_migrates(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = LmdbStore(folder)
    store.write([("names", b"n", b"v"), ("messages", b"m", b"w")])
    store.close()
    set_format(folder, 7)
    with pytest.raises(ConfigError, match="format 7"):
        LmdbStore(folder)
    with pytest.raises(ConfigError, match="newer"):
        maintenance.migrate(folder)
    set_format(folder, 0)
    with pytest.raises(ConfigError) as caught:
        LmdbStore(folder, readonly=True)
    assert "hyperpy store migrate" in caught.value.diagnostics()
    backup = maintenance.migrate(folder)
    assert backup is not None
    assert (backup / "ledger" / "data.mdb").is_file()
    assert maintenance.migrate(folder) is None
    store = LmdbStore(folder)
    assert (store.get("names", b"n"), store.get("messages", b"m")) == (b"v", b"w")
    with pytest.raises(ConfigError, match="in use"):
        maintenance.migrate(folder)
    store.close()
    with pytest.raises(ConfigError, match="no store"):
        maintenance.migrate(tmp_path / "absent")


@pytest.mark.parametrize("rebooted", [False, True])
def test_a_journal_of_format_1_is_moved_in(tmp_path: Path, rebooted: bool) -> None:
    folder = tmp_path / "store"
    store = LmdbStore(folder)
    store.write([("messages", b"settled", b"old" * 20), ("messages", b"changed", b"old" * 20)])
    store.close()
    with lmdb.open(str(folder / "journal")) as env, env.begin(write=True) as txn:  # as format 1 kept it
        for number in range(2, 700):
            batch = [(b"m%d" % number, b"v%d" % number * 20), (b"mchanged", b"%d" % number)]
            txn.put(b"z" + number.to_bytes(8, "big"), msgpack.packb(batch, use_bin_type=True))
    (folder / "journal-boot").write_text("another run of the machine" if rebooted else boot())
    set_format(folder, 1)
    with pytest.raises(ConfigError, match="older format 1"):
        LmdbStore(folder)
    backup = maintenance.migrate(folder)
    assert backup is not None
    assert (backup / "journal" / "data.mdb").is_file()
    assert not (folder / "journal" / "data.mdb").exists()
    store = LmdbStore(folder)
    assert store.get("messages", b"settled") == b"old" * 20
    found = [n for n in range(2, 700) if store.get("messages", b"%d" % n) == b"v%d" % n * 20]
    assert found == ([] if rebooted else list(range(2, 700))), "what a power cut may have damaged is not read"
    assert store.get("messages", b"changed") == (b"old" * 20 if rebooted else b"699")
    store.write([("messages", b"next", b"n" * 50)])
    store.close()
    store = LmdbStore(folder)
    assert store.get("messages", b"next") == b"n" * 50
    assert store.get("messages", b"699") == (None if rebooted else b"v699" * 20)
    store.close()


def test_the_map_grows_while_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.store import lmdb as module

    monkeypatch.setattr(module, "_MAPS", {"ledger": 1 << 16, "cache": 1 << 16})
    store = LmdbStore(tmp_path)
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            if store.get("messages", b"0") not in (None, b"x" * 3000):
                wrong.append(store.get("messages", b"0"))
            time.sleep(0.0005)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(300):
            store.write([("messages", b"%d" % n, b"x" * 3000), ("heads", b"%d" % n, b"y" * 1000)])
        store.flush()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert all(store.get("messages", b"%d" % n) == b"x" * 3000 for n in range(300))
    store.close()


def test_group_commit_joins_writers_and_isolates_failures() -> None:
    calls: list[list[int]] = []
    gate = threading.Event()

    def commit(items: list[int]) -> None:
        gate.wait(5)
        calls.append(items)
        if 13 in items:
            raise StoreError("unlucky")

    group: Group[int] = Group(commit)
    failed: list[int] = []

    def work(n: int) -> None:
        try:
            group.submit(n)
        except StoreError:
            failed.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    gate.set()
    for thread in threads:
        thread.join()
    assert failed == [13]
    assert max(map(len, calls)) >= 15
    assert {n for call in calls for n in call} == set(range(20))


def left_behind(folder: Path, count: int) -> Path:
    """Return the journal of a process that wrote ``count`` batches and was killed."""
    code = (
        "import os, sys; from hyperpy.store.lmdb import LmdbStore; store = LmdbStore(sys.argv[1])\n"
        "for n in range(int(sys.argv[2])): store.write([('messages', b'%d' % n, b'v%d' % n * 20)])\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(count)], check=True)
    (file,) = (folder / "journal").glob("*.log")
    return file


def held(store: LmdbStore, count: int) -> list[int]:
    return [n for n in range(count) if store.get("messages", b"%d" % n) == b"v%d" % n * 20]


def test_what_a_killed_process_had_in_its_journal_is_moved_in(tmp_path: Path) -> None:
    left_behind(tmp_path, 50)
    store = LmdbStore(tmp_path)
    assert held(store, 50) == list(range(50))
    assert store.stats()["journal-batches"] == 0
    assert not list((tmp_path / "journal").glob("*.log"))
    store.close()


@pytest.mark.parametrize("fault", ["cut", "zeros"])
def test_a_journal_that_a_power_cut_tore_is_read_up_to_there(tmp_path: Path, fault: str) -> None:
    file = left_behind(tmp_path, 50)
    data = file.read_bytes()
    at = data.index(b"v30v30")
    file.write_bytes({"cut": data[:at], "zeros": data[: at - 60] + bytes(len(data) - at + 60)}[fault])
    store = LmdbStore(tmp_path)
    kept = held(store, 50)
    assert kept == list(range(len(kept)))
    assert 28 <= len(kept) <= 30
    store.write([("messages", b"next", b"n" * 50)])
    store.close()
    assert not list((tmp_path / "journal").iterdir()), "nothing was lost that anybody was told of"
    store = LmdbStore(tmp_path)
    assert store.get("messages", b"next") == b"n" * 50
    assert held(store, 50) == kept
    store.close()


@pytest.mark.parametrize(
    ("places", "lost"),
    [
        ({0: 1}, [30]),
        ({-1: 1}, [30]),  # the checksum
        ({0: 1, "v31": 4, "v40": 2}, [30, 31, 40]),
        ({-8: 1}, []),  # the length, far too great
        ({-5: 1}, []),  # the length, a little wrong
    ],
)
def test_a_flipped_bit_costs_the_batch_it_is_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, places: dict[int | str, int], lost: list[int]
) -> None:
    file = left_behind(tmp_path, 50)
    data = bytearray(file.read_bytes())
    batch = msgpack.packb([[b"m30", b"v30" * 20]], use_bin_type=True)
    begin = data.index(batch)
    for place, bit in places.items():
        at = data.index(place.encode() * 20) if isinstance(place, str) else begin + place
        data[at] ^= bit
    file.write_bytes(data)
    reader = LmdbStore(tmp_path, readonly=True)
    assert {*range(30)} <= {*held(reader, 50)} <= {*range(50)} - {*lost}
    reader.close()
    for _ in range(2):
        store = LmdbStore(tmp_path)
        assert held(store, 50) == [n for n in range(50) if n not in lost]
        store.close()
    assert [path.name for path in (tmp_path / "journal").iterdir()] == [file.name + ".damaged"]
    assert (tmp_path / "journal" / (file.name + ".damaged")).read_bytes() == data
    (said,) = [one.getMessage() for one in caplog.records if one.name == "hyperpy.store"]
    assert f"{len(lost)} batches are lost" in said
    assert str(file) + ".damaged" in said


def test_what_a_client_wrote_is_never_taken_for_a_batch(tmp_path: Path) -> None:
    false = msgpack.packb([[b"mfalse", b"v" * 50]], use_bin_type=True)
    planted = len(false).to_bytes(4, "big") + zlib.crc32(false).to_bytes(4, "big") + false
    store = LmdbStore(tmp_path)
    store.write([("messages", b"true", planted * 50)])
    (file,) = (tmp_path / "journal").glob("*.log")
    data = file.read_bytes()
    store.close()
    for end in range(data.index(planted), data.index(planted) + 3 * len(planted)):
        file.write_bytes(data[:end])
        assert list(Journal(tmp_path / "journal").read(mend=True)) == []


def test_a_batch_cut_off_at_the_start_of_a_file_does_not_hide_what_follows(tmp_path: Path) -> None:
    file = left_behind(tmp_path, 3)
    file.write_bytes(file.read_bytes()[:10])
    store = LmdbStore(tmp_path)
    store.write([("messages", b"next", b"n" * 50)])
    (name,) = (tmp_path / "journal").glob("*.log")
    data = name.read_bytes()
    store.close()
    name.write_bytes(data)  # as if it had been killed
    store = LmdbStore(tmp_path)
    assert store.get("messages", b"next") == b"n" * 50
    store.close()


def test_durable_writes_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    really = os.fdatasync
    monkeypatch.setattr(tables, "DELAY", 3600.0)
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(os.fstat(fd).st_size), really(fd))[1])
    store = LmdbStore(tmp_path)
    store.write([("messages", b"m", b"w")])
    assert synced == []
    store.write([("messages", b"m", b"w")], durable=True)
    (file,) = (tmp_path / "journal").glob("*.log")
    assert synced == [file.stat().st_size]
    store.close()
    store = LmdbStore(tmp_path, durable=True)
    synced.clear()
    for n in range(3):
        store.write([("messages", b"n", b"w")])
        assert len(synced) == n + 1
    store.close()
    store = LmdbStore(tmp_path)
    assert store.get("messages", b"n") == b"w"
    store.close()


def test_what_was_written_is_on_the_disk_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    really = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (really(fd), synced.set())[0])
    store = LmdbStore(tmp_path)
    for n in range(3):
        synced.clear()
        store.write([("messages", b"%d" % n, b"w")])
        assert synced.wait(20)
        assert store.stats()["journal-batches"] > 0, "on the disk long before it is moved into the tables"
    store.close()


def test_beyond_the_quota_writing_is_refused_and_reading_goes_on(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, quota=100_000)

    def fill() -> None:
        for n in range(100):
            store.write([("messages", b"%d" % n, b"x" * 3000)])
            store.flush()

    with pytest.raises(StoreError, match="quota"):
        fill()
    assert store.get("messages", b"0") == b"x" * 3000
    store.write([], [("messages", b"%d" % n) for n in range(100)])
    store.flush()
    store.write([("messages", b"again", b"x")])
    store.close()


def test_a_full_map_is_a_store_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, max_map=1 << 20)
    with pytest.raises(StoreError, match="full"):
        store.write([("messages", b"a", b"x"), ("messages", b"big", b"y" * (2 << 20))])
    assert store.get("messages", b"a") is None
    with pytest.raises(StoreError, match="full"):
        store.write([("names", b"a", b"x"), ("names", b"big", b"y" * (2 << 20))])
    assert store.get("names", b"a") is None
    store.write([("messages", b"a", b"x"), ("names", b"a", b"x")])
    assert store.get("messages", b"a") == store.get("names", b"a") == b"x"
    store.close()


def test_when_the_tables_are_full_the_journal_keeps_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BATCHES", 4)
    store = LmdbStore(tmp_path, max_map=1 << 20)
    acknowledged = []

    def fill() -> None:
        for n in range(2000):
            store.write([("messages", b"%d" % n, os.urandom(2500))])
            acknowledged.append(b"%d" % n)

    with pytest.raises(StoreError):
        fill()
    assert len(acknowledged) > 100
    assert all(store.get("messages", key) is not None for key in acknowledged)
    store.close()
    store = LmdbStore(tmp_path)
    assert all(store.get("messages", key) is not None for key in acknowledged)
    store.close()


def test_keys_fold_below_the_limit() -> None:
    assert environment.fold(b"k" * 510) == b"k" * 510
    assert len(environment.fold(b"k" * 511)) == 511
    assert environment.fold(b"k" * 511) != b"k" * 511
    assert environment.fold(b"k" * 600) != environment.fold(b"k" * 601)
