"""What integer inference costs and what it loses: beside llama.cpp on the same file, and beside floats."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hyperpy.bench.auditing import Figure
from hyperpy.bench.floating import Floats
from hyperpy.errors import ConfigError, SizeError
from hyperpy.inference import blocks, engines, gguf
from hyperpy.inference.batching import Batcher
from hyperpy.inference.generation import Backend, generate, state_hash
from hyperpy.inference.gguf import Tensor
from hyperpy.inference.library import Library
from hyperpy.inference.model import config_of
from hyperpy.inference.sampler import Sampling

PROMPT, ANSWER, ROUNDS = 512, 128, 3
WINDOW, WINDOWS = 1024, 4
CHUNK = 128


def speed(library: Library, name: str, file: Path | None, engine: str = "cpu", answer: int = 512) -> list[Figure]:
    """Measure one model; with its GGUF file at hand, llama.cpp too, in turns.

    Args:
        answer: tokens of the generation that is replayed.
    """
    began = time.perf_counter()
    model, _ = library.load(name)
    ours = engines.build(engine, model)
    started = time.perf_counter() - began
    ids = _ids(PROMPT, ours.config.vocabulary)
    measured = {"ours": _Ours(ours)}
    _in_turns(measured, ids, 1)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # before llama.cpp comes into the process
    peer = _llama(file, ours.config.context) if file is not None else None
    if peer is not None:
        measured["llama.cpp"] = peer
    found = _in_turns(measured, ids, ROUNDS)
    made = [
        Figure("start from kept weights, self-test included, wall", started, "s", 2.0),
        Figure("prompt", found["ours"][0], "tokens/s, wall"),
        Figure("decode behind the prompt", found["ours"][1], "tokens/s, wall"),
    ]
    if peer is not None:
        made += [
            Figure("prompt, llama.cpp", found["llama.cpp"][0], "tokens/s, wall"),
            Figure("decode behind the prompt, llama.cpp", found["llama.cpp"][1], "tokens/s, wall"),
            Figure("prompt, ours by llama.cpp's", found["ours"][0] / found["llama.cpp"][0], "", 0.4, True),
            Figure("decode, ours by llama.cpp's", found["ours"][1] / found["llama.cpp"][1], "", 0.5, True),
        ]
    c = ours.config
    kept = c.layers * c.kv_heads * (4 * c.head + 4) * (PROMPT + ANSWER) / 1e6
    weights = sum(len(part) for weight in model.weights.values() for part in weight.payload()) / 1e6
    size = weights if file is None else file.stat().st_size / 1e6
    made.append(Figure("memory of the process", resident, "MB", 1.5 * size + kept + 350))
    return [*made, *_replay(ours, ids[:32], answer), *_commitments(ours, ids), *_together(ours, ids[:32])]


class _Ours:
    """A session of one of our engines."""

    def __init__(self, engine: Backend) -> None:
        self._engine, self._cache = engine, engine.cache()

    def reset(self) -> None:
        self._cache = self._engine.cache()

    def eval(self, ids: Sequence[int]) -> None:
        for at in range(0, len(ids), 256):
            self._engine.forward(ids[at : at + 256], self._cache)


def _llama(file: Path, context: int, every: bool = False) -> Any:
    """Return llama.cpp on this file, with a thread for each core; None where it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    cores = os.cpu_count() or 1
    size = min(context, 2048)
    return Llama(
        str(file), n_ctx=size, n_batch=512, n_threads=cores, n_threads_batch=cores, logits_all=every, verbose=False
    )


def _ids(count: int, vocabulary: int) -> list[int]:
    return [(7 * n * n + 3 * n + 100) % vocabulary for n in range(count)]


def _in_turns(measured: dict[str, Any], ids: list[int], rounds: int) -> dict[str, tuple[float, float]]:
    """Return (prompt, decode) in tokens a second: medians of rounds in which everybody has a turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, session in measured.items():
            session.reset()
            began = time.perf_counter()
            session.eval(ids)
            read = time.perf_counter()
            for one in ids[:ANSWER]:
                session.eval([one])
            times[name].append((len(ids) / (read - began), ANSWER / (time.perf_counter() - read)))
    return {name: (median(p for p, _ in pairs), median(d for _, d in pairs)) for name, pairs in times.items()}


def _replay(engine: Backend, prompt: list[int], answer: int) -> Iterator[Figure]:
    """Compare generating an answer with making all its logits again at once."""
    began = time.perf_counter()
    made = [token.ident for token in generate(engine, prompt, Sampling(), answer)]
    generated = time.perf_counter() - began
    began = time.perf_counter()
    cache, whole = engine.cache(), [*prompt, *made[:-1]]
    for at in range(0, len(whole), CHUNK):
        logits = engine.forward(whole[at : at + CHUNK], cache, every=True)
        for number, row in enumerate(logits, at):
            if number >= len(prompt) - 1 and int(row.argmax()) != made[number - len(prompt) + 1]:
                raise ConfigError("the answer made again is another: this engine is not deterministic")
    replayed = time.perf_counter() - began
    yield Figure(f"generating {answer} tokens by replaying them", generated / replayed, "", 2.5, True)


def _together(engine: Backend, prompt: list[int], sessions: int = 8) -> Iterator[Figure]:
    """Compare one session of a batcher with several at once."""
    rates = {}
    for count in (1, sessions):
        batcher = Batcher(engine, reuse=False)
        running = [batcher.submit([*prompt, number], Sampling(), ANSWER) for number in range(count)]
        for session in running:
            next(session)  # prompts are read
        made, began = 0, time.perf_counter()
        while running:
            running = [session for session in running if next(session, None) is not None]
            made += len(running)
        rates[count] = made / (time.perf_counter() - began)
        batcher.close()
    yield Figure("a session alone, as a node serves it", rates[1], "tokens/s, wall")
    yield Figure(f"{sessions} sessions together", rates[sessions], "tokens/s, wall")


def _commitments(engine: Backend, ids: list[int]) -> Iterator[Figure]:
    """Compare a token's state hash with the token."""
    cache = engine.cache()
    logits = engine.forward(ids, cache)
    began = time.perf_counter()
    for one in ids[:64]:
        engine.forward([one], cache)
    token = (time.perf_counter() - began) / 64
    began = time.perf_counter()
    for _ in range(64):
        state_hash(engine.model.ident, ids, logits)
    yield Figure("commitment level 1, of decoding", (time.perf_counter() - began) / 64 / token * 100, "%", 2.0)


def quality(library: Library, name: str, file: Path, text: Path, windows: int = WINDOWS) -> list[Figure]:
    """Compare perplexities on the first tokens of a text: integers, floats on the same file, and llama.cpp.

    Raises:
        SizeError: the text is too short.
    """
    model, tokenizer = library.load(name)
    length = min(WINDOW, model.config.context)
    ids = tokenizer.encode(text.read_text("utf-8")[: 16 * windows * length])
    if len(ids) < windows * length:
        raise SizeError(f"the text has {len(ids)} tokens, {windows * length} are needed")
    parts = [ids[n * length : (n + 1) * length] for n in range(windows)]
    ours = engines.build("cpu", model)
    judge, peer = floats(file), _llama(file, length, every=True)
    judged: dict[str, Callable[[list[int]], Any]] = {"integers": lambda part: _every(ours, part)}
    judged["floats"] = judge.logits
    if peer is not None:
        judged["llama.cpp"] = lambda part: _scores(peer, part)
    losses = {name: np.array([_loss(run(part), part) for part in parts]) for name, run in judged.items()}
    shown = [Figure(f"perplexity, {name}", float(np.exp(loss[..., 0].mean())), "") for name, loss in losses.items()]
    apart = {name: loss[..., 0].mean() - losses["floats"][..., 0].mean() for name, loss in losses.items()}
    agreed = float((losses["integers"][..., 1] == losses["floats"][..., 1]).mean() * 100)
    return [
        Figure("tokens", windows * length, "", 4096, True),
        *shown,
        *(
            Figure(f"{name} beside floats", float(np.expm1(d) * 100), "%")
            for name, d in apart.items()
            if name != "floats"
        ),
        Figure("the same best token as floats", agreed, "%"),
    ]


def floats(file: Path) -> Floats:
    """Return float inference (f32) of a GGUF file: its blocks as the numbers that they stand for."""
    parsed = gguf.read(file)
    factors = parsed.tensors.pop("rope_freqs.weight", None)
    shape = config_of(parsed.metadata, () if factors is None else blocks.floats(factors).tolist())
    return Floats(
        weights={name: _numbers(tensor) for name, tensor in parsed.tensors.items()},
        layers=shape.layers,
        heads=shape.heads,
        groups=shape.kv_heads,
        eps=shape.eps,
        base=shape.rope_base,
        halves=shape.neox,
        factors=np.array(shape.rope_factors or 1.0),
    )


def _numbers(tensor: Tensor) -> Any:
    if tensor.kind in blocks.FLOATS:
        return blocks.floats(tensor).astype(np.float32)
    q, d, m = blocks.decode(tensor, 0, tensor.shape[0])
    group = q.shape[1] // d.shape[1]
    wide = (np.repeat(part, group, axis=1) for part in (d, m))
    scale, offset = wide
    return np.ldexp((scale * q + offset).astype(np.float32), -24)


def _every(engine: Backend, part: list[int]) -> Any:
    cache, made = engine.cache(), []
    for at in range(0, len(part), CHUNK):
        made.append(engine.forward(part[at : at + CHUNK], cache, every=True).astype(np.float32) / 65536)
    return np.concatenate(made)


def _scores(peer: Any, part: list[int]) -> Any:
    peer.reset()
    peer.eval(part)
    return np.array(peer.scores[: len(part)], np.float32)


def _loss(logits: Any, part: list[int]) -> Any:
    """Return, for each token but the last, the negative log-likelihood of the next one and the best id."""
    made = np.empty((len(part) - 1, 2))
    for at, following in enumerate(part[1:]):
        row = logits[at].astype(np.float64)
        top = row.max()
        made[at] = top + np.log(np.exp(row - top).sum()) - row[following], row.argmax()
    return made
