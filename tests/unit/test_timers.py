"""Timed tasks: once, again and again, stopped, and never piling up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from hyperpy.codecs import canonical
from hyperpy.errors import Busy, KeyNotFound, ParameterError, SizeError, StoreError, TooManyRequests
from hyperpy.message import Message
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import node
from hyperpy.timers import MAX_INTERVAL_S, MAX_RUNNING, Timers


class Runs:
    """Notes what ran; may be told to wait."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.wait: threading.Event | None = None
        self.most = self.now = 0
        self._lock = threading.Lock()

    def __call__(self, path: str) -> None:
        with self._lock:
            self.paths.append(path)
            self.now += 1
            self.most = max(self.most, self.now)
        if self.wait is not None:
            self.wait.wait(5)
        with self._lock:
            self.now -= 1

    def until(self, count: int, seconds: float = 3.0) -> bool:
        end = time.monotonic() + seconds
        while len(self.paths) < count and time.monotonic() < end:
            time.sleep(0.005)
        return len(self.paths) >= count


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def timers(runs: Runs) -> Iterator[Timers]:
    made = Timers(runs, limit=5)
    yield made
    made.close()


def test_once(timers: Timers, runs: Runs) -> None:
    task = timers.once("/a")
    assert len(task) == 43
    assert runs.until(1)
    time.sleep(0.05)
    assert runs.paths == ["/a"]
    assert task not in timers.list()
    assert not timers.stop(task)


def test_once_later(timers: Timers, runs: Runs) -> None:
    timers.once("/late", 0.3)
    timers.once("/soon", -5)
    assert runs.until(1)
    assert runs.paths == ["/soon"]
    assert runs.until(2)


def test_every_until_stopped(timers: Timers, runs: Runs) -> None:
    task = timers.every("/tick", 0.02)
    assert runs.until(3)
    shown = timers.list()[task]
    assert (shown["path"], shown["interval"]) == (b"/tick", 0.02)
    assert timers.stop(task)
    time.sleep(0.05)
    count = len(runs.paths)
    time.sleep(0.1)
    assert len(runs.paths) == count
    assert timers.list() == {}


def test_a_task_does_not_overtake_itself(timers: Timers, runs: Runs) -> None:
    runs.wait = threading.Event()
    timers.every("/slow", 0.01)
    assert runs.until(1)
    time.sleep(0.15)
    assert len(runs.paths) == 1
    runs.wait.set()
    assert runs.until(3)
    assert runs.most == 1


def test_a_failing_run_does_not_end_a_task(runs: Runs) -> None:
    seen: list[str] = []

    def fail(path: str) -> None:
        seen.append(path)
        raise ValueError("no")

    quiet = threading.excepthook
    threading.excepthook = lambda _: None
    timers = Timers(fail)
    try:
        timers.every("/x", 0.01)
        end = time.monotonic() + 3
        while len(seen) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(seen) >= 3
    finally:
        timers.close()
        time.sleep(0.05)
        threading.excepthook = quiet


def test_limits(timers: Timers) -> None:
    for interval in (0.0, -1.0, 0.009, float("nan")):
        with pytest.raises(ParameterError):
            timers.every("/x", interval)
    for number in range(5):
        timers.every(f"/{number}", 100)
    with pytest.raises(Busy):
        timers.once("/one-more")
    timers.stop(next(iter(timers.list())))
    timers.once("/one-more", 100)


def test_after_close_nothing_starts(runs: Runs) -> None:
    timers = Timers(runs)
    timers.every("/x", 0.05)
    timers.close()
    timers.close()
    with pytest.raises(Busy):
        timers.once("/y")
    time.sleep(0.15)
    assert runs.paths == []


def test_cron_over_the_node() -> None:
    with node() as n:
        task = n.get("/~cron@1.0/once", {"cron-path": "/~message@1.0&x=1/set&y=2"})["body"]
        assert isinstance(task, bytes)
        end = time.monotonic() + 3
        while n.node.timers.list() and time.monotonic() < end:
            time.sleep(0.01)
        keys = {one.key for name, _ in n.node.store.scan("trail") if (one := n.node.trail.read(name))}
        assert {"once", "set"} <= keys
        every = n.get("/~cron@1.0/every", {"cron-path": "/~message@1.0&x=1/x", "interval": "1-hour"})["body"]
        assert isinstance(every, bytes)
        assert every.decode() in n.node.timers.list()
        assert n.get("/~cron@1.0/stop&task=" + every.decode())["status"] == 200
        assert n.get("/~cron@1.0/stop&task=" + every.decode())["status"] == 400
        failing = n.get("/~cron@1.0/once", {"cron-path": "/~absent@1.0/x"})
        assert failing["status"] == 200


def test_so_many_run_at_once_and_the_others_later(runs: Runs) -> None:
    runs.wait = threading.Event()
    timers = Timers(runs, limit=500)
    try:
        for number in range(MAX_RUNNING + 10):
            timers.once(f"/{number}")
        assert runs.until(MAX_RUNNING)
        time.sleep(0.2)
        assert len(runs.paths) == MAX_RUNNING
        runs.wait.set()
        assert runs.until(MAX_RUNNING + 10)
        assert runs.most == MAX_RUNNING
    finally:
        runs.wait.set()
        timers.close()


def test_a_task_that_cannot_be_kept_is_not_started(runs: Runs) -> None:
    class Full(MemoryStore):
        def write(self, *_: object, **__: object) -> None:
            raise StoreError("full")

    timers = Timers(runs, store=Full())
    try:
        with pytest.raises(StoreError):
            timers.once("/x")
        assert timers.list() == {}
        assert runs.paths == []
    finally:
        timers.close()


def test_an_interval_without_end_hurts_nobody(timers: Timers, runs: Runs) -> None:
    """Clocks take only so many seconds: nothing that a caller names may end the thread."""
    for interval in (86400.0 * 999_999_999, float("inf"), MAX_INTERVAL_S + 1):
        with pytest.raises(ParameterError, match="ten years"):
            timers.every("/never", interval)
    timers.every("/rarely", MAX_INTERVAL_S)
    timers.once("/late", 1e300)
    time.sleep(0.05)
    timers.once("/now")
    assert runs.until(1)
    assert runs.paths == ["/now"]


def test_a_stored_interval_without_end_does_not_stop_the_others(runs: Runs) -> None:
    store = MemoryStore()
    row = {"path": "/never", "interval": 86_400_000 * 999_999_999, "next": 10**30, "owner": ""}
    store.write([("timers", b"n" * 32, canonical.encode(Message(row)))])
    timers = Timers(runs, store=store)
    try:
        assert timers.resume() == 1
        timers.once("/now")
        assert runs.until(1)
    finally:
        timers.close()


def test_without_room_for_a_thread_a_run_waits(timers: Timers, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    timers.every("/rarely", 100)  # its thread waits from here on
    start, refused = threading.Thread.start, []

    def full(thread: threading.Thread) -> None:
        if thread.name == "hyperpy-timer-run" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", full)
    timers.once("/now")
    assert runs.until(1, 5)
    assert len(refused) == 1


def test_a_task_that_is_stopped_and_asked_for_again_runs_once_per_interval(timers: Timers, runs: Runs) -> None:
    for _ in range(200):
        timers.every("/x", 1000, task="same")
        timers.stop("same")
    timers.every("/x", 0.2, task="same")
    assert len(timers._due) < 100
    assert runs.until(1)
    with timers._changed:  # between two turns
        assert len([one for one in timers._due if one[2].id == "same" and not one[2].stopped]) == 1


def test_groups_are_the_same_after_a_restart(runs: Runs) -> None:
    store, secret = MemoryStore(), b"k" * 32
    first = Timers(runs, store=store, secret=secret)
    group = first.admit("192.0.2.1", own=1, most=10)
    first.every("/x", 1000, group=group)
    first.close()
    second = Timers(runs, store=store, secret=secret)
    try:
        assert second.resume() == 1
        with pytest.raises(TooManyRequests):
            second.admit("192.0.2.1", own=1, most=10)
        assert second.admit("192.0.2.2", own=1, most=10) != group
        assert second.count(group) == 1
    finally:
        second.close()


def test_turns_that_passed_while_nothing_ran_are_not_made_up(runs: Runs) -> None:
    """A restart is no turn: a repeated task keeps its beat; a single one that is late runs at once."""
    store, now = MemoryStore(), round(time.time() * 1000)
    rows = {
        b"r" * 32: {"path": "/daily", "interval": 86_400_000, "next": now - 90_000_000, "owner": ""},
        b"s" * 32: {"path": "/single", "interval": -1, "next": now - 90_000_000, "owner": ""},
    }
    store.write([("timers", name, canonical.encode(Message(row))) for name, row in rows.items()])
    timers = Timers(runs, store=store)
    try:
        assert timers.resume() == 2
        assert runs.until(1)
        time.sleep(0.1)
        assert runs.paths == ["/single"]
        ((due, _, _),) = [one for one in timers._due if one[2].path == "/daily"]
        assert abs(due - time.monotonic() - (86_400 - 3_600)) < 60
    finally:
        timers.close()


def test_a_task_that_always_fails_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def fail(path: str) -> None:
        ran.append(path)
        raise KeyNotFound("x" * 5000)

    timers = Timers(fail)
    try:
        timers.every("/" + "p" * 5000, 0.01)
        end = time.monotonic() + 20
        while len(ran) < 40 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        timers.close()
    lines = [one.getMessage() for one in caplog.records]
    assert 1 <= len(lines) <= 7  # 1, 2, 4, 8, 16, 32, perhaps 64
    assert len(ran) >= 40
    assert all(len(line) < 600 and "failed" in line for line in lines)
    assert not any(one.exc_info for one in caplog.records)


def test_a_path_is_bounded(timers: Timers) -> None:
    with pytest.raises(SizeError):
        timers.every("/" + "p" * 8192, 100)
    assert not timers.list()
