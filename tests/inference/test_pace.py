"""One thread while others need the processor, all of them afterwards; the bits are the same."""

from __future__ import annotations

import numpy as np

from hyperpy.inference import cpu, reference
from hyperpy.inference.model import Model
from hyperpy.inference.pace import SLOW, Pace


def test_a_call_held_up_leads_to_one_thread_for_a_while() -> None:
    pace = Pace()
    for _ in range(100):
        pace.took(0.01)
        assert not pace.alone
    pace.took(0.01 * SLOW * 1.2)
    spans = []
    for _ in range(8):  # each time the others are still there, it waits longer before it tries again
        span = 0
        while pace.alone:
            pace.took(0.02)
            span += 1
        spans.append(span)
        pace.took(0.9)
    assert spans == [16, 32, 64, 128, 256, 512, 512, 512]
    while pace.alone:
        pace.took(0.02)
    pace.took(0.01)  # they are gone
    assert not pace.alone
    pace.took(0.9)
    assert pace.alone


def test_a_session_that_becomes_long_is_not_held_up() -> None:
    pace = Pace()
    for position in range(8000):
        pace.took(0.01 + position * 0.00001)
        assert not pace.alone


def test_one_thread_and_all_give_the_same_bits(toy_model: Model) -> None:
    engine, judge = cpu.Engine(toy_model), reference.Engine(toy_model)
    ours, theirs = engine.cache(), judge.cache()
    for ident in range(5, 45):
        engine._pace._alone = ident % 3
        assert np.array_equal(engine.forward([ident], ours), judge.forward([ident], theirs))
