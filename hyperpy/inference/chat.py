"""Fill in a model's chat template. The template is a stranger's program, so it runs in a locked child process.

The child is a fork of a process that is kept for it (``templating.py``), with no environment, bounded memory and CPU
seconds; inside it Jinja's immutable sandbox keeps the template away from Python. The one template of SmolLM2 is
written out here and needs no child.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyperpy.errors import CodecError, ParameterError, SizeError
from hyperpy.inference import templating

ROLES = ("system", "user", "assistant", "tool")
MAX_TURNS, MAX_CONTENT, MAX_TEMPLATE, MAX_RENDERED = 1024, 1 << 19, 1 << 16, 1 << 21
SECONDS, MEMORY = 5, 1 << 29
"""What a template may use: seconds of CPU, and bytes of address space."""

SMOLLM2_SHA256 = "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"
"""Of the template that :func:`_smollm2` writes out."""
_SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def check_turns(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the turns of a conversation, if they are that.

    Raises:
        ParameterError: a turn lacks a known role or a text.
        SizeError: there are too many turns, or too much text.
    """
    if not turns or len(turns) > MAX_TURNS:
        raise SizeError(f"a conversation has 1 to {MAX_TURNS} turns, not {len(turns)}")
    made = []
    for turn in turns:
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise ParameterError(f"a turn needs a text and one of the roles {', '.join(ROLES)}", name="messages")
        made.append({"role": role, "content": content})
    if sum(len(turn["content"]) for turn in made) > MAX_CONTENT:
        raise SizeError(f"a conversation has at most {MAX_CONTENT} characters")
    return made


def render(template: Any, turns: list[dict[str, str]], tokens: Mapping[str, str]) -> str:
    """Return the template filled in with turns, with the header of the answer at its end.

    Args:
        tokens: texts of ``bos_token`` and ``eos_token``.

    Raises:
        CodecError: there is no template, it is broken, or it wanted more than it may use.
        Busy: this machine had no time for it; that is no result.
    """
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
        raise CodecError("the model has no chat template of a bearable size", hint="Give token ids instead.")
    if hashlib.sha256(template.encode()).hexdigest() == SMOLLM2_SHA256:
        return _smollm2(turns)
    return _in_child(template, turns, tokens)


def _smollm2(turns: list[dict[str, str]]) -> str:
    """Return what SmolLM2's template makes of the turns (ChatML with a default first turn)."""
    if turns[0]["role"] != "system":
        turns = [{"role": "system", "content": _SMOLLM2_SYSTEM}, *turns]
    told = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return told + "<|im_start|>assistant\n"


def _in_child(template: str, turns: list[dict[str, str]], tokens: Mapping[str, str]) -> str:
    """Fill in a template in a process of its own."""
    limits = {"seconds": SECONDS, "memory": MEMORY, "most": 2 * MAX_RENDERED}
    told = json.dumps({"template": template, "turns": turns, "tokens": dict(tokens), **limits})
    found = templating.filled(told.encode())
    try:
        answer = json.loads(found)
    except (ValueError, RecursionError):
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if "error" in answer:
        raise CodecError(
            f"the model's chat template failed: {str(answer['error'])[:300]}", hint="Give token ids instead."
        )
    text = answer.get("text")
    if not isinstance(text, str) or len(text) > MAX_RENDERED:
        raise CodecError("the model's chat template used more time or memory than it may")
    return text
