"""Reads vector files: JSON notation to values, overlays of ``final/``, and comparison forms.

The notation is described in the vectors' own README ("How a value is written").
"""

from __future__ import annotations

import base64
import json
import os
import struct
from pathlib import Path
from typing import Any

from hyperpy.encoding import key_text
from hyperpy.message import As, Atom, Link, Message, Resolve, atom

ROOT = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the vectors' folder: HYPERPY_VECTORS, else the shared one, else our selection."""
    named = os.environ.get("HYPERPY_VECTORS")
    if named:
        return Path(named)
    shared = Path(os.environ.get("HYPERPY_SHARED", ROOT.parent / "shared")) / "vectors"
    return shared if shared.is_dir() else ROOT / "tests" / "vectors" / "data"


def load(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (header, cases) of one file; each case has ``final`` = its overlay or None."""
    data = json.loads(path.read_text("utf-8"))
    cases = data.pop("cases")
    over = path.parent / "final" / path.name
    overlay = {}
    if over.is_file():
        overlay = {case["n"]: case for case in json.loads(over.read_text("utf-8"))["cases"]}
    for case in cases:
        case["final"] = overlay.get(case["n"])
    return data, cases


class Other:
    """A term with no wire meaning: a function, a pid, an improper list."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Other({self.text!r})"


def key(item: Any) -> str:
    """Return a map key of the notation as message key text."""
    found = value(item)
    if isinstance(found, bytes):
        return key_text(found)
    return str(found)


def value(item: Any) -> Any:
    """Return the Python value of one item of the notation."""
    if isinstance(item, str):
        return item.encode("utf-8")
    if isinstance(item, bool) or item is None:
        raise ValueError(f"not in the notation: {item!r}")
    if isinstance(item, (int, float)):
        return item
    if isinstance(item, list):
        return tuple(value(x) for x in item)
    assert isinstance(item, dict)
    if len(item) <= 2 and any(k.startswith("$") for k in item):
        if "$b64" in item:
            return base64.b64decode(item["$b64"])
        if "$int" in item:
            return int(item["$int"])
        if "$float" in item:
            return struct.unpack(">d", bytes.fromhex(item["f64"]))[0]
        if "$atom" in item:
            return atom(item["$atom"])
        if "$map" in item:
            return Message({key(k): value(v) for k, v in item["$map"]})
        if "$link" in item:
            return Link(item["$link"])
        if "$as" in item:
            device, message = item["$as"]
            named = value(device)
            return As(named.decode() if isinstance(named, bytes) else named, value(message))
        if "$resolve" in item:
            return Resolve(tuple(value(x) for x in item["$resolve"]))
        return Other(item)
    return Message({k: value(v) for k, v in item.items()})


def tabm(item: Any) -> Any:
    """Return the TABM (plain dict of bytes and dicts) of one item of the notation."""
    if isinstance(item, dict) and "$map" in item:
        return {key(k): tabm(v) for k, v in item["$map"]}
    if isinstance(item, dict) and not any(k.startswith("$") for k in item):
        return {k: tabm(v) for k, v in item.items()}
    if isinstance(item, list):
        return {str(n): tabm(v) for n, v in enumerate(item, 1)}
    return value(item)


def is_atom(item: Any, name: str) -> bool:
    """Say whether a value is the atom ``name``."""
    return isinstance(item, Atom) and item == name
