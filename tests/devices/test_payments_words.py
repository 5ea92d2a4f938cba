"""Which signatures pay: those that say what is asked for, each of them once."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from hyperpy import Message, commitments
from hyperpy.codecs import ans104
from hyperpy.codecs.ans104_item import Item
from hyperpy.encoding import b64u_decode
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import EthereumSigner
from hyperpy.testing import TestNode
from tests.devices.test_payments import ALICE, WORK, Worker, balance, call, charged
from tests.security.attack import ask, operator, send, sign, text

SCHEDULE = "/~scheduler@1.0/schedule"


@pytest.fixture(scope="module")
def big_key() -> RsaKey:
    return RsaKey.generate(4096)


def process(n: TestNode, who: RsaKey) -> str:
    """Spawn a process as clients do, with a message that names no path; return its ID."""
    made = {"device": "process@1.0", "type": "Process", "scheduler": n.node.address, "authority": n.node.address}
    signed = sign({**made, "execution-device": "worker@1.0", "random-seed": "a"}, who)
    if who.address == operator().address:
        signed = sign({"path": SCHEDULE, "method": "POST", "body": signed}, who)
    reply = send(n, signed, SCHEDULE)
    assert reply["status"] == 200, reply
    return reply.text("process")


def said(target: str, who: RsaKey = ALICE) -> Message:
    return sign({"target": target, "type": "Message"}, who)


def read_back(n: TestNode, name: str, slot: int = 1) -> Message:
    """Return a message as anybody finds it in the public schedule."""
    found = n.node._lend["slots"].read(name, slot)["body"]
    assert commitments.committers(found) == (ALICE.address,)
    assert isinstance(found, Message)
    return found


PLACES = (
    WORK,
    "/~message@1.0&a=1/a",
    "/~message@1.0&a=1/set&b=1/set&c=1/set&d=1/a",
    "/{}~process@1.0/now",
    "/{}~process@1.0/compute&slot=1/set&a=1/a",
    "/{}~process@1.0/compute&x=(~worker@1.0/work)/results",
    "/{}~process@1.0/compute/results?x+resolve=/~worker@1.0/work",
    "/{}~process@1.0/schedule/absent",
    "/{}~process@1.0/schedule&target={}",
    "/{}~process@1.0/schedule?device=worker@1.0",
    "/{}~process@1.0/(~worker@1.0/work)",
    "/{}~worker@1.0/push",
    "/~worker@1.0/push",
    "/~scheduler@1.0&device=worker@1.0/schedule",
    "/~scheduler@1.0/schedule?target={}",
    "/~scheduler@1.0/schedule/~worker@1.0/work",
    "/" + "B" * 43 + "~process@1.0/schedule",
    "/" + "B" * 43 + "~process@1.0/compute/results=1",
)


@pytest.mark.parametrize("place", PLACES)
def test_what_lies_in_a_schedule_pays_for_no_other_request(place: str) -> None:
    """Even where it never paid: here it came to the schedule inside another's request."""
    with charged(funds=1000) as n:
        name = process(n, ALICE)
        body = said(name)
        outer = sign({"path": SCHEDULE, "method": "POST", "body": body}, operator())
        assert send(n, outer, SCHEDULE)["status"] == 200
        before = balance(n)
        found = read_back(n, name)
        for method in ("POST", "GET"):
            reply = send(n, found, place.format(name, name), method)
            assert reply["status"] in (402, 400, 404), reply
        assert balance(n) == before
        assert not Worker.calls


def test_what_was_signed_for_a_process_pays_for_that_once() -> None:
    with charged(funds=100) as n:
        name = process(n, ALICE)
        assert balance(n) == 94, "a spawn"
        assert send(n, said(name), f"/{name}~process@1.0/schedule")["slot"] == 1
        assert balance(n) == 88
        found = read_back(n, name)
        for path in (f"/{name}~process@1.0/schedule", f"/{name}/push", SCHEDULE, "/push"):
            reply = send(n, found, path)
            assert reply["status"] == 409
            assert "paid before" in text(reply)
        assert send(n, found, WORK)["status"] == 402
        assert balance(n) == 88


@pytest.mark.parametrize(
    "path",
    [
        SCHEDULE,
        "/{}/schedule",
        "/{}~process@1.0/schedule",
        "/{}~process@1.0/push",
        "/{}~process@1.0/push?accept=application/json&async=true",
        "/{}~process@1.0/compute/results=0",
        "/{}~process@1.0/as=execution/compute&Action=Inc",
    ],
)
@pytest.mark.parametrize("form", ["message", "item"])
def test_clients_that_sign_no_path_can_pay(path: str, form: str, big_key: RsaKey) -> None:
    who = ALICE if form == "message" else big_key
    funds: dict[str, Any] = {"simple-pay-ledger": {who.address: 100}}
    with charged(**funds) as n:
        name = process(n, operator())
        path = path.format(name)
        if form == "message":
            reply = send(n, said(name, who), path)
        else:
            made = commitments.commit(
                Message({"target": name, "type": "Message", "data": "1984"}), who, device="ans104@1.0"
            )
            body = ans104.encode_message(made)
            reply = ask(n, "POST", path, {"content-type": "application/ans104", "codec-device": "ans104@1.0"}, body)
        assert reply["status"] not in (402, 409), reply
        if "compute" not in path:
            assert reply["status"] in (200, 202), reply
            assert balance(n, who) == 94


@pytest.mark.parametrize("path", ["/push", "/schedule", "/~process@1.0/push", SCHEDULE])
def test_a_process_is_paid_for_where_it_is_made(path: str) -> None:
    with charged(funds=100) as n:
        keys = {"device": "process@1.0", "type": "Process", "scheduler": n.node.address, "random-seed": path}
        made = sign({**keys, "execution-device": "worker@1.0"}, ALICE)
        reply = send(n, made, path)
        assert (reply["status"], reply["process"]) == (200, commitments.signed_id(made).encode())
        assert balance(n) == 94
        assert send(n, made, SCHEDULE)["status"] == 409
        assert send(n, sign({**keys, "type": "Thing"}, ALICE), path)["status"] == 402


def test_a_request_pays_once_however_often_it_is_sent() -> None:
    with charged(funds=100) as n:
        request = sign({"path": WORK, "method": "POST"}, ALICE)
        assert text(send(n, request, WORK)) == "done"
        assert balance(n) == 94
        for _ in range(3):
            assert send(n, request, WORK)["status"] == 409
        assert (balance(n), Worker.calls["no"]) == (94, 1)
        assert text(call(n, ALICE)) == "done", "the same, signed again"


def test_a_signature_written_otherwise_is_the_same() -> None:
    """Ethereum's recovery byte may be 0 or 27: another ID, and no other signature."""
    signer = EthereumSigner(b"\x07" * 32)
    funds: dict[str, Any] = {"simple-pay-ledger": {signer.address: 100}}
    with charged(**funds) as n:
        name = process(n, operator())
        kind = {"content-type": "application/ans104", "codec-device": "ans104@1.0"}
        item = Item(target=b64u_decode(name), tags=((b"type", b"Message"),), data=b"1984").sign(signer)
        last = item.signature[64]
        assert last in (27, 28)
        twin = replace(item, signature=item.signature[:64] + bytes([last - 27]))
        path = f"/{name}~process@1.0/schedule"
        assert ask(n, "POST", path, kind, item.encode())["slot"] == 1
        left = int(text(ask(n, "GET", f"/~p4@1.0/balance?target={signer.address}")))
        assert left == 94
        assert ask(n, "POST", path, kind, twin.encode())["status"] == 409
        assert ask(n, "POST", path, kind, item.encode())["status"] == 409
        assert int(text(ask(n, "GET", f"/~p4@1.0/balance?target={signer.address}"))) == 94


def test_a_request_that_cost_nothing_may_be_sent_again() -> None:
    with charged(funds=6) as n:
        request = sign({"path": WORK, "method": "POST", "fail": "raise"}, ALICE)
        for _ in range(3):
            assert send(n, request, WORK)["status"] == 500
        assert balance(n) == 6


def test_one_request_sent_by_many_at_once_is_served_once() -> None:
    with charged(funds=1000) as n:
        request = sign({"path": WORK, "method": "POST", "fail": "slow"}, ALICE)
        with ThreadPoolExecutor(8) as pool:
            seen = Counter(pool.map(lambda _: send(n, request, WORK)["status"], range(8)))
        assert seen == {200: 1, 409: 7}
        assert (balance(n), Worker.calls["slow"]) == (994, 1)


@pytest.mark.parametrize("key", ["status", "from-process"])
def test_what_a_node_signs_for_others_pays_for_nothing(key: str) -> None:
    """A caller who runs a node as well: anybody has it sign replies, and the mail of processes."""
    with charged(funds=100) as n:
        reply = send(n, sign({"path": WORK, "method": "POST", key: 200}, ALICE), WORK)
        assert reply["status"] == 402
        name = process(n, operator())
        assert send(n, sign({"target": name, "type": "Message", key: 200}, ALICE), f"/{name}/schedule")["status"] == 402
        assert balance(n) == 100


def test_a_friends_message_makes_nobody_a_friend() -> None:
    hook = {"device": "p4@1.0", "pricing-device": "faff@1.0", "ledger-device": "faff@1.0"}
    friends: dict[str, Any] = {"faff-allow-list": [ALICE.address]}
    with charged(hook=hook, **friends) as n:
        name = process(n, ALICE)
        assert send(n, said(name), f"/{name}/schedule")["slot"] == 1
        assert send(n, read_back(n, name), WORK)["status"] == 400
        assert not Worker.calls
        assert text(call(n, ALICE)) == "done"


def test_a_signed_json_body_is_paid_for() -> None:
    with charged(funds=10) as n:
        body = {"content-type": "application/json", "body": json.dumps({"fail": "status"}).encode()}
        reply = send(n, sign({**body, "path": WORK, "method": "POST"}, ALICE), WORK)
        assert reply["status"] == 404, "the device sees the keys"
        assert Worker.calls["status"] == 1
        body["body"] = b'{"fail": "no", "path": "/~meta@1.0/info", "method": "GET"}'
        reply = send(n, sign({**body, "path": WORK, "method": "POST"}, ALICE), WORK)
        assert text(reply) == "done", "a body's keys replace nothing"
        assert balance(n) == 4
