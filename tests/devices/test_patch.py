"""patch@1.0 and apply@1.0: the examples of their specification, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import commit
from hyperpy.errors import HyperpyError, KeyNotFound, ParameterError

OUTBOX = {
    "1": {"method": "PATCH", "prices": {"apple": 100, "banana": 200}},
    "2": {"method": "GET", "prices": {"apple": 1000}},
}


def _patch(**keys: Any) -> Message:
    return Message({"device": "patch@1.0", **{name.replace("_", "-"): item for name, item in keys.items()}})


def test_patches_move_from_the_outbox_to_the_root(bench: Any) -> None:
    made = bench.get(_patch(results={"outbox": OUTBOX}, patch_from="/results/outbox"), "patches")
    assert made["prices"] == Message({"apple": 100, "banana": 200})
    assert list(made["results"]["outbox"]) == ["2"]


@pytest.mark.parametrize("key", ["compute", "patches"])
def test_parameters_come_from_request_then_base(bench: Any, key: str) -> None:
    base = _patch(a={"1": {"device": "patch@1.0", "x": 1}}, patch_from="/nowhere", patch_to="/nowhere")
    made = bench.get(base, {"path": key, "patch-from": "/a", "patch-to": "/to/deep"})
    assert made["to"]["deep"] == Message({"device": "patch@1.0", "x": 1})
    short = bench.get(_patch(a={"1": {"method": "PATCH", "x": 1}}), {"path": key, "from": "/a", "to": "b"})
    assert short["b"] == Message({"x": 1})


def test_all_keeps_the_structure(bench: Any) -> None:
    base = _patch(input={"zones": OUTBOX}, patch_from="/input/zones", patch_to="/state")
    made = bench.get(base, "all")
    assert made["state"]["1"]["prices"]["apple"] == 100
    assert "zones" not in made["input"]


def test_from_the_request(bench: Any) -> None:
    """With ``req:`` the request is the ground of the result."""
    request = Message({"path": "all", "results": {"x": 1}, "patch-from": "req:/results", "patch-to": "state/prices"})
    made = bench.get(_patch(kept="no"), request)
    assert made["state"]["prices"] == Message({"x": 1})
    assert "kept" not in made
    assert "results" not in made


def test_later_patches_win_and_maps_merge(bench: Any) -> None:
    patches = {"1": {"method": "PATCH", "a": 1, "m": {"x": 1}}, "2": {"method": "PATCH", "a": 2, "m": {"y": 2}}}
    made = bench.get(_patch(box=patches, patch_from="box"), "compute")
    assert (made["a"], made["m"]) == (2, Message({"x": 1, "y": 2}))


def test_a_patch_is_merged_by_the_device_it_meets(bench: Any) -> None:
    """Balances kept as a trie stay one."""
    box = {"1": {"method": "PATCH", "balances": {"ab": 2}}}
    made = bench.get(_patch(balances={"device": "trie@1.0", "aa": 1}, box=box, patch_from="box"), "compute")
    assert made["balances"] == Message({"device": "trie@1.0", "a": {"a": 1, "b": 2}})


def test_patches_lose_signatures_and_tags(bench: Any, alice: Any) -> None:
    signed = commit(Message({"device": "patch@1.0", "cache": {"n": 1}, "Tags": "t"}), alice)
    made = bench.get(_patch(box={"1": signed}, patch_from="box", patch_to="to"), "compute")
    assert not made["to"].commitments
    assert "Tags" not in made["to"]


@pytest.mark.parametrize("key", ["init", "normalize", "snapshot"])
def test_the_other_process_keys_leave_the_state_alone(bench: Any, key: str) -> None:
    base = _patch(a=1)
    assert bench.get(base, key) == base


def test_errors(bench: Any) -> None:
    with pytest.raises(KeyNotFound, match="/results/outbox"):
        bench.get(_patch(patch_from="/results/outbox"), "compute")
    with pytest.raises(ParameterError, match="patch-from"):
        bench.get(_patch(), "compute")
    with pytest.raises(ParameterError, match="map of messages"):
        bench.get(_patch(a="text", patch_from="a"), "compute")
    with pytest.raises(ParameterError, match="only a map"):
        bench.get(_patch(a="text", patch_from="a"), "all")


# -- apply ---------------------------------------------------------------------------------------


def test_a_stored_path_is_run(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "body": "/~message@1.0&a=hello/a"})
    assert bench.get(base, "body") == b"hello"


def test_pair_of_names(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "data-container": {"relevant": "DATA"}, "base": "data-container"})
    assert bench.get(base, {"path": "pair", "request": "data-path", "data-path": "relevant"}) == b"DATA"


def test_roles_reversed(bench: Any) -> None:
    """``base=request:&request=base:`` resolves the request with the base."""
    base = Message({"device": "apply@1.0", "x": "1"})
    request = Message({"path": "node", "node": "TEST", "base": "request:", "request": "base:"})
    assert bench.get(base, request) == b"TEST"


def test_a_path_in_the_request_runs_on_the_base(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "short-trace": 42})
    assert bench.get(base, Message({"path": "request:debug-info", "debug-info": "short-trace"})) == 42


def test_a_path_runs_on_its_own_message(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "user-path": "/user-request/test-key", "user-request": {"test-key": "DATA"}})
    assert bench.get(base, "user-path") == b"DATA"


def test_a_source_can_be_named(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "where": {"k": "V"}, "run": "k"})
    assert bench.get(base, {"path": "run", "source": "base:where"}) == b"V"


@pytest.mark.parametrize(
    ("base", "request_keys", "text"),
    [
        ({}, {"path": "gone"}, "Path `gone` to execute not found."),
        ({"k": {"a": 1}}, {"path": "k"}, "Path `k` is invalid."),
        ({"k": "a"}, {"path": "k", "source": "base:no"}, "Source path `base:no` to apply not found."),
        ({}, {"path": "pair", "base": "no", "request": "no"}, "Path `no` to apply not found."),
        ({}, {"path": "pair", "request": "x"}, "'base'"),
        ({"base": {"a": 1}, "request": {"path": "a"}}, {"path": "pair"}, "'base' must be text"),
    ],
)
def test_apply_errors(bench: Any, base: Any, request_keys: Any, text: str) -> None:
    with pytest.raises(HyperpyError) as caught:
        bench.get(Message({"device": "apply@1.0", **base}), Message(request_keys))
    assert text in caught.value.message


def test_apply_leaves_message_keys_alone(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "a": 1})
    assert bench.get(base, "keys") == (b"a", b"device")


def test_a_path_that_runs_itself_ends(bench: Any) -> None:
    base = Message({"device": "apply@1.0", "loop": "/~apply@1.0&loop=x/self", "self": "/self~apply@1.0"})
    with pytest.raises(HyperpyError):
        bench.get(base, "self")
