"""Equal requests give equal IDs and hashpaths in every process, whatever its hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.registry import BUNDLED, Registry

ROOT = Path(__file__).resolve().parents[2]
CHAINS: tuple[tuple[dict[str, Any], list[dict[str, Any]]], ...] = (
    (
        {
            "device": "stack@1.0",
            "device-stack": ["dedup@1.0", "test-device@1.0", "patch@1.0", "multipass@1.0"],
            "dedup-subject": "request",
            "patch-from": "results",
            "passes": 2,
        },
        [{"path": "compute", "slot": n, "words": {f"k{m}": m for m in range(40)}} for n in range(3)],
    ),
    ({"device": "trie@1.0"}, [{"path": "set", **{f"key-{n * n}": n for n in range(60)}}, {"path": "keys"}]),
    (
        {"device": "patch@1.0", "box": {str(n): {"method": "PATCH", f"k{n % 7}": n} for n in range(40)}, "from": "box"},
        [{"path": "compute"}],
    ),
    ({"device": "json@1.0", **{f"k{n}": n for n in range(40)}}, [{"path": "serialize"}]),
    ({"device": "flat@1.0", "m": {f"k{n}": n for n in range(40)}}, [{"path": "serialize"}]),
    ({"device": "apply@1.0", "run": "/~message@1.0&a=1&b=2/set&c=3", "x": 1}, [{"path": "run"}]),
)
SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from conftest import Bench
from hyperpy import Message
from hyperpy.commitments import unsigned_id
from test_determinism import CHAINS
bench = Bench()
for base, requests in CHAINS:
    state = Message(base)
    for request in requests:
        state = bench.get(state, request)
    print(unsigned_id(state), getattr(state, "hashpath", None))
bench.actors.stop()
"""


def _run(seed: str) -> str:
    script = SCRIPT.format(root=str(ROOT), here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hash_seed_does_not_matter() -> None:
    first = _run("1")
    assert first == _run("4711")
    assert len(first.splitlines()) == len(CHAINS)


@pytest.mark.parametrize(("base", "requests"), CHAINS)
def test_order_of_keys_does_not_matter(bench: Any, base: dict[str, Any], requests: list[dict[str, Any]]) -> None:
    forward, backward = Message(base), Message(dict(reversed(base.items())))
    for request in requests:
        forward = bench.get(forward, request)
        backward = bench.get(backward, dict(reversed(request.items())))
        assert forward == backward
    if isinstance(forward, Message):
        assert forward.hashpath == backward.hashpath


OURS = (
    *("structured@1.0", "httpsig@1.0", "flat@1.0", "json@1.0", "ans104@1.0", "stack@1.0", "stack-transformer@1.0"),
    *("multipass@1.0", "dedup@1.0", "patch@1.0", "trie@1.0", "apply@1.0", "test-device@1.0"),
)
NOT_DETERMINISTIC = {"ans104@1.0": {"commit"}, "test-device@1.0": {"increment-counter", "update-state", "postprocess"}}
READ_THE_NODE = (
    *("lookup@1.0", "cache@1.0", "name@1.0", "local-name@1.0", "secret@1.0", "http-auth@1.0", "cookie@1.0"),
    "auth-hook@1.0",
)


@pytest.mark.parametrize("name", OURS + READ_THE_NODE)
def test_keys_say_whether_they_are_deterministic(bench: Any, name: str) -> None:
    """Whatever reads the node, signs, or uses randomness says so; nothing else does."""
    assert name in BUNDLED
    spec = Registry(start=bench._start).lookup(name).spec
    marked = {key.name for key in spec.keys.values() if not key.deterministic}
    if name in OURS:
        assert marked == NOT_DETERMINISTIC.get(name, set())
        assert all(special is None or special.deterministic for special in (spec.handler, spec.default))
    else:
        assert marked == spec.keys.keys() - {"info"}
        assert spec.default is None or not spec.default.deterministic


@pytest.mark.parametrize("name", OURS + READ_THE_NODE)
def test_every_key_is_described(bench: Any, name: str) -> None:
    spec = Registry(start=bench._start).lookup(name).spec
    assert spec.doc
    assert all(key.doc for key in spec.keys.values())
    assert len(spec.describe()["keys"]) >= 1  # type: ignore[arg-type]
