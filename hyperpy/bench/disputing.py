"""What a proof about one value of a language model's computation costs: bytes, and its judge's time."""

from __future__ import annotations

import time
from statistics import median

from hyperpy.bench.auditing import Figure
from hyperpy.inference import engines, evidence, judging, statements
from hyperpy.inference.commitments import OPS, tracing
from hyperpy.inference.evidence import Evidence, chunk_of, size_of
from hyperpy.inference.library import Library
from hyperpy.inference.openings import Openings
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.traces import Trace, WeightTree
from hyperpy.message import Message, Value

ROUNDS = 15
BEHIND = 8
"""Tokens behind a full chunk of the cache: the largest proof is of the attention that sees all of it."""


def proofs(library: Library, name: str) -> list[Figure]:
    """Measure proofs of every op, in the last layer, about a token that looks at a whole chunk of the cache."""
    model, _ = library.load(name)
    engine = tracing(engines.build("cpu", model))
    each, words = chunk_of(model.config.head), model.config.vocabulary
    ids = [(7 * n * n + 3 * n + 100) % words for n in range(each + BEHIND)]
    began = time.perf_counter()
    weights = bytes.fromhex(library.find(name).manifest["weight-root"])
    trace = Trace(engine, weights, ids, len(ids), Sampling())
    took = (time.perf_counter() - began) / len(ids) * 1000
    token, layer = each - 1, model.config.layers - 1
    opened = Openings.own(trace, WeightTree(model.weights), layer, token)
    measured = {op: _cost(trace, _one(trace, opened, op, token, layer)) for op in _OPS}
    whole = opened.tensor(len(ids) - 1, "logits", 0)
    row = _cost(trace, Evidence("state", len(ids) - 1, parts=Message.make({"in": whole})))
    plain = [cost for op, cost in measured.items() if op != "attention"]
    size, ms = measured["attention"]
    return [
        Figure("proof of one value, largest but attention", max(size for size, _ in plain) / 1000, "kB", 80),
        Figure("its judge, slowest but attention, CPU", max(ms for _, ms in plain), "ms", 1),
        Figure(f"proof of attention over {each} positions", size / 1000, "kB", 80),
        Figure("its judge, CPU", ms, "ms", 5),
        Figure("proof with a whole row of logits", row[0] / 1000, "kB"),
        Figure("its judge, CPU", row[1], "ms"),
        Figure("committing to a token, level 3, with its computation", took, "ms, wall"),
    ]


_OPS = ("embedding", *OPS, "output_norm", "logits")


def _one(trace: Trace, opened: Openings, op: str, token: int, layer: int) -> Evidence:
    """Return evidence of a true value: it costs what that of a false one does."""
    index = size_of(trace.config, op) - 1
    out = opened.tensor(token, op, layer, index, index + 1)
    parts: dict[str, Value] = {**opened.inputs(token, op, layer, index), "out": out}
    return Evidence(op, token, layer, index, 0, Message.make(parts))


def _cost(trace: Trace, found: Evidence) -> tuple[int, float]:
    """Return the bytes of evidence with its statement, and the median of CPU milliseconds to read and judge both."""
    statement, data = trace.statement.encode(), found.encode()
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        judged = judging.judge(statements.read(statement), evidence.read(data))
        times.append((time.process_time() - began) * 1000)
        if judged.false:
            raise AssertionError(f"a true value was found false: {judged}")
    return len(statement) + len(data), median(times)
