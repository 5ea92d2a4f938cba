"""The models of a node, ready to answer: found by name, opened by reference, held in memory a few at a time.

A *reference* names everything that an answer depends on beside the request: SHA-256 over model-id, config-digest and
the tokenizer's digest. Two nodes with the same reference give the same tokens.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy.errors import Busy, Corrupt, DeviceTimeout, MessageNotFound, NotFound, ParameterError
from hyperpy.inference.standing import Standing

if TYPE_CHECKING:
    from hyperpy.config.schema import Inference
    from hyperpy.inference.batching import Batcher, Stats
    from hyperpy.inference.generation import Backend
    from hyperpy.inference.library import Entry
    from hyperpy.inference.model import Model
    from hyperpy.inference.reference import Engine
    from hyperpy.inference.tokenizer import Tokenizer

log = logging.getLogger("hyperpy.inference")
DEFAULT = "hyperpy-models"
PART = 4 << 20
"""Bytes of a model's file that are lent at once."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a model is called, and the digests (hex) that say what it is."""

    name: str
    reference: str
    model_id: str
    weight_root: str
    config_digest: str
    tokenizer: str
    source: str
    context: int


class Files:
    """The files of a model as they were when they were read; whoever writes them later is noticed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._were = self._signature()

    @property
    def unchanged(self) -> bool:
        """Whether they are the same, as far as the file system tells: which file, how long, when written."""
        return self._signature() == self._were

    def _signature(self) -> tuple[int, ...]:
        try:
            found = (self._folder / "weights").stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Served:
    """A model in memory: its card, tokenizer, and what makes its tokens.

    Attributes:
        tracing: returns an engine of it that shows what it computes.
        files: what was read to make it.
    """

    card: Card
    tokenizer: Tokenizer
    batcher: Batcher
    tracing: Callable[[], Engine]
    files: Files

    def check(self) -> None:
        """Compare the model's files with what they were when they were read.

        Raises:
            Busy: they are others; nothing that was made of them since may be believed.
        """
        if not self.files.unchanged:
            raise Busy("the model's files changed on the disk", hint="Ask again: they are read and checked anew.")


class Layout(NamedTuple):
    """A model's file: its card, its shape as the JSON text that config-digest hashes, its tensors, its bytes."""

    card: Card
    config: str
    tensors: list[dict[str, Any]]
    size: int


def reference(model_id: str, config_digest: str, tokenizer: str) -> str:
    """Return the name (hex) of everything an answer depends on beside the request; all arguments are hex."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, (model_id, config_digest, tokenizer)))).hexdigest()


def card_of(entry: Entry) -> Card:
    """Return the card of a model in the library."""
    from hyperpy.inference.model import Config

    told, config = entry.manifest, Config(**entry.manifest["config"])
    digest = config.digest.hex()
    return Card(
        name=entry.name,
        reference=reference(entry.ident, digest, told["tokenizer"]),
        model_id=entry.ident,
        weight_root=told["weight-root"],
        config_digest=digest,
        tokenizer=told["tokenizer"],
        source=told["source"]["sha256"],
        context=config.context,
    )


class Models:
    """Lends the models of one folder; implements :class:`hyperpy.capabilities.Models`.

    Args:
        claimed: returns the answer that somebody claims to a request which is made again, if there is one; None
            where requests are served.
    """

    def __init__(self, config: Inference, claimed: Callable[[], str | None] | None = None) -> None:
        self._config = config
        self.claimed = claimed or (lambda: None)
        self.most = config.tokens if claimed is None else sys.maxsize
        """Most tokens of one answer; none where an answer is made again, whatever this machine would serve."""
        self._open: OrderedDict[str, Future[Served]] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "hyperpy-models")
        self._lock = threading.Lock()
        self._closed = False
        self._loads = 0
        self.standing = Standing(self.most, config.queue)

    def cards(self) -> list[Card]:
        """Return what is kept in the folder, by name; what is damaged is left out."""
        return [card_of(entry) for entry in self._sound()[0]]

    def _sound(self) -> tuple[list[Entry], list[Corrupt]]:
        from hyperpy.inference.library import Library

        return Library(self._folder()).sound()

    def which(self, name: str) -> Card:
        """Return the card of a name, a reference, a model-id or its beginning; of the default, if ``name`` is empty.

        Raises:
            NotFound: there is none.
            Corrupt: there is none, and it may be one whose manifest is damaged.
        """
        entries, damaged = self._sound()
        cards = [card_of(entry) for entry in entries]
        wanted = name or self._config.default
        for card in cards:
            if not wanted or wanted in (card.name, card.reference):
                return card
        for card in cards:
            if len(wanted) >= 8 and card.model_id.startswith(wanted):
                return card
        if damaged:
            raise damaged[0]
        known = ", ".join(card.name for card in cards)
        hint = f"Known: {known}." if known else "Get one: hyperpy models pull smollm2-135m"
        raise NotFound(f"the model '{wanted[:80]}' is not on this node" if wanted else "no model is here", hint=hint)

    def warm(self) -> None:
        """Begin to load the default model, if there is one: a first start compiles the engine's loops."""
        if self._config.preload and (cards := self.cards()):
            name = self._config.default
            card = next((one for one in cards if name in ("", one.name, one.reference)), cards[0])
            self._asked(card.reference).add_done_callback(lambda loading: _log(card, loading))

    def layout(self, name: str) -> Layout:
        """Return where a model's tensors stand in its file; raise NotFound."""
        from hyperpy.inference.model import Config

        entry, card = self._entry(self.which(name).reference)
        size = (entry.folder / "weights").stat().st_size
        return Layout(card, Config(**entry.manifest["config"]).text, entry.manifest["tensors"], size)

    def part(self, name: str, number: int) -> bytes:
        """Return :data:`PART` bytes of a model's file, the last perhaps fewer; raise NotFound, ParameterError."""
        entry, _ = self._entry(self.which(name).reference)
        file = entry.folder / "weights"
        if not 0 <= number < -(-file.stat().st_size // PART):
            raise ParameterError(f"the model has no part {str(number)[:40]}", name="part")
        with file.open("rb") as opened:
            opened.seek(number * PART)
            return opened.read(PART)

    def _entry(self, ref: str) -> tuple[Entry, Card]:
        entries, damaged = self._sound()
        for entry in entries:
            card = card_of(entry)
            if card.reference == ref:
                return entry, card
        if damaged:
            raise damaged[0]
        raise MessageNotFound(
            f"the model {ref} is not at hand",
            hint="Its model-id stands in the answer; get the same model: hyperpy models pull, or import.",
        )

    def stats(self) -> Stats:
        """Return what all models in memory do and did, added up."""
        from hyperpy.inference.batching import Stats

        with self._lock:
            each = [served.batcher.stats() for served in self._loaded()]
        return Stats(*(sum(column) for column in zip(*map(astuple, each), strict=True))) if each else Stats(0, 0, 0, 0)

    def open(self, ref: str, deadline: float) -> Served:
        """Return the model of a reference, loaded and checked at first use.

        Loading takes as long as it takes, and goes on when a caller's time is over.

        Args:
            deadline: monotonic seconds.

        Raises:
            MessageNotFound: no model here has that reference.
            Corrupt: its files are damaged.
            Busy: it is still being loaded, or as many models as may be in memory are answering.
        """
        while True:
            loading = self._asked(ref)
            while not loading.done() and time.monotonic() < deadline:
                wait((loading,), timeout=0.2)
            if not loading.done():
                break
            served = loading.result()
            if served.files.unchanged:
                return served
            with self._lock:
                if self._open.get(ref) is loading:
                    del self._open[ref]
            served.batcher.close()
        error = Busy("the model is being loaded", hint="Try again in some seconds; loading goes on.")
        error.retry_after = 5.0
        raise error

    def _asked(self, ref: str) -> Future[Served]:
        """Return what will be the model of a reference; one that could not be loaded is tried again."""
        with self._lock:
            if self._closed:
                raise Busy("the node is stopping")
            found = self._open.get(ref)
            if found is None or (found.done() and found.exception() is not None):
                self._make_room()
                found = self._open[ref] = self._loader.submit(self._load, ref)
            self._open.move_to_end(ref)
            return found

    def settled(self, seconds: float) -> int:
        """Wait so long for models that are being loaded; return how many were loaded since the start."""
        with self._lock:
            loading = [one for one in self._open.values() if not one.done()]
        if loading and seconds > 0:
            wait(loading, timeout=seconds)
        return self._loads

    def close(self) -> None:
        """End all answers and let go of the models."""
        with self._lock:
            self._closed = True
            self.standing.close()
            self._loader.shutdown(wait=False, cancel_futures=True)
            for served in self._loaded():
                served.batcher.close()
            self._open.clear()

    def _loaded(self) -> list[Served]:
        done = (one for one in self._open.values() if one.done() and not one.cancelled())
        return [one.result() for one in done if one.exception() is None]

    def _load(self, ref: str) -> Served:
        from hyperpy.inference.batching import Batcher
        from hyperpy.inference.commitments import tracing
        from hyperpy.inference.library import Library

        entry, card = self._entry(ref)
        files = Files(entry.folder)
        model, tokenizer = Library(self._folder()).load(entry.ident)
        config, engine = self._config, self._engine(model)
        batcher = Batcher(engine, most=config.sessions, waiting=config.queue, reuse=config.reuse)
        self._loads += 1
        return Served(card, tokenizer, batcher, lru_cache(maxsize=1)(lambda: tracing(engine)), files)

    def _engine(self, model: Model) -> Backend:
        from hyperpy.inference.engines import build, choose

        return build(self._config.engine, model) if self._config.engine else choose(model)

    def _make_room(self) -> None:
        """Close the models used longest ago; one that is being loaded or is answering stays."""
        for ref, loading in list(self._open.items()):
            if len(self._open) < self._config.loaded:
                return
            if not loading.done():
                continue
            if loading.exception() is None:
                if not loading.result().batcher.idle:
                    continue
                loading.result().batcher.close()
            del self._open[ref]
        if len(self._open) >= self._config.loaded:
            raise Busy("other models are answering", hint="Try again later, or raise [inference] loaded.")

    def _folder(self) -> Path:
        return Path(self._config.models or os.environ.get("HYPERPY_MODELS") or DEFAULT)


def in_time(deadline: float) -> None:
    """Raise DeviceTimeout if a deadline (monotonic seconds) has passed."""
    if time.monotonic() >= deadline:
        raise DeviceTimeout(
            "time ran out while the commitments were made", hint="Ask for fewer tokens, or for a lower level."
        )


def _log(card: Card, loading: Future[Served]) -> None:
    if loading.cancelled():
        return
    error = loading.exception()
    if error is None:
        log.info("model %s is ready, on engine %s", card.name, loading.result().batcher.engine)
    else:
        log.warning("model %s is not loaded: %s", card.name, error)


def ids_of(data: object, vocabulary: int) -> Sequence[int]:
    """Return a list of token ids if it is one, else nothing."""
    if not isinstance(data, list) or not all(type(one) is int and 0 <= one < vocabulary for one in data):
        return ()
    return data
