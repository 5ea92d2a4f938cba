"""What the table ``ao`` asks of the node: resolving, getting and setting, in the caller's own chain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from hyperpy import path
from hyperpy.errors import (
    Busy,
    DeviceError,
    DeviceNotFound,
    DeviceTimeout,
    Forbidden,
    HyperpyError,
    KeyNotFound,
    MessageNotFound,
    NotCached,
    ParameterError,
    StoreError,
    UpstreamError,
)
from hyperpy.lua.values import Exchange
from hyperpy.message import As, Link, Message, Resolve, Value, as_text
from hyperpy.sdk import Context, Result

_PASSING = (Busy, DeviceTimeout)
_ELSEWHERE = (MessageNotFound, DeviceNotFound, NotCached, StoreError, UpstreamError)

ALWAYS = frozenset({"structured@1.0"})
"""Devices that a list of allowed ones need not name."""


@dataclass(slots=True)
class Meter:
    """The instructions that calls inside a question may take, and those that they took."""

    left: int
    used: int = 0


_meter: ContextVar[Meter | None] = ContextVar("hyperpy-lua-meter", default=None)


def meter(ctx: Context) -> Meter | None:
    """Return what a call inside another one of the same slot counts on; None for one that counts alone."""
    return _meter.get() if ctx.strict else None


class Outside:
    """Answers the questions of one call.

    Args:
        allowed: names of the devices that may be used; None is all.
        metered: whether the caller pays for the calls of Lua inside: where a process's state is made. Elsewhere
            a cached result may answer, which takes nothing.
    """

    def __init__(
        self, ctx: Context, exchange: Exchange, allowed: Collection[str] | None, *, metered: bool = False
    ) -> None:
        self._ctx = ctx
        self._metered = metered
        self._exchange = exchange
        self._allowed = None if allowed is None else ALWAYS.union(allowed)

    def answer(self, kind: bytes, request: bytes, left: int) -> tuple[bytes, int]:
        """Return the packed status and value of what Lua asks for, and the instructions that it took.

        Raises:
            Busy, DeviceTimeout: these are no results, and Lua never sees them.
            MessageNotFound, DeviceNotFound, NotCached, StoreError, UpstreamError: while a process's state is
                made, where another node might have the answer.
        """
        made = Meter(left) if self._metered else None
        token = _meter.set(made)
        try:
            reply = self._reply(kind, request)
        finally:
            _meter.reset(token)
        return reply, made.used if made is not None else 0

    def _reply(self, kind: bytes, request: bytes) -> bytes:
        try:
            status, value = self._answer(kind, self._exchange.unpack(request))
            return self._exchange.pack(status.encode(), value)
        except _PASSING:
            raise
        except KeyNotFound:
            return self._exchange.pack(b"error", b"not_found")
        except HyperpyError as error:
            if self._ctx.strict and isinstance(error, _ELSEWHERE):
                raise
            failure = Message({"status": error.status, "body": error.message})
            return self._exchange.pack(b"error", failure)

    def log(self, text: bytes) -> None:
        """Write a line of ``print`` or ``ao.event`` to the node's log."""
        self._ctx.log("lua", text=text.decode("utf-8", "replace"))

    def _answer(self, kind: bytes, given: list[Value | None]) -> tuple[str, Value]:
        if any(item is None for item in given) or not given:
            raise ParameterError(f"ao.{kind.decode()}: a parameter is nil")
        values = [_cast(item) for item in given if item is not None]
        if kind == b"resolve":
            result = self._resolve(values)
            return result.status, result.value
        if len(values) < 2:
            raise ParameterError(f"ao.{kind.decode()}: a parameter is missing")
        if kind == b"get":
            return self._get(values[1], values[0])
        return self._set(values)

    def _resolve(self, values: Sequence[Value]) -> Result:
        if len(values) == 1:
            only = values[0]
            if isinstance(only, (bytes, Message)) and (isinstance(only, bytes) or "path" in only):
                values = path.parse(only)
        if len(values) == 1:
            self._check(values[0])
            return self._ctx.step(values[0], None)
        result = Result("ok", values[0])
        for request in values[1:]:
            self._check(result.value)
            self._check(request)
            result = self._ctx.step(result.value, request)
            if result.status != "ok":
                break
        return result

    def _get(self, base: Value, key: Value) -> tuple[str, Value]:
        result = self._resolve((base, key))
        return result.status, result.value

    def _set(self, values: Sequence[Value]) -> tuple[str, Value]:
        if len(values) == 2 and isinstance(values[1], Message):
            changes = values[1]
        elif len(values) == 3:
            changes = Message({as_text(values[1], "key"): values[2]})
        else:
            raise ParameterError("ao.set takes a message, and a key and a value or a table of them")
        result = self._resolve((values[0], changes | {"path": b"set"}))
        return result.status, result.value

    def _check(self, item: Value) -> None:
        """Refuse a device that is not allowed.

        Raises:
            Forbidden: a message, or one inside a sub-path, names it.
        """
        if self._allowed is None:
            return
        if isinstance(item, Link):
            item = item.load()
        if isinstance(item, Resolve):
            for member in item.messages:
                self._check(member)
        elif isinstance(item, As):
            if isinstance(item.device, Resolve):
                raise Forbidden("device-sandbox: a device must be named by text")
            self._check_name(item.device)
            self._check(item.message)
        elif isinstance(item, Message):
            self._check_name(item.text("device", "message@1.0"))
            for member in item.raw_items().values():
                if isinstance(member, (Resolve, As)):
                    self._check(member)

    def _check_name(self, name: str) -> None:
        if self._allowed is not None and name not in self._allowed:
            raise Forbidden(
                f"the device '{name}' is not one that this Lua may use",
                hint="Name it in 'device-sandbox', or leave that key out.",
            )


def _cast(item: Value) -> Value:
    """Return ``{"as", device, message}`` as a cast, everything else as it is."""
    if isinstance(item, tuple) and len(item) == 3 and item[0] == b"as" and isinstance(item[1], bytes):
        message = item[2]
        if not isinstance(message, (Message, bytes)):
            raise DeviceError('{"as", device, message}: the message is none')
        return As(as_text(item[1]), message)
    return item
