"""test-device@1.0: every key has its known answer."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hyperpy.devices.test_device import TestDevice

from hyperpy import Message
from hyperpy.errors import DeviceError, ParameterError
from hyperpy.message import NOT_FOUND

BASE = Message({"device": "test-device@1.0"})


def test_compute_notes_slots(bench: Any) -> None:
    state = bench.get(BASE, "init")
    for slot in (0, 1):
        state = bench.get(state, {"path": "compute", "slot": slot})
    assert state["already-seen"] == (1, 0)
    assert state["results"] == Message({"assignment-slot": 1})
    assert state["random-key"] == b"random-value"


def test_compute_without_slot(bench: Any) -> None:
    assert bench.get(BASE, "compute")["results"]["assignment-slot"] == NOT_FOUND


def test_restore(bench: Any) -> None:
    state = bench.get(BASE | {"already-seen": (1, 0)}, "restore")
    assert state.private["test-key"] == {"started-state": (1, 0)}
    with pytest.raises(DeviceError, match=r"No viable state to restore\."):
        bench.get(BASE, "restore")


@pytest.mark.parametrize(
    ("request_keys", "answer"),
    [
        ({"path": "test_func"}, b"GOOD_FUNCTION"),
        ({"path": "snapshot"}, Message()),
        ({"path": "load"}, BASE),
        ({"path": "mul", "args": (6, 7)}, Message({"results": [42]})),
        ({"path": "delay", "duration": "1"}, Message({"result": "slept"})),
        ({"path": "delay", "duration": 1, "body": "b"}, b"b"),
        ({"path": "index"}, Message({"content-type": "text/html", "body": "i like turtles!"})),
        ({"path": "index", "name": "<b>&"}, Message({"content-type": "text/html", "body": "i like &lt;b>&amp;!"})),
    ],
)
def test_answers(bench: Any, request_keys: Any, answer: Any) -> None:
    assert bench.get(BASE, Message(request_keys)) == answer


def test_delay_waits(bench: Any) -> None:
    before = time.monotonic()
    assert bench.get(BASE | {"duration": 50, "return": "done"}, "delay") == b"done"
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize(
    "request_keys",
    [{"path": "mul", "args": (1,)}, {"path": "mul", "args": ("a", "b")}, {"path": "delay", "duration": -1}],
)
def test_wrong_parameters(bench: Any, request_keys: Any) -> None:
    with pytest.raises(ParameterError):
        bench.get(BASE, Message(request_keys))


def test_workers(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setitem(TestDevice.workers, "t1", told.append)
    bench.get(BASE | {"test-id": "t1"}, "increment_counter")
    bench.get(BASE, {"path": "update_state", "test-id": "t1"})
    assert told == ["increment", "update"]
    with pytest.raises(ParameterError, match=r"No test ID found in message\."):
        bench.get(BASE, "update_state")
    with pytest.raises(DeviceError, match="No test worker found"):
        bench.get(BASE | {"test-id": "t2"}, "update_state")


def test_postprocess_and_info(bench: Any) -> None:
    assert bench.get(BASE, {"path": "postprocess", "body": "reply"}) == b"reply"
    assert bench.node.settings == {"postprocessor-called": True}
    info = bench.get(BASE, "info")
    assert (info["status"], info["body"]["version"]) == (200, b"1.0")
    assert "compute" in info["body"]["paths"]


def test_other_keys_are_message_keys(bench: Any) -> None:
    assert bench.get(BASE | {"a": 1}, "a") == 1
