"""What became of a message that was to be delivered: the node may have stopped in the middle of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from hyperpy import Context, Message, commitments
from hyperpy.capabilities import Slots
from hyperpy.encoding import number_keys
from hyperpy.errors import UpstreamError
from hyperpy.message import Link, Value

_PAGE: Final = 500
_PAGES: Final = 20


class Posted(NamedTuple):
    """One message on its way; kept under a name as text.

    Attributes:
        ident: ID of the signed message.
        slot: its slot; None until that is known.
        codec: the device that signed it.
        head: the last slot of the target's schedule before, where this node keeps that; -1 otherwise.
        target: the process it went to; empty in marks of older versions.
    """

    ident: str
    slot: int | None = None
    codec: str = ""
    head: int = -1
    target: str = ""

    @classmethod
    def read(cls, text: str) -> Posted:
        """Return what :meth:`__str__` made."""
        ident, _, rest = text.partition(" ")
        codec, _, last = rest.rpartition(" ")
        number, _, target = last.partition("/")
        return cls(ident, None, codec, int(number), target) if codec else cls(ident, int(number), target=target)

    def __str__(self) -> str:
        words = f"{self.codec} {self.head}" if self.slot is None else str(self.slot)
        return f"{self.ident} {words}" + (f"/{self.target}" if self.target else "")


def placed(posted: Posted, target: Message, slots: Slots, ctx: Context) -> int | None:
    """Return the slot that a message got on its target, if it got one; look into the target's schedule.

    Args:
        target: the process, as process@1.0.

    Raises:
        HyperpyError: its schedule is kept elsewhere and cannot be read now.
    """
    definition = target["process"]
    assert isinstance(definition, Message)
    process = commitments.signed_id(definition)
    last = slots.head(process).slot
    if last >= 0:
        return _slot_of(posted.ident, slots.range(process, posted.head + 1, last))
    return _elsewhere(posted.ident, target, ctx)


def _elsewhere(ident: str, target: Message, ctx: Context) -> int | None:
    answer = ctx.step(target, Message({"path": "slot"})).value
    last = answer.get("current") if isinstance(answer, Message) else None
    if not isinstance(last, int) or isinstance(last, bool):
        raise _unknown()
    for _ in range(_PAGES):
        if last < 0:
            break
        first = max(0, last - _PAGE + 1)
        page = ctx.step(target, Message({"path": "schedule", "method": "GET", "from": first, "to": last})).value
        listed = page.get("assignments") if isinstance(page, Message) else None
        if not isinstance(listed, Message):
            raise _unknown()
        slot = _slot_of(ident, _messages(listed))
        if slot is not None:
            return slot
        if len(listed) < last - first + 1:
            raise _unknown()
        last = first - 1
    return None


def _messages(listed: Message) -> Iterable[Message]:
    for name in number_keys(listed):
        one = listed[name]
        if isinstance(one, Message):
            yield one


def _slot_of(ident: str, assignments: Iterable[Message]) -> int | None:
    for one in assignments:
        slot = one.get("slot")
        if _ident(one.raw("body")) == ident and isinstance(slot, int):
            return slot
    return None


def _ident(body: Value | None) -> str:
    if isinstance(body, Link):
        return body.id
    return commitments.signed_id(body) if isinstance(body, Message) else ""


def _unknown() -> UpstreamError:
    return UpstreamError(
        "whether this message was delivered before cannot be told: the target's schedule cannot be read",
        hint="Push the slot again when the target's scheduler answers.",
    )
