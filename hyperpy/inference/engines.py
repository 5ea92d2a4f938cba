"""Which engine computes here. All give the same bits; this is about speed only."""

from __future__ import annotations

from hyperpy.errors import ConfigError
from hyperpy.inference.generation import Backend
from hyperpy.inference.model import Model
from hyperpy.inference.reference import Engine

NAMES = ("reference",)
"""Known engines, the slowest first."""


def build(name: str, model: Model) -> Backend:
    """Return an engine by name.

    Raises:
        ConfigError: there is no engine of that name.
    """
    if name == "reference":
        return Engine(model)
    raise ConfigError(f"there is no inference engine '{name}'", hint=f"Known: {', '.join(NAMES)}.")


def choose(model: Model) -> Backend:
    """Return the fastest engine that works here."""
    return build(NAMES[-1], model)
