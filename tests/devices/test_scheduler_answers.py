"""scheduler@1.0: what is answered from the schedules here, and what comes from other nodes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy.capabilities import Head
from hyperpy.commitments import commit, signed_id
from hyperpy.message import Message
from hyperpy.testing import TestNode, node, wallet
from tests.devices.scheduling import SCHEDULE, batch_put, frame, post, post_body, process, said, spawn


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


# -- reading ---------------------------------------------------------------------------------


def fill(at: TestNode, name: str, count: int) -> None:
    """Add slots without signatures, quickly."""

    def build(head: Head) -> tuple[Message, Head]:
        made = Message({"slot": head.slot + 1, "process": name, "timestamp": 5, "body": {"n": head.slot}})
        return made, Head(head.slot + 1, bytes(32), "", 5)

    for _ in range(count):
        at.node._lend["slots"].append(name, build, deadline=time.monotonic() + 60)


def test_long_schedules_come_in_pages(n: TestNode) -> None:
    name = spawn(n)
    fill(n, name, 1100)
    pages = []
    start, more = 0, True
    while more:
        page = _get(n, Message({"path": "schedule", "target": name, "from": start}))
        listed = page["assignments"]
        pages.append(len(listed))
        start += len(listed)
        more = page["continues"]
        assert len(pages) < 5
    assert pages == [1001, 100]
    short = _get(n, Message({"path": "schedule", "target": name, "from": "1090", "to": "5000"}))
    assert short["continues"] is True  # the window, not the schedule, was cut
    assert len(short["assignments"]) == 11


def _get(at: TestNode, request: Message) -> Any:
    return at.node.resolver.resolve(Message({"device": "scheduler@1.0"}), request, frame(at.node)).value


def test_an_answer_ends_before_it_grows_too_large(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpy.devices.scheduler import formats

    name = spawn(n)
    for _ in range(4):
        post_body(n, said(name, data="x" * 10_000))
    monkeypatch.setattr(formats, "MAX_BYTES", 40_000)
    page = _get(n, Message({"path": "schedule", "target": name, "from": 1}))
    assert (sorted(page["assignments"]), page["continues"]) == (["1", "2"], True)
    monkeypatch.setattr(formats, "MAX_BYTES", 10)
    page = _get(n, Message({"path": "schedule", "target": name, "from": 3}))
    assert (sorted(page["assignments"]), page["continues"]) == (["3"], True)


def test_slots_are_asked_for_in_every_spelling(n: TestNode) -> None:
    name = spawn(n)
    fill(n, name, 3)
    for query, expected in {
        "": ["0", "1", "2", "3"],
        "&from=1&to=2": ["1", "2"],
        "&from+integer=2": ["2", "3"],
        "&from=&to=1": ["0", "1"],
        "&from=-5&to=0": ["0"],
        "&from=4": [],
        "&from=3&to=1": [],
    }.items():
        listed = n.get(f"{SCHEDULE}?target={name}{query}")["assignments"]
        assert isinstance(listed, Message)
        assert list(listed) == expected, query
    for bad in ("&from=x", "&to=1.5", "&from=" + "9" * 30):
        assert n.get(f"{SCHEDULE}?target={name}{bad}")["status"] == 400


def test_the_json_of_aos(n: TestNode) -> None:
    name = spawn(n)
    message = said(name, action="Eval", data="return 1")
    post(n, message)
    reply = n.http("GET", f"{SCHEDULE}?target={name}&accept=application%2Faos-2")
    assert dict(reply.headers)[b"content-type"] == b"application/json"
    made = json.loads(reply.body)
    assert made["page_info"] == {
        "process": name,
        "has_next_page": False,
        "timestamp": "0",
        "block-height": "0",
        "block-hash": "A" * 43,
    }
    first, second = (edge["node"] for edge in made["edges"])
    assert first["message"]["Id"] == name
    assert second["message"]["Id"] == signed_id(message)
    assert (second["message"]["Data"], second["message"]["Target"]) == ("return 1", name)
    assert second["message"]["Owner"] == wallet("alice").address
    tags = {tag["name"]: tag["value"] for tag in second["assignment"]["Tags"]}
    assert (tags["Slot"], tags["Type"], tags["Process"]) == ("1", "Assignment", name)
    assert second["assignment"]["Owner"] == n.node.address


def test_slot_and_status(n: TestNode) -> None:
    name = spawn(n)
    found = n.get(f"/~scheduler@1.0/slot?target={name}")
    assert {key: found[key] for key in ("process", "current", "timestamp", "block-height", "cache-control")} == {
        "process": name.encode(),
        "current": 0,
        "timestamp": 0,
        "block-height": 0,
        "cache-control": b"no-store",
    }
    assert found["addresses"] == (n.node.address.encode(),)
    status = n.get("/~scheduler@1.0/status")
    assert (status["address"], status["processes"]) == (n.node.address.encode(), (name.encode(),))


def test_next_returns_the_assignment_and_the_base(n: TestNode) -> None:
    name = spawn(n)
    definition = process(n)
    for at, status in ((-1, None), ("-1", None), (0, 404), ("x", 500), (True, 500)):
        base = Message({"device": "scheduler@1.0", "process": definition, "at-slot": at, "count": 7})
        result = n.node.resolver.resolve(base, Message({"path": "next", "target": name}), frame(n.node))
        value = result.value
        assert isinstance(value, Message)
        if status is None:
            assert result.status == "ok"
            body, state = value["body"], value["state"]
            assert isinstance(body, Message)
            assert isinstance(state, Message)
            assert (body["slot"], state["count"]) == (0, 7)
        else:
            assert (result.status, value["status"]) == ("error", status)


def test_locations_are_those_of_the_location_device() -> None:
    with node(flags={"http.url": "http://127.0.0.1:1"}) as n:
        found = n.get("/~scheduler@1.0/location")["body"]
        assert isinstance(found, Message)
        assert found["url"] == b"http://127.0.0.1:1"
        record = commit(Message({"url": "http://127.0.0.1:2", "nonce": 1}), wallet("peer"))
        assert post(n, record, "/~scheduler@1.0/location")["url"] == b"http://127.0.0.1:2"
        other = n.get(f"/~scheduler@1.0/location?address={wallet('peer').address}")["body"]
        assert isinstance(other, Message)
        assert other["url"] == b"http://127.0.0.1:2"
        missing = n.get(f"/~scheduler@1.0/location?address={'x' * 43}")
        assert (missing["status"], missing["body"]) == (404, b"No location found for address: " + b"x" * 43)


# -- elsewhere -------------------------------------------------------------------------------


def elsewhere(at: TestNode) -> tuple[str, Message]:
    """Return a process of another scheduler, known here."""
    made = commit(Message({"type": "Process", "scheduler": wallet("peer").address}), wallet("owner"))
    batch_put(at, made)
    return signed_id(made), made


def located(at: TestNode, url: str = "http://127.0.0.1:9") -> None:
    record = commit(Message({"url": url, "nonce": 1}), wallet("peer"))
    assert post(at, record, "/~location@1.0/known")["status"] == 200


def test_another_schedulers_process_is_redirected(n: TestNode) -> None:
    name, _ = elsewhere(n)
    reply = post(n, said(name))
    assert reply["status"] == 404
    located(n)
    for found in (
        post(n, said(name)),
        n.get(f"{SCHEDULE}?target={name}"),
        n.get(f"/~scheduler@1.0/slot?target={name}"),
    ):
        assert (found["status"], found["location"]) == (307, b"http://127.0.0.1:9")
        assert found["body"] == b"Redirecting to scheduler: http://127.0.0.1:9"
        assert found["variant"] == b"ao.N.1"


def test_hints_lead_to_the_scheduler(n: TestNode) -> None:
    hinted = f"{wallet('peer').address}?hint=http://test.computer"
    made = commit(Message({"type": "Process", "scheduler-location": hinted}), wallet("owner"))
    assert post(n, made)["location"] == b"http://test.computer"
    name = "x" * 43
    found = n.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://other.computer")
    assert found["location"] == b"http://other.computer"
    with node(flags={"scheduler.follow_hints": False}) as strict:
        assert strict.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://other.computer")["status"] == 404


def test_a_hint_counts_only_where_another_node_schedules(n: TestNode) -> None:
    name = spawn(n)
    away = "?hint=http://evil.computer"
    assert post(n, said(name + away))["slot"] == 1
    assert n.get(f"{SCHEDULE}?target={name}%3Fhint%3Dhttp://evil.computer")["status"] == 200
    assert n.get(f"/~scheduler@1.0/slot?target={name}%3Fhint%3Dhttp://evil.computer")["current"] == 1
    theirs, _ = elsewhere(n)
    found = post(n, said(f"{theirs}?hint=http://their.computer"))
    assert (found["status"], found["location"]) == (307, b"http://their.computer")
    for odd in ("javascript:alert(1)", "//other.computer", "file:///etc/passwd", "http://"):
        assert post(n, said(f"{theirs}?hint={odd}"))["status"] == 404
        assert post(n, said(f"{'x' * 43}?hint={odd}"))["status"] == 404
    with node(flags={"scheduler.follow_hints": False}) as strict:
        name = spawn(strict)
        assert post(strict, said(name + away))["slot"] == 1
        theirs, _ = elsewhere(strict)
        assert post(strict, said(theirs + away))["status"] == 404


class Peer:
    """Stands for the way to another node: hands requests to a node of the test."""

    def __init__(self, answer: Callable[[Message], Message]) -> None:
        self.answer = answer
        self.asked: list[Message] = []

    def allowed(self, url: str) -> bool:
        return url.startswith("http://127.0.0.1:9")

    def call(self, url: str, request: Message) -> Message:
        self.asked.append(request | {"url": url})
        return self.answer(request)


def test_an_allowed_peer_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with node() as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 200, "slot": 7}))
        remote = n.node.registry.lookup("scheduler@1.0").instance._remote
        monkeypatch.setattr(remote, "_http", peer)
        message = said(name)
        assert post(n, message)["slot"] == 7
        sent = peer.asked[0]
        assert (sent["path"], sent["method"]) == (f"/{name}/schedule".encode(), b"POST")
        inner = sent["body"]
        assert isinstance(inner, Message)
        assert signed_id(inner) == signed_id(message)
        n.get(f"{SCHEDULE}?target={name}&from=3&to=9")
        assert peer.asked[1]["path"] == f"/{name}/schedule?from=3&to=9".encode()


def test_redirects_of_peers_are_followed_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    with node() as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 307, "location": "http://127.0.0.1:99"}))
        monkeypatch.setattr(n.node.registry.lookup("scheduler@1.0").instance._remote, "_http", peer)
        found = n.get(f"{SCHEDULE}?target={name}")
        assert (found["status"], found["location"]) == (307, b"http://127.0.0.1:99")
        assert [one["url"] for one in peer.asked] == [b"http://127.0.0.1:9", *[b"http://127.0.0.1:99"] * 2]
        assert [one["scheduler-hops"] for one in peer.asked] == [1, 2, 3]
        again = n.get(f"{SCHEDULE}?target={name}&scheduler-hops+integer=3")
        assert again["status"] == 307
        assert len(peer.asked) == 3


def test_redirects_are_left_to_the_client_where_the_operator_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(flags={"scheduler.follow_redirects": False}) as n:
        name, _ = elsewhere(n)
        located(n)
        peer = Peer(lambda request: Message({"status": 200}))
        monkeypatch.setattr(n.node.registry.lookup("scheduler@1.0").instance._remote, "_http", peer)
        assert n.get(f"{SCHEDULE}?target={name}")["status"] == 307
        assert peer.asked == []


def test_clients_side_by_side_get_all_slots_once(n: TestNode) -> None:
    names = [spawn(n, seed=seed) for seed in range(3)]
    messages = [[said(names[at % 3], count=f"{at}-{count}") for count in range(8)] for at in range(6)]
    found: list[Message] = []

    def client(own: list[Message]) -> None:
        found.extend(post(n, one, f"/{one.text('target')}/schedule") for one in own)

    threads = [threading.Thread(target=client, args=(own,)) for own in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        slots = sorted(one["slot"] for one in found if one["process"] == name.encode())  # type: ignore[type-var]
        assert slots == list(range(1, 17))
        verdict = n.get(f"/~scheduler@1.0/verify-schedule?target={name}")
        assert (verdict["valid"], verdict["checked"]) == (True, 17)
