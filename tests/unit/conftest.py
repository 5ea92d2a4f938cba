"""Fixtures of the tests of actors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperpy.actors import ActorSystem


@pytest.fixture
def system() -> Iterator[ActorSystem]:
    made = ActorSystem()
    yield made
    made.stop(5)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made
