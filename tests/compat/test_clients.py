"""arbundles, wao and hbsig against ``hyperpy serve``: the values that their callers get.

The rows of http-clients.md 0 are named by number. wao and hbsig sign HTTP with nested messages.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode

import pytest

from hyperpy import commitments
from hyperpy.client import Client
from hyperpy.codecs import json as json_codec
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from tests.compat.serving import ID, NEWEST, OLDER, OLDEST, Clients, json_of, spawn, tags, text_of

DIRECT = {"device": "process@1.0"}
"""0.0.77 goes through a relay unless it is told otherwise; the others ignore this."""
SOLANA = "2AXDGYSE4f2sz7tvMMzyHvUfcoJmxudvdhBcmiUSo6iuCXagjUCKEQF21awZnUGxmwD4m9vGXuC3qieHXJQHAcT"
"""Secret and public key in base58; the secret is 32 times the byte 1."""


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
