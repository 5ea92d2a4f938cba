"""What a request asks for: keys of the message as OpenAI's clients send them, checked and bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hyperpy import Message, commitments
from hyperpy.codecs import json
from hyperpy.errors import CodecError, ParameterError, SizeError
from hyperpy.inference.sampler import Sampling, sampling
from hyperpy.inference.tokenizer import Tokenizer
from hyperpy.message import NULL, Link, Value, as_text

from . import refused
from .receipts import request_digest, text_of

DEFAULT_TOKENS: Final = 256
MAX_CHOICES: Final = 8
MAX_STOPS: Final = 4
MAX_STOP: Final = 256
"""Characters of one stop sequence."""
MAX_TOP: Final = 20
"""Alternatives of a token whose log-probabilities are told."""
MAX_COMMITTED: Final = {2: 2048, 3: 256}
"""Tokens of all choices together for which layer roots, or op roots too, are told."""
PARAMETERS: Final = (
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "n"),
    *("stream", "stream_options", "stop", "seed", "logprobs", "top_logprobs", "level", "echo", "tee"),
)
"""What is read of a request, beside what is refused."""
_ECHOED: Final = (*PARAMETERS, *refused.REFUSED, "response_format", "user")
"""What a text that evidence is about says of the request."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, understood. ``turns`` of a chat, or a ``prompt`` as text or ids; ``top`` is -1 without logprobs.

    ``digest`` is the request's, as receipts hold it. With ``tee`` the answer holds evidence about itself and the
    request, ``text``.
    """

    model: str
    turns: tuple[dict[str, str], ...]
    prompt: str | tuple[int, ...]
    limit: int
    samplings: tuple[Sampling, ...]
    seed: bytes
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    top: int
    level: int
    digest: str
    tee: bool = False
    text: bytes = b"{}"

    @property
    def chat(self) -> bool:
        return bool(self.turns)

    def ids(self, tokenizer: Tokenizer, context: int) -> list[int]:
        """Return the prompt as ids, unless it is sure to be longer than a context; raise what the tokenizer raises."""
        if self.turns:
            tokenizer.check_fits((turn["content"] for turn in self.turns), context)
            return tokenizer.chat(self.turns)
        if not isinstance(self.prompt, str):
            return list(self.prompt)
        tokenizer.check_fits((self.prompt,), context)
        return tokenizer.encode(self.prompt)


def _loaded(one: Value) -> Value:
    """Return a member of a list: what is stored holds its messages as links."""
    return one.load() if isinstance(one, Link) else one


class Reader:
    """Takes values by OpenAI's names from a request, then from what the path put on the base; null is nothing."""

    def __init__(self, base: Message, request: Message) -> None:
        written = _written(request)
        self._request, self._names = request | dict(written), list(written)
        self._from = (self._request, base)

    def get(self, name: str) -> Value | None:
        """Return a value; ``-`` may stand for ``_``."""
        for source in self._from:
            for form in (name, name.replace("_", "-")):
                found = source.get(form)
                if found is not None and found != NULL:
                    return tuple(map(_loaded, found)) if isinstance(found, tuple) else found
        return None

    def check(self, strict: bool) -> None:
        """Refuse what could change an answer and is not understood; raise ParameterError.

        Args:
            strict: there is nothing but parameters in the request.
        """
        refused.check(self.get)
        refused.check_names(self._request.raw_items(), self._request if strict else self._names, PARAMETERS)

    def all(self, names: Sequence[str]) -> dict[str, Value]:
        """Return the values that are there."""
        return {name: found for name in names if (found := self.get(name)) is not None}

    def text(self, name: str, default: str = "") -> str:
        found = self.get(name)
        if found is None:
            return default
        if isinstance(found, (Message, tuple)):
            raise ParameterError(f"'{name}' must be text", name=name)
        return as_text(found)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Return a whole number from ``least`` to ``most``."""
        found = self.get(name)
        if found is None:
            return default
        if isinstance(found, float) and found.is_integer() and abs(found) < 1 << 53:
            found = int(found)  # JSON has one kind of number
        text = as_text(found) if isinstance(found, (bytes, int)) and not isinstance(found, bool) else ""
        if (
            not text.isascii()
            or not text.removeprefix("-").isdigit()
            or len(text) > 19
            or not least <= int(text) <= most
        ):
            raise ParameterError(f"'{name}' must be a whole number from {least} to {most}", name=name)
        return int(text)

    def decimal(self, name: str, default: str) -> str:
        """Return a number as its decimal text: what was written, or the shortest that gives the same float."""
        found = self.get(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, (bytes, int, float)):
            raise ParameterError(f"'{name}' must be a number", name=name)
        return repr(found) if isinstance(found, float) else as_text(found)

    def flag(self, name: str) -> bool:
        found = self.get(name)
        if found is None or found in (False, b"false"):
            return False
        if found in (True, b"true"):
            return True
        raise ParameterError(f"'{name}' must be true or false", name=name)


def read(base: Message, request: Message, *, strict: bool = False) -> Asked:
    """Return what a request on a base asks for.

    Args:
        strict: there is nothing but parameters in the request.

    Raises:
        ParameterError, SizeError: something of it is malformed, or not part of HPI-1.
    """
    reader = Reader(base, request)
    chat = base.get("chat-mode") is True or base.get("chat-mode") == b"true"
    reader.check(strict)
    turns = turns_of(reader.get("messages")) if chat else ()
    limit = reader.whole("max_completion_tokens", 0, 1, 1 << 20) or reader.whole(
        "max_tokens", DEFAULT_TOKENS, 1, 1 << 20
    )
    count = reader.whole("n", 1, 1, MAX_CHOICES)
    seed = _seed(reader.get("seed"), request)
    asked = (reader.decimal("temperature", "1"), reader.decimal("top_p", "1"), reader.whole("top_k", 0, -1, 1 << 20))
    drawn = tuple(sampling(asked[0], asked[1], max(asked[2], 0), one) for one in _seeds(seed, count))
    options, stream, tee = reader.get("stream_options"), reader.flag("stream"), reader.flag("tee")
    if stream and tee:
        raise ParameterError(
            "a streamed answer holds no evidence", name="tee", hint="Leave 'stream' out, or ask for ?attest=true."
        )
    return Asked(
        model=reader.text("model"),
        turns=turns,
        prompt="" if chat else _prompt(reader.get("prompt")),
        limit=limit,
        samplings=drawn,
        seed=seed,
        stops=_stops(reader.get("stop")),
        stream=stream,
        usage=isinstance(options, Message) and options.get("include_usage") is True,
        top=_top(reader, chat),
        level=_level(reader, limit * count),
        digest=request_digest(reader.all(PARAMETERS)),
        tee=tee,
        text=text_of(reader.all(_ECHOED)) if tee else b"{}",
    )


def _written(request: Message) -> Mapping[str, Value]:
    """Return the keys of a JSON text that a request has as its body."""
    body = request.get("body")
    if not isinstance(body, bytes) or not body.lstrip().startswith(b"{"):
        return {}
    try:
        found = json.decode(body)
    except CodecError:
        return {}
    return found.raw_items() if isinstance(found, Message) else {}


def turns_of(found: Value | None) -> tuple[dict[str, str], ...]:
    """Return the turns of a conversation; their roles and bounds are the tokenizer's business."""
    if not isinstance(found, tuple) or not found:
        raise ParameterError("'messages' must be a list of turns with 'role' and 'content'", name="messages")
    return tuple(_turn(one) for one in found)


def _turn(one: Value) -> dict[str, str]:
    content = one.get("content") if isinstance(one, Message) else None
    if not isinstance(one, Message) or content is None:
        raise ParameterError("a turn needs 'role' and 'content'", name="messages")
    role = one.get("role")
    if role == b"developer":
        role = b"system"
    if isinstance(content, tuple):
        return {"role": as_text(role or b""), "content": "".join(_part(_loaded(part)) for part in content)}
    if not isinstance(content, bytes) or not isinstance(role, bytes):
        raise ParameterError("a turn's 'role' and 'content' must be text", name="messages")
    return {"role": as_text(role), "content": as_text(content)}


def _part(one: Value) -> str:
    text = one.get("text") if isinstance(one, Message) and one.get("type") == b"text" else None
    if not isinstance(text, bytes):
        raise ParameterError("only parts of the type 'text' are understood", name="messages")
    return as_text(text)


def _prompt(found: Value | None) -> str | tuple[int, ...]:
    """Return a prompt: text, ids, or a list of one of these."""
    if isinstance(found, tuple) and len(found) == 1 and isinstance(found[0], (bytes, tuple)):
        found = _loaded(found[0])
    if isinstance(found, bytes) and found:
        return as_text(found)
    if isinstance(found, tuple) and found:
        ids = tuple(one for one in found if type(one) is int)
        if len(ids) == len(found):
            return ids
    raise ParameterError("'prompt' must be one text, or a list of token ids", name="prompt")


def _stops(found: Value | None) -> tuple[str, ...]:
    listed: Sequence[Value] = () if found is None else found if isinstance(found, tuple) else (found,)
    if len(listed) > MAX_STOPS or not all(isinstance(one, bytes) and one for one in listed):
        raise ParameterError(f"'stop' must be a text or a list of at most {MAX_STOPS}", name="stop")
    made = tuple(map(as_text, listed))
    if any(len(one) > MAX_STOP for one in made):
        raise SizeError(f"a stop sequence has at most {MAX_STOP} characters")
    return made


def _seed(found: Value | None, request: Message) -> bytes:
    """Return 32 bytes: SHA-256 of the seed as text; without one, of the request's ID (HPI-1, 9)."""
    if found is None:
        return hashlib.sha256(commitments.unsigned_id(request).encode()).digest()
    if isinstance(found, (Message, tuple, bool)):
        raise ParameterError("'seed' must be a number or text", name="seed")
    return hashlib.sha256(as_text(found).encode("utf-8", "surrogateescape")).digest()


def _seeds(seed: bytes, count: int) -> list[bytes]:
    """Return the seed of each choice: the first has the request's own."""
    return [seed, *(hashlib.sha256(seed + number.to_bytes(4, "big")).digest() for number in range(1, count))]


def _level(reader: Reader, tokens: int) -> int:
    """Return how finely is committed to what was computed (HPI-1, 12)."""
    level = reader.whole("level", 1, 0, 3)
    if level > 1 and tokens > MAX_COMMITTED[level]:
        raise SizeError(
            f"level {level} is told of at most {MAX_COMMITTED[level]} tokens",
            hint="Ask for fewer with max_tokens; finer levels can be made later by replay.",
        )
    return level


def _top(reader: Reader, chat: bool) -> int:
    alternatives = reader.whole("top_logprobs", 0, 0, MAX_TOP)
    told = reader.flag("logprobs") if chat else False
    if alternatives and not told:
        hint = "Set 'logprobs' to true." if chat else "Give their number as 'logprobs'."
        raise ParameterError("'top_logprobs' goes with 'logprobs'", name="top_logprobs", hint=hint)
    if chat:
        return alternatives if told else -1
    return -1 if reader.get("logprobs") is False else reader.whole("logprobs", -1, 0, MAX_TOP)


Emit = Callable[[bytes], None]
"""Takes a piece of a streamed answer."""
