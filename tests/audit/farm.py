"""The test farm: each lie by name, who tells it, which command catches it, by which rule and where.

A lie is planted by a function that returns what the command said and where the lie was. Whether it was
named and located is for :func:`check` to say; the table is part of docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from hyperpy import Message
from hyperpy.encoding import b64u
from hyperpy.testing import TestNode, node
from hyperpy.trail import Record
from hyperpy.verdicts import Report, StepReport, Verdict
from tests.audit.lies import DEVICES, audit, everything

CHAIN: Final = "/~message@1.0&a=1/set&b=2/set&c=3/set&d=4"
WHOLE: Final = "the file"


@dataclass(frozen=True, slots=True)
class Caught:
    """What a command said of a lie.

    Attributes:
        at: the record ID or the slot of the lie; empty: it is in no step, but in the file or the schedule.
    """

    report: Report
    at: str | int = ""


@dataclass(frozen=True, slots=True)
class Lie:
    """One row of the table; ``step`` says in words where the lie is, ``plant`` tells it."""

    name: str
    who: str
    command: str
    rule: str
    step: str
    verdict: Verdict
    plant: Callable[[], Caught]

    @property
    def row(self) -> str:
        """The row of docs/audit.md."""
        return f"| {self.name} | {self.who} | `{self.command}` | `{self.rule}` | {self.step} | {self.verdict.value} |"


HEAD: Final = ("| lie | told by | caught by | rule | where | verdict |", "|---|---|---|---|---|---|")


@dataclass(slots=True)
class Farm:
    """All lies, in the order in which they were written down."""

    lies: list[Lie] = field(default_factory=list)

    def lie(
        self, name: str, who: str, command: str, rule: str, step: str, verdict: Verdict = Verdict.INVALID
    ) -> Callable[[Callable[[], Caught]], Callable[[], Caught]]:
        """Put a lie on the list."""

        def keep(plant: Callable[[], Caught]) -> Callable[[], Caught]:
            self.lies.append(Lie(name, who, command, rule, step, verdict, plant))
            return plant

        return keep

    def table(self) -> str:
        """Return the table as docs/audit.md has it."""
        return "\n".join((*HEAD, *(one.row for one in self.lies)))


def is_at(step: StepReport, at: str | int) -> bool:
    """Say whether a step is the one with that record ID or slot."""
    return step.slot is not None and step.slot[1] == at if isinstance(at, int) else step.record == at


def check(lie: Lie, caught: Caught) -> None:
    """Assert that a lie was caught: by its rule, in its step, and nothing before it was accused."""
    report = caught.report
    shown = [(one.device, one.key, one.slot, one.verdict.value, [f.rule for f in one.findings]) for one in report.steps]
    said = (shown, [(one.rule, one.text) for one in report.findings])
    assert report.verdict is lie.verdict, said
    assert report.exit_code() == lie.verdict.exit_code != 0
    if caught.at == "":
        assert lie.rule in {one.rule for one in report.findings}, said
        return
    place = next(number for number, step in enumerate(report.steps) if is_at(step, caught.at))
    found = report.steps[place]
    assert lie.rule in {one.rule for one in found.findings}, said
    assert found.verdict is lie.verdict, said
    assert not [step for step in report.steps[:place] if step.findings], said
    if lie.verdict.exit_code == 1:
        assert report.first_fault is found, said


def name_of(record: Record) -> str:
    """Return a record's ID as reports have it."""
    return b64u(record.id)


@contextmanager
def told(*paths: str) -> Iterator[tuple[TestNode, Message]]:
    """Run a node that was asked for some paths; yield it and its last reply."""
    with node(*DEVICES) as here:
        reply = Message()
        for path in paths or (CHAIN,):
            reply = here.get(path)
        yield here, reply


def everything_of(here: TestNode) -> Report:
    """Return the audit of all that a node recorded."""
    return audit(here.node.store, roots=everything(here.node.store))
