"""Reading the sections of an appraisal policy: frozen dataclasses from TOML or JSON, every word known.

What a field may hold follows from its annotation: ``bool``, ``int``, ``str``, ``frozenset[str]``,
``frozenset[int]``, ``frozenset[bytes]`` (hex in the file), ``Mapping[str, int]``, and ``X | None``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from hyperpy.errors import ConfigError

_T = TypeVar("_T")


def read(kind: type[_T], data: Mapping[str, Any], where: str) -> _T:
    """Return a section made from what a file says; ``where`` names it in errors.

    Raises:
        ConfigError: a name is unknown or a value of the wrong type; the text says which, and what is near.
    """
    hints = get_type_hints(kind)
    names = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for name, item in data.items():
        known = names.get(name)
        if known is None:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(names))}."
            raise ConfigError(f"[{where}] knows no '{name[:60]}'", hint=hint)
        made[known] = _value(str(hints[known]), item, f"[{where}] {name}")
    return kind(**made)


def _value(hint: str, item: Any, where: str) -> Any:
    for word, (wanted, convert) in _KINDS.items():
        if word in hint:
            try:
                return convert(item)
            except (TypeError, ValueError):
                raise ConfigError(f"{where} must be {wanted}") from None
    raise TypeError(f"{where}: no rule for {hint}")


def _set(member: Callable[[Any], Any]) -> Callable[[Any], frozenset[Any]]:
    def convert(item: Any) -> frozenset[Any]:
        if not isinstance(item, (list, tuple)):
            raise TypeError
        return frozenset(member(one) for one in item)

    return convert


def _is(kind: type) -> Callable[[Any], Any]:
    def convert(item: Any) -> Any:
        if type(item) is not kind:
            raise TypeError
        return item

    return convert


def _hex(item: Any) -> bytes:
    if not isinstance(item, str):
        raise TypeError
    return bytes.fromhex(item)


def _numbers(item: Any) -> dict[str, int]:
    if not isinstance(item, Mapping) or not all(type(one) is int for one in item.values()):
        raise TypeError
    return {str(name): one for name, one in item.items()}


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "frozenset[bytes]": ("a list of hex texts", _set(_hex)),
    "frozenset[str]": ("a list of texts", _set(_is(str))),
    "frozenset[int]": ("a list of whole numbers", _set(_is(int))),
    "Mapping[str, int]": ("a table of whole numbers", _numbers),
    "bool": ("true or false", _is(bool)),
    "int": ("a whole number", _is(int)),
    "str": ("a text", _is(str)),
}
