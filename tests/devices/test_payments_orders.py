"""Whose word an order to charge is: a process that is the ledger obeys this node, and nobody's mail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hyperpy.devices.push import outgoing

from hyperpy import Message, config
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, wallet
from tests.devices.mailing import Mailer
from tests.devices.test_node_process import LEDGER, process_of
from tests.devices.test_payments import Worker, balance, call
from tests.security.attack import operator, send, sign, text

ALICE, MALLORY = wallet("alice"), wallet("mallory")
OLDER = """
function compute(base, req)
  base.balance = base.balance or base.opening or {}
  return base
end

function charge(base, req)
  local order, signed = req.body, false
  for _, one in pairs(order.commitments or {}) do
    signed = signed or one.committer == base.authority
  end
  if not signed then error("only the authority charges") end
  if order.nonce <= (base.last or 0) then error("this order was carried out before") end
  local left = (base.balance[order.account] or 0) - order.quantity
  if left < 0 then error("not enough") end
  base.balance[order.account] = left
  base.last = order.nonce
  return base
end
"""
"""The ledger as the docs had it once: it looks at the signer alone."""
FUTURE = 9_000_000_000_000_000_000


def of_the_docs() -> tuple[str, str]:
    """Return the settings and the code that docs/payments.md gives for a ledger process."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "payments.md").read_text("utf-8")
    return re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[1], re.findall(r"```lua\n(.*?)```", page, re.DOTALL)[0]


@contextmanager
def charged(folder: Path, code: str) -> Iterator[TestNode]:
    """Run a node as the docs say, whose ledger has a code; ALICE has 1000."""
    block, _ = of_the_docs()
    file = folder / "hyperpy.toml"
    file.write_text(block.replace("ADDRESS", ALICE.address).replace("LUA", code), "utf-8")
    loaded = config.load(file, environ={})
    devices = [Worker, Mailer]
    with Node(loaded, key=wallet(), store=MemoryStore(), operator=operator().address, devices=devices) as inner:
        yield TestNode(inner)


def mailed(n: TestNode, **entry: Any) -> Message:
    """Have a stranger's process mail an entry, pushed by this node; return what became of it."""
    spawned = {
        "device": "process@1.0",
        "type": "Process",
        "scheduler": wallet().address,
        "authority": wallet().address,
        "execution-device": "mailer@1.0",
        "random-seed": str(entry),
    }
    path = "/~scheduler@1.0/schedule"
    process = send(n, sign({"path": path, "method": "POST", "body": sign(spawned, operator())}, operator()), path)
    name = process.text("process")
    body = sign({"target": name, "type": "Message", "outbox": {"1": entry}}, MALLORY)
    path = f"/{name}~process@1.0/push"
    reply = send(n, sign({"path": path, "method": "POST", "body": body}, operator()), path)
    assert reply["status"] == 200
    found = reply["1"]
    assert isinstance(found, Message)
    return found


def refusal(n: TestNode) -> str:
    """Return the error of the ledger's last slot."""
    return str(n.node.resolve(f"{LEDGER}/now/results/error"))


@pytest.mark.parametrize("code", ["docs", "older"])
@pytest.mark.parametrize("nonce", [1, FUTURE])
@pytest.mark.parametrize("names", [("quantity", "nonce"), ("Quantity", "NONCE")])
def test_nobody_prints_money_by_mail(tmp_path: Path, code: str, nonce: int, names: tuple[str, str]) -> None:
    with charged(tmp_path, of_the_docs()[1] if code == "docs" else OLDER) as n:
        ledger = process_of(n)
        orders = {"path": "charge", "action": "charge", "type": "Payment-Order", "account": MALLORY.address}
        amounts = dict(zip(names, (-1_000_000, nonce), strict=True))
        outcome = mailed(n, target=ledger, **orders, **amounts)
        assert (outcome["status"], outcome["response"]) == (403, b"error")
        assert n.node._lend["slots"].head(ledger).slot == 0, "it never got there"
        assert balance(n, MALLORY) == 0
        assert text(call(n, ALICE)) == "done", "and no nonce is in the way"
        assert balance(n) == 994


def test_a_ledger_of_the_docs_needs_no_help_of_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another pushes with the same key and signs anything, mail is still no order."""
    monkeypatch.setattr(outgoing, "_ORDER", frozenset({"a key that no message has"}))
    with charged(tmp_path, of_the_docs()[1]) as n:
        ledger = process_of(n)
        fields = {"path": "charge", "type": "Payment-Order", "account": MALLORY.address, "nonce": 1}
        assert "slot" in mailed(n, target=ledger, quantity=-1_000_000, **fields)
        assert "no order of the authority's own" in refusal(n)
        assert balance(n, MALLORY) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "Message"}, "no order of the authority's own"),
        ({"type": None}, "no order of the authority's own"),
        ({"from-process": "A" * 43}, "no order of the authority's own"),
        ({"quantity": -1}, "not negative"),
        ({"quantity": 1.5}, "not negative"),
        ({"quantity": "1"}, "not negative"),
        ({"nonce": FUTURE}, "of another time"),
        ({"nonce": "7"}, "of another time"),
        ({"nonce": 0}, "carried out before"),
        ({"quantity": 1001}, "not enough"),
        ({}, ""),
    ],
)
def test_what_no_order_is_changes_nothing(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Each of these is signed by the authority itself; only the last is an order as it should be."""
    with charged(tmp_path, of_the_docs()[1]) as n:
        ledger = process_of(n)
        good = {"type": "Payment-Order", "path": "charge", "account": ALICE.address, "quantity": 1, "nonce": 1}
        order = sign({name: item for name, item in {**good, **change}.items() if item is not None}, wallet())
        path = f"/{ledger}~process@1.0/schedule"
        sent = send(n, sign({"path": path, "method": "POST", "body": order}, operator()), path)
        assert sent["status"] == 200
        assert balance(n) == (1000 if says else 999)
        if says:
            assert says in refusal(n)


def test_orders_of_this_node_are_told_by_their_type(tmp_path: Path) -> None:
    with charged(tmp_path, of_the_docs()[1]) as n:
        assert text(call(n, ALICE)) == "done"
        order = n.node._lend["slots"].read(process_of(n), 1)["body"]
        assert order["type"] == b"Payment-Order"
        assert "from-process" not in order
