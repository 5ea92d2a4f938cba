"""The message: an immutable mapping from text keys to typed values.

Values (ao-core 1.2) are ``bytes``, ``int``, ``float``, ``bool``, :class:`Atom`, ``tuple``
(a list), :class:`Message` (a map), :class:`Link`, and inside path sequences :class:`As` and
:class:`Resolve`. ``str`` is accepted when building and becomes ``bytes`` (UTF-8).

Two things ride along and are no keys: ``commitments`` (signatures over the message) and
``private`` (values that no ID, hashpath, store, trail or log sees; keys beginning ``priv``
go there). IDs and encodings are remembered on the object by whoever computes them, in
``memo``: a message never changes, so they cannot become stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, Union, cast, overload

from hyperpy.encoding import key_text, number_keys, ordered
from hyperpy.errors import KeyNotFound, MessageError, MessageNotFound

_T = TypeVar("_T")


class Atom(str):
    """A bare word of the protocol, such as ``not_found``. ``true`` and ``false`` are bools."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Atom({str(self)!r})"


UNSET = Atom("unset")
UNDEFINED = Atom("undefined")
NULL = Atom("null")
NOT_FOUND = Atom("not_found")


def atom(name: str) -> bool | Atom:
    """Return the value of the atom called ``name``: a bool for true and false."""
    return True if name == "true" else False if name == "false" else Atom(name)


@dataclass(frozen=True, slots=True)
class Link:
    """A message that is named rather than held: ``id`` is its ID (ao-core 1.6).

    ``loader`` fetches it; equality looks at the ID alone.
    """

    id: str
    loader: Callable[[str], Value] | None = field(default=None, compare=False, repr=False)

    def load(self) -> Value:
        """Return the value the link names.

        Raises:
            MessageNotFound: there is no loader, or its store does not hold the message.
        """
        if self.loader is None:
            raise MessageNotFound(f"the linked message {self.id} is not at hand")
        return self.loader(self.id)


@dataclass(frozen=True, slots=True)
class As:
    """A message to be resolved as if its device were ``device`` (text, or a Resolve)."""

    device: str | Resolve
    message: Message | bytes | Link | Resolve


@dataclass(frozen=True, slots=True)
class Resolve:
    """A sequence of messages to be resolved, standing for its result."""

    messages: tuple[Value, ...]


Value: TypeAlias = Union[bytes, int, float, bool, Atom, Link, As, Resolve, tuple["Value", ...], "Message"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


def value(item: Any) -> Value:
    """Return ``item`` as a message value: str to bytes, list to tuple, dict to Message.

    Raises:
        MessageError: the type has no place in a message (None, sets, objects).
    """
    kind = type(item)
    if kind is bytes or kind is int or kind is bool or kind is float or kind is Message:
        return cast(Value, item)
    if kind is str:
        return cast(str, item).encode("utf-8", "surrogateescape")
    if kind is Atom:
        return atom(item)
    if kind is Link or kind is As or kind is Resolve:
        return cast(Value, item)
    if isinstance(item, (list, tuple)):
        return tuple(value(member) for member in item)
    if isinstance(item, Message):
        return item
    if isinstance(item, Mapping):
        return Message(item)
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    if item is None:
        raise MessageError("None is no message value", hint="Use hyperpy.message.NULL, or leave the key out.")
    raise MessageError(f"a {kind.__name__} is no message value", hint="Use bytes, str, int, float, bool, list or dict.")


class Message(Mapping[str, Value]):
    """An immutable AO-Core message.

    ``msg[k]`` and ``msg.get(k)`` load links; ``msg.raw(k)`` does not. Iteration follows the
    canonical key order (ao-core 1.8), never the order of construction.
    """

    __slots__ = ("_items", "_order", "commitments", "memo", "private")

    _items: dict[str, Value]
    _order: list[str] | None
    commitments: Mapping[str, Message]
    private: Mapping[str, Any]
    memo: dict[str, Any]

    def __init__(
        self,
        items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        /,
        *,
        commitments: Mapping[str, Any] | None = None,
        private: Mapping[str, Any] | None = None,
    ) -> None:
        own: dict[str, Value] = {}
        hidden: dict[str, Any] = dict(private or _EMPTY)
        found: Mapping[str, Any] | None = commitments
        if isinstance(items, Message):
            hidden = {**items.private, **hidden}
            found = items.commitments if found is None else found
            own = dict(items._items)
        else:
            for key, item in items.items() if isinstance(items, Mapping) else items:
                name = key_text(key) if isinstance(key, bytes) else key
                if not isinstance(name, str):
                    raise MessageError(f"a key must be text, not {type(key).__name__}")
                name = str(name)
                if name.startswith("priv"):
                    if name == "priv" and isinstance(item, Mapping):
                        hidden.update(item)
                    else:
                        hidden[name] = item
                elif name == "commitments":
                    found = {**_signatures(item), **(found or {})}
                else:
                    own[name] = value(item)
        signed = _signatures(found) if found else _EMPTY
        self._set(own, {k: v if type(v) is Message else Message(v) for k, v in signed.items()}, hidden)

    def _set(self, items: dict[str, Value], commitments: Mapping[str, Message], private: Mapping[str, Any]) -> None:
        _put_items(self, items)
        _put_order(self, None)
        _put_commitments(self, commitments or _EMPTY)
        _put_private(self, private or _EMPTY)
        _put_memo(self, {})

    @classmethod
    def make(
        cls,
        items: dict[str, Value],
        commitments: Mapping[str, Message] = _EMPTY,
        private: Mapping[str, Any] = _EMPTY,
    ) -> Message:
        """Build without conversion: ``items`` must hold valid keys and values, and is kept."""
        made = _new(cls)
        _put_items(made, items)
        _put_order(made, None)
        _put_commitments(made, commitments)
        _put_private(made, private)
        _put_memo(made, {})
        return made

    def __setattr__(self, name: str, item: Any) -> None:
        raise AttributeError("messages are immutable; use msg | {...} to make a changed one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("messages are immutable; use msg.without(key)")

    # -- reading ---------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Value:
        try:
            found = self._items[key]
        except KeyError:
            raise KeyNotFound(f"the message has no key '{key}'") from None
        return found.load() if type(found) is Link else found

    @overload
    def get(self, key: str, /) -> Value | None: ...
    @overload
    def get(self, key: str, /, default: _T) -> Value | _T: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """Return the value of ``key`` (links loaded), or ``default``."""
        found = self._items.get(key)
        if found is None:
            return default
        return found.load() if type(found) is Link else found

    def raw(self, key: str) -> Value | None:
        """Return the value of ``key`` as held: a Link stays a Link. None if absent."""
        return self._items.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value as text: bytes decoded as UTF-8, atoms by name, numbers in decimal.

        Raises:
            KeyNotFound: absent and no default given.
            MessageError: the value is a list or a map.
        """
        found = self.get(key)
        if found is None:
            if default is None:
                raise KeyNotFound(f"the message has no key '{key}'")
            return default
        return as_text(found, key)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ordered())

    def ordered(self) -> list[str]:
        """Return the keys in canonical order. Do not change the list."""
        order = self._order
        if order is None:
            order = ordered(self._items)
            _put_order(self, order)
        return order

    def raw_items(self) -> Mapping[str, Value]:
        """Return the keys and values as held (links not loaded), in no order. Read only."""
        return self._items

    @property
    def hashpath(self) -> str | None:
        """The hashpath of the step that made this message, if one did."""
        return self.private.get("hashpath")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Message):
            return _same_items(self._items, other._items) and dict(self.commitments) == dict(other.commitments)
        if isinstance(other, Mapping):
            return bool(self == Message(other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        inner = ", ".join(f"{k!r}: {self._items[k]!r}" for k in self.ordered())
        signed = f", {len(self.commitments)} commitments" if self.commitments else ""
        return f"Message({{{inner}}}{signed})"

    # -- making changed copies ---------------------------------------------------------------

    def __or__(self, other: Mapping[str, Any]) -> Message:
        """Return a copy with keys replaced; the value ``UNSET`` removes a key.

        Commitments stay unless a committed key gets another value (ao-core 8, ``set``).
        """
        return self.replace(other)

    def replace(self, changes: Mapping[str, Any]) -> Message:
        """Return a copy with ``changes`` applied; see ``|``."""
        items = dict(self._items)
        private = self.private
        touched: set[str] = set()
        source = changes._items if isinstance(changes, Message) else changes
        for key, item in source.items():
            if key.startswith("priv"):
                private = {**private, key: item}
                continue
            new = value(item)
            old = items.get(key)
            if new == "unset" and type(new) is Atom:
                if items.pop(key, None) is not None:
                    touched.add(key)
            else:
                if old is None or type(old) is not type(new) or old != new:
                    touched.add(key)
                items[key] = new
        commitments = self.commitments
        if commitments and touched and not touched.isdisjoint(self.committed_keys()):
            commitments = _EMPTY
        return Message.make(items, commitments, private)

    def committed_keys(self) -> frozenset[str]:
        """Return every key that any commitment covers, ``+link`` removed."""
        known = self.memo.get("committed")
        if known is None:
            names: set[str] = set()
            for commitment in self.commitments.values():
                names.update(committed_list(commitment))
            known = self.memo["committed"] = frozenset(names)
        return cast("frozenset[str]", known)

    def without(self, *keys: str) -> Message:
        """Return a copy without ``keys``; commitments that cover one of them are dropped."""
        return self.replace(dict.fromkeys(keys, UNSET))

    def with_commitments(self, commitments: Mapping[str, Message]) -> Message:
        """Return a copy with exactly these commitments."""
        return Message.make(self._items, commitments, self.private)

    def with_private(self, **changes: Any) -> Message:
        """Return a copy with private values set; None removes one. What is remembered is shared."""
        private = {**self.private, **changes}
        if None in changes.values():
            private = {k: v for k, v in private.items() if v is not None}
        made = _new(Message)
        _put_items(made, self._items)
        _put_order(made, self._order)
        _put_commitments(made, self.commitments)
        _put_private(made, private)
        _put_memo(made, self.memo)
        return made


def _signatures(found: Any) -> Mapping[str, Any]:
    """Return commitments as given; raise MessageError unless they are a map of maps."""
    if not isinstance(found, Mapping) or not all(isinstance(item, Mapping) for item in found.values()):
        raise MessageError("'commitments' must be a map of commitments by their IDs", hint="Leave the key out.")
    return found


# Setting a slot by its descriptor costs half as much as ``object.__setattr__``; messages are made all the time.
_new = object.__new__
_put_items, _put_order, _put_commitments, _put_private, _put_memo = (
    Message.__dict__[name].__set__ for name in ("_items", "_order", "commitments", "private", "memo")
)


def committed_list(commitment: Message) -> tuple[str, ...]:
    """Return the ``committed`` key names of one commitment, ``+link`` suffix removed.

    Reads a list, a map ``1..n`` and a map typed as a list (v0.9-final 6).
    """
    known = commitment.memo.get("committed-list")
    if known is not None:
        return cast("tuple[str, ...]", known)
    found = commitment.get("committed", ())
    if isinstance(found, Message):
        found = tuple(found[k] for k in number_keys(found))
    if not isinstance(found, tuple):
        raise MessageError("a commitment's 'committed' must be a list of key names")
    names = [key_text(name) if isinstance(name, bytes) else str(name) for name in found]
    made = commitment.memo["committed-list"] = tuple(name.removesuffix("+link") for name in names)
    return made


def as_text(item: Value, name: str = "value") -> str:
    """Return a scalar as text; raise MessageError for lists and maps."""
    if isinstance(item, bytes):
        return item.decode("utf-8", "surrogateescape")
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (Atom, int, float)):
        return str(item)
    raise MessageError(f"'{name}' must be text, not a {type(item).__name__}")


def texts(item: Value | None) -> list[str]:
    """Return the texts of a list, of a list as a map, or of one text such as ``A, B`` or ``"A", "B"``."""
    if isinstance(item, Message):
        item = tuple(item[name] for name in number_keys(item))
    if isinstance(item, tuple):
        return [as_text(one) for one in item if isinstance(one, (bytes, Atom))]
    if not isinstance(item, (bytes, Atom)):
        return []
    return [part for text in as_text(item).replace('"', "").split(",") if (part := text.strip())]


def _same_items(left: Mapping[str, Value], right: Mapping[str, Value]) -> bool:
    if left.keys() != right.keys():
        return False
    return all(same(item, right[key]) for key, item in left.items())


def same(left: Value, right: Value) -> bool:
    """Compare two values strictly: ``1``, ``1.0`` and ``True`` are three values."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def list_to_map(items: tuple[Value, ...]) -> dict[str, Value]:
    """Return a list as the map ``1..n`` that it equals everywhere (ao-core 1.5)."""
    return {str(n): item for n, item in enumerate(items, 1)}
