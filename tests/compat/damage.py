"""Headers of signed requests, damaged on purpose."""

from __future__ import annotations

from collections.abc import Iterable


def changed(text: bytes, at: int = 0) -> bytes:
    """Return the text with another byte at a place; printable text stays so, base64 stays base64."""
    return text[:at] + (b"B" if text[at : at + 1] == b"A" else b"A") + text[at + 1 :]


def replaced(headers: Iterable[tuple[bytes, bytes]], at: int, text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers with another text at a place."""
    return [(name, text if n == at else found) for n, (name, found) in enumerate(headers)]
