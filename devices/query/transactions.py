"""What GraphQL's fields are of a stored message, and which stored messages its arguments mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperpy.commitments import committer_of
from hyperpy.encoding import b64u, is_id, number_keys
from hyperpy.errors import ParameterError
from hyperpy.message import Link, Message, Value, as_text

MOST_IDS = 100
MOST_TAGS = 100
_NO_TAGS = frozenset({"data", "body", "commitments", "path", "method", "ao-types", "anchor", "target"})
_NOTHING = {"winston": "0", "ar": "0.000000000000"}


def listed(arguments: Mapping[str, Any], name: str, most: int = MOST_IDS) -> list[str]:
    """Return an argument that is a text or a list of texts.

    Raises:
        ParameterError: it is neither, or too long.
    """
    found = arguments.get(name)
    items = [] if found is None else found if isinstance(found, list) else [found]
    if len(items) > most or not all(isinstance(item, str) for item in items):
        raise ParameterError(f"graphql: '{name}' must be at most {most} texts", name=name)
    return items


def pairs(arguments: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the tags and recipients of a query as keys and the values they may have."""
    found: dict[str, frozenset[str]] = {}
    tags = arguments.get("tags") or []
    for tag in tags if isinstance(tags, list) else [tags]:
        if not isinstance(tag, Mapping) or not isinstance(tag.get("name"), str) or len(found) >= MOST_TAGS:
            raise ParameterError("graphql: 'tags' must be a list of {name, values}", name="tags")
        values = frozenset(listed(tag, "values"))
        key = tag["name"].lower()
        found[key] = found[key] & values if key in found else values
    recipients = listed(arguments, "recipients")
    if recipients:
        found["target"] = frozenset(recipients)
    return found


def signers(item: Value) -> dict[str, Message]:
    """Return the commitments of a message that somebody signed, by ID."""
    if not isinstance(item, Message):
        return {}
    return {name: one for name, one in sorted(item.commitments.items()) if committer_of(one)}


def node_of(ref: str, item: Message) -> dict[str, Any]:
    """Return the fields of a stored message; ``ref`` is the ID it was asked for by, or its unsigned ID."""
    signed = signers(item)
    name = ref if ref in signed or not signed else next(iter(signed))
    one = signed.get(name, Message())
    data = item.raw("data")
    if data is None:
        data = item.raw("body")
    return {
        "id": name,
        "anchor": _text(item, "anchor"),
        "signature": _text(one, "signature"),
        "recipient": _text(item, "target"),
        "owner": {"address": committer_of(one) or "", "key": _key(one)},
        "fee": _NOTHING,
        "quantity": _NOTHING,
        "data": {"size": str(len(data) if isinstance(data, bytes) else 0), "type": _text(item, "content-type")},
        "tags": _tags(item, one),
        "block": None,
        "parent": None,
        "bundledIn": None,
    }


def keys_of(ref: str, item: Message) -> dict[str, Any]:
    """Return a stored message as GraphQL's type ``Message``: its ID and its keys."""
    return {"id": ref, "keys": [{"name": name, "value": _shown(item.raw(name))} for name in item]}


def _key(one: Message) -> str:
    text = _text(one, "keyid")
    scheme, colon, key = text.partition(":")
    return (key if colon and scheme == "publickey" else text).replace("+", "-").replace("/", "_").rstrip("=")


def _tags(item: Message, one: Message) -> list[dict[str, str]]:
    """Return the tags as they were signed where that is kept, else the keys."""
    original = one.get("original-tags")
    if isinstance(original, Message):
        rows = [original[name] for name in number_keys(original)]
        return [{"name": _text(row, "name"), "value": _text(row, "value")} for row in rows if isinstance(row, Message)]
    return [{"name": name, "value": _shown(item.raw(name))} for name in item if name not in _NO_TAGS]


def _text(message: Message, name: str) -> str:
    found = message.raw(name)
    return "" if found is None else _shown(found)


def _shown(found: Value | None) -> str:
    if isinstance(found, Link):
        return found.id
    if isinstance(found, bytes):
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            return b64u(found)
    return "" if found is None or isinstance(found, (Message, tuple)) else as_text(found)


def wanted_ids(arguments: Mapping[str, Any]) -> list[str] | None:
    """Return the IDs that a query names, each once; None if it names none."""
    if "ids" not in arguments or arguments["ids"] is None:
        return None
    return [name for name in dict.fromkeys(listed(arguments, "ids")) if is_id(name.encode("utf-8", "replace"))]


def fits(item: Message, wanted: Mapping[str, frozenset[str]], owners: Sequence[str]) -> bool:
    """Say whether a message has all wanted keys, and a signer among ``owners`` if there are any."""
    if owners and not any(committer_of(one) in owners for one in signers(item).values()):
        return False
    return all(name in item and _shown(item.raw(name)) in texts for name, texts in wanted.items())
