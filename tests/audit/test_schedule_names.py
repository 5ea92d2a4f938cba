"""A schedule's rows name their assignments' IDs; an audit works these out itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperpy import hashpath
from hyperpy.codecs import canonical, whole
from hyperpy.encoding import native
from hyperpy.store.schedule import read_assignment
from hyperpy.trail import Trail
from hyperpy.verdicts import Verdict
from tests.audit.lies import audit, forge, rules
from tests.devices.parts import Count, Place, place

OTHER = "B" * 42 + "A"


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.mark.parametrize("lie", ["signed", "hashpath"])
def test_rows_and_record_agree_on_another_name(here: Place, lie: str) -> None:
    """The last slot's request is called otherwise in the schedule's row and in the record, alike."""
    process = here.spawn("count@1.0")
    here.send(process, action="a")
    assert here.get(process, "now")["status"] == 200
    store = here.node.store
    record = Trail(store).by_slot(process, 1)
    assert record is not None
    assert audit(store, process, devices=(Count,)).verdict is Verdict.REPRODUCED
    row = native(process) + (1).to_bytes(8, "big")
    data = store.get("assignments", row)
    assert data is not None
    chain, assignment = read_assignment(data)
    names = [assignment.memo["id all"], assignment.memo["hashpath-id"]]
    if lie == "signed":
        names[0] = OTHER
        forge(store, record, request=OTHER)
    else:
        names[1] = OTHER
        forge(store, record, hashpath_after=hashpath.combine(record.hashpath_before, OTHER, "sha-256-chain"))
    forged = canonical.encode((chain, whole.plain(assignment), tuple(name.encode() for name in names)))
    store.write([("assignments", row, forged)])
    report = audit(store, process, devices=(Count,))
    step = next(one for one in report.steps if one.slot == (process, 1))
    assert step.verdict is Verdict.INVALID
    assert "schedule-name" in rules(step)
