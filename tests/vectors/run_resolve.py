"""resolve: base and requests, or a whole path, to status, result and hashpath (design.md 6).

Cases in which the two references differ on both sides run twice: with S's input for the
hashpaths, with F's input for all else; their random signatures differ, so a field of one run is
never compared with the other's.

What the reference answers with terms that have no wire form (a function, an improper list) is
compared as "anything". Two messages are also equal if their IDs and commitments are: a decoded
``K+link`` key and a link under K are the same message.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import rules
import schema
from compare import brief, normal
from outcome import Outcome, verdict

from hyperpy import hashpath
from hyperpy.actors import ActorSystem
from hyperpy.cache import Cache
from hyperpy.commitments import unsigned_id
from hyperpy.context import Chain, Frame, Services
from hyperpy.errors import HyperpyError, KeyNotFound
from hyperpy.message import NOT_FOUND, Message, Value, list_to_map, same
from hyperpy.recorder import Recorder
from hyperpy.registry import Registry
from hyperpy.resolver import Resolver
from hyperpy.store.memory import MemoryStore
from hyperpy.trail import Trail
from hyperpy.watchdog import Watchdog

_ANYTHING = b"\0anything"
_NO_WIRE_FORM = ("$fun", "$improper", "$other", "$tuple")

_rig: list[tuple[Resolver, ActorSystem]] = []
_lock = threading.Lock()


@dataclass(frozen=True)
class _Got:
    """What one step came to; ``error`` if it was refused."""

    status: str
    value: Any
    hashpath: str | None
    error: HyperpyError | None = None


def run(header: Any, case: Any) -> Outcome:
    """Compare one case."""
    want = rules.expected(case)
    if {"S", "F"} <= want.sides:
        assert want.final is not None
        problems = _compare(want.base, only_hashpaths=True) + _compare(want.final, hashpaths=False)
    else:
        problems = _compare(want.case)
    return verdict(want.label, want.rules, problems)


def close() -> None:
    """Stop the actors."""
    for _, actors in _rig:
        actors.stop()
    _rig.clear()


def _resolver() -> Resolver:
    with _lock:
        if not _rig:
            store = MemoryStore()
            cache, trail, actors = Cache(store), Trail(store), ActorSystem()
            made = Resolver(
                Registry(),
                cache,
                Recorder(cache, trail),
                actors,
                services=Services(fetch=_forbidden, sign=_forbidden, config={}),
                watchdog=Watchdog(),
                trail=trail,
            )
            _rig.append((made, actors))
        return _rig[0][0]


def _forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("a vector needs neither network nor keys")


def _compare(case: Any, *, hashpaths: bool = True, only_hashpaths: bool = False) -> list[str]:
    if case["op"] == "path":
        got = _step(case["path"], None)
        return _differs("out", got, case["out"], hashpaths, only_hashpaths)
    base = schema.value(case["base"])
    problems: list[str] = []
    if hashpaths:
        own = hashpath.start(Message.make(list_to_map(base)) if isinstance(base, tuple) else base)
        if own != case["base_hashpath"]["ok"]:
            problems.append(f"base_hashpath: {own} is not {case['base_hashpath']['ok']}")
    for number, step in enumerate(case["steps"], 1):
        got = _step(base, schema.value(step["request"]))
        problems += _differs(f"step {number}", got, step, hashpaths, only_hashpaths)
        base = got.value
    return problems


def _step(base: Any, request: Any) -> _Got:
    resolver = _resolver()
    frame = Frame(resolver, Chain(deadline=time.monotonic() + 30), 0, None)
    try:
        result = resolver.resolve(base, request, frame)
    except KeyNotFound as error:
        return _Got("error", NOT_FOUND, None, error)
    except HyperpyError as error:
        return _Got("error", None, None, error)
    path = result.value.hashpath if isinstance(result.value, Message) and result.status == "ok" else None
    return _Got(result.status, result.value, path)


def _differs(name: str, got: _Got, step: Any, hashpaths: bool, only_hashpaths: bool) -> list[str]:
    if "error" in step:
        return [] if got.error is not None else [f"{name}: accepted what must be refused: {brief(got.value)}"]
    problems = []
    if hashpaths and got.hashpath != step["hashpath"]:
        problems.append(f"{name}: hashpath {got.hashpath} is not {step['hashpath']}")
    if only_hashpaths:
        return problems
    if got.status != step["status"]:
        problems.append(f"{name}: status {got.status} ({got.error}) is not {step['status']}")
    theirs = _expected(step["result"])
    if not _equal(normal(got.value), theirs):
        problems.append(f"{name}: {brief(got.value)} is not {brief(theirs)}")
    return problems


def _expected(raw: Any) -> Any:
    """Return a recorded result in comparison form."""
    return normal(schema.value(_without_terms(raw)))


def _without_terms(raw: Any) -> Any:
    if isinstance(raw, list):
        return [_without_terms(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    if any(name in raw for name in _NO_WIRE_FORM):
        return {"$b64": "AGFueXRoaW5n"}
    if "$map" in raw and any(isinstance(v, dict) and "$fun" in v for _, v in raw["$map"]):
        return {"$b64": "AGFueXRoaW5n"}
    return {name: _without_terms(item) for name, item in raw.items()}


def _equal(ours: Value, theirs: Value) -> bool:
    if theirs == _ANYTHING or same(ours, theirs):
        return True
    if not isinstance(ours, Message) or not isinstance(theirs, Message):
        return False
    if _ANYTHING in theirs.values():
        if ours.raw_items().keys() != theirs.raw_items().keys() or ours.commitments != theirs.commitments:
            return False
        return all(_equal(ours[name], theirs[name]) for name in theirs)
    bare_ours, bare_theirs = ours.with_commitments({}), theirs.with_commitments({})
    return unsigned_id(bare_ours) == unsigned_id(bare_theirs) and ours.commitments == theirs.commitments
