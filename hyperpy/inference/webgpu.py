"""The WebGPU engine. The GPU lives in a process of its own, because a driver's error ends the process that it is in.

When that process ends, sessions end with a clear error, and the next one gets a new process. No token is made of
half an answer.
"""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final, cast

import numpy as np

from hyperpy import errors
from hyperpy.errors import Busy, ConfigError, HyperpyError
from hyperpy.inference.arith import Ints
from hyperpy.inference.model import Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.webgpu_child import packed, read, write

PATIENCE_S: Final = 120.0
"""Seconds that one pass, or a start, may take."""
_START: Final = "import sys; sys.path[:] = {path!r}; from hyperpy.inference.webgpu_child import main; main()"
_LOST: Final = "the process of the GPU has ended, and the session with it"
_GONE: Final = "Ask again: a new process for the GPU is started."


class Child:
    """One process with one GPU; used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        weakref.finalize(self, _end, self._process)
        self.pid = self._process.pid

    def ask(self, *request: Any) -> Any:
        """Send a request and return its answer.

        Raises:
            Busy: the process ended, or did not answer in time and was ended.
            HyperpyError: what it answered with.
        """
        source, sink = cast(BinaryIO, self._process.stdout), cast(BinaryIO, self._process.stdin)
        try:
            write(sink, list(request))
            ready = select.poll()  # select() takes no number above 1,023
            ready.register(source, select.POLLIN)
            if not ready.poll(1000 * PATIENCE_S):
                raise OSError("no answer in time")
            answer = read(source)
        except OSError:
            answer = None
        if answer is None:
            self.close()
            raise Busy("the process of the GPU has ended", hint=_GONE)
        if answer[0] == "ok":
            return answer[1]
        _, kind, message, hint = answer
        known = getattr(errors, kind, None)
        made = known if isinstance(known, type) and issubclass(known, HyperpyError) else HyperpyError
        raise made(f"WebGPU: {message}", hint=hint or None)

    def close(self) -> None:
        """End the process."""
        _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.wait()


class Cache:
    """A session in the GPU's process; ``length`` positions are read."""

    def __init__(self, engine: Engine, child: Child, number: int) -> None:
        self.child, self.number, self.length = child, number, 0
        self._engine = engine
        weakref.finalize(self, engine.dropped.append, (child, number))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the adapter's memory, at least."""
        c = self._engine.config
        return c.layers * c.kv_heads * (c.head + 1) * 4 * self.length

    def prefix(self, positions: int) -> Cache:
        """Return a cache of another session that begins with the same ``positions``."""
        return self._engine.prefix(self, positions)

    def truncate(self, positions: int) -> None:
        """Forget everything after the first ``positions``."""
        self.length = min(self.length, positions)


class Engine:
    """One model on one adapter.

    Args:
        adapter: part of the adapter's name; by default what ``HYPERPY_WEBGPU_ADAPTER`` says, else the first, hardware
            before software.

    Raises:
        ConfigError: wgpu is not installed, or the shaders do not run this model.
        NotFound: there is no such adapter.
        Corrupt: the adapter does not give the reference's bits.
    """

    name = "webgpu"

    def __init__(self, model: Model, adapter: str | None = None) -> None:
        self.model, self.config = model, model.config
        self._wanted = os.environ.get("HYPERPY_WEBGPU_ADAPTER", "") if adapter is None else adapter
        self._lock = threading.RLock()
        self.dropped: list[tuple[Child, int]] = []
        self.adapter, self.kind = "", ""
        self._child: Child | None = None
        self._running()

    @property
    def pid(self) -> int:
        """Number of the GPU's process."""
        return self._running().pid

    def close(self) -> None:
        """End the GPU's process."""
        with self._lock:
            if self._child is not None:
                self._child.close()
                self._child = None

    def cache(self) -> Cache:
        """Return the empty cache of a new session."""
        with self._lock:
            child = self._running()
            return Cache(self, child, self._ask(child, "new"))

    def forward(self, ids: Sequence[int], cache: Cache, every: bool = False) -> Ints:
        """Do what the reference does (which see).

        Raises:
            Busy: the GPU's process ended; the session is lost.
        """
        with self._lock:
            data = self._ask(cache.child, "forward", cache.number, cache.length, [int(one) for one in ids], every)
            cache.length += len(ids)
        made = np.frombuffer(data, "<i4").astype(np.int64)
        return made.reshape(len(ids), -1) if every else made

    def forward_many(self, ids: Sequence[int], caches: Sequence[Cache]) -> Ints:
        """Do what the CPU engine does (which see).

        Raises:
            Busy: the GPU's process ended, or did before for one of the sessions; none is longer now.
        """
        with self._lock:
            child = self._running()
            if any(cache.child is not child for cache in caches):
                raise Busy(_LOST, hint=_GONE)
            sessions = [[cache.number, cache.length] for cache in caches]
            data = self._ask(child, "forward_many", [int(one) for one in ids], sessions)
            for cache in caches:
                cache.length += 1
        return np.frombuffer(data, "<i4").astype(np.int64).reshape(len(ids), -1)

    def forward_ahead(
        self, ident: int, cache: Cache, sampling: Sampling, position: int, count: int
    ) -> tuple[Ints, list[int]]:
        """Read a token, and those that the adapter chooses; see :class:`hyperpy.inference.generation.Ahead`.

        Raises:
            Busy: as :meth:`forward`.
        """
        told = [sampling.t16, sampling.top_k, sampling.p16, sampling.seed]
        with self._lock:
            request = cache.number, cache.length, int(ident), told, position, count
            data, chosen = self._ask(cache.child, "forward_ahead", *request)
            cache.length += len(chosen) + 1
        return np.frombuffer(data, "<i4").astype(np.int64).reshape(len(chosen) + 1, -1), chosen

    def prefix(self, cache: Cache, positions: int) -> Cache:
        """Return a cache that begins with the same ``positions``."""
        with self._lock:
            made = Cache(self, cache.child, self._ask(cache.child, "prefix", cache.number, cache.length, positions))
            made.length = positions
            return made

    def _running(self) -> Child:
        with self._lock:
            if self._child is None:
                self._child = self._started()
            return self._child

    def _started(self) -> Child:
        child = Child()
        try:
            for name, weight in self.model.weights.items():
                child.ask("weight", name, packed(weight))
            shape = dataclasses.asdict(self.config)
            self.adapter, self.kind = child.ask("ready", shape, self.model.ident, self._wanted)
        except BaseException:
            child.close()
            raise
        return child

    def _ask(self, child: Child, *request: Any) -> Any:
        if child is not self._child:
            raise Busy(_LOST, hint=_GONE)
        try:
            gone, self.dropped[:] = [number for of, number in self.dropped if of is child], []
            if gone:
                child.ask("free", gone)
            return child.ask(*request)
        except Busy:
            self._child = None
            raise


def adapters() -> list[tuple[str, str]]:
    """Return (name, type) of this machine's adapters, hardware first, as a process of its own sees them.

    Raises:
        ConfigError: wgpu is not installed, or finding adapters ended the process.
    """
    child = Child()
    try:
        return [(name, kind) for name, kind in child.ask("adapters")]
    except HyperpyError as error:
        raise ConfigError(f"WebGPU cannot be used: {error.message}", hint="Install wgpu and a Vulkan driver.") from None
    finally:
        child.close()
