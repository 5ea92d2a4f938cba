"""Prompts as messages to a process: what was asked, by whom, and the answer for its outbox (devices/08)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperpy import Message, commitments
from hyperpy.inference.prompts import parameters
from hyperpy.message import Value, as_text

_CARRIED: Final = ("x-reference", "x-session")
"""What the caller finds again in the answer."""


@dataclass(frozen=True, slots=True)
class Received:
    """A prompt that came to a process."""

    sender: str
    parameters: Message
    chat: bool
    carried: Message

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
    if message.get("type") == b"Process" or message.get("action") in (b"Inference-Response", b"Inference-Error"):
        return None
    data = message.get("data", message.get("x-prompt"))
    if not isinstance(data, bytes) or not data:
        return None
    items = parameters(data, [message.get("x-options")])
    items["model"] = _model(base, message)
    carried = Message({name: message[name] for name in _CARRIED if name in message})
    return Received(_sender(message), Message.make(items), "messages" in items, carried)


def response(body: bytes) -> Message:
    """Return an answer as a message."""
    return Message({"action": "Inference-Response", "data": body})


def refusal(text: str) -> Message:
    """Return an error as a message."""
    return Message({"action": "Inference-Error", "data": text})


def _model(base: Message, message: Message) -> Value:
    definition = base.get("process")
    own = definition.get("model") if isinstance(definition, Message) else None
    return own if own is not None else message.get("model", b"")


def _sender(message: Message) -> str:
    """Return who gets the answer: the process that sent the message, else who signed it."""
    found = message.get("from-process")
    if found is not None:
        return as_text(found)
    return next(iter(sorted(commitments.committers(message))), "")
