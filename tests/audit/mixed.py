"""A mixed computation of more than 1,000 steps, all honest; as a program it computes one into a folder.

python -m tests.audit.mixed FOLDER      # prints the hashpath of the last answer of each kind
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hyperpy import Message
from hyperpy.commitments import commit
from hyperpy.testing import TestNode, wallet
from tests.audit.lies import DEVICES, keep
from tests.devices.lua_parts import module
from tests.devices.mailing import Mailer, post, send, spawn
from tests.devices.parts import Count, Place, place
from tests.devices.test_wasm_processes import image_of
from tests.devices.wasm_images import STATE, wasm

AUDITED: tuple[type, ...] = (Mailer, Count, *DEVICES)
STACK = "/~stack@1.0&device-stack=(/~message@1.0&1=calculator@1.0&2=message@1.0)"
LUA = b"""
function compute(base, req)
  base.count = (base.count or 0) + 1
  seen = (seen or 0) + base.count
  base.results = {output = seen}
  return base
end
"""
LARGE = "x" * 200_000
ROUNDS = 60


def paths(here: Place) -> list[str]:
    """Return templates of paths that must be answered with 200."""
    base = keep(here.node.store, Message({"device": "calculator@1.0", "a": 1}))
    nested = keep(here.node.store, Message({"in": {"deep": {"device": "calculator@1.0", "a": 4, "b": 5}}}))
    return [
        "/~message@1.0&a={n}/set&b=2/~calculator@1.0&b={n}/add&a=3",
        "/~message@1.0&a={n}/set&x=(/~calculator@1.0&a={n}/add&b=2)/set&y=(/~dice@1.0/roll)",
        "/~message@1.0&x=(/~calculator@1.0&a={n}/add&b=2)&y=(/~message@1.0&q=(/~dice@1.0/roll)/q)/set&z=1",
        "/~dice@1.0&n={n}/twice/set&x=1/first",
        f"/{base}/add&b=" + "{m}",
        f"/{nested}/in/deep/add",
        f"/{nested}/set&n=" + "{n}/in~message@1.0/deep~calculator@1.0/multiply",
        "/~box@1.0&n={n}/open/fill/fill",
        "/~message@1.0&a+integer={n}&list=(/~message@1.0&1=x&2=y)/list/1",
        "/~json@1.0&a={n}/serialize",
    ]


def compute(here: Place) -> list[str]:
    """Compute all of it; return the hashpath of the last answer of each kind."""
    asked = TestNode(here.node)
    last: dict[str, str] = {}
    for template in paths(here):
        for number in range(ROUNDS):
            reply = asked.get(template.format(n=number, m=number % 7))
            assert reply["status"] == 200, (template, reply)
            last[template] = reply.hashpath or ""
    for number in range(ROUNDS):
        asked.get(f"/~message@1.0&a={number}/missing")
        asked.get(f"/~dice@1.0&n={number}/fails")
        asked.get(f"{STACK}&a={number}/add&b=2")
    for number in range(10):
        signed = commit(Message({"a": number, "note": "signed", "part": {"b": [1, 2, number]}}), wallet("author"))
        assert post(here, "/~message@1.0/set", signed).status == 200
        outbox = {"1": {"method": "PATCH", "prices": {"apple": number}}}
        patch = Message({"device": "patch@1.0", "results": {"outbox": outbox}, "patch-from": "/results/outbox"})
        name = keep(here.node.store, patch)
        assert asked.get(f"/{name}/patches")["status"] == 200
        reply = asked.post(f"/~message@1.0&n={number}/set&m=1", f"{number}{LARGE}".encode())
        last["large"] = reply.hashpath or ""
    return [*(one for one in last.values() if one), *processes(here, asked)]


def processes(here: Place, asked: TestNode) -> list[str]:
    """Compute processes of four devices, with mail between two of them."""
    counter = here.spawn("count@1.0")
    lua = here.spawn("lua@5.3a", **module(LUA))
    guest = here.spawn("wasm-64@1.0", image=image_of(here, wasm(STATE)))
    for number in range(60):
        here.send(counter, *(("fail",) if number % 9 == 8 else ()), action=str(number))
    for number in range(20):
        here.send(lua, action=str(number))
        here.send(guest, function=("step", "grow", "spoil")[number % 3], parameters=[])
    first, second = spawn(here, "1"), spawn(here, "2")
    mail = (("ping", "Ping"), ("plain", "Tell"))
    slots = [send(here, first, outbox={name: {"target": second, "Action": action}}) for name, action in mail]
    for slot in slots:
        assert asked.get(f"/{first}/push&slot={slot}")["status"] == 200
    assert asked.get(f"/{first}/push&slot=1")["status"] == 200, "pushed again: nothing is sent twice"
    found = []
    for process in (counter, lua, guest, first, second):
        for path in ("compute=1/results", "now/results", "compute/at-slot"):
            found.append(asked.get(f"/{process}/{path}").hashpath)
    into = asked.get(f"/~message@1.0&a=1/set&b=(/{first}/now/got/2)")
    assert into["status"] == 200
    return [one for one in (*found, into.hashpath) if one]


def computed(store: Any = None) -> list[str]:
    """Run a node on a store and let it compute everything."""
    with place(Mailer, *DEVICES, store=store) as here:
        return compute(here)


if __name__ == "__main__":
    print(json.dumps(computed(Path(sys.argv[1]))))
