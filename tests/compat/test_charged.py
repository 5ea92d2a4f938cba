"""The clients of this field at a node that charges: what they sign, with a path or without, pays for what they ask."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from hyperpy.keys import RsaKey
from tests.compat.serving import LUA, NEWEST, OLDER, OLDEST, Clients, keeper, served, spawn, tags, text_of

SETTINGS = """
[hooks]
on.request = {device = "p4@1.0", pricing-device = "simple-pay@1.0", ledger-device = "simple-pay@1.0"}
on.response = {device = "p4@1.0", pricing-device = "simple-pay@1.0", ledger-device = "simple-pay@1.0"}

[node.simple-pay-ledger]
ADDRESS = 1000000
"""


@pytest.fixture(scope="module")
def js(node_script: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients of one user, who has money, at a node that charges."""
    script = node_script("clients.cjs", "wao")
    folder: Path = tmp_path_factory.mktemp("charged")
    key = RsaKey.generate(4096)
    (folder / "paid.toml").write_text(SETTINGS.replace("ADDRESS", key.address), "utf-8")
    with served(folder, "--config", "paid.toml") as url:
        yield Clients(script, url, key.to_jwk())


@pytest.fixture(scope="module")
def module(js: Clients, operator: str) -> str:
    """The ID of a Lua script, stored as a message of a process."""
    kept = keeper(js, operator)
    named = tags(Type="Module", Data_Protocol="ao", Content_Type="application/lua", Module_Format="lua")
    made = js.item(f"/{kept}/schedule", LUA, tags=named, target=kept)
    assert made["status"] == 200
    return str(made["id"])


def balance(js: Clients) -> int:
    address = RsaKey.from_jwk(js.jwk).address
    return int(text_of(js.get(f"/~p4@1.0/balance?target={address}")))


def test_newest(js: Clients, module: str) -> None:
    """aoconnect 0.0.98 signs items, which name no path."""
    before = balance(js)
    process = spawn(js, module)
    assert balance(js) == before - 2
    assert js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Inc"), "data": "5"}) == 1
    assert balance(js) == before - 4
    assert js.call(NEWEST, "result", {"process": process, "slot": 1})["Output"]["body"] == "Count: 5"
    assert balance(js) == before - 7
    tried = js.call(NEWEST, "dryrun", {"process": process, "tags": tags(Action="Inc"), "data": "40"})
    assert tried["Output"]["body"] == "Count: 45"
    assert balance(js) == before - 10


def test_an_item_pays_once(js: Clients, module: str) -> None:
    process = spawn(js, module)
    path = f"/{process}~process@1.0/push"
    sent = js.item(path, "5", tags=tags(Action="Inc", Type="Message"), target=process)
    assert sent["status"] == 200
    before = balance(js)
    kind = {"content-type": "application/ans104", "codec-device": "ans104@1.0"}
    for place in (path, f"/{process}/schedule", "/~message@1.0&a=1/a"):
        again = Request(js.url + place, data=b64decode(sent["raw"]), headers=kind, method="POST")
        with pytest.raises(HTTPError) as refused:
            urlopen(again, timeout=30)
        assert refused.value.code in (402, 409)
    assert balance(js) == before


def test_older(js: Clients, module: str) -> None:
    """aoconnect 0.0.77 and 0.0.85 sign HTTP without the path; messages that name their target are paid for."""
    process = spawn(js, module)
    before = balance(js)
    sent = {"process": process, "tags": tags(Action="Inc"), "data": "5"}
    assert js.call(OLDEST, "message", sent, device="process@1.0") == "1"
    assert balance(js) < before
    before = balance(js)
    fields = {"path": f"/{process}~process@1.0/push", "method": "POST", "target": process, "type": "Message"}
    js.call(OLDER, "request", {**fields, "action": "Inc", "data": "2"})
    assert balance(js) == before - 2
    elsewhere = js.failure(OLDER, "request", {"path": "/~message@1.0/color", "method": "POST", "color": "red"})
    assert "402" in elsewhere or "Insufficient" in elsewhere
    assert balance(js) == before - 2


def test_wao(js: Clients, module: str, operator: str) -> None:
    """wao signs the path."""
    before = balance(js)
    made = js.call("wao", "spawn", {"execution-device": "lua@5.3a", "module": module, "authority": operator, "n": 7})
    assert balance(js) < before
    before = balance(js)
    sent = js.call("wao", "schedule", {"pid": made["pid"], "tags": {"action": "Inc"}, "data": "4"})
    assert sent["slot"] == 1
    assert balance(js) < before
    before = balance(js)
    assert js.call("wao", "post", {"path": "/~message@1.0/set/hello", "hello": "world"})["out"] == "world"
    assert balance(js) == before - 3
