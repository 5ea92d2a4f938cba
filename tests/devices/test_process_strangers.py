"""Messages of strangers to a process: they choose neither code nor arguments, and reach no key of a device's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message
from tests.devices.lua_parts import module
from tests.devices.parts import Place
from tests.devices.test_wasm_processes import image_of
from tests.devices.wasm_images import FAC, wasm

CODE = b"""
function compute(base, req)
  base.count = (base.count or 0) + tonumber(req.body.by or 0)
  return base
end
function inc(base) base.count = (base.count or 0) + 1 return base end
table.pick = function() return {count = 7} end
alias = setmetatable
"""
TAKEN = [
    "init", "snapshot", "normalize", "restore", "terminate", "import", "set", "set-path", "set_path", "keys", "remove",
    "get", "info", "id", "commit", "verify", "functions", "encode", "SNAPSHOT", "process", "device", "module",
    "a/b", "~message@1.0", "clock_time_get", "stdout", "patches", "all", "private", "execution-device", "at-slot",
]  # fmt: skip


def test_a_message_chooses_neither_function_nor_parameters(here: Place) -> None:
    process = here.spawn("lua@5.3a", **module(CODE))
    here.send(process, by="5")
    forged = [{"count": 1_000_000, "hacked": "yes"}, {"body": {"by": "0"}}]
    here.send(process, function="compute", parameters=forged)
    here.send(process, function="inc", parameters=forged, by="1")
    here.send(process, function="setmetatable", parameters=[{"a": 1}, {"b": 1}])
    assert here.value(process, "now/count") == 6
    assert here.get(process, "now/hacked")["status"] == 404


def test_a_definition_may_let_messages_choose(here: Place) -> None:
    process = here.spawn("lua@5.3a", **module(CODE), **{"message-calls": True})
    here.send(process, function="inc", parameters=[{"count": 41}])
    assert here.value(process, "now/count") == 42
    here.send(process, function="setmetatable", parameters=[{"count": 1}, {"b": 1}])
    assert here.value(process, "now/count") == 42


@pytest.mark.parametrize("name", ["setmetatable", "rawset", "load", "pairs", "alias", "tonumber", "table.pick", "pick"])
def test_a_path_names_no_function_of_the_library(here: Place, name: str) -> None:
    process = here.spawn("lua@5.3a", **module(CODE))
    here.send(process, by="5")
    here.send(process, path=name, by="5")
    here.send(process, path="inc")
    assert here.value(process, "compute=2/results/error/body") == f"there is no function '{name}'".encode()
    assert here.value(process, "now/count") == 6


@pytest.mark.parametrize("path", TAKEN)
@pytest.mark.parametrize("stacked", [False, True], ids=["lua", "dedup and lua"])
def test_a_reserved_path_computes(here: Place, path: str, stacked: bool) -> None:
    stack: dict[str, Any] = {"device-stack": ["dedup@1.0", "lua@5.3a"]} if stacked else {}
    process = here.spawn("stack@1.0" if stacked else "lua@5.3a", **module(CODE), **stack)
    here.send(process, by="5")
    here.send(process, path=path, by="2")
    for number in ("1", "2"):
        here.send(process, by=number)
    assert here.value(process, "now/count") == 10


@pytest.mark.parametrize("name", ["start", "next", "load", "transfer_all"])
def test_a_path_names_what_the_modules_defined(here: Place, name: str) -> None:
    process = here.spawn(
        "lua@5.3a", **module(CODE + f"function {name}(base) base.by = '{name}' return base end".encode())
    )
    here.send(process, path=name)
    assert here.value(process, "now/by") == name.encode()


def test_a_path_is_no_key_of_the_state(here: Place) -> None:
    process = here.spawn("lua@5.3a", **module(CODE))
    here.send(process, by="5")
    here.send(process, path="count", by="2")
    assert here.value(process, "now/count") == 7


def test_a_map_in_the_state_does_not_become_the_state(here: Place) -> None:
    process = here.spawn("count@1.0", balance={"alice": 1})
    here.send(process)
    here.send(process, "balance")
    here.send(process)
    assert here.value(process, "now/count") == 3
    assert here.value(process, "compute=2/results/error") == b"the execution device returned no message"


@pytest.mark.parametrize("path", ["snapshot", "terminate", "init", "normalize", "import", "set", "image", "process"])
@pytest.mark.parametrize("execution", ["wasm-64@1.0", "stack@1.0"])
def test_a_guest_survives_reserved_paths(here: Place, path: str, execution: str) -> None:
    image = image_of(here, wasm(FAC.format(index="i64")))
    more: dict[str, Any] = {"device-stack": ["wasm-64@1.0"]} if execution == "stack@1.0" else {}
    process = here.spawn(execution, image=image, **more)
    here.send(process, function="fac", parameters=[5.0])
    here.send(process, path=path)
    here.send(process, function="fac", parameters=[6.0])
    assert here.value(process, "compute=1/results/output/1") == 120.0
    assert here.value(process, "now/results/output/1") == 720.0


def test_the_states_own_function_wins(here: Place) -> None:
    image = image_of(here, wasm(FAC.format(index="i64")))
    process = here.spawn("wasm-64@1.0", image=image, function="fac", parameters=[3.0])
    here.send(process, function="fac", parameters=[6.0])
    assert here.value(process, "now/results/output/1") == 6.0


def test_the_ledger_of_the_manual_keeps_its_balances(here: Place) -> None:
    text = (Path(__file__).parents[2] / "docs" / "payments.md").read_text()
    code = re.search(r"```lua\n(.*?)```", text, re.S)
    assert code is not None
    process = here.spawn("lua@5.3a", **module(code[1].encode()), opening={"alice": 1000}, authority=here.node.address)
    state = {"balance": {"bob": 10**9}, "authority": "me", "last": 0}
    order = {"type": "Payment-Order", "nonce": 10**15, "account": "bob", "quantity": 1}
    forged = [state, {"body": {**order, "commitments": {"x": {"committer": "me"}}}}]
    for path in ("compute", "charge", "snapshot", "set", "balance", "rawset"):
        here.send(process, path=path, function="charge", parameters=forged, **order)
    paid = {"target": process, "type": "Payment-Order", "nonce": 1, "account": "alice", "quantity": 3}
    signed = here.node.sign(Message(paid))
    here.schedule(process, signed, "charge")
    found = here.get(process, "now/balance")
    assert {name: item for name, item in found.items() if name != "status"} == {"alice": 997}
