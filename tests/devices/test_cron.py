"""cron@1.0: tasks that outlive the node, what strangers may not do, and errors that are the caller's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, config, device, key
from hyperpy.http.client import request_form
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.store.lmdb import LmdbStore
from hyperpy.testing import TestNode, node, wallet

EVERY = "/~cron@1.0/every?cron-path=/~bell@1.0/ring"


@device("bell@1.0")
class Bell:
    """Counts how often it rang."""

    rung = 0

    @key(deterministic=False)
    def ring(self) -> int:
        """Ring once."""
        Bell.rung += 1
        return Bell.rung


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node(Bell, flags={"http.sign": False}) as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def signed(n: TestNode, signer: RsaKey, path: str, **items: Any) -> Message:
    """Return the reply to a signed POST."""
    message = commitments.commit(Message({"path": path, "method": "POST", **items}), signer)
    form = request_form(message)
    headers = {name.decode(): text.decode() for name, text in form.headers}
    return n.request(form.method, form.target.decode(), headers, form.body)


def restarted(folder: Path) -> Node:
    return Node(
        config.load(environ={}, flags={"http.sign": False}),
        key=wallet(),
        store=LmdbStore(folder),
        operator=wallet("operator").address,
        devices=(Bell,),
    )


def test_it_runs_again_and_again_until_it_is_stopped(n: TestNode) -> None:
    before = Bell.rung
    task = n.get(EVERY + "&interval=100-milliseconds").text("body")
    assert until(lambda: Bell.rung >= before + 3)
    assert n.get(f"/~cron@1.0/stop?task={task}")["status"] == 200
    again = n.get(f"/~cron@1.0/stop?task={task}")
    assert (again["status"], again["body"]) == (400, b"Task not found.")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("every", b"No cron path found in message."),
        ("once", b"No cron path found in message."),
        ("stop", b"No task ID found in message."),
        ("every?cron-path=/x", b"No interval found in message."),
        ("every?cron-path=/x&interval=5", b"Invalid interval value."),
        ("every?cron-path=/x&interval=-5-seconds", b"Invalid interval value."),
        ("every?cron-path=/x&interval=5-fortnights", b"Invalid time unit: fortnight"),
    ],
)
def test_mistakes_are_the_callers(n: TestNode, query: str, says: bytes) -> None:
    reply = n.get(f"/~cron@1.0/{query}")
    assert (reply["status"], reply["body"]) == (400, says)


def test_the_same_request_is_one_task(n: TestNode) -> None:
    first = n.get(EVERY + "&interval=1-hour")["body"]
    assert n.get(EVERY + "&interval=1-hour")["body"] == first
    assert n.get(EVERY + "&interval=2-hours")["body"] != first
    assert len(n.node.timers.list()) == 2


def test_tasks_are_there_after_a_restart(tmp_path: Path) -> None:
    with restarted(tmp_path) as first:
        n = TestNode(first)
        kept = n.get(EVERY + "&interval=100-milliseconds").text("body")
        ended = n.get(EVERY + "&interval=1-hour").text("body")
        done = n.get("/~cron@1.0/once?cron-path=/~bell@1.0/ring").text("body")
        assert until(lambda: done not in first.timers.list())
        assert n.get(f"/~cron@1.0/stop?task={ended}")["status"] == 200
    with restarted(tmp_path) as second:
        assert second.timers.list() == {}, "only who serves takes them up"
        assert second.timers.resume() == 1
        before = Bell.rung
        assert list(second.timers.list()) == [kept]
        assert until(lambda: Bell.rung >= before + 2)
        assert TestNode(second).get(f"/~cron@1.0/stop?task={kept}")["status"] == 200
    with restarted(tmp_path) as third:
        assert third.timers.resume() == 0


def test_what_could_not_run_before_the_node_ended_runs_after(tmp_path: Path) -> None:
    with restarted(tmp_path) as first:
        first.timers.once("/~bell@1.0/ring", 3600)
    before = Bell.rung
    with restarted(tmp_path) as second:
        assert second.timers.resume() == 1
        assert before == Bell.rung
        task = next(iter(second.timers.list()))
        assert second.timers.stop(task)


def test_a_damaged_row_does_not_stop_the_others(tmp_path: Path) -> None:
    with restarted(tmp_path) as first:
        first.timers.every("/~bell@1.0/ring", 3600)
        first.store.write([("timers", b"x", b"\xc1"), ("timers", b"y", b"\x80")], durable=True)
    with restarted(tmp_path) as second:
        assert second.timers.resume() == 1


def test_a_stranger_has_so_many_tasks() -> None:
    with node(Bell, flags={"http.sign": False, "cron.per-caller": 3}) as n:
        for number in range(3):
            assert n.get(f"{EVERY}&interval={number + 1}-hours")["status"] == 200
        assert n.get(EVERY + "&interval=9-hours")["status"] == 429
        assert n.get("/~cron@1.0/once?cron-path=/~bell@1.0/ring&x=1")["status"] == 429
        other = signed(n, wallet("mallory"), "/~cron@1.0/every", **{"cron-path": "/x", "interval": "1-day"})
        assert other["status"] == 429, "another key from the same place is no other caller"
        operator = signed(n, wallet("operator"), "/~cron@1.0/every", **{"cron-path": "/x", "interval": "1-day"})
        assert operator["status"] == 200


def test_strangers_together_leave_room_for_the_operator() -> None:
    with node(Bell, flags={"http.sign": False, "cron.tasks": 10, "cron.per-caller": 100}) as n:
        replies = [n.get(f"{EVERY}&interval={number + 1}-hours")["status"] for number in range(12)]
        assert replies == [200] * 9 + [429] * 3
        operator = signed(n, wallet("operator"), "/~cron@1.0/every", **{"cron-path": "/x", "interval": "1-day"})
        assert operator["status"] == 200


def test_a_stranger_runs_nothing_too_often(n: TestNode) -> None:
    reply = n.get(EVERY + "&interval=50-milliseconds")
    assert reply["status"] == 400
    assert reply["body"] == b"Invalid interval value. The shortest on this node is 0.1 seconds."
    given = {"cron-path": "/~bell@1.0/ring", "interval": "50-milliseconds"}
    assert signed(n, wallet("operator"), "/~cron@1.0/every", **given)["status"] == 200


def test_only_its_owner_stops_a_signed_task(n: TestNode) -> None:
    given = {"cron-path": "/~bell@1.0/ring", "interval": "1-hour"}
    for stopper, status in ((wallet("alice"), 200), (wallet("operator"), 200)):
        task = signed(n, wallet("alice"), "/~cron@1.0/every", **given).text("body")
        assert n.get(f"/~cron@1.0/stop?task={task}")["status"] == 403
        assert signed(n, wallet("mallory"), "/~cron@1.0/stop", task=task)["status"] == 403
        assert signed(n, stopper, "/~cron@1.0/stop", task=task)["status"] == status


def test_a_client_address_is_not_stored(n: TestNode) -> None:
    n.get(EVERY + "&interval=1-hour")
    assert all(b"127.0.0.1" not in data for _, data in n.node.store.scan("timers"))


def test_an_interval_without_end_is_refused_and_the_timers_go_on(n: TestNode) -> None:
    reply = n.get(EVERY + "&interval=999999999-days")
    assert (reply["status"], reply["body"]) == (400, b"Invalid interval value. The longest is ten years.")
    assert n.get(EVERY + "&interval=3650-days")["status"] == 200
    before = Bell.rung
    assert n.get("/~cron@1.0/once?cron-path=/~bell@1.0/ring&again=1")["status"] == 200
    assert until(lambda: Bell.rung == before + 1)
