"""The test farm of lying nodes: each lie is caught by its command, named by its rule and located to its step."""

from __future__ import annotations

import pytest

from tests.audit import farm_processes, farm_store
from tests.audit.farm import Farm, Lie, check

FARM = Farm([*farm_store.FARM.lies, *farm_processes.FARM.lies])


@pytest.mark.parametrize("lie", FARM.lies, ids=lambda one: one.name)
def test_a_lie_is_caught_named_and_located(lie: Lie) -> None:
    check(lie, lie.plant())
