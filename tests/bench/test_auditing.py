"""The benchmark of auditing runs, and what it audits is reproduced."""

from __future__ import annotations

from hyperpy.bench import auditing


def test_it_runs() -> None:
    found = {one.name: one for one in auditing.rows(12, 20, 3)}
    assert found["states compared to find one of 100,000 slots"].value <= 20
    assert all(one.value > 0 for one in found.values() if one.unit != "%")
    sizes = [one.value for name, one in found.items() if "bytes a step" in name]
    assert len(sizes) == 3
    assert max(sizes) < 2 * min(sizes), "a receipt grows with what it proves, and no faster"
