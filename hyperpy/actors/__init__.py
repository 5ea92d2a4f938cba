"""Actors: one object, one call at a time, whatever else happens.

    ActorSystem   names -> actors; call(name, make, work) answers, fails, or gives up at the deadline
    chain         the actors the running code is inside of, outermost first
    inherit       carries chain, deadline and context variables into a thread

Built on pykka; what pykka leaves out is in docs/architecture.md and tested in tests/unit/test_actors.py.
"""

from __future__ import annotations

from hyperpy.actors.chain import Name, chain, current_deadline, inherit
from hyperpy.actors.system import ActorSystem

__all__ = ["ActorSystem", "Name", "chain", "current_deadline", "inherit"]
