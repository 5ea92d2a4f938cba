"""What tests of Lua share: a node, and shortcuts to its Lua."""

from __future__ import annotations

import time
from typing import Any

from hyperpy import Message, Result, device, key
from hyperpy.cache import Batch
from hyperpy.context import Frame
from hyperpy.testing import TestNode
from tests.devices.lua_code import MODULE


@device("ticket@1.0")
class Ticket:
    """Gives another number each time."""

    taken = 0

    @key(deterministic=False)
    def take(self) -> int:
        """Return the next number."""
        Ticket.taken += 1
        return Ticket.taken


class Bench:
    """A node, and shortcuts to its Lua."""

    def __init__(self, at: TestNode) -> None:
        self.at = at

    @property
    def device(self) -> Any:
        """The running device."""
        return self.at.node.registry.lookup("lua@5.3a").instance

    def pids(self) -> list[int]:
        """The children's process numbers."""
        return self.device._pool.pids() if self.device._pool is not None else []

    def step(self, base: Message, request: Any, deadline_s: float = 30.0) -> Result:
        """Resolve with status and all."""
        resolver = self.at.node.resolver
        chain = self.at.node.chain(None, time.monotonic() + deadline_s)
        asked = request.encode() if isinstance(request, str) else Message(request)
        return resolver.resolve(base, asked, Frame(resolver, chain, 0, None))

    def get(self, base: Message, request: Any) -> Any:
        """Return the value of an ``ok`` result."""
        result = self.step(base, request)
        assert result.status == "ok", result
        return result.value

    def store(self, item: Message | bytes) -> str:
        """Store a message; return its ID."""
        batch = Batch()
        ref = self.at.node.cache.put(item, batch)
        batch.commit(self.at.node.store)
        return ref


def module(text: bytes | str) -> dict[str, Any]:
    """Return the key of a process or base whose module is the text."""
    return {"module": Message({"content-type": "application/lua", "body": text, "name": "test"})}


def code(text: bytes | str, **more: Any) -> Message:
    """Return a base whose module is the text."""
    return Message({"device": "lua@5.3a", **module(text), **more})


BASE = code(MODULE)


SLOW = b"""
function run() local t = {} for i = 1, 12000 do t[i << 40] = true end while true do local _ = t[1 << 60] end end"""
"""Keys that all share one place of a table: work that no instruction shows."""


def plain(message: Message) -> dict[str, Any]:
    return {key: message[key] for key in message}
