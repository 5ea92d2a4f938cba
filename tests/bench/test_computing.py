"""The benchmark of computing runs, and computes what it says."""

from __future__ import annotations

from hyperpy.bench import computing
from hyperpy.message import Message


def test_it_runs() -> None:
    rows = computing.rows(20)
    assert [row.name for row in rows] == [
        "compute one slot, Python device",
        "now, nothing to do",
        "compute one slot, Lua counter",
    ]
    assert all(0 < row.low <= row.us <= row.high for row in rows)
    assert all(row.budget for row in rows)
    points = computing.replay(20, 4)
    assert [point.slots for point in points] == [5, 10, 15, 20]
    assert all(point.us > 0 and point.rss_kb > 0 for point in points)


def test_what_is_computed_is_right() -> None:
    for lua in (False, True):
        with computing.scheduled(3, lua=lua) as (node, process):
            computing.compute_to(node, process, 2)
            state = node._lend["slots"].state(process, 2)
            assert isinstance(state, Message)
            assert (state["count"], state["at-slot"]) == (3, 2)
