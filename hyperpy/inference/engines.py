"""Which engine computes here. All give the same bits; this is about speed only.

An engine is used when what it needs is installed and when it passes :func:`self_test`: a toy model through it and
through the reference. One different bit, and it is refused.
"""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hyperpy.errors import Busy, ConfigError, Corrupt, NotFound
from hyperpy.inference import gguf, reference, toy, weights
from hyperpy.inference.generation import Ahead, Backend, Together
from hyperpy.inference.model import Model, config_of
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.weights import Matrix

NAMES = ("reference", "cpu", "webgpu")
"""Known engines. ``webgpu`` comes first where there is a GPU; on a software adapter ``cpu`` is faster."""


def build(name: str, model: Model) -> Backend:
    """Return an engine by name, after its self-test.

    Raises:
        ConfigError: there is no engine of that name, or what it needs is not installed.
        Corrupt: it does not give the reference's bits on this machine.
    """
    if name == "reference":
        return reference.Engine(model)
    if name == "cpu":
        trusted(name, kind(model))
        return _plain(name, model)
    if name == "webgpu":
        return _webgpu(model)  # its process checks the adapter before it takes the model
    raise ConfigError(f"there is no inference engine '{name}'", hint=f"Known: {', '.join(NAMES)}.")


def choose(model: Model) -> Backend:
    """Return the fastest engine that works here; an engine that does not is left out and logged."""
    for name in (*(("webgpu",) if _has_gpu() else ()), "cpu", "reference"):
        try:
            return build(name, model)
        except (ConfigError, Corrupt, Busy, NotFound) as error:
            logging.getLogger(__name__).warning("inference engine %s is left out: %s", name, error.message)
    raise ConfigError("no inference engine works on this machine")


def _has_gpu() -> bool:
    """Say whether the machine has an adapter that is no software. A look at /dev comes first: it costs nothing."""
    if sys.platform == "linux" and not any(Path("/dev").glob("dri/renderD*")) and not Path("/dev/nvidia0").exists():
        return False
    from hyperpy.inference import webgpu

    try:
        return any(kind != "CPU" for _, kind in webgpu.adapters())
    except (ConfigError, Busy):
        return False


def _webgpu(model: Model) -> Backend:
    try:
        import wgpu  # noqa: F401
    except ImportError:
        raise ConfigError("the engine 'webgpu' needs wgpu", hint="Install it: pip install wgpu") from None
    from hyperpy.inference import webgpu

    return webgpu.Engine(model)


def _plain(name: str, model: Model) -> Backend:
    """Return an engine without its self-test."""
    try:
        from hyperpy.inference import cpu
    except (ImportError, RuntimeError) as error:  # numba: RuntimeError where no folder can keep compiled code
        raise ConfigError(
            f"the engine '{name}' needs numba: {error}", hint="Install numba, or set NUMBA_CACHE_DIR."
        ) from None
    return cpu.Engine(model)


class Kind(NamedTuple):
    """What an engine must have for a model: its architecture, and whether groups of 16 columns (Q6_K) are there."""

    architecture: str = "llama"
    halves: bool = False


def kind(model: Model) -> Kind:
    """Return a model's kind."""
    c = model.config
    architecture = "qwen2" if c.biases else "qwen3" if c.head_norms else "llama"
    return Kind(architecture, any(isinstance(w, Matrix) and w.group == 16 for w in model.weights.values()))


@lru_cache(maxsize=16)
def trusted(name: str, of: Kind = Kind()) -> None:  # noqa: B008
    """Run an engine's self-test on a kind of model, once in a process."""
    self_test(_plain(name, toy_model(of)))


@lru_cache(maxsize=4)
def toy_model(of: Kind = Kind()) -> Model:  # noqa: B008
    """Return the toy as a model of some kind; see :mod:`hyperpy.inference.toy`."""
    parsed = gguf.parse(memoryview(toy.gguf_bytes(architecture=of.architecture)))
    found = {name: weights.convert(tensor) for name, tensor in parsed.tensors.items()}
    if of.halves:
        for name in ("token_embd.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"):
            found[name] = toy.halved(cast(Matrix, found[name]))
    return Model(config_of(parsed.metadata), found, weights.model_id(found))


def self_test(engine: Backend) -> None:
    """Compare an engine with the reference on its own model: a prompt in pieces, and sessions side by side.

    Raises:
        Corrupt: a bit differs.
    """
    judge = reference.Engine(engine.model)
    ids = [(7 * n * n + 3 * n) % engine.config.vocabulary for n in range(45)]
    cache, kept = engine.cache(), judge.cache()
    for first, last in ((0, 40), (40, 44), (44, 45)):
        got = engine.forward(ids[first:last], cache, every=True)
        _compare(engine, got, judge.forward(ids[first:last], kept, every=True))
    if isinstance(engine, Ahead):
        for sampling in (Sampling(), Sampling(t16=30 * 65536)):
            ahead, alone = engine.cache(), judge.cache()
            rows, chosen = engine.forward_ahead(ids[0], ahead, sampling, 1, 4)
            right = judge.forward([ids[0], *chosen], alone, every=True)
            _compare(engine, rows, right)
            _compare(engine, chosen, [sampling.choose(row, 1 + n) for n, row in enumerate(right[:-1])])
    if isinstance(engine, Together):
        caches, sessions = [cache, engine.cache(), engine.cache()], [kept, judge.cache(), judge.cache()]
        engine.forward(ids[:3], caches[1])
        judge.forward(ids[:3], sessions[1])
        wanted = [judge.forward([one], session) for one, session in zip(ids, sessions, strict=False)]
        _compare(engine, engine.forward_many(ids[:3], caches), np.array(wanted))


def _compare(engine: Backend, got: Any, wanted: Any) -> None:
    if not np.array_equal(got, wanted):
        raise Corrupt(
            f"the inference engine '{engine.name}' does not give the reference's bits on this machine",
            hint="It is refused; use another engine, and report the processor and the versions of its libraries.",
        )
