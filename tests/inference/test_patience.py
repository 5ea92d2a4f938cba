"""Answers that are made again where the model must be loaded first: loading takes as long as it takes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hyperpy.audit.replay import Options
from hyperpy.audit.verified import replayed
from hyperpy.config import load
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.inference.serving import Models
from hyperpy.verdicts import Verdict
from tests.devices.mailing import Mailer, send
from tests.devices.parts import place

CHAT = "/~inference@1.0/v1/chat/completions"
STEP_S, LOAD_S = 2.0, 3.0


@pytest.mark.parametrize("mailed", [False, True])
def test_loading_counts_against_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mailed: bool) -> None:
    file = tmp_path / "toy.gguf"
    file.write_bytes(toy.gguf_bytes())
    Library(tmp_path / "kept").add(file, "toy")
    flags = {"inference.models": str(tmp_path / "kept"), "inference.engine": "reference"}
    with place(Mailer, flags=flags) as here:
        named = json.loads(here.web.http("GET", "/~inference@1.0/v1/models").body)["data"][0]["reference"]
        if mailed:
            ref = here.spawn("inference@1.0", model=named)
            slot = send(here, ref, data="hello", **{"x-options": '{"max_tokens": 3, "temperature": 0}'})
            assert here.get(ref, f"compute={slot}")["results"]["outbox"]["1"]["action"] == b"Inference-Response"  # type: ignore[index,call-overload]
        else:
            document = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            ref = (
                here.web.post(CHAT, json.dumps(document).encode(), {"content-type": "application/json"}).hashpath or ""
            )
        receipt = here.web.get(f"/~audit@1.0/receipt?ref={ref}")["body"]
    assert isinstance(receipt, bytes)
    config, honest = load(environ={}, flags=flags), Models._load

    def slowly(self: Models, ref: str) -> Any:
        time.sleep(LOAD_S)
        return honest(self, ref)

    monkeypatch.setattr(Models, "_load", slowly)
    hasty = replayed(receipt, Options(config=config, seconds=STEP_S))
    assert "time" in {one.rule for step in hasty.steps for one in step.findings}
    patient = replayed(receipt, Options(config=config, seconds=STEP_S, loading=60.0))
    assert [one for step in patient.steps for one in step.findings if one.rule == "time"] == []
    assert patient.verdict in (Verdict.REPRODUCED, Verdict.ATTESTED)
