"""stack@1.0, multipass@1.0 and dedup@1.0: the worked examples of their specification, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message, Result, device, handler
from hyperpy.commitments import commit, unsigned_id
from hyperpy.errors import DeviceError, KeyNotFound, ParameterError, SizeError
from hyperpy.message import Atom


def _append(base: Message, request: Message, separator: str) -> Message:
    return base | {"result": base.text("result", "INIT") + separator + request.text("bin", "")}


@device("d1@1.0", excludes=("set", "keys"))
class D1:
    """Appends ``!D1!`` and the request's ``bin``."""

    @handler
    def run(self, base: Message, request: Message) -> Message:
        return _append(base, request, "!D1!")


@device("d2@1.0", excludes=("set", "keys"))
class D2:
    """Appends ``_D2_`` and the request's ``bin``."""

    @handler
    def run(self, base: Message, request: Message) -> Message:
        return _append(base, request, "_D2_")


@device("plus1@1.0", excludes=("set", "keys"))
class Plus1:
    """Appends ``+D1`` and skips, passes, or goes on, as the base says."""

    @handler
    def run(self, base: Message, request: Message) -> Any:
        mode = base.text("do", "ok")
        if mode == "skip":
            return Result("skip", base | {"result": base.text("result") + "+D1" + request.text("bin")})
        made = base | {"result": base.text("result") + "+D1" + request.text("bin", "")}
        if mode == "pass" and base["pass"] != 3:
            return Result("pass", made)
        if mode == "fail":
            return Result("failure", Message({"body": "no luck"}))
        return made


@device("copy@1.0", excludes=("set", "keys"))
class Copy:
    """Copies ``<input-prefix>example`` of the request to ``<output-prefix>example`` of the base."""

    @handler
    def run(self, base: Message, request: Message, ctx: Any) -> Any:
        found: Any = request
        for part in (base.text("input-prefix") + "example").split("/"):
            found = found[part]
        return ctx.resolve(base, {"path": "set", base.text("output-prefix") + "example": found})


@device("twos@1.0", excludes=("set", "keys"))
class Twos:
    """Appends ``+D2`` and the request's ``bin``."""

    @handler
    def run(self, base: Message, request: Message) -> Message:
        return base | {"result": base.text("result", "INIT") + "+D2" + request.text("bin", "")}


@device("threes@1.0", excludes=("set", "keys"))
class Threes:
    """Appends ``+D3`` and the request's ``bin``."""

    @handler
    def run(self, base: Message, request: Message) -> Message:
        return base | {"result": base.text("result", "INIT") + "+D3" + request.text("bin", "")}


DEVICES = (D1, D2, Plus1, Copy, Twos, Threes)


@pytest.fixture
def stack(bench: Any) -> Any:
    """A bench that knows the devices above."""
    made = type(bench)(DEVICES)
    yield made
    made.actors.stop()


def _stack(*names: str, **keys: Any) -> Message:
    return Message({"device": "stack@1.0", "device-stack": list(names), **keys})


def test_devices_run_in_order_and_state_survives(stack: Any) -> None:
    """Example 1: INIT!D1!2_D2_2, and a second call appends."""
    once = stack.get(_stack("d1@1.0", "d2@1.0", result="INIT"), {"path": "append", "bin": "2"})
    assert once["result"] == b"INIT!D1!2_D2_2"
    twice = stack.get(once, {"path": "append", "bin": "3"})
    assert twice["result"] == b"INIT!D1!2_D2_2!D1!3_D2_3"


def test_the_stack_itself_comes_back(stack: Any) -> None:
    """Device, pass and device-key are put back; what went before stays visible."""
    made = stack.get(_stack("d1@1.0", "d2@1.0", result="INIT"), {"path": "append", "bin": "2"})
    assert made["device"] == b"stack@1.0"
    assert "device-key" not in made
    assert "pass" not in made
    assert made["previous-device"] == Atom("dev_message")
    assert made.hashpath is not None


def test_a_map_of_devices_is_a_list(stack: Any) -> None:
    listed = stack.get(_stack("d1@1.0", "d2@1.0", result="I"), {"path": "x", "bin": "2"})
    base = _stack(result="I") | {"device-stack": {"1": "d1@1.0", "2": "d2@1.0"}}
    assert stack.get(base, {"path": "x", "bin": "2"})["result"] == listed["result"]


def test_skip_ends_the_stack(stack: Any) -> None:
    """Example 2: the second device does not run."""
    base = _stack("plus1@1.0", "d2@1.0", result="INIT", do="skip")
    result = stack.step(base, {"path": "append", "bin": "2"})
    assert (result.status, result.value["result"]) == ("ok", b"INIT+D12")


def test_pass_starts_again(stack: Any) -> None:
    """Example 3: passes until the third pass, then ok."""
    made = stack.get(_stack("plus1@1.0", result="INIT", do="pass"), {"path": "append", "bin": "_"})
    assert made["result"] == b"INIT+D1_+D1_+D1_"
    assert "pass" not in made


def test_prefixes(stack: Any) -> None:
    """Example 4: each entry reads and writes under its own prefix."""
    base = _stack("copy@1.0", "copy@1.0") | {
        "input-prefixes": {"1": "in1/", "2": "in2/"},
        "output-prefixes": {"1": "out1/", "2": "out2/"},
    }
    made = stack.get(base, {"path": "compute", "in1": {"example": 1}, "in2": {"example": 2}})
    assert (made["out1"]["example"], made["out2"]["example"]) == (1, 2)


def test_map_mode(stack: Any) -> None:
    """Example 5: every entry's own result, by entry."""
    made = stack.get(_stack("plus1@1.0", "d2@1.0", result="INIT", mode="Map"), {"path": "append", "bin": "/"})
    assert list(made) == ["1", "2"]
    assert made["1"]["result"] == b"INIT+D1/"
    assert made["2"]["result"] == b"INIT_D2_/"


def test_map_mode_of_the_request_and_named_entries(stack: Any) -> None:
    base = Message({"device": "stack@1.0", "device-stack": {"a": "d1@1.0"}, "result": "I"})
    assert stack.get(base, {"path": "x", "bin": "1", "mode": "Map"})["a"]["result"] == b"I!D1!1"


def test_an_unknown_key_is_skipped(stack: Any) -> None:
    """A device that does not know the key answers not_found and is passed over."""
    made = stack.get(_stack("message@1.0", "d2@1.0", result="I"), {"path": "append", "bin": "1"})
    assert made["result"] == b"I_D2_1"


def test_a_literal_ends_the_stack(stack: Any) -> None:
    assert stack.get(_stack("message@1.0", "d2@1.0", result="I"), "result") == b"I"


def test_transform_picks_one_device(stack: Any) -> None:
    base = _stack("d1@1.0", "d2@1.0", result="I")
    assert stack.get(base, {"path": "transform/2/append", "bin": "x"})["result"] == b"I_D2_x"
    with pytest.raises(KeyNotFound, match="no entry '3'"):
        stack.get(base, {"path": "transform/3/append"})


def test_stack_keys_limit_the_stack(stack: Any) -> None:
    base = _stack("d1@1.0", result="I") | {"stack-keys": ["append"], "other": "plain"}
    assert stack.get(base, "other") == b"plain"
    assert stack.get(base, {"path": "append", "bin": "1"})["result"] == b"I!D1!1"


def test_errors_name_the_entry(stack: Any) -> None:
    with pytest.raises(ParameterError, match="device-stack"):
        stack.get(Message({"device": "stack@1.0"}), "append")
    with pytest.raises(ParameterError, match="Fold or Map"):
        stack.get(_stack("d1@1.0", mode="Sideways"), "append")
    with pytest.raises(DeviceError, match=r"entry 1 of the stack \('plus1@1.0'\).*failure.*no luck"):
        stack.get(_stack("plus1@1.0", result="I", do="fail"), "append")


def test_endless_passes_end(stack: Any) -> None:
    with pytest.raises(SizeError):
        stack.get(_stack("multipass@1.0", passes=999_999_999), "append")


def test_results_do_not_depend_on_the_run(stack: Any, bench: Any) -> None:
    """The same stack on a fresh resolver gives the same ID and hashpath."""
    base = _stack("multipass@1.0", "d1@1.0", result="I", passes=1)
    fresh = type(bench)(DEVICES)
    first, second = (one.get(base, {"path": "x", "bin": "1"}) for one in (stack, fresh))
    fresh.actors.stop()
    assert (unsigned_id(first), first.hashpath) == (unsigned_id(second), second.hashpath)


# -- multipass -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "status"), [({}, "ok"), ({"passes": 2}, "pass"), ({"pass": "2", "passes": "2"}, "ok")]
)
def test_multipass(bench: Any, keys: dict[str, Any], status: str) -> None:
    base = Message({"device": "multipass@1.0", **keys})
    result = bench.step(base, "compute")
    assert (result.status, result.value) == (status, base)


def test_multipass_refuses_words(bench: Any) -> None:
    with pytest.raises(ParameterError, match="'passes' must be a whole number"):
        bench.step(Message({"device": "multipass@1.0", "passes": "many"}), "compute")


def test_multipass_leaves_set_alone(bench: Any) -> None:
    base = Message({"device": "multipass@1.0", "passes": 2})
    assert bench.get(base, {"path": "set", "a": 1})["a"] == 1


# -- dedup ---------------------------------------------------------------------------------------


def _send(stack: Any, base: Message, bins: str) -> Message:
    for text in bins:
        base = stack.get(base, {"path": "append", "bin": text})
    return base


def test_dedup_in_a_stack(stack: Any) -> None:
    base = _stack("dedup@1.0", "twos@1.0", "threes@1.0", result="INIT") | {"dedup-subject": "request"}
    made = _send(stack, base, "__//")
    assert made["result"] == b"INIT+D2_+D3_+D2/+D3/"
    assert made["dedup"]["device"] == b"trie@1.0"
    assert len(stack.get(made["dedup"], "keys")) == 2


def test_dedup_with_multipass(stack: Any) -> None:
    base = _stack("dedup@1.0", "twos@1.0", "threes@1.0", "multipass@1.0", result="INIT", passes=2)
    made = _send(stack, base | {"dedup-subject": "request"}, "__//")
    assert made["result"] == b"INIT+D2_+D3_+D2_+D3_+D2/+D3/+D2/+D3/"


def test_dedup_notes_the_slot(bench: Any) -> None:
    base = Message({"device": "dedup@1.0"})
    first = bench.get(base, {"path": "compute", "body": "hello", "slot": 7})
    name = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"
    assert first["dedup"][name] == 7
    again = bench.step(first, {"path": "compute", "body": "hello", "slot": 8})
    assert (again.status, again.value) == ("skip", first)


def test_dedup_of_a_message_is_by_signed_id(bench: Any, alice: Any) -> None:
    """Signed and unsigned, the same content is two subjects."""
    base = Message({"device": "dedup@1.0"})
    plain = Message({"action": "go"})
    seen = bench.get(base, Message({"path": "compute", "body": plain}))
    assert bench.step(seen, Message({"path": "compute", "body": commit(plain, alice)})).status == "ok"
    assert bench.step(seen, Message({"path": "compute", "body": plain})).status == "skip"


def test_dedup_without_subject_and_on_later_passes(bench: Any) -> None:
    base = Message({"device": "dedup@1.0"})
    assert bench.get(base, "compute") == base
    later = base | {"pass": 2}
    assert bench.get(later, {"path": "compute", "body": "x"}) == later


def test_dedup_takes_over_the_list_of_older_states(bench: Any) -> None:
    known = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"
    base = Message({"device": "dedup@1.0", "dedup": [known]})
    assert bench.step(base, {"path": "compute", "body": "hello"}).status == "skip"
    assert bench.get(base, {"path": "compute", "body": "other"})["dedup"]["device"] == b"trie@1.0"
