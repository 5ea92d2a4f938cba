"""node-process@1.0: a name, a process, once; and a process as the ledger of a node that charges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, config, device, key
from hyperpy.errors import ParameterError
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet
from tests.devices.test_payments import Worker, balance, call
from tests.security.attack import ask, operator, send, sign, text

ALICE = wallet("alice")
LEDGER = "/ledger~node-process@1.0"
PROCESS_PAYS = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-path": LEDGER}


@device("coins@1.0")
class Coins:
    """A ledger as execution device: ``balance`` maps addresses to numbers; only the authority charges."""

    @key
    def compute(self, base: Message) -> Message:
        """Open the accounts of the definition."""
        return base if "balance" in base else base | {"balance": base.get("opening", Message())}

    @key
    def charge(self, base: Message, request: Message) -> Message:
        """Take ``quantity`` from ``account``."""
        order = request["body"]
        assert isinstance(order, Message)
        if commitments.committers(order) != (base.text("authority"),):
            raise ParameterError("only the authority charges")
        account, quantity, nonce = order.text("account"), order["quantity"], order["nonce"]
        if nonce <= base.get("last", 0):  # type: ignore[operator]
            raise ParameterError("this order was carried out before")
        accounts = base["balance"]
        if account == base.text("frozen", ""):
            raise ParameterError("the account is frozen")
        left = accounts.get(account, 0) - quantity  # type: ignore[union-attr, operator]
        if left < 0:
            raise ParameterError("not enough")
        return base | {"last": nonce, "balance": accounts | {account: left}}  # type: ignore[operator]


BOB = wallet("bob")
DEFINED = {
    "ledger": {
        "execution-device": "coins@1.0",
        "opening": {ALICE.address: 20, BOB.address: 20},
        "frozen": BOB.address,
    }
}


@contextmanager
def made(store: MemoryStore | None = None, hook: dict[str, Any] | None = None, **settings: Any) -> Iterator[TestNode]:
    flags: dict[str, Any] = {} if hook is None else {"hooks.on": {"request": hook, "response": hook}}
    loaded = replace(config.load(environ={}, flags=flags), extra={"node-processes": DEFINED, **settings})
    store = store if store is not None else MemoryStore()
    inner = Node(loaded, key=wallet(), store=store, operator=operator().address, devices=[Coins, Worker])
    try:
        yield TestNode(inner)
    finally:
        inner.actors.stop()
        inner.timers.close()


def process_of(n: TestNode, name: str = "ledger") -> str:
    found = n.node.resolve(f"/{name}~node-process@1.0")
    assert isinstance(found, Message)
    commitments.check(found)
    return commitments.signed_id(found)


def test_a_process_is_computed_through_its_name() -> None:
    with made() as n:
        assert text(ask(n, "GET", f"{LEDGER}/now/balance/{ALICE.address}")) == "20"
        process = process_of(n)
        assert text(ask(n, "GET", f"/{process}~process@1.0/now/balance/{ALICE.address}")) == "20"
        assert ask(n, "GET", "/~local-name@1.0/ledger")["type"] == b"Process"


def test_one_name_one_process_whoever_asks_at_once() -> None:
    with made() as n:
        with ThreadPoolExecutor(16) as pool:
            found = set(pool.map(lambda _: process_of(n), range(16)))
        assert len(found) == 1
        assert list(n.node._lend["slots"].processes()) == [*found], "one schedule was begun"


def test_the_name_survives_the_node() -> None:
    store = MemoryStore()
    with made(store) as n:
        first = process_of(n)
    with made(store) as n:
        assert process_of(n) == first
        assert text(ask(n, "GET", f"{LEDGER}/now/balance/{ALICE.address}")) == "20"


def test_what_is_not_defined_or_not_wanted_is_not_made() -> None:
    with made() as n:
        assert ask(n, "GET", "/nobody~node-process@1.0/now")["status"] == 404
        assert ask(n, "GET", "/ledger~node-process@1.0&spawn=false/now")["status"] == 404
        assert ask(n, "GET", "/~node-process@1.0/ledger?spawn=false")["status"] == 404
        assert not list(n.node._lend["slots"].processes())
        process_of(n)
        assert ask(n, "GET", "/~node-process@1.0/ledger?spawn=false")["status"] == 200


@pytest.mark.parametrize("given", [None, "A" * 43, ["A" * 43, "B" * 43], "A" * 43 + "," + "B" * 43])
def test_the_nodes_address_is_added(given: Any) -> None:
    definition = dict(DEFINED["ledger"]) | ({} if given is None else {"scheduler": given, "authority": given})
    with made(**{"node-processes": {"x": definition}}) as n:
        found = n.node.resolve("/x~node-process@1.0")
        assert isinstance(found, Message)
        own = wallet().address.encode()
        for role in ("scheduler", "authority"):
            listed = found[role]
            assert own in (listed if isinstance(listed, tuple) else (listed,))
            assert isinstance(listed, tuple) is (given is not None)
        assert commitments.committers(found) == (wallet().address,)


def test_a_process_as_ledger() -> None:
    hook = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-path": LEDGER}
    with made(hook=hook, **{"simple-pay-price": 3}) as n:
        Worker.calls.clear()
        assert call(n, wallet("carol"))["status"] == 402
        assert text(call(n, ALICE)) == "done"
        assert balance(n) == 14
        assert call(n, ALICE, fail="raise")["status"] == 500
        assert balance(n) == 14
        requests = 6
        with ThreadPoolExecutor(requests) as pool:
            seen = [reply["status"] for reply in pool.map(lambda at: call(n, ALICE, number=at), range(requests))]
        assert (seen.count(200), seen.count(402)) == (2, 4)
        assert balance(n) == 2
        reply = call(n, BOB)
        assert (reply["status"], text(reply)) == (402, "the account is frozen"), "the ledger has the last word"
        assert balance(n, BOB) == 20


def test_an_order_to_charge_counts_once() -> None:
    """The schedule of a ledger is public; whoever finds an order there may send it again."""
    with made(hook=PROCESS_PAYS) as n:
        assert text(call(n, ALICE)) == "done"
        process = process_of(n)
        order = n.node._lend["slots"].read(process, 1)["body"]
        assert order["action"] == b"charge"
        assert balance(n) == 18
        n.node.settings.put("on", Message())
        sent = ask_post(n, process, order)
        assert sent["status"] == 200
        assert text(ask(n, "GET", f"{LEDGER}/now/results/error")) == "this order was carried out before"
        assert text(ask(n, "GET", f"{LEDGER}/now/balance/{ALICE.address}")) == "18"


def ask_post(n: TestNode, process: str, order: Message) -> Message:
    form = commitments.http_form(Message({"body": order}), bundle=True)
    return ask(n, "POST", f"/{process}~process@1.0/schedule", form.headers, form.body or b"")


def test_the_ledgers_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "payments.md").read_text("utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    code = re.search(r"```lua\n(.*?)```", page, re.DOTALL)
    assert code is not None
    for block in blocks:
        filled = block.replace("ADDRESS", ALICE.address).replace("LUA", code[1])
        file = tmp_path / "hyperpy.toml"
        file.write_text(filled, "utf-8")
        loaded = config.load(file, environ={})
        with Node(loaded, key=wallet(), store=MemoryStore(), operator=operator().address, devices=[Worker]) as inner:
            n = TestNode(inner)
            assert text(call(n, ALICE)) == "done"
            assert balance(n) == 994
            assert call(n, wallet("carol"))["status"] == 402


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ('error("the account is frozen")', "the account is frozen"),
        ("error({})", "the ledger"),
        ("error({body = 5})", ""),
    ],
)
def test_what_a_lua_ledger_answers_with_is_a_refusal(tmp_path: Path, fails: str, says: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "payments.md").read_text("utf-8")
    block = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    code = re.findall(r"```lua\n(.*?)```", page, re.DOTALL)[0]
    code = code.replace("function charge(base, req)", "function charge(base, req)\n" + fails)
    file = tmp_path / "hyperpy.toml"
    file.write_text(block.replace("ADDRESS", ALICE.address).replace("LUA", code), "utf-8")
    loaded = config.load(file, environ={})
    with Node(loaded, key=wallet(), store=MemoryStore(), operator=operator().address, devices=[Worker]) as inner:
        n = TestNode(inner)
        reply = call(n, ALICE)
        assert reply["status"] == 402
        assert says in text(reply)
        assert balance(n) == 1000


@pytest.mark.parametrize(
    "account", ["x/../../opening", "(~worker@1.0/work)", "a&b=c", "a?b", "~worker@1.0/work", "/", "..", "x" * 5000]
)
def test_an_account_is_no_path(account: str) -> None:
    hook = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-path": LEDGER}
    with made(hook=hook) as n:
        Worker.calls.clear()
        reply = n.get("/~p4@1.0/balance", {"target": account})
        assert (reply["status"], text(reply)) == (200, "0")
        assert not Worker.calls


def test_a_slot_that_is_taken_is_paid_whatever_comes_after_it() -> None:
    hook = {"device": "p4@1.0", "pricing-device": "simple-pay@1.0", "ledger-device": "simple-pay@1.0"}
    with made(hook=hook, **{"simple-pay-ledger": {ALICE.address: 100}, "simple-pay-price": 1}) as n:
        process = process_of(n)
        before, paid = n.node._lend["slots"].head(process).slot, 0
        for path in (f"/{process}/schedule/absent", "/~scheduler@1.0/schedule/absent"):
            body = sign({"target": process, "type": "Message", "path": "compute"}, ALICE)
            reply = send(n, sign({"path": path, "method": "POST", "body": body}, ALICE), path)
            assert reply["status"] == 404
            paid += 3
            assert balance(n) == 100 - paid
        assert n.node._lend["slots"].head(process).slot == before + 2
        task = sign({"path": "/~cron@1.0/once/absent", "method": "POST", "cron-path": "/~meta@1.0/info"}, ALICE)
        assert send(n, task, "/~cron@1.0/once/absent")["status"] == 404
        assert balance(n) == 100 - paid - 3
