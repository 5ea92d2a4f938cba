"""Every byte of a receipt matters: none can be changed so that the receipt is still reproduced, and none crashes.

A byte is changed as it is, with the file's digest made again, and with each record named by its new ID. The full
sweep takes minutes: ``pytest -m slow``; its last figures are in docs/receipts.md.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hyperpy.audit.replay import Options
from hyperpy.audit.verified import replayed
from hyperpy.verdicts import Verdict
from tests.audit.flips import WAYS, changed
from tests.audit.samples import DEVICES, KINDS, sample

OPTIONS = Options(devices=DEVICES, seconds=10.0)
REPRODUCED = [kind for kind in KINDS if kind != "part"]
SAMPLE = 60
"""Bytes of each receipt and way that every run changes."""


def outcome(data: bytes) -> Verdict:
    """Return the verdict; whatever is raised is a failure of the test."""
    return replayed(data, OPTIONS).verdict


def swept(kind: str, places: list[int], way: str) -> Counter[str]:
    """Change each of some bytes; return how often which verdict came."""
    data = sample(kind)
    found: Counter[str] = Counter()
    for at in places:
        made = changed(data, at, way)
        if made is None or made == data:
            continue
        verdict = outcome(made)
        assert verdict is not Verdict.REPRODUCED, (
            f"{kind}: byte {at} may be changed ({way}): {data[at - 20 : at + 9]!r}"
        )
        found[verdict.value] += 1
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_some_bytes(kind: str, way: str) -> None:
    size = len(sample(kind))
    places = random.Random(f"{kind} {way}").sample(range(size), min(SAMPLE, size))
    assert swept(kind, sorted(places), way).total() > 0


@pytest.mark.parametrize("kind", REPRODUCED)
def test_unchanged_they_are_reproduced(kind: str) -> None:
    assert outcome(sample(kind)) is Verdict.REPRODUCED


def test_linking_again_changes_nothing_else() -> None:
    """What is tested is not just damage: a changed digest of the code is read, and named as what it is."""
    data = sample("chain")
    at = data.index(b"\xc4\x0eimplementation\xc4\x40") + 20
    made = changed(data, at, "records linked again", seed=1)
    assert made is not None
    assert outcome(made) is Verdict.DIFFERS


def test_every_cut_is_a_bad_file() -> None:
    data = sample("nested")
    for size in range(0, len(data), 7):
        assert outcome(data[:size]) is Verdict.BAD_FILE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_bytes(kind: str, way: str) -> None:
    found = swept(kind, list(range(len(sample(kind)))), way)
    print(kind, len(sample(kind)), way, dict(found))
