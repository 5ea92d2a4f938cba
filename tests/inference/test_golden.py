"""HPI-1's golden data (sections 14.1 and 14.2) on SmolLM2, to the bit.

HYPERPY_INFERENCE_GOLDEN names another list of cases, HYPERPY_INFERENCE_BACKEND another engine.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hyperpy.inference import reference
from hyperpy.inference.engines import build
from hyperpy.inference.generation import Backend, generate
from hyperpy.inference.model import Model
from hyperpy.inference.sampler import Sampling
from hyperpy.inference.tables import sha256_i32
from hyperpy.inference.tokenizer import Tokenizer

HERE = Path(__file__).parent
CASES = json.loads(Path(os.environ.get("HYPERPY_INFERENCE_GOLDEN") or HERE / "golden.json").read_text("utf-8"))
TRACE = json.loads((HERE / "trace.json").read_text("utf-8"))
_NAMES = {"": "reference", "numpy": "reference", "numba": "cpu"}
_ASKED = os.environ.get("HYPERPY_INFERENCE_BACKEND", "")
BACKEND = _NAMES.get(_ASKED, _ASKED)
STOPS = frozenset({0, 2})

pytestmark = [pytest.mark.timeout(1800)]
if not os.environ.get("HYPERPY_INFERENCE_GOLDEN"):  # who names cases wants them run
    pytestmark.append(pytest.mark.slow)


@pytest.fixture(scope="module")
def engine(smollm2: tuple[Model, Tokenizer]) -> Backend:
    return build(BACKEND, smollm2[0])


def seed_of(told: str | int | None) -> bytes:
    """Return a case's seed: 64 hex digits; any other text, or number, by its SHA-256; else the specification's."""
    text = "" if told is None else str(told)
    if len(text) == 64:
        return bytes.fromhex(text)
    return hashlib.sha256((text or "hyperpy").encode()).digest()


def sampling(case: dict[str, Any]) -> Sampling:
    if case["mode"] == "greedy":
        return Sampling()
    pick = {name: case.get(name) for name in ("T16", "top_k", "P16")}
    filled = [
        default if pick[name] is None else pick[name] for name, default in zip(pick, (52429, 40, 62259), strict=True)
    ]
    return Sampling(filled[0], filled[1], filled[2], seed_of(case.get("seed")))


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case['mode']}" for n, case in enumerate(CASES)])
def test_generation(case: dict[str, Any], engine: Backend) -> None:
    limit = len(case["output_tokens"])
    made = list(generate(engine, case["prompt_tokens"], sampling(case), limit, STOPS))
    assert [token.ident for token in made] == case["output_tokens"]
    assert sha256_i32(made[0].logits) == case["logits_sha256_first"]
    assert sha256_i32(made[-1].logits) == case["logits_sha256_last"]


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case['mode']}" for n, case in enumerate(CASES)])
def test_chat_template(case: dict[str, Any], smollm2: tuple[Model, Tokenizer]) -> None:
    if case.get("user") is not None:
        assert smollm2[1].chat([{"role": "user", "content": case["user"]}]) == case["prompt_tokens"]


def test_identifiers(smollm2: tuple[Model, Tokenizer]) -> None:
    model, _ = smollm2
    payloads = {
        "blk.0.attn_q": "12eb7418feab92eaacd11cc16fa1c5ea00226c6ed1eb06b88d0785bd84dcbf12",
        "blk.29.ffn_down": "194ad80046fb0d0c6436d62193b3f91dfe20b8198006fcf24f5724c23a8b6afd",
        "token_embd": "88fb724c2d5de91aefda79a82e4802504e41f9219db91e24c6c87ad3005dd9a9",
        "blk.0.attn_norm": "371e572f40246f89ed207a72bc1b22717f2da0606b936a8c38fd38e8be24b02a",
        "output_norm": "251bae6727136eba61bb2ff1f82b5237f8d530b0b120eb45d22d0d5ee0c30b2d",
    }
    assert model.ident.hex() == "80f7c2785d9ba42ec04d75aaa8e464a11429216f1f976bd99c2e3e6f742a047c"
    for name, digest in payloads.items():
        parts = b"".join(model.weights[f"{name}.weight"].payload())
        assert hashlib.sha256(parts).hexdigest() == digest, name
    q = model.matrix("blk.0.attn_q")
    assert (q.d[0, :4].tolist(), q.m[0, :4].tolist()) == ([3206, 3416, 2356, 2837], [-18466, -22416, -16688, -28637])
    assert (q.rm[0], q.re[0], model.norm("blk.0.attn_norm").eg, model.norm("output_norm").eg) == (42475, 30, 25, 22)
    assert model.config.fr == 14


def test_trace_of_prompt_1(smollm2: tuple[Model, Tokenizer]) -> None:
    got: dict[str, Any] = {}
    inputs: list[str] = []
    engine = reference.Engine(smollm2[0])
    plain = engine.linear

    def watched(digits: Any, shift: Any, *rest: Any) -> Any:
        made = plain(digits, shift, *rest)
        inputs.extend((sha256_i32(digits), sha256_i32(made)))
        return made

    engine.linear = watched  # type: ignore[method-assign]
    prompt = json.loads((HERE / "golden.json").read_text("utf-8"))[0]["prompt_tokens"]
    engine.forward(prompt, engine.cache(), trace=got.__setitem__)
    digits, shift = got["0.attn_norm.digits"]
    seen = {
        "embed": got["embed"],
        "L0.attn_norm": got["0.attn_norm"],
        "L0.attn_norm.x15": digits,
        "L0.q(before rope)": got["0.qkv"][0],
        "L0.k(before rope)": got["0.qkv"][1],
        "L0.v": got["0.qkv"][2],
        "L0.q(after rope)": got["0.rope"][0],
        "L0.k(after rope)": got["0.rope"][1],
        **{f"residual after layer {n}": got[f"{n}.residual2"] for n in (0, 1, 11, 14, 29)},
        "logits(last)": got["logits"],
    }
    for name, value in seen.items():
        assert sha256_i32(value) == TRACE[name], name
    order = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for at, name in enumerate(order):
        assert inputs[2 * at] == TRACE[f"blk.0.{name}.weight: input x15"], name
        assert inputs[2 * at + 1] == TRACE[f"blk.0.{name}.weight: output"], name
    assert got["embed"][0, :6].tolist() == TRACE["embed[0][:6]"]
    assert got["0.attn_norm"][0, :6].tolist() == TRACE["L0.attn_norm[0][:6]"]
    assert shift.tolist() == TRACE["L0.attn_norm.shift"]
    assert got["0.qkv"][0][0, :6].tolist() == TRACE["L0.q[0][:6]"]
    logits = got["logits"][0]
    best = sorted(range(len(logits)), key=lambda n: (-logits[n], n))[:5]
    assert [[n, int(logits[n])] for n in best] == TRACE["top5"]
    assert (logits[:8].tolist(), best[0]) == (TRACE["logits[:8]"], TRACE["argmax"])
