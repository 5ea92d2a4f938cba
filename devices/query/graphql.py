"""The part of GraphQL that clients of this field send: one query, its variables, fields and arguments.

Names and literals as in the GraphQL specification (October 2021), without fragments and directives.
All input is bounded: bytes, depth, and the number of tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hyperpy.encoding import key_bytes
from hyperpy.errors import ParameterError, SizeError

MAX_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 16
MAX_TOKENS: Final = 10_000
_TOKEN = re.compile(
    r'(?P<skip>[\s,\ufeff]+|#[^\n\r]*)|(?P<block>"""(?:[^"\\]|\\.|"(?!""))*""")|(?P<text>"(?:[^"\\\n\r]|\\.)*")'
    r"|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z_.])"
    r"|(?P<name>[A-Za-z_][0-9A-Za-z_]*)|(?P<sign>\.\.\.|[!$&()\[\]{}:=@|])",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Variable:
    """A value that stands outside the query."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field that is asked for: under which name, with what arguments, and which fields of it."""

    name: str
    alias: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()


def parse(text: str, variables: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return the fields a query asks for, its variables filled in.

    Raises:
        ParameterError: it is no query, or one with parts that this node does not know.
        SizeError: it is too long or too deep.
    """
    if len(text) > MAX_BYTES:
        raise SizeError(f"a query may have at most {MAX_BYTES} characters")
    reader = _Reader(_tokens(text))
    defaults: dict[str, Any] = {}
    if reader.peek() == ("name", "query"):
        reader.take()
        if reader.peek()[0] == "name":
            reader.take()
        if reader.skip("("):
            defaults = reader.definitions()
    found = reader.selection(0)
    if reader.peek()[0] != "end":
        raise _bad("there is more than one operation")
    given = {name.lower(): value for name, value in {**defaults, **variables}.items()}
    return tuple(_filled(one, given) for one in found)


def pick(
    source: Mapping[str, Any], fields: tuple[Field, ...], ask: Callable[[Field], Any] | None = None
) -> dict[str, Any]:
    """Return what is asked for of a tree of dicts and lists; a field that is not there is null."""
    return {one.alias: _picked(ask(one) if ask else source.get(one.name), one.fields) for one in fields}


def _picked(found: Any, fields: tuple[Field, ...]) -> Any:
    if isinstance(found, list):
        return [_picked(one, fields) for one in found]
    if isinstance(found, Mapping):
        return pick(found, fields)
    return found


def _filled(one: Field, given: Mapping[str, Any]) -> Field:
    arguments = {name: _value(item, given) for name, item in one.arguments.items()}
    return Field(one.name, one.alias, arguments, tuple(_filled(inner, given) for inner in one.fields))


def _value(item: Any, given: Mapping[str, Any], depth: int = 0) -> Any:
    if depth > 2 * MAX_DEPTH:
        raise SizeError("a variable of a query may not be nested so deeply")
    if isinstance(item, Variable):
        return _value(given.get(item.name.lower()), given, depth + 1)
    if isinstance(item, list):
        return [_value(one, given, depth + 1) for one in item]
    if isinstance(item, Mapping):
        return {name: _value(one, given, depth + 1) for name, one in item.items()}
    if isinstance(item, str):
        _refuse_half(item)
    return item


def _refuse_half(text: str) -> None:
    """Refuse a text with half of a surrogate pair, which an escape can write and no message can hold."""
    try:
        key_bytes(text)
    except UnicodeEncodeError:
        raise _bad(f"{text[:20]!a} holds half of a character (a lone surrogate)") from None


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _bad(f"there is no such thing as {text[at : at + 20]!r}")
        at = match.end()
        kind = match.lastgroup or "skip"
        if kind != "skip":
            found.append((kind, match[0]))
        if len(found) > MAX_TOKENS:
            raise SizeError(f"a query may have at most {MAX_TOKENS} words")
    return found


class _Reader:
    """Reads the tokens of one document."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def take(self, sign: str = "") -> tuple[str, str]:
        token = self.peek()
        if token[0] == "end" or (sign and token != ("sign", sign)):
            raise _bad(f"{sign or 'more'!r} is missing before {token[1][:20]!r}")
        self._at += 1
        return token

    def skip(self, sign: str) -> bool:
        if self.peek() != ("sign", sign):
            return False
        self._at += 1
        return True

    def name(self) -> str:
        kind, text = self.take()
        if kind != "name":
            raise _bad(f"a name is missing before {text[:20]!r}")
        return text

    def definitions(self) -> dict[str, Any]:
        """Read ``$a: Type = default ...)``; return the defaults."""
        found: dict[str, Any] = {}
        while not self.skip(")"):
            self.take("$")
            name = self.name()
            self.take(":")
            self._type(0)
            found[name] = self.value(0) if self.skip("=") else None
        return {name: item for name, item in found.items() if item is not None}

    def _type(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SizeError("a type of the query is nested too deep")
        if self.skip("["):
            self._type(depth + 1)
            self.take("]")
        else:
            self.name()
        self.skip("!")

    def selection(self, depth: int) -> tuple[Field, ...]:
        """Read ``{ field ... }``."""
        if depth > MAX_DEPTH:
            raise SizeError(f"a query may be nested {MAX_DEPTH} deep")
        self.take("{")
        found: list[Field] = []
        while not self.skip("}"):
            if self.peek() in (("sign", "..."), ("sign", "@")):
                raise _bad("fragments and directives are not supported")
            alias = name = self.name()
            if self.skip(":"):
                name = self.name()
            arguments = self._arguments() if self.skip("(") else {}
            inner = self.selection(depth + 1) if self.peek() == ("sign", "{") else ()
            found.append(Field(name, alias, arguments, inner))
        return tuple(found)

    def _arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.skip(")"):
            name = self.name()
            self.take(":")
            found[name] = self.value(0)
        return found

    def value(self, depth: int) -> Any:
        """Read one literal or variable."""
        if depth > MAX_DEPTH:
            raise SizeError("a value of the query is nested too deep")
        kind, text = self.take()
        if kind == "number":
            return float(text) if re.search("[.eE]", text) else int(text[:40])
        if kind == "text":
            return _unquoted(text)
        if kind == "block":
            return text[3:-3].replace('\\"""', '"""').strip("\n")
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(text, text)
        if text == "$":
            return Variable(self.name())
        if text == "[":
            items = []
            while not self.skip("]"):
                items.append(self.value(depth + 1))
            return items
        if text == "{":
            found = {}
            while not self.skip("}"):
                name = self.name()
                self.take(":")
                found[name] = self.value(depth + 1)
            return found
        raise _bad(f"a value is missing before {text[:20]!r}")


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise _bad(f"{text[:20]} is no text") from None


def _bad(why: str) -> ParameterError:
    return ParameterError(f"graphql: {why}", name="query", hint="Send {query: '{ transactions(...) { edges ... } }'}.")
