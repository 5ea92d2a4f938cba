"""p4@1.0, simple-pay@1.0 and faff@1.0 on whole nodes: who pays, how much, and what a failure costs."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hyperpy import Context, Message, commitments, config, device, key
from hyperpy.devices import http_auth, secret
from hyperpy.errors import DeviceError, StoreError
from hyperpy.keys import RsaKey
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import ask, operator, send, sign, text

ALICE, BOB = wallet("alice"), wallet("bob")
PAY = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-device": "simple-pay@1.0"}
WORK = "/~worker@1.0/work"
FLAGS: dict[str, Any] = {}
"""More settings of the nodes that charge."""


@device("worker@1.0")
class Worker:
    """Works, or fails if told to; counts how often it was asked."""

    calls: Counter[str] = Counter()

    @key(deterministic=False)
    def work(self, ctx: Context, fail: str = "no") -> Any:
        """Answer, fail as a device does, or answer with an error of one's own."""
        self.calls[fail] += 1
        if fail == "raise":
            raise DeviceError("broken")
        if fail == "crash":
            raise RuntimeError("a bug")
        if fail == "slow":
            time.sleep(0.6)
        if fail == "recurse":
            return ctx.resolve(WORK + "&fail=recurse")
        if fail == "status":
            return Message({"status": 404, "body": "nothing"})
        return Message({"status": 200, "body": "done"})


@contextmanager
def charged(funds: int = 0, price: int = 3, hook: dict[str, Any] = PAY, **settings: Any) -> Iterator[TestNode]:
    """Run a node that charges; ``settings`` are free keys of its node message."""
    Worker.calls.clear()
    extra = {"simple-pay-price": price, "simple-pay-ledger": {ALICE.address: funds}, **settings}
    made = config.load(environ={}, flags={"hooks.on": {"request": hook, "response": hook}, **FLAGS})
    inner = Node(
        replace(made, extra=extra), key=wallet(), store=MemoryStore(), operator=operator().address, devices=[Worker]
    )
    try:
        yield TestNode(inner)
    finally:
        inner.close()


def call(n: TestNode, who: RsaKey | None, path: str = WORK, **keys: Any) -> Message:
    if who is None:
        return ask(n, "GET", path)
    return send(n, sign({"path": path, "method": "POST", **keys}, who), path)


def balance(n: TestNode, who: RsaKey = ALICE, at: str = "p4@1.0") -> int:
    return int(text(ask(n, "GET", f"/~{at}/balance?target={who.address}")))


def topup(n: TestNode, who: RsaKey, amount: int, recipient: RsaKey = ALICE) -> Message:
    path = "/~simple-pay@1.0/topup"
    return send(n, sign({"path": path, "method": "POST", "amount": amount, "recipient": recipient.address}, who), path)


def test_who_cannot_pay_is_refused_before_any_work() -> None:
    with charged(funds=5) as n:
        for who in (None, BOB, ALICE):
            reply = call(n, who)
            assert (reply["status"], reply["body"]) == (402, b"Insufficient funds")
            assert (reply["price"], reply["balance"]) == (6, 5 if who is ALICE else 0)
        assert not Worker.calls
        assert balance(n) == 5


def test_who_can_pay_pays_once() -> None:
    with charged(funds=20) as n:
        assert text(call(n, ALICE)) == "done"
        assert balance(n) == 14, "two messages at 3 each"
        assert balance(n, at="simple-pay@1.0") == 14
        assert text(call(n, ALICE, "/~worker@1.0/work/body")) == "done"
        assert balance(n) == 5, "three messages"
        assert call(n, ALICE)["status"] == 402


@pytest.mark.parametrize(("how", "status"), [("raise", 500), ("crash", 500), ("status", 404)])
def test_a_call_that_fails_costs_nothing(how: str, status: int) -> None:
    with charged(funds=6) as n:
        for _ in range(3):
            assert call(n, ALICE, fail=how)["status"] == status
        assert call(n, ALICE, "/~no-such-device@1.0/x")["status"] == 404
        assert balance(n) == 6
        assert text(call(n, ALICE)) == "done"
        assert balance(n) == 0


@pytest.mark.parametrize(("how", "status"), [("slow", 504), ("recurse", 508)])
def test_what_a_call_used_up_is_no_reason_to_keep_its_money(
    how: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FLAGS, "limits.deadline", 0.5)
    monkeypatch.setitem(FLAGS, "limits.steps", 60)
    with charged(funds=6) as n:
        assert call(n, ALICE, fail=how)["status"] in (status, 413)
        assert balance(n) == 6
        assert text(call(n, ALICE)) == "done", "nothing is set aside any more"
        assert balance(n) == 0


def test_an_answer_that_cannot_be_kept_is_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    with charged(funds=6) as n:
        whole = n.node.store.write

        def full(puts: Any, *args: Any, **more: Any) -> None:
            if any(table == "trail" for table, _, _ in puts):
                raise StoreError("the disk is full")
            whole(puts, *args, **more)

        monkeypatch.setattr(n.node.store, "write", full)
        assert call(n, ALICE)["status"] == 503
        monkeypatch.undo()
        assert balance(n) == 6


def test_a_hundred_callers_at_once() -> None:
    """Of 100 calls 40 fail, and money is there for 30: 30 are done, 40 fail free of charge, 30 are refused."""
    with charged(funds=30 * 6) as n:
        kinds = ["no", "raise", "no", "status", "no"] * 20
        requests = [sign({"path": WORK, "method": "POST", "fail": k, "n": i}, ALICE) for i, k in enumerate(kinds)]
        with ThreadPoolExecutor(100) as pool:
            replies = list(pool.map(lambda request: send(n, request, WORK)["status"], requests))
        seen = Counter(replies)
        assert seen[200] <= 30
        assert balance(n) == (30 - seen[200]) * 6, "every call that was done was paid once, and no other"
        assert Worker.calls["no"] == seen[200]
        assert seen[200] + seen[402] + seen[404] + seen[500] == 100
        while seen[200] < 30:  # what a failing call had set aside for a moment is free again
            assert text(call(n, ALICE)) == "done"
            seen[200] += 1
        assert (balance(n), call(n, ALICE)["status"]) == (0, 402)


def test_a_hundred_callers_with_enough_money_are_all_served() -> None:
    with charged(funds=1000) as n:
        requests = [sign({"path": WORK, "method": "POST", "n": i}, ALICE) for i in range(100)]
        with ThreadPoolExecutor(100) as pool:
            replies = list(pool.map(lambda request: send(n, request, WORK)["status"], requests))
        assert replies == [200] * 100
        assert balance(n) == 1000 - 600


def test_the_operator_pays_nothing() -> None:
    with charged() as n:
        assert text(call(n, operator())) == "done"
        assert balance(n, operator()) == 0


def test_several_signers_are_refused() -> None:
    with charged(funds=100) as n:
        both = sign(sign({"path": WORK, "method": "POST"}, ALICE), BOB)
        reply = send(n, both, WORK)
        assert (reply["status"], text(reply)) == (400, "Multiple signers in charge.")
        assert balance(n) == 100


# -- what is free --------------------------------------------------------------------------------


def test_balances_and_settings_are_free() -> None:
    with charged() as n:
        for path in ("/~meta@1.0/info", "/~meta@1.0/info/address", "/~p4@1.0/balance", "/~meta@1.0/build/node?x=1"):
            assert ask(n, "GET", path)["status"] == 200, path


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/~meta@1.0/info&x=(~worker@1.0/work)", {}),
        ("/~meta@1.0/info?x+resolve=/~worker@1.0/work", {}),
        ("/~meta@1.0/info", {"x+resolve": "/~worker@1.0/work"}),
        ("/~worker@1.0/work?x=/~meta@1.0/info", {}),
        ("/~worker@1.0&x=/~meta@1.0/work", {}),
        ("/~meta@1.0/info/~worker@1.0/work", {}),
        ("/~meta@1.0/(~worker@1.0/work)", {}),
        ("/~p4@1.0/balance?target=(~worker@1.0/work)", {}),
        ("/~meta@1.0/set/work?device=worker@1.0", {}),
        ("/~meta@1.0/set/work", {"device": "worker@1.0"}),
        ("/~meta@1.0/work?0.device=worker@1.0", {}),
        ("/~meta@1.0/work", {"0.device": "worker@1.0"}),
        ("/~meta@1.0/info/set/work?2.device=worker@1.0", {}),
        ("/~meta@1.0/info/work?device=worker@1.0", {}),
        ("/~meta@1.0&device=worker@1.0/info/work", {}),
        ("/~meta@1.0/info/on/work", {}),
        ("/~p4@1.0/balance/work?device=worker@1.0", {}),
        ("/~p4@1.0/set/work?device=worker@1.0", {}),
    ],
)
def test_no_work_hides_behind_a_free_path(path: str, headers: dict[str, str]) -> None:
    with charged() as n:
        assert ask(n, "GET", path, headers)["status"] >= 400
        assert not Worker.calls


OTHER = (
    "/~meta@1.0/set/add?device=calculator@1.0&a=3&b=4",
    "/~meta@1.0/add?0.device=calculator@1.0&a=1&b=2",
    "/~meta@1.0/schedule?0.device=scheduler@1.0",
)
"""Paths that begin as a free one and end at another device."""


@pytest.mark.parametrize("path", [*OTHER, "/~meta@1.0/set?a=1", "/~meta@1.0/info/commit", "/~meta@1.0/info/a/b"])
def test_a_free_device_is_no_way_to_another(path: str) -> None:
    with charged() as n:
        assert ask(n, "GET", path)["status"] == 402


@pytest.mark.parametrize("path", OTHER)
def test_what_the_operator_gives_away_is_no_way_to_another_device(path: str) -> None:
    with charged(**{"p4-non-chargable-routes": [{"template": "/~meta@1.0"}]}) as n:
        assert ask(n, "GET", "/~meta@1.0/set?a=1")["status"] == 200
        assert ask(n, "GET", path)["status"] == 402


def test_what_took_effect_is_paid_whatever_comes_after_it() -> None:
    """A key behind the work that nothing answers makes no free ride of it."""
    with charged(funds=40) as n:
        assert call(n, ALICE, WORK + "/absent")["status"] == 404
        assert (balance(n), Worker.calls["no"]) == (31, 1), "three messages at 3 each"
        assert call(n, ALICE, "/~message@1.0&x=(~worker@1.0/work)/absent")["status"] == 404
        assert Worker.calls["no"] == 2
        assert balance(n) == 19, "the work in a sub-path too: four messages"
        assert call(n, ALICE, "/~message@1.0&a=1/absent")["status"] == 404
        assert call(n, ALICE, WORK + "/absent", fail="status")["status"] == 404
        assert call(n, ALICE, WORK + "/absent", fail="raise")["status"] == 500
        assert balance(n) == 19, "where nothing took effect nothing is paid"


@pytest.mark.parametrize(
    "path", ["/~whois@1.0/echo", "/~query@1.0/boolean-of-nothing?note=x&return=count", "/~hook@1.0/find?body=start"]
)
def test_what_only_looked_is_no_effect(path: str) -> None:
    """A failed request is not paid for because a key of its path read the clock, the node or the store."""
    head, mark, query = path.partition("?")
    with charged(funds=40) as n:
        assert call(n, ALICE, path)["status"] == 200
        paid = 40 - balance(n)
        assert paid > 0
        assert call(n, ALICE, f"{head}/absent{mark}{query}")["status"] == 404
        assert balance(n) == 40 - paid


def test_what_seemed_free_and_was_not_is_paid() -> None:
    """Both hooks judge alike: what was set aside for a path that hides work is charged."""
    with charged(funds=20, price=1) as n:
        assert call(n, ALICE, "/~meta@1.0/build/node", **{"x+resolve": WORK})["status"] == 200
        assert Worker.calls["no"] == 3, "each message holds the sub-path"
        assert balance(n) == 20 - 3 - 3 * 2, "and each time it is two messages"


def test_the_operator_says_what_is_free() -> None:
    with charged(**{"p4-non-chargable-routes": [{"template": "/~worker@1.0/.*"}]}) as n:
        assert text(call(n, None)) == "done"
        assert ask(n, "GET", "/~meta@1.0/info")["status"] == 402
        assert ask(n, "GET", "/~message@1.0&x=/~worker@1.0/x")["status"] == 402


def test_routes_have_prices_of_their_own() -> None:
    offered = {"offered": [{"template": "/~worker@1.0/.*", "price": 50}]}
    with charged(funds=60, **{"router-opts": offered}) as n:
        assert text(call(n, ALICE)) == "done"
        assert balance(n) == 10


def test_paths_that_apply_runs_are_counted() -> None:
    with charged(price=1) as n:
        direct = call(n, None, '/~apply@1.0&job="/~worker@1.0/work"/job')
        assert (direct["status"], direct["price"]) == (402, 4)
        held = ask(n, "GET", "/~apply@1.0/job", {"job": "/~worker@1.0/work/body"})
        assert (held["status"], held["price"]) == (402, 5)


def test_nothing_is_charged_without_pricing_or_ledger() -> None:
    for missing in ("pricing-device", "ledger-device"):
        with charged(hook={k: v for k, v in PAY.items() if k != missing}) as n:
            assert text(call(n, None)) == "done"


# -- the ledger -----------------------------------------------------------------------------------


def test_only_the_operator_tops_up_and_each_order_counts_once() -> None:
    with charged() as n:
        assert topup(n, ALICE, 100)["status"] == 403
        path = "/~simple-pay@1.0/topup"
        order = sign({"path": path, "method": "POST", "amount": 100, "recipient": ALICE.address}, operator())
        assert text(send(n, order, path)) == "100"
        assert send(n, order, path)["status"] == 403, "sent again"
        assert balance(n) == 100
        assert text(topup(n, operator(), -40)) == "60"
        assert topup(n, operator(), -61)["status"] == 400
        assert topup(n, operator(), 10**31)["status"] == 400
        assert balance(n) == 60


def test_what_the_operator_did_not_sign_is_no_topup() -> None:
    with charged() as n:
        path = "/~simple-pay@1.0/topup"
        order = sign({"path": path, "method": "POST", "note": "hello"}, operator())
        forged = order | {"amount": 500, "recipient": ALICE.address}
        assert send(n, forged, path)["status"] >= 400
        covered = sign({"path": path, "method": "POST", "amount": 5, "recipient": BOB.address}, operator())
        assert send(n, covered, f"{path}&amount=500&recipient={ALICE.address}")["status"] in (200, 400, 403)
        assert balance(n, ALICE) == 0
        assert balance(n, BOB) in (0, 5)


def test_nobody_charges_from_outside() -> None:
    with charged(funds=100) as n:
        victim = sign({"a": 1}, ALICE)
        for target, keys in (
            ("/~simple-pay@1.0/charge", {"quantity": 50, "account": ALICE.address}),
            ("/~p4@1.0/response", {**PAY, "request": victim, "body": {"status": 200}}),
            ("/~p4@1.0/request", {**PAY, "request": victim}),
        ):
            for who in (BOB, operator(), wallet()):
                reply = send(n, sign({**keys, "path": target, "method": "POST"}, who), target)
                assert reply["status"] >= 400
        assert balance(n) == 100


def test_balances_survive_the_node() -> None:
    store = MemoryStore()
    settings = replace(config.load(environ={}), extra={"simple-pay-ledger": {ALICE.address: 5}})
    for expected in (12, 19):
        inner = Node(settings, key=wallet(), store=store, operator=operator().address)
        assert text(topup(TestNode(inner), operator(), 7)) == str(expected)
        inner.actors.stop()


# -- friends and family ------------------------------------------------------------------------------


def test_friends_only() -> None:
    hook = {"device": "p4@1.0", "pricing-device": "faff@1.0", "ledger-device": "faff@1.0"}
    with charged(hook=hook, **{"faff-allow-list": [ALICE.address]}) as n:
        assert text(call(n, ALICE)) == "done"
        assert text(call(n, operator())) == "done"
        both = sign(sign({"path": WORK, "method": "POST"}, ALICE), BOB)
        for reply in (call(n, BOB), call(n, None), send(n, both, WORK)):
            assert reply["status"] == 400
            assert text(reply) == "Node will not service this request under any circumstances."
        assert Worker.calls["no"] == 2


# -- other ledgers -----------------------------------------------------------------------------------


@device("odd-ledger@1.0")
class OddLedger:
    """A ledger that answers what it was told to."""

    balance_is: Any = True
    charge_is: Any = True
    orders: list[Message] = []

    @key(deterministic=False)
    def balance(self) -> Any:
        """Answer or fail."""
        if isinstance(self.balance_is, Exception):
            raise self.balance_is
        return self.balance_is

    @key(deterministic=False)
    def charge(self, request: Message) -> Any:
        """Note the order; answer or fail."""
        self.orders.append(request)
        if isinstance(self.charge_is, Exception):
            raise self.charge_is
        return self.charge_is


def at_odd_ledger(balance_is: Any, charge_is: Any = True) -> Message:
    OddLedger.balance_is, OddLedger.charge_is = balance_is, charge_is
    OddLedger.orders = []
    hook = PAY | {"ledger-device": "odd-ledger@1.0"}
    with node(Worker, OddLedger, flags={"hooks.on": {"request": hook, "response": hook}}) as n:
        return call(n, ALICE)


@pytest.mark.parametrize("enough", [True, "infinity", 2, "2", 10**40])
def test_a_ledger_says_who_has_enough(enough: Any) -> None:
    assert text(at_odd_ledger(enough)) == "done"
    order = OddLedger.orders[0]
    assert (order["quantity"], order["account"]) == (2, ALICE.address.encode())
    assert order["recipient"] == operator().address.encode()
    commitments.check(order)
    assert commitments.committers(order) == (wallet().address,)
    assert {"quantity", "account", "recipient", "path"} <= order.committed_keys()


@pytest.mark.parametrize("broken", ["lots", {"a": 1}, DeviceError("down"), RuntimeError("bug")])
def test_a_ledger_that_fails_is_no_free_ride(broken: Any) -> None:
    reply = at_odd_ledger(broken)
    assert reply["status"] == 500
    assert "Error checking ledger balance." in text(reply) or "incident" in text(reply)


def test_a_charge_that_fails_is_answered_instead() -> None:
    reply = at_odd_ledger(5, DeviceError("the bank is closed"))
    assert (reply["status"], text(reply)) == (500, "the bank is closed")


def test_who_logs_in_pays_with_a_hosted_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_auth, "_ROUNDS", 1000)
    monkeypatch.setattr(secret, "_BITS", 2048)
    login = {"authorization": "Basic " + base64.b64encode(b"ada:password").decode()}
    with charged(funds=0) as n:
        n.node.settings.put("p4-non-chargable-routes", ({"template": "/~message@1.0.*/committers$"},))
        hosted = ask(n, "GET", "/~message@1.0&a=1/committers", login).text("1")
        assert ask(n, "GET", WORK, login)["status"] == 402
        path = "/~simple-pay@1.0/topup"
        order = sign({"path": path, "method": "POST", "amount": 9, "recipient": hosted}, operator())
        assert text(send(n, order, path)) == "9"
        assert text(ask(n, "GET", WORK, login)) == "done"
        assert ask(n, "GET", WORK, login)["status"] == 402
