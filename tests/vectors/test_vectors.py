"""Every vector file, case by case, against its runner.

A file's ``kind`` names its runner, ``run_<kind>.py``, which exports ``run(header, case)`` and
perhaps ``close()``. One test a file; the table at the end of the run has one line a file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import rules
import schema
from outcome import TALLIES, Outcome, Tally

FILES = sorted(path.name for path in schema.folder().glob("*.json"))
OWN_SHARE = 0.02
SHOWN = 25


def runner(kind: str) -> tuple[Callable[[Any, Any], Outcome], Callable[[], None]]:
    """Return a kind's ``run`` and ``close``; a kind without a runner fails every case."""
    try:
        module = importlib.import_module(f"run_{kind}")
    except ImportError as error:
        missing = str(error)
        return (lambda header, case: Outcome("failed", detail=f"no runner for this kind: {missing}")), lambda: None
    return module.run, getattr(module, "close", lambda: None)


def judge(run: Callable[[Any, Any], Outcome], header: Any, case: Any) -> tuple[Outcome, bool]:
    """Run one case; return the verdict and whether a rule of ours was used."""
    case, name = rules.own(header["kind"], case)
    try:
        outcome = run(header, case)
    except Exception as error:  # a runner's failure is that case's failure, with its text
        return Outcome("failed", detail=f"{type(error).__name__}: {str(error)[:200]}"), False
    if name is not None and outcome.status != "failed":
        return Outcome("rule", (*outcome.rules, name)), True
    return outcome, bool(rules.OWN_NAMES.intersection(outcome.rules))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES or [pytest.param("none", marks=pytest.mark.skip("no vectors: HYPERPY_SHARED"))])
def test_file(name: str) -> None:
    """Each case gives the recorded result, or the one the rule table says."""
    header, cases = schema.load(schema.folder() / name)
    tally = TALLIES[name] = Tally(name)
    run, close = runner(header["kind"])
    failures = []
    try:
        for case in cases:
            outcome, is_own = judge(run, header, case)
            tally.add(outcome)
            tally.own += is_own
            if outcome.status == "failed":
                failures.append(f"{case['n']} {case.get('op', '')} {case['name']}: {outcome.detail}")
    finally:
        close()
    if failures:
        if len({line.partition(": ")[2] for line in failures}) == 1:
            pytest.fail(f"all {len(failures)} failed cases: {failures[0]}", pytrace=False)
        more = [f"... and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
        pytest.fail(
            f"{len(failures)} of {len(cases)} cases failed\n" + "\n".join(failures[:SHOWN] + more), pytrace=False
        )
    assert not tally.counts["later"]
    assert tally.own_share <= OWN_SHARE, f"{tally.own} of {tally.cases} cases need rules of our own"


@pytest.mark.parametrize("name", FILES)
def test_rules_have_sides(name: str) -> None:
    """Every rule that an overlay names has a side in the table."""
    _, cases = schema.load(schema.folder() / name)
    named = {rule for case in cases if case["final"] for rule in case["final"]["rules"]}
    assert named <= rules.SIDES.keys()
