"""Reports made by hand, for tests of how they are shown."""

from __future__ import annotations

from typing import Any

from hyperpy.encoding import b64u, sha256
from hyperpy.verdicts import Edge, Finding, Report, StepReport, Verdict


def name(*parts: object) -> str:
    """Return an ID that these parts always give."""
    return b64u(sha256(repr(parts).encode()))


def step(number: int, verdict: Verdict = Verdict.REPRODUCED, **more: Any) -> StepReport:
    """Return the step of that number in a chain."""
    fields: dict[str, Any] = {
        "record": name("record", number),
        "device": "calculator@1.0",
        "key": "add",
        "status": "ok",
        "base": name("message", number - 1),
        "request": name("request", number),
        "result": name("message", number),
        "before": name("path", number - 1) + "/add",
        "after": name("path", number) + "/add",
    }
    return StepReport(**{**fields, "verdict": verdict, **more})


def edge(source: int, target: int, kind: str = "next") -> Edge:
    """Return the edge between the steps of those numbers."""
    return Edge(name("record", source), name("record", target), kind)


def chain(size: int) -> Report:
    """Return a report of steps that follow each other, all in order."""
    return Report("X/add", [step(n) for n in range(size)], [edge(n, n + 1) for n in range(size - 1)], total=size)


def processes(size: int, fault: int) -> Report:
    """Return a report of two processes' slots with attested parts, one of which diverged."""
    steps, edges, last = [], [], dict[int, int]()
    for n in range(size):
        which = n % 2
        if n % 6 >= 4:
            steps.append(step(n, Verdict.ATTESTED, parent=name("record", n - 3), attested_by=(name("signer"),)))
            edges.append(edge(n, n - 3, "part"))
            continue
        found = (Finding("result", "another result", expected=name("wanted"), got=name("made")),)
        verdict = Verdict.DIVERGED if n == fault else Verdict.REPRODUCED
        slot = (name("process", which), n // 2)
        steps.append(step(n, verdict, slot=slot, findings=found if n == fault else ()))
        if which in last:
            edges.append(edge(last[which], n, "slot"))
        last[which] = n
    return Report("P", steps, edges, total=size)
