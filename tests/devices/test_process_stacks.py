"""The stack family as the execution device of processes (devices/01-process examples, devices/03-stack-family)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, commitments, device, key
from hyperpy.sdk import Result
from tests.devices.parts import Place, copy, place

KEYS = ["init", "compute", "snapshot", "normalize"]


@device("append@1.0")
class Append:
    """Appends its own place in the stack, and what the message says, to ``text``."""

    @key
    def init(self, base: Message) -> Message:
        """Begin with a known text."""
        return base | {"text": base.get("text", b"INIT")}

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Append."""
        body = request["body"]
        assert isinstance(body, Message)
        return base | {"text": f"{base.text('text', 'INIT')}+D{base.text('device-key')}{body.text('bin', '?')}"}


@device("sender@1.0")
class Sender:
    """Puts the message's ``send`` into the outbox, on the first pass."""

    @key
    def compute(self, base: Message, request: Message) -> Message:
        """Send."""
        body = request["body"]
        assert isinstance(body, Message)
        if base.get("pass") != 1:
            return base | {"second": True}
        return base | {"results": {"outbox": body.get("send", Message())}}


@device("stop@1.0")
class Stop:
    """Ends a stack where the message says so."""

    @key
    def compute(self, base: Message, request: Message) -> Result:
        """Skip the rest, or fail, or go on."""
        body = request["body"]
        assert isinstance(body, Message)
        word = body.text("stop", "ok")
        return Result(word, base) if word != "error" else Result("error", b"stopped")


@pytest.fixture
def here() -> Iterator[Place]:
    with place(Append, Sender, Stop) as made:
        yield made


def spawn(here: Place, *devices: str, **more: Any) -> str:
    """Make a process without scheduling it: its first message is slot 0."""
    made = here.definition("stack@1.0", **{"device-stack": list(devices), **more})
    here.node._lend["store"].write(made)
    return commitments.signed_id(made)


def test_two_test_devices(here: Place) -> None:
    process = spawn(here, "test-device@1.0", "test-device@1.0")
    here.send(process)
    here.send(process)
    state = here.get(process, "compute?slot=1")
    assert state["results"] == Message({"assignment-slot": 1})
    assert state["already-seen"] == (1, 1, 0, 0)
    assert (state["device"], state["at-slot"]) == (b"process@1.0", 1)
    assert "pass" not in state
    assert "device-key" not in state


def test_patches_become_state(here: Place) -> None:
    more = {"patch-from": "/results/outbox", "passes": 2, "stack-keys": KEYS}
    process = spawn(here, "sender@1.0", "patch@1.0", "multipass@1.0", **more)
    here.send(process, send={"1": {"method": "PATCH", "x": "banana"}, "2": {"target": "t", "x": "apple"}})
    assert here.value(process, "compute=0/x") == b"banana"
    here.send(process, send={"1": {"device": "patch@1.0", "prices": {"apple": 100}}})
    assert here.value(process, "now/prices/apple") == 100
    assert here.value(process, "now/x") == b"banana"
    assert here.value(process, "compute=0/results/outbox/2/x") == b"apple"
    assert here.get(process, "compute=0/results/outbox/1")["status"] == 404
    assert here.value(process, "now/second") is True


def test_a_message_seen_before_changes_nothing(here: Place) -> None:
    process = spawn(here, "dedup@1.0", "append@1.0", "append@1.0")
    bodies = [
        commitments.commit(Message({"target": process, "type": "Message", "bin": text}), here.author) for text in "_/"
    ]
    for body in (bodies[0], bodies[0], bodies[1], bodies[1]):
        here.schedule(process, body)
    assert here.value(process, "now/text") == b"INIT+D2_+D3_+D2/+D3/"
    assert here.value(process, "now/at-slot") == 3


def test_dedup_on_the_first_pass_only(here: Place) -> None:
    process = spawn(here, "dedup@1.0", "append@1.0", "append@1.0", "multipass@1.0", passes=2)
    bodies = [
        commitments.commit(Message({"target": process, "type": "Message", "bin": text}), here.author) for text in "_/"
    ]
    for body in (bodies[0], bodies[0], bodies[1], bodies[1]):
        here.schedule(process, body)
    assert here.value(process, "now/text") == b"INIT+D2_+D3_+D2_+D3_+D2/+D3/+D2/+D3/"


def test_skip_and_failure_inside_a_stack(here: Place) -> None:
    process = spawn(here, "append@1.0", "stop@1.0", "append@1.0")
    here.send(process, bin="a")
    here.send(process, bin="b", stop="skip")
    here.send(process, bin="c", stop="error")
    here.send(process, bin="d")
    assert here.value(process, "compute=1/text") == b"INIT+D1a+D3a+D1b"
    assert b"entry 2 of the stack ('stop@1.0')" in here.value(process, "compute=2/results/error")
    assert here.value(process, "now/text") == b"INIT+D1a+D3a+D1b+D1d+D3d", "what failed left nothing behind"


def test_a_stack_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The snapshot of a stack is one per device; each finds its own again."""
    devices = ("dedup@1.0", "append@1.0", "test-device@1.0", "patch@1.0", "multipass@1.0")
    more = {"passes": 2, "patch-from": "/results/outbox", "patch-to": "/x"}

    def sent(here: Place, process: str) -> None:
        for number in range(6):
            here.send(process, bin=str(number))

    with place(Append, store=tmp_path / "a") as here:
        process = spawn(here, *devices, **more)
        sent(here, process)
        here.get(process, "compute=2")
    with place(Append, store=tmp_path / "a") as here:
        here.get(process, "now")
        resumed = here.states(process, 5)
        schedule = [here.slots.read(process, slot) for slot in range(6)]
        stored = here.node._lend["store"].read(process)
        definition = Message.make({name: stored[name] for name in stored}, stored.commitments)
    with place(Append) as other:
        other.node._lend["store"].write(definition)
        for assignment in schedule:
            assert assignment is not None
            copy(other, process, assignment)
        assert other.get(process, "now")["at-slot"] == 5
        assert other.states(process, 5) == resumed


def test_one_device_of_the_stack_alone(here: Place) -> None:
    process = spawn(here, "append@1.0", "append@1.0")
    here.send(process, bin="x")
    here.get(process, "now")
    answer = here.get(process, "as=execution/transform/2/text")
    assert (answer["status"], answer["body"]) == (200, b"INIT+D1x+D2x")
