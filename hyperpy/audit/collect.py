"""From a reference to the steps it means, backwards to the roots."""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy.audit.source import Evidence, Plan


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one audit looks at."""

    steps: int = 1_000_000
    slots: int = 1_000_000


def collect(
    evidence: Evidence, ref: str = "", *, slots: tuple[int, int] | None = None, limits: Limits | None = None
) -> Plan:
    """Return the plan of a reference.

    Args:
        ref: a message's ID, a hashpath, a record's ID or a process's ID; empty: the evidence's own roots.
        slots: first and last slot of a process, both included.

    Raises:
        MessageNotFound: nothing recorded is meant by it.
    """
    raise NotImplementedError
