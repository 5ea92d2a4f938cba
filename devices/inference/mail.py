"""Prompts as messages to a process: what was asked, by whom, and the answer for its outbox (devices/08).

Anybody may write to a process, and a slot that cannot be computed stops all that follow. So what a message asks for is
read from the message alone, is little enough for any machine, and is refused in the outbox, where every node refuses it
alike. The model is the process's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hyperpy import Message, commitments
from hyperpy.errors import ParameterError, SizeError
from hyperpy.inference.prompts import parameters
from hyperpy.message import Value, as_text

from .asked import Asked, read

_CARRIED: Final = ("x-reference", "x-session")
"""What the caller finds again in the answer."""
MAX_CARRIED: Final = 1024
"""Bytes of each of these; longer ones are left out."""
MAX_TOKENS: Final = 256
"""Tokens of all choices of an answer together."""
MAX_PROMPT: Final = 2048
"""Tokens of a prompt."""
_HEX: Final = frozenset("0123456789abcdef")
_NO_EVIDENCE: Final = "Leave 'tee' out; ask for the process's state with ?attest=true."
REFERENCE: Final = "What a name means differs from node to node; /~inference@1.0/v1/models lists references."


@dataclass(frozen=True, slots=True)
class Received:
    """A prompt that came to a process: ``data`` and ``options`` as they came, the ``model`` of the process."""

    sender: str
    data: bytes
    options: Value | None
    model: Value | None
    carried: Message

    def asked(self) -> Asked:
        """Return what it asks for, if that is something any machine answers.

        Raises:
            MessageError: it is not; every node says the same.
        """
        if not isinstance(self.model, bytes) or not is_reference(as_text(self.model)):
            raise ParameterError("a process names its model by reference", name="model", hint=REFERENCE)
        items = parameters(self.data, [self.options]) | {"model": self.model}
        asked = read(Message({"chat-mode": "messages" in items}), Message.make(items), strict=True)
        if asked.tee:
            raise ParameterError("what processes are answered holds no evidence", name="tee", hint=_NO_EVIDENCE)
        if asked.level > 1:
            raise ParameterError(
                "what processes are answered has levels 0 and 1", name="level", hint="Finer ones can be made by replay."
            )
        if asked.limit * len(asked.samplings) > MAX_TOKENS:
            raise SizeError(
                f"a process makes at most {MAX_TOKENS} tokens of all choices of an answer",
                hint="Ask for fewer with max_tokens or n.",
            )
        return replace(asked, stream=False)

    def results(self, answer: Message) -> Message:
        """Return a slot's results: the answer, addressed to who asked."""
        sent = self.carried | answer | {"target": self.sender}
        return Message({"outbox": {"1": sent}, "output": answer["data"]})


def received(base: Message, assignment: Message) -> Received | None:
    """Return what a process was asked; None for what is no prompt, such as its own definition.

    A text of ``data`` is a user's turn; one that is a JSON object holds OpenAI's parameters. ``x-options`` are more
    of them, as JSON.
    """
    message = assignment.get("body")
    if not isinstance(message, Message):
        return None
    if message.raw("type") == b"Process" or message.raw("action") in (b"Inference-Response", b"Inference-Error"):
        return None
    data = message.raw("data") if "data" in message else message.raw("x-prompt")
    if not isinstance(data, bytes) or not data:
        return None
    definition = base.get("process")
    model = definition.raw("model") if isinstance(definition, Message) else None
    found = ((name, message.raw(name)) for name in _CARRIED)
    carried = Message.make(
        {name: one for name, one in found if isinstance(one, (bytes, int)) and len(as_text(one)) <= MAX_CARRIED}
    )
    return Received(_sender(message), data, message.raw("x-options"), model, carried)


def check_prompt(count: int) -> None:
    """Raise SizeError if a prompt of so many tokens is more than a process reads."""
    if count > MAX_PROMPT:
        raise SizeError(f"a process reads at most {MAX_PROMPT} tokens of a prompt, this one has {count}")


def is_reference(model: str) -> bool:
    """Say whether a model is named by reference."""
    return len(model) == 64 and set(model) <= _HEX


def response(body: bytes) -> Message:
    """Return an answer as a message."""
    return Message({"action": "Inference-Response", "data": body})


def refusal(text: str) -> Message:
    """Return an error as a message."""
    return Message({"action": "Inference-Error", "data": text})


def _sender(message: Message) -> str:
    """Return who gets the answer: the process that sent the message, else who signed it."""
    found = message.raw("from-process")
    if isinstance(found, bytes):
        return as_text(found)
    return next(iter(sorted(commitments.committers(message))), "")
