"""Independent branches in processes of their own: each opens the evidence itself.

A branch is a chain of steps, or a process with all its slots; two that share no step are independent.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hyperpy import retention
from hyperpy.audit.replay import Options, Progress, Run, Unit, Work, drawn, finished, replay, started, work_of
from hyperpy.audit.source import Evidence, Plan
from hyperpy.errors import DeviceError
from hyperpy.store.lmdb import LmdbStore
from hyperpy.verdicts import Finding, Report, StepReport

WORTH: Final = 400
"""Steps below which a process of its own costs more than it saves."""
_STALE_S: Final = 0.1
"""Seconds for which what a node writes meanwhile may go unnoticed."""
_TASKS: Final = 4
"""Tasks per worker: the last ones even out what the first ones left."""


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
        jobs: worker processes at most; by default one for each processor, and none where little is to be done.
    """
    chosen = drawn(plan, options)
    work = work_of(evidence, plan, options, chosen)
    wanted = jobs if jobs is not None else (os.cpu_count() or 1) if len(chosen) >= WORTH else 1
    workers = min(wanted, len(work.units))
    if workers < 2:
        return replay(evidence, plan, options, progress=progress)
    report = started(evidence, plan, options, chosen)
    found, extra = _pooled(source, options, work, workers, progress, len(chosen))
    return finished(report, plan, found, extra)


def _pooled(
    source: Source,
    options: Options,
    work: Work,
    workers: int,
    progress: Progress | None,
    total: int,
) -> tuple[dict[str, StepReport], list[Finding]]:
    found: dict[str, StepReport] = {}
    extra: list[Finding] = []
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_open, initargs=(source, options)
    )
    try:
        waiting: set[Future[Any]] = {
            pool.submit(_task, work.part(numbers)) for numbers in shares(work.units, workers * _TASKS)
        }
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                steps, more = one.result()
                found |= {step.record: step for step in steps}
                extra += [finding for finding in more if finding not in extra]
            if progress is not None:
                progress(len(found), total)
            if options.first and any(step.verdict.exit_code == 1 for step in found.values()):
                break
    except BrokenProcessPool:
        raise DeviceError("a worker process ended", hint="Try again with --jobs 1.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return found, extra


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
    context = source.open()
    _here.update(context=context, evidence=context.__enter__(), options=options)


def _task(work: Work) -> tuple[list[StepReport], list[Finding]]:
    """Go through some branches; return what was found out."""
    run = Run(_here["evidence"], _here["options"], work)
    steps: list[StepReport] = []
    for step in run:
        steps.append(step)
        if _here["options"].first and step.verdict.exit_code == 1:
            break
    run.close()
    return steps, run.extra
