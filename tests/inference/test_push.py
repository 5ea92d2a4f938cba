"""A process asks a model through ``push``: request, answer and delivery are made again as one, from a store alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from tests.devices import mailing
from tests.devices.mailing import Mailer, send, spawn
from tests.devices.parts import Place, place

OPTIONS = json.dumps({"temperature": 0, "max_tokens": 5})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the toy in it."""
    folder = tmp_path_factory.mktemp("models")
    file = folder / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(folder / "kept").add(file, "toy")
    return folder / "kept"


def flags(models: Path) -> dict[str, Any]:
    return {"inference.models": str(models), "inference.engine": "reference", "limits.deadline": 120.0}


def asked(here: Place) -> tuple[str, str, str]:
    """Have one process ask another that is a model; return both, and the hashpath of the push."""
    row = json.loads(here.web.http("GET", "/~inference@1.0/v1/models").body)["data"][0]
    model = here.spawn("inference@1.0", model=row["reference"], authority=here.node.address)
    asker = spawn(here, "2")
    question = {"target": model, "action": "Infer", "data": "hello", "x-options": OPTIONS}
    slot = send(here, asker, outbox={"1": question})
    reply = here.get(asker, f"push&slot={slot}")
    assert reply["status"] == 200
    return model, asker, reply.hashpath or ""


def told(report: dict[str, Any]) -> dict[tuple[str, str, int | None], set[str]]:
    """Return the verdicts of a report, by device, key and slot."""
    found: dict[tuple[str, str, int | None], set[str]] = {}
    for step in report["steps"]:
        found.setdefault((step["device"], step["key"], step.get("slot")), set()).add(step["verdict"])
    return found


WHOLE = {
    ("mailer@1.0", "compute", 0): {"reproduced"},  # the asker begins,
    ("mailer@1.0", "compute", 1): {"reproduced"},  # asks,
    ("inference@1.0", "compute", 0): {"reproduced"},
    ("inference@1.0", "compute", 1): {"reproduced"},  # is answered,
    ("mailer@1.0", "compute", 2): {"reproduced"},  # and has the answer
    ("process@1.0", "compute", None): {"reproduced"},
    ("scheduler@1.0", "schedule", None): {"attested"},
    ("process@1.0", "schedule", None): {"attested"},
    ("push@1.0", "push", None): {"attested"},
    ("process@1.0", "push", None): {"attested"},
}
"""What is computed is made again; that something was scheduled and sent is the node's word, and compared."""


def run(folder: Path, models: Path, *words: str, code: int) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parents[2]  # the device's file imports its neighbours
    environment = {**os.environ, "HYPERPY_MODELS": str(models), "PYTHONPATH": str(here)}
    command = [sys.executable, "-m", "hyperpy", *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.timeout(180)
def test_the_whole_is_made_again_offline(models: Path, tmp_path: Path) -> None:
    """By the push's hashpath, from the store that the node left and from a receipt of it alone."""
    with place(Mailer, flags=flags(models), store=tmp_path / "s") as here:
        model, asker, push = asked(here)
        question, answer = here.slots.read(model, 1), here.slots.read(asker, 2)
        assert question is not None
        assert answer is not None
        assert question["body"]["from-process"] == asker.encode()  # type: ignore[index,call-overload]
        assert answer["body"]["from-process"] == model.encode()  # type: ignore[index,call-overload]
        assert answer["body"]["action"] == b"Inference-Response"  # type: ignore[index,call-overload]
        report = json.loads(here.web.get(f"/~audit@1.0/replay?ref={push}")["body"])  # type: ignore[arg-type]
    assert told(report) == WHOLE
    device = ("--device", str(mailing.__file__), "--json", "--seconds", "120")
    found = json.loads(run(tmp_path, models, "replay", push, "--store", "s", *device, code=2).stdout)
    assert (found["verdict"], told(found)) == ("attested", WHOLE), "what is left is that the node sent it"
    run(tmp_path, models, "receipt", push, "--store", "s", "--no-sign", "-o", "r.receipt", code=0)
    found = json.loads(run(tmp_path, models, "verify", "r.receipt", "--replay", *device, code=2).stdout)
    assert (found["verdict"], told(found)) == ("attested", WHOLE)
    for process in (model, asker):
        assert json.loads(run(tmp_path, models, "replay", process, "--store", "s", *device, code=0).stdout)[
            "verdict"
        ] == ("reproduced")


def test_a_lie_in_the_answer_is_found_where_it_was_told(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's process lied; who believed it computed rightly from what it was sent."""
    with place(Mailer, flags=flags(models)) as here:
        instance = here.node.registry.lookup("inference@1.0").instance
        forms = type(instance)._answered.__globals__["Forms"]
        honest, lie = forms.whole, (b'"content":"', b'"content":"x')
        monkeypatch.setattr(forms, "whole", lambda self, made: honest(self, made).replace(*lie))
        model, asker, push = asked(here)
        monkeypatch.undo()
        report = json.loads(here.web.get(f"/~audit@1.0/replay?ref={push}")["body"])  # type: ignore[arg-type]
        liars = [step for step in report["steps"] if step["verdict"] not in ("reproduced", "attested")]
        told_to = here.slots.read(asker, 2)
        assert told_to is not None
        assert told_to["body"]["data"].count(b'"content":"x') == 1  # type: ignore[index,call-overload,union-attr]
        definition = here.node._lend["store"].read(model)
    assert [(step["device"], step.get("slot")) for step in liars] == [("inference@1.0", 1), ("process@1.0", None)]
    assert [step["findings"][0]["rule"] for step in liars] == ["result", "base"], "the slot, and what handed it on"
    assert commitments.signed_id(definition) == liars[0]["process"] == model
