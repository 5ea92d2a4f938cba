"""What a device author imports: ``@device``, ``@key``, the binder and the context.

A device is a plain class. Methods marked ``@key`` answer keys; their parameters are looked up by
name in the request, then in the base, and converted by annotation. ``base``, ``request``, ``ctx``
and ``key`` are reserved names and are injected. See docs/write-a-device.md.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, overload

from hyperpy.encoding import number_keys
from hyperpy.errors import ConfigError, MessageError, ParameterError
from hyperpy.message import Atom, Link, Message, Resolve, Value, as_text, list_to_map

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
_MISSING = object()
_RESERVED = frozenset({"self", "base", "request", "ctx", "key"})


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one step: a status word and a value.

    ``hashpath`` is the path of the step itself; a literal value has no place of its own for it.
    Only ``ok`` lets a chain continue (ao-core 7.1).
    """

    status: str
    value: Value
    hashpath: str | None = None


class Context(Protocol):
    """What a key may ask of the node while it runs."""

    def resolve(self, base: Any, request: Any = None) -> Value:
        """Resolve a path (one argument) or a request on a base; return the value of an ``ok`` result.

        Raises:
            HyperpyError: whatever the resolution raised, or its status was not ``ok``.
        """

    def step(self, base: Any, request: Any) -> Result:
        """Resolve one request on a base and return the status too (``skip``, ``pass`` ...)."""

    def now(self) -> float:
        """Return seconds since 1970. Raises NotDeterministic in a deterministic key."""

    def random(self, count: int) -> bytes:
        """Return ``count`` random bytes. Raises NotDeterministic in a deterministic key."""

    def fetch(self, peer: str, request: Message) -> Message:
        """Send a message to an allowed peer. Raises NotDeterministic in a deterministic key."""

    def sign(self, message: Message, **options: Any) -> Message:
        """Return the message signed by this node, because the caller asked for it.

        ``options`` are those of :func:`hyperpy.commitments.commit`. A device that signs on its own
        account uses the capability ``keys`` instead.

        Raises:
            NotDeterministic: in a deterministic key.
            Forbidden: this key is not ``commit`` in a path that the operator signed or this process asked
                for, and ``[http] sign-on-request`` is off.
        """

    def emit(self, piece: bytes) -> None:
        """Hand a piece of the answer to a caller who asked for a stream (``stream: true``), ahead of the whole.

        Pieces are server-sent events, no part of the result, and go nowhere where nobody listens: inside other
        steps, in replays. Raises DeviceStopped where the caller has gone.
        """

    def log(self, event: str, **fields: Any) -> None:
        """Write one line to the node's log."""

    @property
    def deadline(self) -> float:
        """When the caller's answer must be there, in seconds of ``time.monotonic``."""

    @property
    def strict(self) -> bool:
        """Whether a process's state is made: what another node might answer otherwise must be no part of it."""

    @property
    def config(self) -> Mapping[str, Any]:
        """This node's settings. Raises NotDeterministic in a deterministic key."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a key: ``name`` in Python, ``wire`` in messages."""

    name: str
    wire: str
    convert: Callable[[Value], Any]
    type: str
    default: Any = _MISSING

    def bind(self, key: str, base: Message, request: Message) -> Any:
        """Return the parameter's value: from the request, then the base, then the default."""
        item = request.get(self.wire)
        if item is None:
            item = base.get(self.wire)
        if item is None:
            if self.default is _MISSING:
                raise ParameterError(
                    f"{key}: parameter '{self.wire}' ({self.type}) is missing",
                    name=self.wire,
                    hint=f"Add it to the path, for example {key}&{self.wire}=VALUE.",
                )
            return self.default
        try:
            return self.convert(item)
        except (ValueError, TypeError, MessageError) as error:
            detail = f" ({error})" if isinstance(error, ParameterError) else ""
            raise ParameterError(
                f"{key}: parameter '{self.wire}' must be {self.type}, not {_show(item)}{detail}", name=self.wire
            ) from None


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One exported key: how to call its method and what it promises."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    injected: tuple[str, ...]
    deterministic: bool
    reentrant: bool
    doc: str
    reads: bool = False
    role: Literal["key", "handler", "default"] = "key"

    @property
    def own(self) -> bool:
        """Whether the device wrote this key itself (every device gets an ``info``)."""
        return self.function is not _describe

    def call(self, instance: Any, key: str, base: Message, request: Message, ctx: Context) -> Any:
        """Bind the parameters and call the method on ``instance``."""
        found: dict[str, Any] = {}
        for name in self.injected:
            found[name] = base if name == "base" else request if name == "request" else ctx if name == "ctx" else key
        for parameter in self.parameters:
            found[parameter.name] = parameter.bind(key, base, request)
        return self.function(instance, **found)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Everything the node knows of a device class."""

    name: str
    cls: type
    keys: Mapping[str, KeySpec]
    handler: KeySpec | None
    default: KeySpec | None
    excludes: frozenset[str]
    one_per: str | None
    needs: tuple[str, ...]
    shaders: tuple[str, ...]
    uses: tuple[str, ...]
    doc: str
    exports: Callable[[Any, Message], Collection[str] | None] | None = field(default=None)

    def describe(self) -> Message:
        """Return what ``info`` answers: every key with parameters, types, flags and docstring."""
        keys = {
            name: {
                "doc": spec.doc,
                "deterministic": spec.deterministic,
                "parameters": {
                    p.wire: p.type if p.default is _MISSING else f"{p.type}, optional" for p in spec.parameters
                },
            }
            for name, spec in self.keys.items()
            if name != "commitments"  # as a key of any message it holds signatures
        }
        return Message({"name": self.name, "doc": self.doc, "keys": keys})


def wire_name(name: str) -> str:
    """Return the wire form of a Python name: ``_`` becomes ``-``, lower case."""
    return name.replace("_", "-").lower()


def _mark(function: F, **marks: Any) -> F:
    function.__hyperpy_key__ = marks  # type: ignore[attr-defined]
    return function


@overload
def key(function: F, /) -> F: ...
@overload
def key(
    *, name: str | None = None, deterministic: bool = True, reentrant: bool = False, reads: bool = False
) -> Callable[[F], F]: ...
def key(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    deterministic: bool = True,
    reentrant: bool = False,
    reads: bool = False,
) -> Any:
    """Export a method as a key.

    Args:
        name: wire name; default the method's name with ``-`` for ``_``.
        deterministic: False lets the key use ``ctx.now`` and the like, and marks its steps as
            "attested, not recomputed" in replays.
        reentrant: True lets a call chain come back into the same actor.
        reads: True says of a key that is not deterministic that it only looks: a request that fails behind it
            had no effect through it, and costs nothing (docs/payments.md).
    """

    def mark(target: F) -> F:
        return _mark(target, role="key", name=name, deterministic=deterministic, reentrant=reentrant, reads=reads)

    return mark(function) if function is not None else mark


@overload
def handler(function: F, /) -> F: ...
@overload
def handler(*, deterministic: bool = True, reentrant: bool = False) -> Callable[[F], F]: ...
def handler(
    function: Callable[..., Any] | None = None, /, *, deterministic: bool = True, reentrant: bool = False
) -> Any:
    """Let a method answer every key of the device that is not excluded; it may take ``key``."""

    def mark(target: F) -> F:
        return _mark(target, role="handler", name=None, deterministic=deterministic, reentrant=reentrant)

    return mark(function) if function is not None else mark


@overload
def default(function: F, /) -> F: ...
@overload
def default(*, deterministic: bool = True, reentrant: bool = False, reads: bool = False) -> Callable[[F], F]: ...
def default(
    function: Callable[..., Any] | None = None,
    /,
    *,
    deterministic: bool = True,
    reentrant: bool = False,
    reads: bool = False,
) -> Any:
    """Let a method answer the keys that the device has no ``@key`` for; it may take ``key``."""

    def mark(target: F) -> F:
        return _mark(target, role="default", name=None, deterministic=deterministic, reentrant=reentrant, reads=reads)

    return mark(function) if function is not None else mark


def device(
    name: str,
    *,
    one_per: str | None = None,
    needs: tuple[str, ...] = (),
    excludes: tuple[str, ...] = (),
    shaders: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
) -> Callable[[C], C]:
    """Make a class a device called ``name`` (``word@version``).

    Args:
        one_per: name of a base key; the device then holds state, and one actor is kept per value.
        needs: capabilities given to ``start`` as keyword arguments (design: node, timers, audit,
            slots, keys, http, metrics); the operator must grant them to devices that are not bundled.
        excludes: keys that fall to message@1.0 although a handler or default would take them.
        shaders: WGSL files whose bytes are part of the device's implementation digest.
        uses: modules and packages outside the device's own whose files are part of that digest too.

    Raises:
        ConfigError: the name is malformed or a parameter's annotation is no known type.
    """
    if "@" not in name or not name.partition("@")[0]:
        raise ConfigError(f"device name '{name}' must look like word@1.0")

    def make(cls: C) -> C:
        keys: dict[str, KeySpec] = {}
        special: dict[str, KeySpec] = {}
        for attribute, member in inspect.getmembers(cls, inspect.isfunction):
            marks = getattr(member, "__hyperpy_key__", None)
            if marks is None:
                continue
            spec = _key_spec(attribute, member, marks)
            if spec.role == "key":
                keys[spec.name] = spec
            else:
                special[spec.role] = spec
        if "info" not in keys:
            cls.info = _describe  # type: ignore[attr-defined]
            keys["info"] = _key_spec("info", _describe, {"role": "key", "name": None, **_PLAIN})
        cls.__hyperpy_device__ = DeviceSpec(  # type: ignore[attr-defined]
            name=name,
            cls=cls,
            keys=keys,
            handler=special.get("handler"),
            default=special.get("default"),
            excludes=frozenset(map(wire_name, excludes)),
            one_per=one_per,
            needs=tuple(needs),
            shaders=tuple(shaders),
            uses=tuple(uses),
            doc=inspect.getdoc(cls) or "",
            exports=getattr(cls, "exports", None),
        )
        return cls

    return make


_PLAIN = {"deterministic": True, "reentrant": True}


def _describe(self: Any) -> Message:
    """Describe the device: its keys, their parameters, types and flags."""
    return spec_of(type(self)).describe()


def spec_of(cls: type) -> DeviceSpec:
    """Return the spec of a device class; raise ConfigError if ``@device`` is missing."""
    spec = cls.__dict__.get("__hyperpy_device__")
    if not isinstance(spec, DeviceSpec):
        raise ConfigError(f"{cls.__name__} is no device", hint='Put @device("name@1.0") above the class.')
    return spec


def hook_of(instance: Any, name: str) -> Callable[..., Any] | None:
    """Return a device's ``start`` or ``stop`` hook; None if it has none, or if that name is one of its keys."""
    found = getattr(instance, name, None)
    return found if callable(found) and not hasattr(found, "__hyperpy_key__") else None


def _key_spec(attribute: str, function: Callable[..., Any], marks: dict[str, Any]) -> KeySpec:
    hints = typing.get_type_hints(function)
    parameters: list[Parameter] = []
    injected: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if name in _RESERVED:
            injected.append(name)
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(f"key '{attribute}': parameters must be named, not *{name}")
        convert, label = _converter(hints.get(name, Any), f"{attribute}({name})")
        fallback = _MISSING if parameter.default is parameter.empty else parameter.default
        parameters.append(Parameter(name, wire_name(name), convert, label, fallback))
    return KeySpec(
        name=marks["name"] or wire_name(attribute),
        function=function,
        parameters=tuple(parameters),
        injected=tuple(injected),
        deterministic=marks["deterministic"],
        reentrant=marks["reentrant"],
        doc=inspect.getdoc(function) or "",
        reads=marks.get("reads", False),
        role=marks["role"],
    )


def _to_int(item: Value) -> int:
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if isinstance(item, bytes) and len(item) <= 4300:
        return int(item)
    raise ValueError


def _to_float(item: Value) -> float:
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return float(item)
    if isinstance(item, bytes):
        return float(item)
    raise ValueError


def _to_bool(item: Value) -> bool:
    if isinstance(item, bool):
        return item
    if isinstance(item, bytes) and item.lower() in (b"true", b"false"):
        return item.lower() == b"true"
    raise ValueError


def _to_str(item: Value) -> str:
    if isinstance(item, (Message, tuple)):
        raise ValueError
    return as_text(item)


def _to_bytes(item: Value) -> bytes:
    if isinstance(item, bytes):
        return item
    raise ValueError


def _to_message(item: Value) -> Message:
    if isinstance(item, Message):
        return item
    if isinstance(item, tuple):
        return Message.make(list_to_map(item))
    raise ValueError


def _to_tuple(item: Value) -> tuple[Value, ...]:
    if isinstance(item, tuple):
        return item
    if isinstance(item, Message):
        return tuple(item[k] for k in number_keys(item))
    raise ValueError


def _to_link(item: Value) -> Link:
    if isinstance(item, bytes):
        return Link(item.decode("ascii"))
    raise ValueError


_CONVERTERS: dict[Any, tuple[Callable[[Value], Any], str]] = {
    int: (_to_int, "integer"),
    float: (_to_float, "float"),
    bool: (_to_bool, "true or false"),
    str: (_to_str, "text"),
    bytes: (_to_bytes, "bytes"),
    Message: (_to_message, "message"),
    tuple: (_to_tuple, "list"),
    list: (lambda item: list(_to_tuple(item)), "list"),
    Link: (_to_link, "ID"),
    Any: (lambda item: item, "value"),
    Value: (lambda item: item, "value"),
}


def _converter(annotation: Any, where: str) -> tuple[Callable[[Value], Any], str]:
    try:
        known = _CONVERTERS.get(annotation)
    except TypeError:
        known = None
    if known is not None:
        return known
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (tuple, list):
        return _CONVERTERS[origin]
    if origin is Literal:
        return _literal(args), "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1:
            return _converter(rest[0], where)
    raise ConfigError(
        f"{where}: {annotation!r} is no type the binder knows",
        hint="Use int, float, bool, str, bytes, list, Message, Link, Literal[...] or Any.",
    )


def _literal(choices: tuple[Any, ...]) -> Callable[[Value], Any]:
    by_text = {str(choice): choice for choice in choices}

    def convert(item: Value) -> Any:
        return by_text[as_text(item)] if as_text(item) in by_text else _refuse()

    return convert


def _refuse() -> typing.NoReturn:
    raise ValueError


def _show(item: Value) -> str:
    if isinstance(item, (Message, tuple)):
        return "a message" if isinstance(item, Message) else "a list"
    if isinstance(item, (bytes, Atom, int, float)):
        text = as_text(item)
        return repr(text if len(text) <= 60 else text[:57] + "...")
    return "a sub-path" if isinstance(item, Resolve) else type(item).__name__
