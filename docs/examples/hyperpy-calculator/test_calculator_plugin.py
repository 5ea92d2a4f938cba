"""Tests of calculator-plugin@1.0."""

from pathlib import Path

import pytest

from hyperpy.testing import node

DEVICE = Path(__file__).with_name("calculator_plugin.py")


@pytest.mark.parametrize(("path", "body"), [("add&b=2", 9), ("multiply&b=2", 14)])
def test_paths(path: str, body: int) -> None:
    with node(DEVICE) as n:
        assert n.get(f"/~calculator-plugin@1.0&a=7/{path}")["body"] == body
