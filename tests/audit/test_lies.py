"""The test farm of lying nodes: each lie is caught by its command, named by its rule and located to its step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.audit import farm_nodes, farm_processes, farm_receipts, farm_store
from tests.audit.farm import Farm, Lie, check

FARM = Farm(
    [*farm_store.FARM.lies, *farm_processes.FARM.lies, *farm_receipts.FARM.lies, *farm_nodes.FARM.lies],
)


@pytest.mark.parametrize("lie", FARM.lies, ids=lambda one: f"{one.command}: {one.name}")
def test_a_lie_is_caught_named_and_located(lie: Lie) -> None:
    check(lie, lie.plant())


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    names = [(one.command, one.name) for one in FARM.lies]
    assert len(set(names)) == len(names) >= 25
    assert {one.command.split()[0] for one in FARM.lies} == {
        "replay", "verify", "audit-peer", "challenge", "~fault@1.0/judge", "verify-schedule"
    }  # fmt: skip


def test_the_page_lists_them() -> None:
    """Run with ``-s`` to see the table."""
    print(FARM.table())
    page = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text("utf-8")
    found = re.search(r"\| lie \| told by .*?(?=\n\n)", page, re.DOTALL)
    assert found is not None
    assert found.group() == FARM.table(), "put the table that this test prints into docs/audit.md"
