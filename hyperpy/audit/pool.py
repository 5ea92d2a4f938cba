"""Independent branches in processes of their own: each opens the evidence itself. This process works, too.

A branch is a chain of steps, or a process with all its slots; two that share no step are independent.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from hyperpy import retention
from hyperpy.audit.replay import (
    Options,
    Progress,
    Run,
    Unit,
    Work,
    checker_of,
    drawn,
    finished,
    replay,
    started,
    work_of,
)
from hyperpy.audit.source import Evidence, Plan
from hyperpy.audit.steps import Checker, report_of
from hyperpy.encoding import b64u
from hyperpy.errors import DeviceError
from hyperpy.store.lmdb import LmdbStore
from hyperpy.verdicts import Finding, Report, StepReport, Verdict

WORTH: Final = 400
"""Steps below which a process of its own costs more than it saves."""
_STALE_S: Final = 0.1
"""Seconds for which what a node writes meanwhile may go unnoticed."""
_TASKS: Final = 20
"""Tasks per worker: the last ones even out what the first ones left."""

Told: TypeAlias = tuple[str, str, int, tuple[str, ...], tuple[Finding, ...]]
"""What a worker says of a step: its record, verdict, attested inputs, who vouches, and findings."""


@dataclass(frozen=True, slots=True)
class Source:
    """How to open evidence, in this process or in another one.

    Attributes:
        folder: of a store; it is opened read-only, also beside a node that serves it.
        data: a receipt's bytes, where there is no folder.
    """

    folder: str = ""
    data: bytes = b""
    where: str = ""

    @contextmanager
    def open(self) -> Iterator[Evidence]:
        """Yield the evidence; the store is closed behind it.

        Raises:
            ConfigError, StoreError: there is no such store.
            CodecError: the bytes are no receipt.
        """
        if self.data:
            from hyperpy.receipt import decode

            yield Evidence.of_receipt(decode(self.data), self.where or "the receipt")
            return
        store = LmdbStore(Path(self.folder), readonly=True)
        store.tables.stale_s = _STALE_S
        try:
            yield Evidence.of_store(store, self.where or retention.named(store, f"the store {self.folder}"))
        finally:
            store.close()


def replay_in_processes(
    source: Source,
    evidence: Evidence,
    plan: Plan,
    options: Options,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make the steps of a plan again, independent branches at once.

    Args:
        evidence: what ``source`` opens, for what is done in this process.
        jobs: processes at most, this one among them; by default one for each processor, and this one alone where
            little is to be done.
    """
    chosen = drawn(plan, options)
    wanted = jobs if jobs is not None else (os.cpu_count() or 1) if len(chosen) >= WORTH else 1
    if wanted < 2:
        with _kept():
            return replay(evidence, plan, options, progress=progress)
    with _kept(), _workers(source, options, wanted - 1) as workers:
        work = work_of(evidence, plan, options, chosen)
        report = started(evidence, plan, options, chosen)
        pool = _Pool(workers, evidence, options, work, wanted)
        pool.run(progress, len(chosen))
    return finished(report, plan, pool.found, pool.extra)


@contextmanager
def _kept() -> Iterator[None]:
    """Spare the garbage collector what a long plan is made of: all of it lives until the end."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _workers(source: Source, options: Options, count: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes, which get ready while this one looks at what there is to do."""
    made = ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=_open, initargs=(source, options)
    )
    try:
        for _ in range(count):
            made.submit(_ready)
        yield made
    except BrokenProcessPool:
        raise DeviceError("a worker process ended", hint="Try again with --jobs 1.") from None
    finally:
        made.shutdown(wait=True, cancel_futures=True)


class _Pool:
    """Goes through the work: worker processes from the largest share on, this process from the smallest.

    Attributes:
        found: reports by record.
        extra: findings that belong to no step.
    """

    def __init__(
        self, workers: ProcessPoolExecutor, evidence: Evidence, options: Options, work: Work, processes: int
    ) -> None:
        self.found: dict[str, StepReport] = {}
        self.extra: list[Finding] = []
        self._workers, self._evidence, self._options = workers, evidence, options
        self._steps = {b64u(step.name): step for unit in work.units for step in unit.steps}
        self._parts = [work.part(numbers) for numbers in shares(work.units, processes * _TASKS)]

    def run(self, progress: Progress | None, total: int) -> None:
        """Do all of it, or up to the first fault if no more is asked for."""
        waiting = {self._workers.submit(_task, part): part for part in self._parts}
        with checker_of(self._evidence, self._options) as checker:
            while waiting and not self._over():
                own = next((one for one in reversed(waiting) if one.cancel()), None)
                if own is not None:
                    self._own(waiting.pop(own), checker)
                for one in wait(waiting, 0 if own is not None else None, FIRST_COMPLETED).done:
                    del waiting[one]
                    self._note(*one.result())
                if progress is not None:
                    progress(len(self.found), total)

    def _over(self) -> bool:
        return self._options.first and any(step.verdict.exit_code == 1 for step in self.found.values())

    def _own(self, part: Work, checker: Checker) -> None:
        """Do a share in this process."""
        steps, extra = _done(self._evidence, self._options, part, checker)
        self.found |= {step.record: step for step in steps}
        self._note([], extra)

    def _note(self, told: Sequence[Told], extra: Sequence[Finding]) -> None:
        """Take what a worker says."""
        for name, verdict, given, vouching, findings in told:
            made = self.found[name] = report_of(self._steps[name], Verdict(verdict), findings, given)
            made.attested_by = vouching
        self.extra += [one for one in extra if one not in self.extra]


def shares(branches: Sequence[Unit], most: int) -> list[list[int]]:
    """Return the numbers of branches in groups of about equal work, the largest first."""
    order = sorted(range(len(branches)), key=lambda at: len(branches[at]), reverse=True)
    made: list[list[int]] = [[] for _ in range(min(most, len(branches)))]
    load = [0] * len(made)
    for at in order:
        least = load.index(min(load))
        made[least].append(at)
        load[least] += len(branches[at])
    return [sorted(one) for one in made]


_here: dict[str, Any] = {}
"""What a worker process holds: its evidence, and what it is to do."""


def _open(source: Source, options: Options) -> None:
    logging.getLogger("hyperpy").setLevel(logging.CRITICAL)
    opened = ExitStack()
    evidence = opened.enter_context(source.open())
    checker = opened.enter_context(checker_of(evidence, options))
    _here.update(opened=opened, evidence=evidence, options=options, checker=checker)


def _ready() -> None:
    """Do nothing: the first task makes a worker start."""


def _task(work: Work) -> tuple[list[Told], list[Finding]]:
    """Go through some branches; return what was found out."""
    steps, extra = _done(_here["evidence"], _here["options"], work, _here["checker"])
    return [(one.record, one.verdict.value, one.given, one.attested_by, one.findings) for one in steps], extra


def _done(evidence: Evidence, options: Options, work: Work, checker: Checker) -> tuple[list[StepReport], list[Finding]]:
    run = Run(evidence, options, work, checker)
    steps: list[StepReport] = []
    for step in run:
        steps.append(step)
        if options.first and step.verdict.exit_code == 1:
            break
    run.close()
    return steps, run.extra
