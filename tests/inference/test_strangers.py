"""Anybody may write to a process of inference@1.0: no message stops it, and each is refused in the outbox."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.errors import DeviceTimeout
from hyperpy.inference import toy
from hyperpy.inference.batching import Batcher, Session
from hyperpy.inference.generation import Token
from hyperpy.inference.library import Library
from tests.devices.mailing import Mailer, send
from tests.devices.parts import Place, place

GOOD = {"data": "hello", "x-options": '{"temperature": 0, "max_tokens": 3}'}
NOBODY = "0" * 64


def library(folder: Path, metadata: dict[str, Any]) -> Path:
    file = folder / "toy.gguf"
    file.write_bytes(toy.write(metadata, toy.tensors()))
    Library(folder / "kept").add(file, "toy")
    return folder / "kept"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("models"), toy.metadata())


def flags(models: Path, **more: Any) -> dict[str, Any]:
    return {"inference.models": str(models), "inference.engine": "reference"} | {
        name.replace("_", "."): value for name, value in more.items()
    }


def reference(here: Place) -> str:
    found: str = json.loads(here.web.http("GET", "/~inference@1.0/v1/models").body)["data"][0]["reference"]
    return found


def replies(here: Place, process: str, *messages: dict[str, Any]) -> list[Message]:
    """Return what the outbox holds after each message."""
    found = []
    for one in messages:
        slot = send(here, process, **one)
        computed = here.get(process, f"compute={slot}")
        outbox = computed["results"]["outbox"]  # type: ignore[index,call-overload]
        found.append(outbox["1"])
    return found


def options(**given: Any) -> dict[str, Any]:
    return {"data": "hi", "x-options": json.dumps(given)}


@pytest.mark.parametrize(
    ("evil", "says"),
    [
        (options(max_tokens=1800, n=8), "at most 256 tokens"),
        (options(n=2), "at most 256 tokens"),
        (options(max_tokens=8, level=2), "levels 0 and 1"),
        (options(max_tokens=8, level=3), "levels 0 and 1"),
        (options(tee=True), "no evidence"),
        ({"data": json.dumps({"prompt": [1] * 2049, "max_tokens": 1})}, "at most 2048 tokens"),
        ({"data": json.dumps({"prompt": [1, 999999]})}, "prompt"),
        ({"data": json.dumps({"messages+link": "A" * 43})}, "a link"),
        ({"data": "hi", "x-options": json.dumps({"seed+link": "A" * 43})}, "a link"),
        ({"data": json.dumps({"messages": [{"role": "user", "content+link": "A" * 43}]})}, "a link"),
        ({"data": json.dumps({"messages": [{"role": "user", "content": "\ufdd0"}]})}, "U+FDD0"),
        (options(level=[1]), "level"),
        (options(max_tokens={"a": 1}), "max_tokens"),
        (options(stop=[["a"]]), "stop"),
        ({**GOOD, "data": json.dumps({"messages": [[]]})}, "turn"),
    ],
)
def test_what_a_process_does_not_answer_is_refused_and_the_next_message_answered(
    models: Path, evil: dict[str, Any], says: str
) -> None:
    with place(Mailer, flags=flags(models, inference_tokens=1)) as here:
        process = here.spawn("inference@1.0", model=reference(here))
        refused, answered = replies(here, process, evil, GOOD)
        assert refused["action"] == b"Inference-Error"
        assert says in refused.text("data")
        assert refused["target"] == here.author.address.encode()
        assert answered["action"] == b"Inference-Response"


def test_no_message_names_the_model(models: Path) -> None:
    """Whether a slot can be computed here is decided by the process, once and for all."""
    with place(Mailer, flags=flags(models)) as here:
        own = here.spawn("inference@1.0", model=reference(here))
        named, spoken = replies(here, own, {**GOOD, "model": NOBODY}, options(max_tokens=3, model=NOBODY))
        assert named["action"] == spoken["action"] == b"Inference-Response"
        none = here.spawn("inference@1.0", **{"random-seed": "2"})
        for one in replies(here, none, {**GOOD, "model": NOBODY}, {**GOOD, "model": reference(here)}, GOOD):
            assert one["action"] == b"Inference-Error"
            assert "names its model by reference" in one.text("data")
        elsewhere = here.spawn("inference@1.0", model=NOBODY, **{"random-seed": "3"})
        slot = send(here, elsewhere, **GOOD)
        assert here.get(elsewhere, f"compute={slot}")["status"] == 404
        assert here.slots.state(elsewhere, slot) is None, "a node that has the model may compute it"


def test_a_model_without_a_template_is_told_of_and_answers_ids(tmp_path: Path) -> None:
    metadata = toy.metadata()
    del metadata["tokenizer.chat_template"]
    with place(Mailer, flags=flags(library(tmp_path, metadata))) as here:
        process = here.spawn("inference@1.0", model=reference(here))
        refused, answered = replies(here, process, GOOD, {"data": '{"prompt": [1, 2, 3], "max_tokens": 2}'})
        assert refused["action"] == b"Inference-Error"
        assert "no chat template" in refused.text("data")
        assert answered["action"] == b"Inference-Response"


def test_what_a_message_carries_is_text(models: Path) -> None:
    with place(Mailer, flags=flags(models)) as here:
        process = here.spawn("inference@1.0", model=reference(here))
        carried = {"x-reference": "7", "x-session": {"a": {"b": 1}}, "from-process": {"c": 2}}
        long = {"x-reference": "7" * 1025, "x-session": "s"}
        odd, much = replies(here, process, {**GOOD, **carried}, {**GOOD, **long})
        assert (odd["x-reference"], odd.get("x-session"), odd["action"]) == (b"7", None, b"Inference-Response")
        assert odd["target"] == here.author.address.encode()
        assert (much.get("x-reference"), much["x-session"]) == (None, b"s")


def test_an_answer_longer_than_a_deadline_is_made_in_several(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that makes ten tokens within a deadline, here by count and not by the clock, makes 32 in the end."""
    made = [0]
    honest = Session.__next__

    def tired(self: Session) -> Token:
        made[0] += 1
        if made[0] > 10:
            raise DeviceTimeout("time ran out")
        return honest(self)

    drafts: list[list[int]] = []
    submit = Batcher.submit

    def watched(self: Batcher, *args: Any, draft: Any = (), **more: Any) -> Session:
        drafts.append(list(draft))
        made[0] = -len(drafts[-1])  # tokens that are read cost next to nothing
        return submit(self, *args, draft=draft, **more)

    question = {"data": "hello", "x-options": '{"temperature": 3, "seed": 1, "max_tokens": 32}'}
    with place(Mailer, flags=flags(models)) as here:
        process = here.spawn("inference@1.0", model=reference(here))
        slot = send(here, process, **question)
        with monkeypatch.context() as patched:
            patched.setattr(Session, "__next__", tired)
            patched.setattr(Batcher, "submit", watched)
            inference = here.node.registry.lookup("inference@1.0").instance
            answers = []
            for _ in range(5):
                try:
                    answers.append(_computed(inference, here, process, question))
                    break
                except DeviceTimeout:
                    continue
        whole = here.get(process, f"compute={slot}")["results"]["outbox"]["1"]["data"]  # type: ignore[index,call-overload]
        ids = json.loads(whole)["choices"][0]["token_ids"]  # type: ignore[arg-type]
    assert len(ids) > 20, "or the test shows nothing"
    assert drafts == [ids[:count] for count in range(0, len(ids), 10)]
    assert [one["data"] for one in answers] == [whole]


def _computed(inference: Any, here: Place, process: str, question: dict[str, Any]) -> Message:
    """Call the key itself, as a slot does that is tried again: without what a node does about slots that fail."""
    base = Message({"process": Message({"model": reference(here)})})
    ctx = SimpleNamespace(deadline=time.monotonic() + 60)
    found: Message = inference.compute(base, Message({"body": Message(question)}), ctx)["results"]["outbox"]["1"]
    return found
