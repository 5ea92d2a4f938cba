"""The ``audit`` capability of a node: audits of what it recorded itself, for whoever asks over HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hyperpy import retention
from hyperpy.audit.collect import Limits, collect
from hyperpy.audit.replay import Options, Run, drawn, finished, started, work_of
from hyperpy.audit.source import Evidence, Plan
from hyperpy.capabilities import Attester
from hyperpy.config import Config
from hyperpy.encoding import b64u
from hyperpy.errors import Busy, DeviceTimeout, Forbidden
from hyperpy.message import Message
from hyperpy.privacy import Gate
from hyperpy.sdk import Context
from hyperpy.store.base import Store
from hyperpy.verdicts import Report, StepReport

log = logging.getLogger("hyperpy.store")

MOST: Final = 8
"""Audits that are under way or may be gone on with; the one longest unheard of is dropped."""
STEPS: Final = 20_000
"""Steps that one request may ask about."""
MARGIN_S: Final = 1.0
"""Seconds kept back for the reply."""
_FORGET_S: Final = 600.0


class _Job:
    """One audit that goes on from request to request."""

    def __init__(self, evidence: Evidence, plan: Plan, options: Options) -> None:
        self.lock = threading.Lock()
        self.plan, self.options = plan, options
        self.chosen = drawn(plan, options)
        self.report = started(evidence, plan, options, self.chosen)
        self.found: dict[str, StepReport] = {}
        self.used = time.monotonic()
        self._run = Run(evidence, options, work_of(evidence, plan, options, self.chosen))
        self._steps = iter(self._run)

    def go_on(self, until: float) -> Report | None:
        """Make steps again; return the report, or None if time ran out."""
        for step in self._steps:
            self.found[step.record] = step
            if self.options.first and step.verdict.exit_code == 1:
                break
            if time.monotonic() >= until:
                return None
        self.close()
        return finished(self.report, self.plan, self.found, self._run.extra)

    def close(self) -> None:
        """Let go of the devices."""
        self._run.close()


class Audits:
    """Implements :class:`hyperpy.capabilities.Audit` over a node's own store. Thread-safe.

    Args:
        sign: returns a message signed by the node.
        devices: files and classes beside the bundled devices.
        attester: what opens what was sealed to this node.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        sign: Callable[[Message], Message],
        devices: Sequence[str | Path | type],
        attester: Attester | None = None,
    ) -> None:
        self._store, self._config, self._sign, self._devices = store, config, sign, tuple(devices)
        self._attester = attester
        self._lock = threading.Lock()
        self._jobs: OrderedDict[tuple[Any, ...], _Job] = OrderedDict()

    def replay(
        self,
        ref: str,
        ctx: Context,
        *,
        slots: tuple[int, int] | None = None,
        sample: int = 0,
        seed: int = 0,
        first: bool = False,
    ) -> Report:
        """See :meth:`hyperpy.capabilities.Audit.replay`."""
        evidence, plan = self._planned(ref, ctx, slots)
        key = (ref, slots, sample, seed, first, tuple(plan.roots), len(plan.steps))
        options = Options(
            first=first,
            sample=sample,
            seed=seed,
            slots=slots,
            seconds=self._config.limits.deadline,
            devices=self._devices,
            config=self._config,
            attester=self._attester,
        )
        job = self._job(key, evidence, plan, options)
        until = ctx.deadline - MARGIN_S
        if not job.lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise Busy("this audit is under way for somebody else")
        try:
            report = job.go_on(until)
        except BaseException:
            self._drop(key)
            raise
        finally:
            job.used = time.monotonic()
            job.lock.release()
        if report is None:
            done, total = len(job.found), len(job.chosen)
            error = DeviceTimeout(f"{done} of {total} steps are made again", hint="Ask again: the audit goes on there.")
            error.retry_after = 1.0
            raise error
        self._drop(key)
        return report

    def trail(self, ref: str, ctx: Context) -> Message:
        """See :meth:`hyperpy.capabilities.Audit.trail`."""
        _, plan = self._planned(ref, ctx, None)
        steps = []
        for step in plan.steps:
            record = step.record
            row: dict[str, Any] = {
                "record": b64u(step.name),
                "parent": b64u(record.parent) if record.parent else "",
                "device": record.device,
                "key": record.key,
                "status": record.status,
                "base": record.base,
                "request": record.request,
                "result": record.result,
                "hashpath-before": record.hashpath_before,
                "hashpath-after": record.hashpath_after,
                "attested-inputs": len(record.oracles),
            }
            if step.slot is not None:
                row["process"], row["slot"] = step.slot
            steps.append({name: item for name, item in row.items() if item != ""})
        return Message({"ref": ref, "steps": steps, "missing": [one.as_json() for one in plan.missing]})

    def receipt(self, ref: str, ctx: Context, **options: Any) -> tuple[bytes, int]:
        """See :meth:`hyperpy.capabilities.Audit.receipt`."""
        from hyperpy.audit.receipts import build, keep

        evidence, plan = self._planned(ref, ctx, options.pop("slots", None))
        sign = self._sign if options.pop("sign", True) else None
        made = build(evidence, plan, sign=sign, readers=_readers(ctx), **options)
        trail = self._config.trail
        until = keep(self._store, plan, made, trail, time.time())
        if trail.receipt_days and not until:
            log.warning("a receipt's steps are not kept: [trail] receipt-records are in use")
        return made, until

    def close(self) -> None:
        """Let go of all audits."""
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), OrderedDict()
        for job in jobs:
            if job.lock.acquire(blocking=False):
                job.close()

    # -- parts -------------------------------------------------------------------------------

    def _planned(self, ref: str, ctx: Context, slots: tuple[int, int] | None) -> tuple[Evidence, Plan]:
        evidence = Evidence.of_store(self._store, retention.named(self._store, "this node's store"))
        plan = collect(evidence, ref, slots=slots, limits=Limits(STEPS, STEPS))
        readers = _readers(ctx)
        gate = Gate(evidence.cache, evidence.trail)
        if readers is not None and not all(
            gate.may(one.record, readers) for one in plan.steps if not one.record.parent
        ):
            raise Forbidden(
                "this node shows its trail only to the operator and to those who signed the requests",
                hint="Sign the request and its path with the key that asked for the result.",
            )
        return evidence, plan

    def _job(self, key: tuple[Any, ...], evidence: Evidence, plan: Plan, options: Options) -> _Job:
        now = time.monotonic()
        with self._lock:
            for name, job in list(self._jobs.items()):
                if now - job.used > _FORGET_S and job.lock.acquire(blocking=False):
                    self._jobs.pop(name)
                    job.close()
            found = self._jobs.get(key)
            if found is None:
                self._make_room()
                found = self._jobs[key] = _Job(evidence, plan, options)
            self._jobs.move_to_end(key)
            return found

    def _make_room(self) -> None:
        if len(self._jobs) < MOST:
            return
        for name, job in list(self._jobs.items()):
            if job.lock.acquire(blocking=False):
                self._jobs.pop(name)
                job.close()
                return
        raise Busy("too many audits are under way", hint="Try again later, or take a receipt and audit it yourself.")

    def _drop(self, key: tuple[Any, ...]) -> None:
        with self._lock:
            job = self._jobs.pop(key, None)
        if job is not None:
            job.close()


def _readers(ctx: Context) -> frozenset[str] | None:
    """Return whose results the request may read; None is everybody's."""
    chain = getattr(ctx, "chain", None)
    found: frozenset[str] | None = chain.readers if chain is not None else frozenset()
    return found
