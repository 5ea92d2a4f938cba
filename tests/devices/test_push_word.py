"""push@1.0: signed by whom, with nobody's rights, and the parts that decide that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hyperpy.devices.push.outgoing import augmented, entries, lowered, signed, target_of

from hyperpy import Message, commitments
from hyperpy.errors import Forbidden, InvalidSignature, SizeError
from hyperpy.http.client import request_form
from hyperpy.http.server import Server
from hyperpy.keys import RsaKey
from hyperpy.testing import wallet
from tests.devices.mailing import Mailer, child, post, send, spawn
from tests.devices.parts import Place, place


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Mailer) as made:
        yield made


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
