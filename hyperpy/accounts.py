"""The capability ``accounts``: what a node answers for. See :class:`hyperpy.capabilities.Accounts`."""

from __future__ import annotations

import threading
from typing import cast

from hyperpy import commitments
from hyperpy.cache import Cache
from hyperpy.capabilities import Answers, Made, Slots
from hyperpy.context import Frame, Given
from hyperpy.dispatch import find
from hyperpy.errors import Forbidden, HyperpyError
from hyperpy.fault_proof import Account
from hyperpy.message import Message, Value
from hyperpy.normalise import key_of
from hyperpy.registry import Registry
from hyperpy.sdk import Context, Result
from hyperpy.slot_rules import as_role
from hyperpy.trail import Trail

_HERE = ("a limit", "a device that is not here")
"""What a chain may have met that is one node's alone; see :class:`hyperpy.context.Chain`."""


class Accounts:
    """Reads the trail and the states, and makes steps as a slot makes them.

    Args:
        public: whether the trail is for everybody; if not, no account is given.
    """

    def __init__(self, registry: Registry, cache: Cache, trail: Trail, slots: Slots, *, public: bool) -> None:
        self._registry, self._cache, self._trail, self._slots = registry, cache, trail, slots
        self._public = public

    def answers(self, base: Message, request: Message) -> Answers:
        """See :meth:`hyperpy.capabilities.Accounts.answers`."""
        found = find(self._registry, base, key_of(request))
        spec = found.device.spec
        pure = found.spec.deterministic and spec.one_per is None
        return Answers(spec.name, found.name, found.device.implementation, pure)

    def implementation(self, device: str) -> str:
        """See :meth:`hyperpy.capabilities.Accounts.implementation`."""
        return self._registry.lookup(device).implementation

    def strictly(self, ctx: Context, base: Message, request: Message, *, slot: bool) -> Made:
        """See :meth:`hyperpy.capabilities.Accounts.strictly`."""
        frame = cast(Frame, ctx)
        chain, here, others = frame.chain, threading.get_ident(), set[str]()

        def observe(device: str, key: str, status: str, base: Message) -> None:
            if threading.get_ident() == here:
                others.add(device)

        before = chain.strict, chain.given, chain.met
        chain.strict, chain.given, chain.met = True, None if slot else Given(), ""
        frame.resolver.observers.append(observe)
        try:
            made: Result | HyperpyError = frame.resolver.step(base, request, frame)
        except HyperpyError as error:
            made = error
        finally:
            frame.resolver.observers.remove(observe)
            beside = chain.met
            chain.strict, chain.given, chain.met = before
        return Made(made, beside or self._foreign(base, others), beside in _HERE)

    def _foreign(self, base: Message, used: set[str]) -> str:
        """Name a device that took part, other than the base's own, whose code hyperpy's version does not tell."""
        own = base.get("device")
        for name in sorted(used):
            if name.encode() != own and not self._registry.lookup(name).bundled:
                return f"the device {name}, of which nothing is known"
        return ""

    def step(self, hashpath: str, result: str) -> Account | None:
        """See :meth:`hyperpy.capabilities.Accounts.step`."""
        self._open()
        for record in self._trail.all_by_hashpath(hashpath):
            if record.result != result:
                continue
            base, request = self._read(record.base), self._read(record.request)
            if isinstance(base, Message) and isinstance(request, Message):
                return Account(record, base, request)
        return None

    def slot(self, process: str, slot: int) -> Account | None:
        """See :meth:`hyperpy.capabilities.Accounts.slot`."""
        self._open()
        record, after = self._trail.by_slot(process, slot), self._slots.state(process, slot)
        if record is None or after is None:
            return None
        before = self._slots.state(process, slot - 1) if slot > 0 else None
        if slot > 0 and (before is None or _base_id(before) != record.base):
            return None  # the kept state is not the one that the slot was computed from: another schedule's, or gone
        return Account(record, None, None, process, slot, "" if before is None else shown_id(before), shown_id(after))

    def _read(self, ref: str) -> Value | None:
        try:
            return self._cache.read(ref, exact=True)
        except HyperpyError:
            return None

    def _open(self) -> None:
        if not self._public:
            raise Forbidden("this node's trail is not public", hint="[trail] public = true opens it.")


def _base_id(state: Message) -> str:
    """Return the content ID of a slot's base, made from the state before it."""
    return shown_id(as_role(state, "execution", "results"))


def shown_id(state: Message) -> str:
    """Return the content ID of a state as callers get it."""
    return commitments.content_id(Message.make({k: v for k, v in state.raw_items().items() if k != "snapshot"}))
