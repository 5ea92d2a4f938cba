"""The log of a serving node: what each level shows, and what none shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from hyperpy.cli import logs
from hyperpy.testing import node


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    package = logging.getLogger("hyperpy")
    before = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.level, package.propagate = before


def test_one_json_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", as_json=True)
    with node() as n:
        logs.log_steps(n.node)
        n.get("/~calculator@1.0&a=1/add&b=2")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("calculator@1.0/add ok", "debug")]


def test_steps_are_silent_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    with node() as n:
        logs.log_steps(n.node)
        n.get("/~calculator@1.0&a=1/add&b=2")
        assert n.node.resolver.observers == [n.node.metrics.step], "nobody listens who has nothing to say"
    assert capsys.readouterr().err == ""


def test_a_trace_goes_to_the_log_on_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", as_json=True)
    try:
        raise ValueError("a\nb\x1b[2J")
    except ValueError:
        logging.getLogger("hyperpy.device").exception("incident %s", "1234")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found["event"] == "incident 1234"
    assert "ValueError" in found["exception"]
    assert "\x1b" not in line
