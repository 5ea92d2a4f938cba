"""What came of one vector case, and the tally that the table at the end of a run prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Status = Literal["equal", "rule", "mixed", "later", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Outcome:
    """One case's verdict.

    ``equal``: as recorded by the one reference. ``rule``: as the rule table says, where the
    references differ or a rule of ours applies. ``mixed``: some fields as one reference, the
    others as the other. ``later``: belongs to a part that is not built yet. ``failed``: anything else.
    """

    status: Status
    rules: tuple[str, ...] = ()
    detail: str = ""


def verdict(label: Status, rules: Sequence[str], problems: Sequence[str]) -> Outcome:
    """Return ``label``, or ``failed`` with what differs; problems are short texts."""
    if problems:
        return Outcome("failed", tuple(rules), "; ".join(problems)[:600])
    return Outcome(label, tuple(rules))


@dataclass
class Tally:
    """The verdicts of one file."""

    name: str
    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    own: int = 0
    note: str = ""

    def add(self, outcome: Outcome) -> None:
        """Count one verdict."""
        self.cases += 1
        self.counts[outcome.status] += 1
        if outcome.status != "failed":
            self.rules.update(outcome.rules)

    @property
    def own_share(self) -> float:
        """The share of comparable cases that fall under rules of our own."""
        return self.own / max(1, self.cases - self.counts["later"])

    def line(self) -> str:
        """Return the file's line of the table."""
        figures = "".join(f"{self.counts[status]:>8}" for status in STATUSES)
        return f"{self.name:<26}{self.cases:>7}{figures}  {self.note}".rstrip()


TALLIES: dict[str, Tally] = {}
HEADING = f"{'file':<26}{'cases':>7}" + "".join(f"{status:>8}" for status in STATUSES)
