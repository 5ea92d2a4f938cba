"""push@1.0: who gets what, once and not too far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from hyperpy import Message, commitments
from hyperpy.errors import Busy
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.testing import wallet
from tests.devices.mailing import Mailer, child, post, send, spawn
from tests.devices.parts import Place, place


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Mailer) as made:
        yield made


# -- delivering ----------------------------------------------------------------------------------


def test_a_message_is_delivered_and_its_answer_too(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "Action": "Ping"}})
    tree = here.get(first, f"push&slot={slot}")
    assert (tree["status"], tree["slot"], tree["process"]) == (200, slot, first.encode())
    assert child(tree, "1", "target") == second.encode()
    assert child(tree, "1", "slot") == 1
    answer = child(tree, "1", "resulted-in", "1")
    assert (answer["target"], answer["slot"]) == (first.encode(), slot + 1), "P1, P2, P1: push is in no actor"
    assert here.value(first, "now/got/3") == b"Pong"
    assert here.value(second, "now/got/2") == b"Ping"
    delivered = here.get(second, "now/last")
    assert delivered["from-process"] == first.encode()
    assert (delivered["type"], delivered["variant"], delivered["data-protocol"]) == (b"Message", b"ao.N.1", b"ao")
    body = here.slots.read(second, 1)
    assert body is not None
    assert isinstance(body["body"], Message)
    assert commitments.committers(body["body"]) == (here.node.address,)
    assert commitments.signed_id(body["body"]).encode() == child(tree, "1", "id")


@pytest.mark.parametrize("later", [False, True])
def test_a_message_with_the_key_slot_is_scheduled(here: Place, later: bool) -> None:
    """As a game's move or a booking has one: it is the message's own, and pushes no other slot."""
    first, second = spawn(here, "1"), spawn(here, "2")
    send(here, first, outbox={"1": {"target": second, "action": "not yet"}})
    items: dict[str, Any] = {"target": first, "type": "Message", "slot": "1", "action": "Move"}
    message = commitments.commit(Message({**items, "async": "true"} if later else items), wallet("alice"))
    reply = post(here, f"/{first}~process@1.0/push", message)
    assert (reply.status, dict(reply.headers)[b"slot"]) == (202 if later else 200, b"2")
    assigned = here.slots.read(first, 2)
    assert assigned is not None
    assert isinstance(assigned["body"], Message)
    assert assigned["body"]["slot"] == b"1"
    assert here.value(first, "compute=2/got/3") == b"Move"
    assert here.slots.head(second).slot == 0, "slot 1 was not pushed"
    assert child(here.get(first, "push&slot=1"), "1", "slot") == 1


def test_a_process_with_the_key_slot_is_spawned(here: Place) -> None:
    made = here.definition("mailer@1.0", slot=5, **{"random-seed": "with slot"})
    reply = post(here, "/~push@1.0/push", made)
    name = commitments.signed_id(made)
    assert (reply.status, dict(reply.headers)[b"slot"]) == (200, b"0")
    assert here.slots.head(name).slot == 0


def test_what_is_shown(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "x"}})
    tree = here.get(first, f"push&slot={slot}")
    assert "outbox" in tree
    assert "outbox" not in child(tree, "1", "resulted-in")
    assert "outbox" not in here.get(first, f"push&slot={slot}&result-depth=0")
    assert "outbox" in child(here.get(first, f"push&slot={slot}&result-depth=2"), "1", "resulted-in")


def test_scheduling_and_pushing_in_one(here: Place) -> None:
    first = spawn(here, "1")
    message = commitments.commit(Message({"target": first, "type": "Message", "action": "Hello"}), here.author)
    reply = post(here, f"/{first}~process@1.0/push", message, accept="application/json")
    assert reply.status == 200
    assert dict(reply.headers)[b"slot"] == b"1"
    assert b'"id"' not in reply.body
    wanted = {"require-codec": "application/json", "accept-bundle": "true"}
    again = commitments.commit(Message({"target": first, "type": "Message", "action": "Again"}), here.author)
    reply = post(here, f"/{first}~process@1.0/push", again, **wanted)
    assert f'"id":"{commitments.signed_id(again)}"'.encode() in reply.body
    assert b'"slot":2' in reply.body
    assert b'"raw":' in reply.body


def test_a_process_is_spawned_by_push(here: Place) -> None:
    definition = here.definition("mailer@1.0", **{"random-seed": "9"})
    reply = post(here, "/push", definition)
    headers = dict(reply.headers)
    assert reply.status == 200
    assert (headers[b"process"], headers[b"slot"]) == (commitments.signed_id(definition).encode(), b"0")


def test_entries_that_cannot_be_delivered(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    stranger = "A" * 43
    plain = here.node._lend["store"].write(Message({"x": "no process"}))
    outbox = {
        "1": {"action": "nobody"},
        "2": {"target": stranger, "action": "x"},
        "3": {"target": "not an id"},
        "4": "no message",
        "5": {"target": plain},
        "6": {"target": second, "action": "good"},
    }
    slot = send(here, first, outbox=outbox)
    tree = here.get(first, f"push&slot={slot}")
    assert tree["status"] == 200
    for index in "134":
        assert child(tree, index, "reason") == b"Target process not available."
        assert child(tree, index, "outbox-index") == index.encode()
    assert child(tree, "2", "reason") == b"Could not access target process!"
    assert [child(tree, index, "response") for index in "12345"] == [b"error"] * 5
    assert child(tree, "6", "slot") == 1
    assert here.value(second, "now/got/2") == b"good"


def test_pushing_again_delivers_nothing_again(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "pay"}})
    one = here.get(first, f"push&slot={slot}")
    for _ in range(3):
        again = here.get(first, f"push&slot={slot}")
        assert commitments.unsigned_id(again) == commitments.unsigned_id(one)
    assert here.slots.head(second).slot == 1


class Stopped(BaseException):
    """The node ends here."""


def stop_at(monkeypatch: pytest.MonkeyPatch, here: Place, name: str, when: Callable[[str], bool]) -> None:
    """Have the node end at a write of the mark of a delivery that looks so."""
    store = here.node._lend["store"]
    real = store.link_all

    def link_all(names: Mapping[str, str]) -> None:
        if any(one.startswith("pushed/") and when(ref) for one, ref in names.items()):
            monkeypatch.undo()
            raise Stopped(name)
        real(names)

    monkeypatch.setattr(store, "link_all", link_all)


@pytest.mark.parametrize("words", [2, 3], ids=["behind the target's slot", "before anything was sent"])
def test_a_node_that_stops_in_the_middle_delivers_once(
    here: Place, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "pay"}})
    send(here, second, action="other")
    stop_at(monkeypatch, here, "mark", lambda ref: len(ref.split()) == words)
    assert here.get(first, f"push&slot={slot}")["status"] == 500
    assert here.slots.head(second).slot == (2 if words == 2 else 1)
    send(here, second, action="more")
    tree = here.get(first, f"push&slot={slot}")
    assert child(tree, "1", "slot") == (2 if words == 2 else 3)
    assert here.slots.head(second).slot == 3
    got = here.get(second, "now/got")
    assert [got[str(number)] for number in range(1, 5)].count(b"pay") == 1
    mail = here.slots.read(second, child(tree, "1", "slot"))
    assert mail is not None
    assert isinstance(mail["body"], Message)
    assert child(tree, "1", "id") == commitments.signed_id(mail["body"]).encode()


def test_mail_that_its_scheduler_did_not_take_is_the_same_mail_later(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "pay"}})

    def busy(*args: Any, **more: Any) -> Message:
        raise Busy("too many")

    monkeypatch.setattr(type(here.slots), "append", busy)
    assert child(here.get(first, f"push&slot={slot}"), "1", "status") == 503
    (mark,) = here.node._lend["store"].names("pushed/").values()
    monkeypatch.undo()
    tree = here.get(first, f"push&slot={slot}")
    assert child(tree, "1", "id") == mark.split()[0].encode()
    assert here.slots.head(second).slot == 1


def test_a_node_that_stops_delivers_once_to_a_schedule_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with place(Mailer, flags={"rate-limit.requests": 0, "http.sign": True}) as there:
        server = Server(there.node, "127.0.0.1", 0)
        server.start()
        try:
            at = f"{there.node.address}?hint={server.url}"
            target = spawn(there, "2", scheduler=at)
            with place(Mailer, name="other", flags={"relay.peers": [server.url]}) as here:
                here.node._lend["store"].write(there.node._lend["store"].read(target))
                first = spawn(here, "1")
                slot = send(here, first, outbox={"1": {"target": target, "action": "pay"}})
                stop_at(monkeypatch, here, "mark", lambda ref: len(ref.split()) == 2)
                assert here.get(first, f"push&slot={slot}")["status"] == 500
                assert there.slots.head(target).slot == 1
                assert child(here.get(first, f"push&slot={slot}"), "1", "slot") == 1
                assert there.slots.head(target).slot == 1
                again = send(here, first, outbox={"1": {"target": target, "action": "pay"}})
                stop_at(monkeypatch, here, "mark", lambda ref: len(ref.split()) == 2)
                here.get(first, f"push&slot={again}")
                server.stop()
                assert child(here.get(first, f"push&slot={again}"), "1", "response") == b"error", "nobody can tell"
        finally:
            server.stop()


def test_a_slot_that_failed_is_told_to_who_pushes(here: Place) -> None:
    first = spawn(here, "1")
    here.send(first, "absent")
    tree = here.get(first, "push&slot=1")
    assert (tree["status"], tree["slot"]) == (200, 1)
    assert b"absent" in tree.text("error").encode()
    assert here.get(first, "push&slot=7")["status"] == 404


def test_later_is_a_timed_task(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    for number, how in enumerate(("async=true", "push-mode=async")):
        slot = send(here, first, outbox={"1": {"target": second, "action": "x"}})
        reply = here.get(first, f"push&slot={slot}&{how}")
        assert (reply["status"], reply["slot"], reply["process"]) == (202, slot, first.encode())
        assert until(lambda number=number: here.slots.head(second).slot == number + 1)  # type: ignore[misc]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Timed tasks begin and do not end."""
    release = threading.Event()
    monkeypatch.setattr(Node, "_run_path", lambda self, path: release.wait(20) and None)
    yield
    release.set()


@pytest.mark.usefixtures("stuck")
def test_later_is_for_so_many_slots_of_a_caller() -> None:
    with place(Mailer, flags={"cron.per-caller": 3}) as here:
        first = spawn(here, "1")
        slots = [send(here, first) for _ in range(5)]
        replies = [here.get(first, f"push&slot={slot}&async=true")["status"] for slot in slots]
        assert replies == [202, 202, 202, 429, 429]
        again = [here.get(first, f"push&slot={slot}&async=true")["status"] for slot in slots[:3] * 3]
        assert again == [202] * 9, "a slot that waits is one task"
        assert len(here.node.timers.list()) == 3
        head = here.slots.head(first).slot
        refused = post(
            here,
            f"/{first}/push&async=true",
            commitments.commit(Message({"target": first, "type": "Message"}), wallet("alice")),
        )
        assert (refused.status, here.slots.head(first).slot) == (429, head), "refused before a slot is taken"
        assert here.web.http("GET", "/~cron@1.0/once?cron-path=/x", {}).status == 429, "cron counts the same tasks"


@pytest.mark.usefixtures("stuck")
def test_later_leaves_room_for_the_operator() -> None:
    with place(Mailer, flags={"cron.tasks": 10, "cron.per-caller": 100}) as here:
        first = spawn(here, "1")
        slots = [send(here, first) for _ in range(11)]
        replies = [here.get(first, f"push&slot={slot}&async=true")["status"] for slot in slots]
        assert replies == [202] * 9 + [429] * 2
        path = f"/{first}/push&slot={slots[9]}&async=true"
        order = commitments.commit(Message({"path": path, "method": "POST"}), wallet("operator"))
        assert post(here, path, order).status == 202


@pytest.mark.usefixtures("stuck")
def test_nobody_stops_what_was_asked_for(here: Place) -> None:
    first = spawn(here, "1")
    here.get(first, f"push&slot={send(here, first)}&async=true")
    (task,) = here.node.timers.list()
    assert here.web.http("GET", f"/~cron@1.0/stop?task={task}", {}).status == 403
    assert task in here.node.timers.list()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# -- not too far -----------------------------------------------------------------------------------


def test_an_endless_exchange_ends(here: Place) -> None:
    with place(Mailer, flags={"push.depth": 5}) as here:
        first, second = spawn(here, "1"), spawn(here, "2")
        slot = send(here, first, outbox={"1": {"target": second, "Action": "Echo"}})
        tree = here.get(first, f"push&slot={slot}")
        assert tree["status"] == 200
        for _ in range(5):
            tree = child(tree, "1", "resulted-in")
        assert child(tree, "1", "status") == 508
        assert here.slots.head(first).slot + here.slots.head(second).slot == 1 + 5


def test_max_depth_of_one_push(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "Action": "Echo"}})
    assert child(here.get(first, f"push&slot={slot}&max-depth=0"), "1", "status") == 508
    assert here.slots.head(second).slot == 0
    tree = here.get(first, f"push&slot={slot}&max-depth=1")
    assert child(tree, "1", "resulted-in", "1", "status") == 508
    assert (here.slots.head(second).slot, here.slots.head(first).slot) == (1, slot)


def test_a_long_chain_is_delivered_and_answered(here: Place) -> None:
    """33 deliveries inside one another would nest the answer deeper than a reply may be."""
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "Action": "Echo"}})
    tree = here.get(first, f"push&slot={slot}")
    assert tree["status"] == 200
    assert here.slots.head(first).slot + here.slots.head(second).slot == 1 + 32
    for _ in range(24):
        tree = child(tree, "1", "resulted-in")
    assert tree["not-shown"] == 1
    assert "1" not in tree
    again = here.get(first, f"push&slot={slot}")
    assert again["status"] == 200
    assert here.slots.head(first).slot + here.slots.head(second).slot == 1 + 32, "nothing twice"


def test_so_many_messages_of_a_slot_and_of_a_push() -> None:
    for flags, delivered in (({"push.fan-out": 3}, 3), ({"push.messages": 2}, 2)):
        with place(Mailer, flags=flags) as here:
            first, second = spawn(here, "1"), spawn(here, "2")
            outbox = {str(number): {"target": second, "action": str(number)} for number in range(1, 6)}
            slot = send(here, first, outbox=outbox)
            tree = here.get(first, f"push&slot={slot}")
            assert here.slots.head(second).slot == delivered
            assert child(tree, str(delivered + 1), "response") == b"error"
