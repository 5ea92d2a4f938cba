"""infer: an answer of a model kept here, with its receipt."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpy.cli.app import Json, err, show, write_whole
from hyperpy.cli.models import DEFAULT, Folder

if TYPE_CHECKING:
    from hyperpy.message import Message
    from hyperpy.node import Node

_CHAT = "/~inference@1.0/v1/chat/completions"
_HEADERS = ((b"content-type", b"application/json"),)
LEAST = 16
"""Tokens of an answer from which on its speed says something."""
_WHILE_IT_TAKES = 10.0**9
"""Seconds: the person at the terminal decides when an answer takes too long."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(infer)


def infer(
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    model: Annotated[str, typer.Option(help="Name of the model, or its reference.")] = "smollm2-135m",
    system: Annotated[str | None, typer.Option(help="What the system says first; default the template's.")] = None,
    limit: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of the answer.")] = 256,
    temperature: Annotated[str, typer.Option(help="0 is greedy; otherwise from 0.01, as a decimal.")] = "0",
    top_p: Annotated[str, typer.Option(help="Share of the probability that is kept, as a decimal.")] = "1",
    top_k: Annotated[int, typer.Option(help="How many of the best are looked at; 0 is all.")] = 0,
    seed: Annotated[str, typer.Option(help="Any text; its SHA-256 seeds the choice.")] = "",
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="Write a receipt, for `hyperpy verify --replay`.")
    ] = None,
    level: Annotated[int, typer.Option(min=0, max=3, help="Commitments to tell: 1 states, 2 layers, 3 ops.")] = 1,
    models: Folder = DEFAULT,
    json: Json = False,
) -> None:
    """Answer a prompt with a model kept here. The answer is the same, bit for bit, on every machine.

    At the end stand the speed, the state after the answer, and the receipt's ID: that of the message which a node
    answers with when it is asked the same.

    Example: hyperpy infer "What is the capital of France?"
    """
    turns = [{"role": "system", "content": system}] if system else []
    document: dict[str, Any] = {
        "messages": [*turns, {"role": "user", "content": prompt}],
        "max_tokens": limit,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stream": True,
        **({} if level == 1 else {"level": level}),
    }
    with memory_node(models, limit) as node:
        card = node.models.which(model)
        engine = node.models.open(card.reference, time.monotonic() + _WHILE_IT_TAKES).batcher.engine
        clock = _Clock(quiet=json)
        answer, made = _asked(node, {"model": card.reference, **document}, clock)
        data = _receipt(node, made.hashpath or "") if receipt is not None else b""
    if receipt is not None:
        write_whole(receipt, data)
    usage, state = answer["usage"], answer["hyperpy"]["state"][0]
    rate = clock.rate(usage["completion_tokens"])
    told = f"then {rate:.1f} tokens/s" if rate is not None else "too few to tell a speed"
    if json:
        choice = answer["choices"][0]
        found = {"text": choice["message"]["content"], "ids": choice["token_ids"]}
        found |= {"prompt-ids": answer["hyperpy"]["prompt_token_ids"], "state": state, "engine": engine}
        found |= {name: answer["hyperpy"][name][0] for name in ("states", "commitments") if name in answer["hyperpy"]}
        speed = None if rate is None else round(rate, 1)
        show({**found, "tokens-per-second": speed, "receipt-id": made.text("id")}, True)
        return
    typer.echo()
    _say(
        f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, first after {clock.first_s:.2f} s, "
        f"{told} ({engine}); state {state}"
    )
    _say(f"receipt {made.text('id')}" + (f", {len(data)} bytes in {receipt}" if receipt is not None else ""))


class _Clock:
    """Takes the pieces of a streamed answer: prints their text, and notes when they came."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._began = self._first = self._last = time.perf_counter()
        self._seen = False

    def take(self, piece: bytes) -> None:
        """Take a piece: events of a chat, as OpenAI's interface streams them."""
        for line in piece.splitlines():
            text = line.removeprefix(b"data: ")
            if not text.startswith(b"{"):
                continue
            choice = json_module.loads(text)["choices"][0]
            if "content" not in choice["delta"] and choice["finish_reason"] is None:
                continue
            if choice["delta"].get("role"):
                continue
            self._last = time.perf_counter()
            if not self._seen:
                self._first, self._seen = self._last, True
            if not self._quiet:
                typer.echo(choice["delta"].get("content", ""), nl=False)

    @property
    def first_s(self) -> float:
        """Seconds until the first piece."""
        return self._first - self._began

    def rate(self, tokens: int) -> float | None:
        """Return tokens per second, behind the first piece; None of too few: several come at once, the last perhaps
        without text."""
        took = self._last - self._first
        return (tokens - 1) / took if tokens >= LEAST and took > 0 else None


def memory_node(models: Path, limit: int) -> Node:
    """Return a node in memory that nobody else reaches, for one answer."""
    from hyperpy import config
    from hyperpy.keys import RsaKey
    from hyperpy.node import Node
    from hyperpy.store.memory import MemoryStore

    flags = {
        "http.sign": False,
        "limits.deadline": _WHILE_IT_TAKES,
        "inference.models": str(models),
        "inference.tokens": limit,
        "inference.preload": False,
    }
    key, nobody = RsaKey.generate(2048), RsaKey.generate(2048).address  # they sign nothing, and go with the node
    return Node(config.load(environ={}, flags=flags), key=key, store=MemoryStore(), operator=nobody)


def _asked(node: Node, document: dict[str, Any], clock: _Clock) -> tuple[dict[str, Any], Message]:
    """Return a streamed answer, read, and the ID and hashpath of the message it came in.

    Raises:
        HyperpyError: what the node refused.
    """
    from hyperpy.http.form import RawRequest, Rules
    from hyperpy.http.wire import read
    from hyperpy.message import Message

    body = json_module.dumps(document).encode()
    ingress = read(RawRequest("POST", _CHAT.encode(), _HEADERS, body, "127.0.0.1"), Rules.of(node.config))
    reply = node.handle(replace(ingress, sink=clock.take))
    error = reply.private.get("error")
    if error is not None:
        raise error
    hashpath = reply.hashpath or ""
    record = node.trail.by_hashpath(hashpath)
    assert record is not None
    answer: dict[str, Any] = json_module.loads(reply.text("body"))
    return answer, Message({"id": record.result}).with_private(hashpath=hashpath)


def _receipt(node: Node, ref: str) -> bytes:
    """Return the receipt file of what a node answered. Nobody signed it: it is checked by making it again."""
    from hyperpy.audit.collect import collect
    from hyperpy.audit.receipts import build
    from hyperpy.audit.source import Evidence

    evidence = Evidence.of_store(node.store, "this answer")
    return build(evidence, collect(evidence, ref))


def _say(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)
