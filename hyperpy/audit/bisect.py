"""Finding the first slot at which two nodes disagree, by few comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """What a search found.

    Attributes:
        slot: they agree at the slot before, and differ at this one; None: they agree at the last slot.
        comparisons: how many pairs of states were compared.
    """

    slot: int | None
    comparisons: int


def first_difference(same: Callable[[int], bool], last: int, *, first: int = 0) -> Difference:
    """Return a slot at which two claims part: same before it, different at it.

    A state follows from the one before, so nodes that part stay apart, unless one of them lies again; a slot
    at which they part is found in any case. It takes at most ``2 + log2(last - first + 1)`` comparisons.

    Args:
        same: compares the states that both claim after a slot; asked once for a slot.
        last: the slot at which they are compared first.
        first: nothing before it is compared: there they agree, as all do before slot 0.
    """
    count = 1
    if last < first or same(last):
        return Difference(None, count if last >= first else 0)
    agreed, parted = first - 1, last
    while parted - agreed > 1:
        middle = (agreed + parted) // 2
        count += 1
        if same(middle):
            agreed = middle
        else:
            parted = middle
    return Difference(parted, count)
