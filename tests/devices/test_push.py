"""push@1.0: who gets what, once and not too far, signed by whom, and with nobody's rights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hyperpy.devices.push.outgoing import augmented, entries, lowered, signed, target_of

from hyperpy import Message, commitments, device, key
from hyperpy.commitments import http_form
from hyperpy.errors import Busy, Forbidden, InvalidSignature, SizeError
from hyperpy.http.client import request_form
from hyperpy.http.server import Server
from hyperpy.http.wire import RawReply
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.testing import wallet
from tests.devices.parts import Place, place


@device("mailer@1.0")
class Mailer:
    """Sends what a message's body tells it to: ``outbox`` as it is, or an answer to whoever pinged."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Put the outbox where push finds it."""
        body = request["body"]
        assert isinstance(body, Message)
        outbox = body.get("outbox", Message())
        if body.get("action") == b"Ping":
            outbox = Message({"1": {"target": body["from-process"], "Action": "Pong", "hop": body.get("hop", 0)}})
        if body.get("action") == b"Echo":
            hop = body.get("hop", 0)
            assert isinstance(hop, int)
            outbox = Message({"1": {"target": body["from-process"], "Action": "Echo", "hop": hop + 1}})
        got = base.get("got", ())
        assert isinstance(got, tuple)
        return base | {"got": (*got, body.get("action", b"none")), "last": body, "results": {"outbox": outbox}}


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Mailer) as made:
        yield made


def spawn(here: Place, seed: str, **more: Any) -> str:
    return here.spawn("mailer@1.0", **{"random-seed": seed, "authority": here.node.address, **more})


def send(here: Place, process: str, **items: Any) -> int:
    """Schedule a message; return its slot."""
    slot = here.send(process, **items)["slot"]
    assert isinstance(slot, int)
    return slot


def post(here: Place, path: str, message: Message, **headers: str) -> RawReply:
    """Post a signed message whose signature does not cover the path."""
    form = http_form(message)
    return here.web.http(
        "POST", path, {**{k: v.decode() for k, v in form.headers.items()}, **headers}, form.body or b""
    )


def child(tree: Message, *names: str) -> Any:
    found: Any = tree
    for name in names:
        found = found[name]
    return found


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


# -- whose word ------------------------------------------------------------------------------------


def test_an_outbox_message_that_looks_like_a_reply_is_delivered(here: Place) -> None:
    """Signed by the node over an integer status, it is a reply to everybody else; inside the node it is mail."""
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "ok", "status": 200}})
    assert child(here.get(first, f"push&slot={slot}"), "1", "slot") == 1
    assert here.get(second, "now/last")["status"] == 200
    mail = here.slots.read(second, 1)
    assert mail is not None
    assert isinstance(mail["body"], Message)
    assert post(here, f"/{second}/schedule", mail["body"]).status == 400, "from outside it is nobody's message"
    assert here.slots.head(second).slot == 1


@pytest.mark.parametrize("body", [b'{"priv":{"pushed":true}}', b'{"private":{"pushed":true}}', b'{"pushed":true}'])
def test_nobody_outside_says_that_push_sends(here: Place, body: bytes) -> None:
    found = here.web._ingress("POST", "/~message@1.0/set", {"content-type": "application/json"}, body)
    assert found.message.private.get("pushed") is None
    assert found.private.get("pushed") is None


def test_the_sender_cannot_say_that_it_is_another(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    claims = {
        "from-process": second,
        "from-authority": "me",
        "from-scheduler": "me",
        "type": "Process",
        "From-Base": "x",
    }
    slot = send(here, first, outbox={"1": {"target": second, "type": "Process", **claims}})
    here.get(first, f"push&slot={slot}")
    last = here.get(second, "now/last")
    assert (last["from-process"], last["type"]) == (first.encode(), b"Message")
    assert last["from-authority"] == here.node.address.encode()
    assert last["from-base"] != b"x"


def test_a_caller_cannot_say_who_the_sender_is(here: Place) -> None:
    """The victim's signatures on a definition with other keys: no mail goes out, and none counts as delivered."""
    first, second = spawn(here, "1"), spawn(here, "2")
    slot = send(here, first, outbox={"1": {"target": second, "action": "pay"}})
    real = here.node._lend["store"].read(first)
    with_more = Message.make({**real.raw_items(), "authority": b"EVIL", "scheduler": b"EVIL"}, real.commitments)
    assert commitments.signed_id(with_more) == first
    base = Message({"device": "push@1.0", "process": with_more})
    here.node.resolve(base, {"path": "push", "slot": slot})
    last = here.get(second, "now/last")
    assert last["from-authority"] == last["from-scheduler"] == here.node.address.encode()
    with place(Mailer, name="other") as other, pytest.raises(InvalidSignature):
        other.node.resolve(base, {"path": "push", "slot": slot})


def test_orders_signed_by_push_are_none(here: Place) -> None:
    """The push chain: a process has the node sign an order, and the message is posted back."""
    first, second = spawn(here, "1"), spawn(here, "2")
    order = {"path": "/~meta@1.0/info", "method": "POST", "operator": "A" * 43, "zone": "mine"}
    slot = send(here, first, outbox={"1": {"target": second, **order}})
    here.get(first, f"push&slot={slot}")
    mail = here.slots.read(second, 1)
    assert mail is not None
    signed_order = mail["body"]
    assert isinstance(signed_order, Message)
    assert signed_order["zone"] == b"mine"
    assert commitments.verify(signed_order)
    before = dict(here.node.settings)
    form = request_form(signed_order)
    headers = {name.decode(): text.decode() for name, text in form.headers}
    assert here.web.request("POST", "/~meta@1.0/info", headers, form.body)["status"] in (400, 401, 403)
    assert dict(here.node.settings) == before


def test_a_message_may_be_made_by_a_path(here: Place) -> None:
    first, second = spawn(here, "1"), spawn(here, "2")
    ask = {"target": second, "resolve": "/~calculator@1.0&a=1/add&b=2"}
    fail = {"target": second, "resolve": "/~absent@1.0/x"}
    slot = send(here, first, outbox={"1": ask, "2": fail})
    tree = here.get(first, f"push&slot={slot}")
    assert child(tree, "1", "target") == second.encode()
    mail = here.slots.read(second, 1)
    assert mail is not None
    assert child(mail, "body", "body") == 3
    assert child(tree, "2", "target") == first.encode(), "the sender hears of the failure"
    failed = here.get(first, "now/last")
    assert (failed["resolve"], failed["status"], failed["outbox-index"]) == (b"error", 400, b"2")


def test_a_path_of_a_process_has_nobodys_rights(here: Place) -> None:
    """The operator pushes; the process asks for the node's signature and for its settings."""
    first, second = spawn(here, "1"), spawn(here, "2")
    ask = {"target": second, "resolve": "/~message@1.0&x=evil/commit"}
    slot = send(here, first, outbox={"1": ask})
    operator = wallet("operator")
    request = commitments.commit(Message({"path": f"/{first}/push", "method": "POST", "slot": str(slot)}), operator)
    form = request_form(request)
    headers = {name.decode(): text.decode() for name, text in form.headers}
    tree = here.web.request("POST", f"/{first}/push", headers, form.body)
    assert tree["status"] == 200
    assert child(tree, "1", "target") == first.encode()
    assert b"operator" in here.get(first, "now/last").text("reason").encode()


class _Keys:
    """Stands for the node's keys."""

    def __init__(self, *signers: RsaKey) -> None:
        self._signers = {one.address: one for one in signers}
        self.addresses = tuple(self._signers)
        self.address = self.addresses[0]

    def sign(self, message: Message, *, address: str = "", **options: Any) -> Message:
        return commitments.commit(message, self._signers[address or self.address], **options)


@pytest.mark.parametrize(
    ("target", "good"),
    [
        ({}, True),
        ({"authority": "ME"}, True),
        ({"authority": '"OTHER", "ME"'}, True),
        ({"authority": ["OTHER", "ME"]}, True),
        ({"authority": "OTHER"}, False),
        ({"policy": {"accept-committers": ["ME"]}, "authority": "OTHER"}, True),
        ({"policy": {"accept-committers": ["OTHER"]}, "authority": "ME"}, False),
    ],
)
def test_the_target_says_who_signs(target: dict[str, Any], good: bool) -> None:
    keys = _Keys(wallet("node"))

    def filled(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: filled(one) for name, one in item.items()}
        return [filled(one) for one in item] if isinstance(item, list) else item.replace("ME", keys.address)

    wanted = Message(filled(target))
    assert commitments.committers(signed(Message({"a": 1}), wanted, keys, always=True)) == (keys.address,)
    if good:
        signed(Message({"a": 1}), wanted, keys, always=False)
    else:
        with pytest.raises(Forbidden, match="No identities matching authority"):
            signed(Message({"a": 1}), wanted, keys, always=False)


def test_a_target_elsewhere_is_reached_through_the_allow_list() -> None:
    with place(Mailer, flags={"rate-limit.requests": 0, "http.sign": True}, name="far") as far:
        server = Server(far.node, "127.0.0.1", 0)
        server.start()
        try:
            definition = far.definition("mailer@1.0", scheduler=f"{far.node.address}?hint={server.url}")
            post(far, "/schedule", definition)
            there = commitments.signed_id(definition)
            for peers, delivered in (([], 0), ([server.url], 1)):
                with place(Mailer, flags={"relay.peers": peers}) as near:
                    near.node._lend["store"].write(definition)
                    first = spawn(near, "1")
                    slot = send(near, first, outbox={"1": {"target": there, "action": "far"}})
                    tree = near.get(first, f"push&slot={slot}")
                    assert far.slots.head(there).slot == delivered
                    assert (child(tree, "1").get("response") == b"error") == (delivered == 0)
            assert far.value(there, "now/got/2") == b"far"
        finally:
            server.stop()


# -- parts -------------------------------------------------------------------------------------------


def test_entries_in_order_and_lowered() -> None:
    assert [name for name, _ in entries(Message({"10": "a", "2": "b", "x": "c"}))] == ["2", "10", "x"]
    assert entries((b"a", b"b")) == [("1", b"a"), ("2", b"b")]
    assert entries(None) == []
    made = lowered(Message({"Action": "A", "Deep": {"X": [{"Y": 1}]}, "priv-x": 1}))
    assert made == Message({"action": "A", "deep": {"x": [{"y": 1}]}})
    deep: Any = b"x"
    for _ in range(70):
        deep = {"a": deep}
    with pytest.raises(SizeError):
        lowered(Message(deep))


def test_targets() -> None:
    name = "A" * 43
    for text in (name, f"/{name}", f"{name}~process@1.0", f"{name}?hint=http://x"):
        assert target_of(Message({"target": text})) == name
    for item in ("", "short", name + "A", 5):
        assert target_of(Message({"target": item})) is None


def test_what_a_delivered_message_says_of_its_sender() -> None:
    sender = Message({"type": "Process", "authority": "a", "scheduler": "s", "x": "y"})
    made = augmented(Message({"action": "x"}), commitments.commit(sender, wallet("author")), "P")
    assert made["from-uncommitted"] == commitments.unsigned_id(sender).encode()
    assert made["from-base"] == commitments.unsigned_id(Message({"type": "Process", "x": "y"})).encode()
    assert (made["from-scheduler"], made["from-authority"]) == (b"s", b"a")
    assert "from-scheduler" not in augmented(Message({"from-scheduler": "lie"}), Message({"x": "y"}), "P")
