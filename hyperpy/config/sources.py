"""Where settings come from: defaults < a TOML file < environment ``HYPERPY_SECTION_KEY`` < flags.

``-`` and ``_`` are equal in names. A name nobody knows is an error that says what was meant.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import typing
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from hyperpy.config.schema import CLASSES, KINDS, SECTIONS, WORDS, Config, each, shown, wire_name
from hyperpy.errors import ConfigError, MessageError


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Return the settings of a file, the environment and flags (``{"http.port": 0}``), in that order.

    Raises:
        ConfigError: the file cannot be read, or a name or value is wrong; says what was meant.
    """
    found: dict[str, tuple[Any, str]] = {}
    extra: dict[str, Any] = {}
    if file is not None:
        found, extra = _from_file(file)
    for variable, text in environ.items():
        named = _from_variable(variable)
        if named is not None:
            found[named] = _typed(named, _parse(named, text), variable), variable
    for flag, item in (flags or {}).items():
        if item is not None:
            section, _, key = flag.partition(".")
            name = _name(section, key, "flag")
            found[name] = _typed(name, item, f"flag {flag}"), "flag"
    parts = {
        section: cls(
            **{name.partition(".")[2]: item for name, (item, _) in found.items() if name.startswith(section + ".")}
        )
        for section, cls in CLASSES.items()
    }
    made = Config(**parts, extra=extra, origins={name: origin for name, (_, origin) in found.items()})
    try:
        made.as_message()
    except MessageError as error:
        raise ConfigError(f"{file or 'flags'}: a setting cannot be part of the node message: {error}") from None
    return made


def _from_file(file: Path) -> tuple[dict[str, tuple[Any, str]], dict[str, Any]]:
    """Return the settings of a TOML file, each with its origin, and the table ``[node]``."""
    where = str(file)
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{where} cannot be read: {error}", hint="It must be TOML; see docs/configuration.md."
        ) from None
    found: dict[str, tuple[Any, str]] = {}
    extra: dict[str, Any] = {}
    for section, items in table.items():
        if section == "routes" and isinstance(items, list):
            items = {"table": items}
        if not isinstance(items, dict):
            raise ConfigError(f"{where}: '{section}' must be a section", hint=f"Write [{section}] above its keys.")
        for key, item in items.items():
            if section == "node":
                extra[_free(key, where)] = item
                continue
            name = _name(section, key, where)
            if name in found:
                raise ConfigError(f"{where}: {shown(name)} is set twice", hint="'-' and '_' are equal in names.")
            found[name] = _typed(name, item, where), where
    return found, extra


def _free(key: str, where: str) -> str:
    """Return the ``-`` name of a key of ``[node]``, which must not be that of a setting with a section."""
    own = shown(key)
    for section, item in each():
        if own == wire_name(section, item):
            raise ConfigError(
                f"{where}: node.{key} is a setting of its own",
                hint=f"Write it under [{shown(section)}] as {shown(item.name)}.",
            )
    return own


def _name(section: str, key: str, where: str) -> str:
    own, item = section.replace("-", "_").lower(), key.replace("-", "_").lower()
    if own not in CLASSES:
        raise ConfigError(f"{where}: there is no section [{section}]", hint=_suggest(section, [*SECTIONS, "node"]))
    if f"{own}.{item}" not in KINDS:
        known = [name.partition(".")[2] for name in KINDS if name.startswith(own + ".")]
        raise ConfigError(f"{where}: there is no setting {section}.{key}", hint=_suggest(item, known))
    return f"{own}.{item}"


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"Did you mean '{shown(near[0])}'?" if near else f"Known: {', '.join(map(shown, known))}."


def _from_variable(variable: str) -> str | None:
    """Return the setting an environment variable names; None for one that is not ours."""
    if not variable.startswith("HYPERPY_"):
        return None
    rest = variable.removeprefix("HYPERPY_").lower()
    for section in SECTIONS:
        if rest.startswith(section + "_"):
            return _name(section, rest.removeprefix(section + "_"), variable)
    known = ["HYPERPY_" + name.replace(".", "_").upper() for name in KINDS]
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.85)
    if near:
        raise ConfigError(f"{variable} is no setting", hint=f"Did you mean {near[0]}?")
    return None


def _parse(name: str, text: str) -> Any:
    """Return the value an environment variable's text stands for; the text itself if it does not fit."""
    kind = KINDS[name]
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return words.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if kind is not str and text.lstrip()[:1] in ("[", "{"):
        try:
            return tomllib.loads(f"it = {text}")["it"]
        except (tomllib.TOMLDecodeError, RecursionError):
            return text
    if typing.get_origin(kind) is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _fits(kind: Any, item: Any) -> bool:
    if kind is Any:
        return True
    if typing.get_origin(kind) is list:
        return isinstance(item, list) and all(_fits(typing.get_args(kind)[0], member) for member in item)
    if typing.get_origin(kind) is dict:
        return isinstance(item, dict) and all(_fits(typing.get_args(kind)[1], member) for member in item.values())
    return isinstance(item, kind) and (kind is bool or not isinstance(item, bool))


def _typed(name: str, item: Any, where: str) -> Any:
    """Return ``item`` if its type and range fit the setting ``name``."""
    section, _, key = name.partition(".")
    declared = CLASSES[section].__dataclass_fields__[key].metadata  # type: ignore[attr-defined]
    kind = KINDS[name]
    if declared["choices"] and isinstance(item, bool):
        item = str(item).lower()
    if kind is float and _fits(int, item):
        item = float(item)
    if not _fits(kind, item):
        raise ConfigError(f"{where}: {shown(name)} must be {WORDS[kind]}, not {item!r}")
    if declared["choices"] and item not in declared["choices"]:
        raise ConfigError(f"{where}: {shown(name)} must be one of {', '.join(declared['choices'])}, not {item!r}")
    least, most = declared["least"], declared["most"]
    if (least is not None and not item >= least) or (most is not None and item > most) or item == inf:
        bounds = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
        raise ConfigError(f"{where}: {shown(name)} must be {bounds}, not {item!r}")
    return item
