"""OpenAI's documents: answers, pieces of streamed answers, lists of models, errors. Written the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hyperpy.errors import HyperpyError, ParameterError
from hyperpy.inference.serving import PART, Card, Layout
from hyperpy.inference.shaders import NAMES

from . import receipts
from .asked import Asked
from .choices import Choice

DONE: Final = b"data: [DONE]\n\n"
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
}


def text_of(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return a document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class Forms:
    """The documents of one answer."""

    def __init__(self, asked: Asked, card: Card, prompt: Sequence[int]) -> None:
        self._asked, self._card, self._prompt = asked, card, prompt
        self._head = {"created": 0, "model": card.name, "system_fingerprint": f"hpi1-{card.reference[:16]}"}
        self._kind = "chat.completion" if asked.chat else "text_completion"

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """Return the answer: OpenAI's fields, what makes it checkable under ``hyperpy``, and its ``receipt``."""
        document: dict[str, Any] = {
            "id": self._name(choices[0].states[-1]),
            "object": self._kind,
            **self._head,
            "choices": [self._choice(one) for one in choices],
            "usage": self._usage(choices),
            "hyperpy": self._checkable(choices),
        }
        told = document["hyperpy"]["state"]
        drawn, kernels = self._asked.samplings[0], receipts.shaders(NAMES)
        made = receipts.of_answer(self._asked.digest, self._card, drawn, told, kernels, text_of(document))
        return text_of({**document, "receipt": made})

    def _name(self, state: str) -> str:
        return f"{'chatcmpl' if self._asked.chat else 'cmpl'}-{state[:32]}"

    def _choice(self, one: Choice) -> dict[str, Any]:
        made: dict[str, Any] = {"index": one.index}
        if self._asked.chat:
            made["message"] = {"role": "assistant", "content": one.text}
        else:
            made["text"] = one.text
        told = self._logprobs(one.logprobs, one.offsets) if self._asked.top >= 0 else None
        return {**made, "logprobs": told, "finish_reason": one.reason, "token_ids": one.ids}

    def _logprobs(self, told: Sequence[Mapping[str, Any]], offsets: Sequence[int]) -> dict[str, Any]:
        """Return log-probabilities; of tokens with the same text, the old form's maps have room for the best alone."""
        if self._asked.chat:
            return {"content": list(told)}
        return {
            "tokens": [one["token"] for one in told],
            "token_logprobs": [one["logprob"] for one in told],
            "top_logprobs": [_best(entry["top_logprobs"]) for entry in told],
            "text_offset": list(offsets),
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        made = sum(len(one.ids) for one in choices)
        count = len(self._prompt)
        return {"prompt_tokens": count, "completion_tokens": made, "total_tokens": count + made}

    def _checkable(self, choices: Sequence[Choice]) -> dict[str, Any]:
        card, drawn = self._card, self._asked.samplings[0]
        made: dict[str, Any] = {
            "profile": receipts.PROFILE,
            "reference": card.reference,
            "model-id": card.model_id,
            "weight-root": card.weight_root,
            "config-digest": card.config_digest,
            "tokenizer": card.tokenizer,
            "sampling": {"t16": drawn.t16, "top-k": drawn.top_k, "p16": drawn.p16, "seed": self._asked.seed.hex()},
            "prompt_token_ids": list(self._prompt),
            "state": [one.states[-1] for one in choices],
        }
        if self._asked.level:
            made["states"] = [one.states for one in choices]
        if self._asked.level > 1:
            made["commitments"] = [one.commitments for one in choices]
        return made

    # -- streamed -----------------------------------------------------------------------------

    def first(self, choice: Choice) -> bytes:
        """Return the piece that opens a choice of a chat."""
        return self._piece(choice, {"role": "assistant", "content": ""}, None)

    def news(self, choice: Choice) -> bytes:
        """Return a piece with what is new of a choice, or nothing."""
        count = len(choice.logprobs)
        text, told = choice.news()
        if not text and not told and not choice.reason:
            return b""
        logprobs = self._logprobs(told, choice.offsets[count - len(told) : count]) if told else None
        return self._piece(choice, {"content": text} if text else {}, logprobs, text)

    def _piece(self, choice: Choice, delta: dict[str, Any], logprobs: Any, text: str = "") -> bytes:
        made: dict[str, Any] = {"index": choice.index}
        if self._asked.chat:
            made["delta"] = delta
        else:
            made["text"] = text
        made |= {"logprobs": logprobs, "finish_reason": choice.reason or None}
        return self._event([made], None)

    def usage(self, choices: Sequence[Choice]) -> bytes:
        """Return the last piece of a stream whose caller asked for the usage."""
        return self._event([], self._usage(choices))

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        kind = f"{self._kind}.chunk" if self._asked.chat else self._kind
        document = {"id": self._name(self._asked.seed.hex()), "object": kind, **self._head, "choices": choices}
        if self._asked.usage:
            document["usage"] = usage
        return b"data: " + text_of(document) + b"\n\n"


def _best(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probabilities by text, of alternatives that begin with the best."""
    made: dict[str, float] = {}
    for one in alternatives:
        made.setdefault(one["token"], one["logprob"])
    return made


def listed(cards: Sequence[Card]) -> bytes:
    """Return the list of models; each with the digests that say what it is."""
    return text_of({"object": "list", "data": [row(card) for card in cards]})


def row(card: Card) -> dict[str, Any]:
    """Return a model as the list has it."""
    return {
        "id": card.name,
        "object": "model",
        "created": 0,
        "owned_by": "hyperpy",
        "max_model_len": card.context,
        "reference": card.reference,
        "model-id": card.model_id,
        "weight-root": card.weight_root,
    }


def layout(found: Layout) -> bytes:
    """Return a model file's layout: ``config`` is the text that config-digest hashes."""
    told = {"reference": found.card.reference, "model-id": found.card.model_id, "config": found.config}
    sizes = {"tensors": found.tensors, "bytes": found.size, "each": PART, "parts": -(-found.size // PART)}
    return text_of({**told, **sizes})


def failed(error: HyperpyError) -> bytes:
    """Return an error in OpenAI's shape; ``message`` says what to do next."""
    param = error.name if isinstance(error, ParameterError) and error.name else None
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return text_of({"error": {"message": error.diagnostics(), "type": kind, "param": param, "code": None}})
