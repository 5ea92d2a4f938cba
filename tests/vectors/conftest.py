"""Prints the table of vector verdicts at the end of a run."""

from __future__ import annotations

from typing import Any

from outcome import HEADING, TALLIES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write one line a file: cases, equal, by rule, mixed, later, failed."""
    if not TALLIES:
        return
    terminalreporter.section("vectors")
    terminalreporter.write_line(HEADING)
    for name in sorted(TALLIES):
        terminalreporter.write_line(TALLIES[name].line())
