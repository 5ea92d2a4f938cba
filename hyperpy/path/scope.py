"""Keys of a request, spread over the members of its path (ao-core 6.1 stages 3, 8, 10; 6.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from hyperpy.codecs import sfv, structured
from hyperpy.encoding import is_id, key_text
from hyperpy.errors import PathError, SizeError
from hyperpy.message import As, Message, Resolve, Value
from hyperpy.path import grammar

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)

ResolveText = Callable[[str], Resolve]


def check_names(names: Iterable[str]) -> None:
    """Raise PathError if a name is one that a path or a query may not set."""
    for name in names:
        if name == "commitments" or name.startswith("priv"):
            raise PathError(
                f"the key '{grammar.shown(name)}' cannot be set by a path",
                hint="Commitments come with signed messages; names that begin with 'priv' stay inside the node.",
            )


def query_keys(query: str, resolve: ResolveText) -> dict[str, Value]:
    """Return the typed keys of a query: ``&`` between, first ``=`` splits, escapes undone, ``+`` is a space.

    One pair of quotes around a value is removed (v0.9-final 1, row 16).

    Raises:
        PathError: a bad escape, an empty or forbidden name, a value that does not fit its type.
    """
    found: dict[str, Value] = {}
    escaped = "%" in query
    for pair in query.split("&"):
        if not pair:
            continue
        raw_key, equals, raw_value = pair.replace("+", " ").partition("=") if "+" in pair else pair.partition("=")
        if not raw_key:
            raise PathError("a key of the query has no name", hint="Write ?name=value.")
        key = key_text(grammar.unescape(raw_key.encode("utf-8"))) if escaped else raw_key
        if not equals:
            found[key] = True
            continue
        value = grammar.unescape(raw_value.encode("utf-8")) if escaped else raw_value.encode("utf-8")
        if value[:1] == b'"':
            value = value[1:-1] if len(value) > 1 and value[-1:] == b'"' else value[1:]
        put_typed(found, key, value, resolve)
    if "priv" in query or "commitments" in query or escaped:
        check_names(found)
    found.pop("path", None)
    return found


def message_keys(message: Message, resolve: ResolveText) -> dict[str, Value]:
    """Return the typed keys of a request message, without its path."""
    found = dict(message.raw_items())
    found.pop("path", None)
    marked = [key for key in found if "+" in key or " " in key]
    for key in marked:
        value = found[key]
        if type(value) is bytes:
            del found[key]
            put_typed(found, key, value, resolve)
    if marked:
        check_names(found)
        found.pop("path", None)
    return found


def put_typed(found: dict[str, Value], key: str, value: bytes, resolve: ResolveText) -> None:
    """Put ``value`` under ``key``, converted where the key reads ``name+type`` or ``name type`` (6.3)."""
    name, kind = grammar.partition_type(key) if "+" in key or " " in key else (key, "")
    if not kind:
        found[name] = value
    elif kind.lower() == "resolve":
        found[name] = resolve(grammar.utf8(value))
    else:
        typed = grammar.typed(kind, key_text(value))
        if typed is not None:
            found[name] = typed


def spread(
    members: Sequence[Value],
    keys: Mapping[str, Value],
    commitments: Mapping[str, Message] = _NONE,
    private: Mapping[str, Any] = _NONE,
    *,
    limit: int,
) -> list[Value]:
    """Give every map member the request's keys (6.4).

    A member's own keys win, then ``N.key`` for member N, then the rest. IDs, sub-paths and an
    ID with a device receive nothing.

    Raises:
        PathError: a key ``x.key`` whose x is no number.
        SizeError: more than ``limit`` keys would be written.
    """
    if len(keys) * len(members) > limit:
        raise SizeError(f"{len(keys)} keys for each of {len(members)} parts are more than {limit} keys")
    shared, scoped = _by_scope(keys)
    found: list[Value] = []
    for number, member in enumerate(members):
        inner = member.message if type(member) is As else member
        if type(inner) is not Message:
            found.append(member)
            continue
        own = inner.raw_items()
        if names_id(member):
            items, made = dict(own), inner
        else:
            items = {**shared, **scoped[number], **own} if number in scoped else {**shared, **own}
            made = Message.make(items, commitments, private)
        if "ao-types" in items:
            _apply_types(items)
            made = Message.make(items, made.commitments, made.private)
        found.append(As(member.device, made) if type(member) is As else made)
    return found


def names_id(member: Value) -> bool:
    """Say whether a member is ``ID~device``, which receives no keys of the request."""
    if type(member) is not As or type(member.message) is not Message:
        return False
    path = member.message.raw("path")
    return type(path) is bytes and is_id(path)


def _by_scope(keys: Mapping[str, Value]) -> tuple[Mapping[str, Value], dict[int, dict[str, Value]]]:
    scoped: dict[int, dict[str, Value]] = {}
    dotted = [key for key in keys if "." in key and key.count(".") == 1]
    if not dotted:
        return keys, scoped
    shared = dict(keys)
    for key in dotted:
        scope, _, name = key.partition(".")
        if not _NUMBER.fullmatch(scope):
            raise PathError(
                f"the key '{grammar.shown(key)}' has one dot, so '{grammar.shown(scope)}' must be a part's number",
                hint="Write 1.key for the first part, 0.key for the base, or use '-' instead of '.' in the name.",
            )
        check_names((name,))
        value = shared.pop(key)
        if name != "path":
            scoped.setdefault(int(scope), {})[name] = value
    return shared, scoped


def _apply_types(items: dict[str, Value]) -> None:
    """Convert the texts that an ``ao-types`` key among the items gives a type, and remove it."""
    types = items.pop("ao-types")
    if type(types) is not bytes:
        raise PathError("ao-types must be text")
    for name, kind in structured.parse_types(types).items():
        value = items.get(name)
        if type(value) is bytes and name != "path":
            items[name] = sfv.decode_value(kind, value)
