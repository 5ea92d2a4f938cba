"""lookup@1.0, cache@1.0, name@1.0 and local-name@1.0: reading is open, writing is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import commit, signed_id, unsigned_id
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import Forbidden, KeyNotFound, MessageNotFound, ParameterError

NOWHERE = "e5ohB7TgMYRoc0BLllkmAqkqLy1SrliEkOPJlNPXBQ8"
CACHE = Message({"device": "cache@1.0"})
LOCAL = Message({"device": "local-name@1.0"})


def test_lookup_reads_by_id(bench: Any) -> None:
    name = bench.store.write(Message({"a": 1, "child": {"b": 2}}))
    assert bench.get(Message({"device": "lookup@1.0"}), {"path": "read", "target": name})["child"]["b"] == 2


@pytest.mark.parametrize(("target", "error"), [(NOWHERE, MessageNotFound), ("names/secret", ParameterError)])
def test_lookup_of_what_is_not_there(bench: Any, target: str, error: type) -> None:
    with pytest.raises(error):
        bench.get(Message({"device": "lookup@1.0"}), {"path": "read", "target": target})


@pytest.mark.parametrize("key", ["read", "target"])
def test_cache_reads_by_both_names(bench: Any, key: str) -> None:
    name = bench.store.write(b"binary")
    assert bench.get(CACHE, {"path": "read", key: name}) == b"binary"


def test_cache_reads_nothing_else(bench: Any) -> None:
    """No table of the store and no name of another device can be reached."""
    bench.store.link("local-name@1.0/x", bench.store.write(b"v"))
    for target in ("local-name@1.0/x", "../local-name@1.0/x", "config/operator", "messages"):
        with pytest.raises(MessageNotFound):
            bench.get(CACHE, {"path": "read", "read": target})
    with pytest.raises(ParameterError, match="'read'"):
        bench.get(CACHE, "read")


def _signed(signer: Any, /, **keys: Any) -> Message:
    return commit(Message(keys), signer)


def test_a_writer_may_write(bench: Any, alice: Any) -> None:
    bench.node.settings["cache-writers"] = (alice.address.encode(),)
    reply = bench.get(CACHE, _signed(alice, body="hello") | {"path": "write"})
    assert reply == Message({"status": 200, "path": b64u(sha256(b"hello"))})
    assert bench.get(CACHE, {"path": "read", "read": reply.text("path")}) == b"hello"
    link = _signed(alice, source=reply["path"], destination="greetings/first") | {"path": "link"}
    assert bench.get(CACHE, link)["status"] == 200
    assert bench.get(CACHE, {"path": "read", "read": "greetings/first"}) == b"hello"


def test_a_batch(bench: Any, alice: Any) -> None:
    bench.node.settings["cache-writers"] = alice.address.encode()
    batch = {"1": {"body": "one"}, "2": {"operation": "link", "source": NOWHERE, "destination": "d"}}
    reply = bench.get(CACHE, _signed(alice, type="batch", body=batch) | {"path": "write"})
    assert reply["1"]["path"] == b64u(sha256(b"one")).encode()
    assert reply["2"]["status"] == 200


def test_nobody_else_may_write(bench: Any, alice: Any, mallory: Any) -> None:
    bench.node.settings["cache-writers"] = (alice.address.encode(),)
    plain = Message({"body": "x"})
    other_key = commit(plain, mallory)
    both = commit(commit(plain, alice), mallory)
    swapped = commit(Message({"note": "mine"}), alice) | {"body": "not signed"}
    claimed = commit(plain, mallory)
    forged = claimed.with_commitments(
        {name: one | {"committer": alice.address} for name, one in claimed.commitments.items()}
    )
    genuine = commit(Message({"body": "a"}), alice)
    changed = Message({"body": "b"}).with_commitments(genuine.commitments)
    for request in (plain, other_key, both, swapped, forged, changed):
        with pytest.raises(Forbidden, match="Not authorized to write"):
            bench.get(CACHE, request | {"path": "write"})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"body": {"a": 1}}, "Invalid write type."),
        ({"body": "x", "location": "somewhere"}, "Invalid write type."),
        ({"body": "x", "type": "odd"}, "Invalid write type."),
        ({"body": "x", "type": "batch"}, "No body to write."),
        ({"note": "x"}, "No body to write."),
        ({"operation": "link", "source": "short", "destination": "d"}, "'source'"),
    ],
)
def test_broken_writes(bench: Any, alice: Any, keys: Any, text: str) -> None:
    bench.node.settings["cache-writers"] = (alice.address.encode(),)
    with pytest.raises(ParameterError) as caught:
        bench.get(CACHE, _signed(alice, **keys) | {"path": "write"})
    assert text in caught.value.message


def test_local_names(bench: Any, alice: Any, mallory: Any) -> None:
    bench.node.operators.add(alice.address)
    request = _signed(alice, key="ledger", value={"balance": 7}) | {"path": "register"}
    assert bench.get(LOCAL, request) == b"Registered."
    assert bench.get(LOCAL, "ledger")["balance"] == 7
    assert bench.get(LOCAL, {"path": "lookup", "key": "ledger"})["balance"] == 7
    assert bench.get(LOCAL, _signed(alice, key="n", value=5) | {"path": "register"}) == b"Registered."
    assert bench.get(LOCAL, "n") == b"5"
    refused = bench.step(LOCAL, _signed(mallory, key="ledger", value="mine") | {"path": "register"})
    assert (refused.status, refused.value["status"]) == ("error", 403)
    with pytest.raises(KeyNotFound, match="'nobody'"):
        bench.get(LOCAL, "nobody")
    with pytest.raises(ParameterError):
        bench.get(LOCAL, _signed(alice, value="x") | {"path": "register"})


def test_names_are_asked_of_the_resolvers(bench: Any, alice: Any) -> None:
    bench.node.operators.add(alice.address)
    target = bench.store.write(Message({"content": "page"}))
    bench.get(LOCAL, _signed(alice, key="home", value=target) | {"path": "register"})
    name = Message({"device": "name@1.0"})
    bench.node.settings["name-resolvers"] = ("junk", {"device": "local-name@1.0"})
    assert bench.get(name, "home")["content"] == b"page"
    assert bench.get(name, {"path": "home", "load": "false"}) == target.encode()
    with pytest.raises(KeyNotFound, match="'away'"):
        bench.get(name, "away")
    bench.node.settings.clear()
    with pytest.raises(KeyNotFound):
        bench.get(name, "home")


def test_a_value_read_by_name_is_what_was_stored(bench: Any) -> None:
    stored = Message({"a": 1})
    assert bench.store.write(stored) == unsigned_id(stored)


@pytest.mark.parametrize("name", ["cache@1.0", "lookup@1.0"])
def test_the_json_of_aos(bench: Any, alice: Any, name: str) -> None:
    made = commit(Message({"action": "Eval", "data": "1 + 1", "target": NOWHERE, "child": {"a": 1}}), alice)
    bench.store.write(made)
    request = {"path": "read", "target": signed_id(made), "accept": "application/aos-2"}
    reply = bench.get(Message({"device": name}), request)
    assert reply["content-type"] == b"application/aos-2"
    struct = json.loads(reply["body"])
    assert (struct["Id"], struct["Owner"], struct["From"]) == (signed_id(made), alice.address, alice.address)
    assert (struct["Data"], struct["Target"]) == ("1 + 1", NOWHERE)
    assert {"name": "Action", "value": "Eval"} in struct["Tags"]
    assert unsigned_id(Message({"a": 1})) in [tag["value"] for tag in struct["Tags"]], "a nested message by its ID"
    plain = bench.get(Message({"device": name}), {**request, "accept": "application/json"})
    assert plain["action"] == b"Eval"
    binary = bench.store.write(b"bytes")
    assert bench.get(Message({"device": name}), {**request, "target": binary}) == b"bytes"
