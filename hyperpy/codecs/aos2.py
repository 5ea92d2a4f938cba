"""The message structure of aos: fields and a list of tags, as JSON (devices 02 section 9, 07 ``json-iface``).

    {"Id", "Owner", "From", "Target", "Anchor", "Data", "Signature", "PublicKey", "Tags": [{"name", "value"}]}

Pure functions between messages and structures. IDs and signers come from the caller, who knows them.
Bytes that are no UTF-8 become lone surrogates in text, and those bytes again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from hyperpy.codecs import structured
from hyperpy.encoding import bytewise, human, key_text
from hyperpy.errors import CodecError, SizeError
from hyperpy.message import Atom, Message, Value, as_text, value

CONTENT_TYPE: Final = "application/aos-2"
MAX_TAGS: Final = 10_000
ZERO_HASH: Final = "A" * 43
"""The block hash of nothing: 32 zero bytes."""

_NOT_TAGS: Final = frozenset({"id", "anchor", "owner", "data", "target", "signature", "commitments"})
_ADDED: Final = frozenset({"ao-types", "path", "method", "host", "accept", "accept-bundle"})
"""Keys that HTTP gives every request."""
_PUBLIC_KEY: Final = "publickey:"


def encode(message: Message, *, ident: str, owner: str, link: Callable[[Value], str]) -> dict[str, Any]:
    """Return the structure of a message.

    Args:
        ident: the message's ID, as the reader is to know it.
        owner: address of its first signer; "" if nobody signed.
        link: gives the ID of a nested message or list, which stands in its tag's value.
    """
    tabm = structured.encode(Message.make(dict(message.raw_items())), link=link)
    texts = {key: item for key, item in tabm.items() if type(item) is bytes}
    signed = _first(message)
    made = {
        "Id": ident,
        "Owner": owner,
        "From": key_text(texts.get("from-process", b"")) or owner,
        "Target": human(texts.get("target", b"")),
        "Anchor": key_text(texts.get("anchor", b"")),
        "Data": key_text(texts.get("data", b"")),
        "Signature": signed.text("signature", "") if signed is not None else "",
        "Tags": _all_tags(message, texts),
    }
    key = signed.text("keyid", "") if signed is not None else ""
    if key.startswith(_PUBLIC_KEY):
        made["PublicKey"] = key.removeprefix(_PUBLIC_KEY)
    return made


def _all_tags(message: Message, texts: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Return an item's tags as it had them, then the keys that were added to it, as a dry run's path does."""
    tags = _original_tags(message)
    left_out = _NOT_TAGS
    if tags:
        left_out = _NOT_TAGS | _ADDED | message.committed_keys() | {tag["name"].lower() for tag in tags}
    return tags + [_tag(header_case(key), texts[key]) for key in bytewise(texts.keys() - left_out)]


def _first(message: Message) -> Message | None:
    """Return the first commitment that names a committer."""
    return next((message.commitments[name] for name in bytewise(message.commitments) if _signs(message, name)), None)


def _signs(message: Message, name: str) -> bool:
    one = message.commitments[name]
    return "committer" in one or one.text("keyid", "").startswith(_PUBLIC_KEY)


def _original_tags(message: Message) -> list[dict[str, str]]:
    """Return the tags exactly as an ANS-104 item had them; none if it kept no such list."""
    for one in message.commitments.values():
        found = one.get("original-tags")
        if isinstance(found, Message):
            tags = [found[key] for key in sorted(found, key=_number)]
            return [_tag(tag.text("name"), tag.text("value")) for tag in tags if isinstance(tag, Message)]
    return []


def _number(key: str) -> int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else 0


def _tag(name: str, text: str | bytes) -> dict[str, str]:
    return {"name": name, "value": key_text(text) if isinstance(text, bytes) else text}


def header_case(key: str) -> str:
    """Return a key as headers write it: ``from-process`` becomes ``From-Process``."""
    return "-".join(part[:1].upper() + part[1:] for part in key.split("-"))


# -- from structures ---------------------------------------------------------------------------


def flatten(struct: Mapping[str, Any], *, lower_tags: bool = False) -> Message:
    """Return a structure's fields, in lower case, and its tags as the keys of one message; tags win.

    Args:
        lower_tags: put the tags' names into lower case; else they stay as given.

    Raises:
        CodecError, SizeError: it is no structure.
    """
    items: dict[str, Value] = {}
    for key, item in struct.items():
        if type(key) is not str:
            raise CodecError("aos2: a field's name must be text")
        if key.lower() != "tags" and item is not None:
            items[key.lower()] = value(item)
    tags = next((item for key, item in struct.items() if key.lower() == "tags"), None) or []
    for name, item in _tags(tags):
        items[name.lower() if lower_tags else name] = item
    return Message(items)


def _tags(tags: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(tags, Mapping):  # aos also writes {name: value}
        tags = [{"name": name, "value": item} for name, item in tags.items()]
    if not isinstance(tags, (list, tuple)):
        raise CodecError("aos2: 'Tags' must be a list of {name, value}")
    if len(tags) > MAX_TAGS:
        raise SizeError(f"aos2: more than {MAX_TAGS} tags")
    for tag in tags:
        if not isinstance(tag, Mapping) or type(tag.get("name")) is not str:
            raise CodecError("aos2: a tag must be {name, value}")
        if tag.get("value") is not None:
            yield tag["name"], value(tag["value"])


def decode(struct: Mapping[str, Any]) -> Message:
    """Return the message of a structure as legacy schedulers write it; nothing in it can be verified.

    The tags' names are in lower case; ``data`` is there, empty if need be; empty ``target``,
    ``anchor`` and ``signature`` are left out.

    Raises:
        CodecError, SizeError: it is no structure.
    """
    found = dict(flatten(struct, lower_tags=True).raw_items())
    for key in ("target", "anchor", "signature", "publickey", "from", "owner", "id"):
        if found.get(key) == b"":
            del found[key]
    found.setdefault("data", b"")
    found.pop("ao-types", None)
    return Message.make(_typed(found))


def _typed(items: dict[str, Value]) -> dict[str, Value]:
    return {key: _whole(item, key) if key in ("timestamp", "epoch", "slot") else item for key, item in items.items()}


def _whole(item: Value, name: str) -> int:
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    text = as_text(cast("Value", item), name)
    if isinstance(item, Atom) or len(text) > 30 or not text.isascii() or not text.removeprefix("-").isdigit():
        raise CodecError(f"aos2: {name} must be a whole number")
    return int(text)


# -- schedules -----------------------------------------------------------------------------------


def edge(
    assignment: Message, *, name: Callable[[Message], tuple[str, str]], link: Callable[[Value], str]
) -> dict[str, Any]:
    """Return one assignment as an edge of a schedule.

    Args:
        name: gives the ID and the owner of a message.
        link: see :func:`encode`.
    """
    body = assignment.get("body")
    ident, owner = name(assignment)
    bare = Message.make({k: v for k, v in assignment.raw_items().items() if k != "body"}, assignment.commitments)
    inner: dict[str, Any] | None = None
    if isinstance(body, Message):
        body_id, body_owner = name(body)
        inner = encode(body, ident=body_id, owner=body_owner, link=link)
    outer = encode(bare, ident=ident, owner=owner, link=link)
    return {"cursor": assignment.get("slot"), "node": {"message": inner, "assignment": outer}}
