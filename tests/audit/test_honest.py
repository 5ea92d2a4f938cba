"""A thousand honest steps of every kind: no false alarm."""

from __future__ import annotations

from collections import Counter

from hyperpy import Message
from hyperpy.testing import TestNode
from hyperpy.verdicts import Verdict
from tests.audit.lies import DEVICES, audit, everything, keep
from tests.devices.lua_parts import module
from tests.devices.mailing import Mailer, send, spawn
from tests.devices.parts import Count, place
from tests.devices.test_wasm_processes import image_of
from tests.devices.wasm_images import STATE, wasm

STACK = "/~stack@1.0&device-stack=(/~message@1.0&1=calculator@1.0&2=message@1.0)"
LUA = b"""
function compute(base, req)
  base.count = (base.count or 0) + 1
  seen = (seen or 0) + base.count
  base.results = {output = seen}
  return base
end
"""


def test_a_thousand_honest_steps() -> None:
    with place(Mailer, *DEVICES) as here:
        asked, store = TestNode(here.node), here.node.store
        base = keep(store, Message({"device": "calculator@1.0", "a": 1}))
        for number in range(70):
            for path in (
                f"/~message@1.0&a={number}/set&b=2/~calculator@1.0&b={number}/add&a=3",
                f"/~message@1.0&a={number}/set&x=(/~calculator@1.0&a={number}/add&b=2)/set&y=(/~dice@1.0/roll)",
                f"/~dice@1.0&n={number}/twice/set&x=1/first",
                f"/{base}/add&b={number % 7}",
                f"/~box@1.0&n={number}/open/fill/fill",
            ):
                assert asked.get(path)["status"] == 200, path
            asked.get(f"/~message@1.0&a={number}/missing")
            asked.get(f"/~dice@1.0&n={number}/fails")
            asked.get(f"{STACK}&a={number}/add&b=2")
        counter = here.spawn("count@1.0")
        lua = here.spawn("lua@5.3a", **module(LUA))
        guest = here.spawn("wasm-64@1.0", image=image_of(here, wasm(STATE)))
        for number in range(60):
            here.send(counter, *(("fail",) if number % 9 == 8 else ()), action=str(number))
        for number in range(20):
            here.send(lua, action=str(number))
            here.send(guest, function=("step", "grow", "spoil")[number % 3], parameters=[])
        first, second = spawn(here, "1"), spawn(here, "2")
        slot = send(here, first, outbox={"1": {"target": second, "Action": "Ping"}})
        assert asked.get(f"/{first}/push&slot={slot}")["status"] == 200
        for process in (counter, lua, guest, first, second):
            for path in ("compute=1/results", "now/results", "compute/at-slot"):
                asked.get(f"/{process}/{path}")
        report = audit(store, roots=everything(store), devices=(Mailer, Count, *DEVICES))
    assert {step.record: step.findings for step in report.steps if step.findings} == {}
    assert report.findings == []
    assert report.total == len(report.steps) >= 1000
    kinds = Counter(step.verdict for step in report.steps)
    assert set(kinds) == {Verdict.REPRODUCED, Verdict.ATTESTED}
    assert kinds[Verdict.REPRODUCED] > 700
    assert report.exit_code() in (0, 2)
