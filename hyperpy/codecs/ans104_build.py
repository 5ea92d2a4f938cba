"""The content of an ANS-104 item from a TABM: tags, data, bundle (ao-core 13.4, v0.9-final 4.1).

There are three ways to it. A fresh message has its keys sorted, one tag each. A message with an
ANS-104 commitment gets the item back that was signed: tags in the order of ``committed``, or as
``original-tags`` has them, which is kept for items that cannot be rebuilt otherwise.

What has no room in a tag (a nested map, a name over 1024 bytes, a value over 3072) makes the
item a bundle: each such key, and the data, becomes an item of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from hyperpy.codecs.ans104_item import MAX_MEMBERS, Item, Order
from hyperpy.codecs.ans104_item import encode_bundle as join_bundle
from hyperpy.codecs.ans104_tags import MAX_DEPTH, MAX_SIGNED_NAME, MAX_VALUE, Tag, check_tags
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import b64u, b64u_decode, bytewise, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError

DEVICE: Final = b"ans104@1.0"
LINK: Final = "+link"
BUNDLE_TAGS: Final[tuple[Tag, ...]] = ((b"bundle-format", b"binary"), (b"bundle-version", b"2.0.0"))
BINARY_TAGS: Final[tuple[Tag, ...]] = ((b"ao-type", b"binary"),)
MANIFEST_TAGS: Final[tuple[Tag, ...]] = ((b"data-protocol", b"bundle-map"), (b"variant", b"0.0.1"))

ChildItem = Callable[[Tabm, int], Item]
"""Returns the item of a nested message, given its depth."""


class Plan(NamedTuple):
    """An item's content short of its bundle."""

    tags: tuple[Tag, ...]
    """All tags, but those of a bundle only where ``original-tags`` has them."""
    data: bytes
    members: tuple[str, ...] | None
    """The keys that the bundle holds, in order; None if the data is no bundle."""
    named: bool
    """Whether the bundle has a manifest: a map rather than a list."""
    original: bool
    target: bytes
    anchor: bytes


# -- names and small fields ------------------------------------------------------------------


def tag_name(name: bytes) -> str:
    """Return a tag's name as message key: lower case.

    Raises:
        CodecError: not UTF-8.
    """
    try:
        return name.decode("utf-8").lower()
    except UnicodeDecodeError:
        raise CodecError("a tag's name is not UTF-8") from None


_HIDDEN = frozenset({"ao-data-key", "commitments", "unsigned_id", "content-digest"})


def unusable(name: str) -> bool:
    """Say whether no message may have the key, so that only ``original-tags`` can hold it."""
    return name in _HIDDEN or name.startswith("priv")


def shows(name: str) -> bool:
    """Say whether a tag of that name becomes a key. The data's place is not for tags."""
    return name != "data" and not unusable(name.removesuffix(LINK))


def holds_data(key: str) -> bool:
    """Say whether ``ao-data-key`` may name the key."""
    if key in ("", "ao-types", "target", "anchor") or unusable(key) or key.endswith(LINK):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in key)  # those stand for bytes that are no UTF-8


def _name_bytes(key: str) -> bytes:
    try:
        return key.encode("utf-8")
    except UnicodeEncodeError:
        raise CodecError("a key that becomes a tag must be UTF-8") from None


def field_bytes(value: bytes | Tabm | None) -> bytes:
    """Return the 32 bytes that ``target`` or ``anchor`` text stands for, or nothing.

    Only the one base64url text of 43 characters counts: it must come back as it was.
    """
    if type(value) is not bytes or len(value) != 43:
        return b""
    try:
        raw = b64u_decode(value)
    except CodecError:
        return b""
    return raw if b64u(raw).encode("ascii") == value else b""


def _committed_field(fields: Mapping[str, bytes | Tabm], name: str) -> bytes:
    """Return the 32 bytes of ``field-target`` or ``field-anchor``; also raw, as S wrote anchors."""
    value = fields.get(name)
    if value is None:
        return b""
    raw = value if type(value) is bytes and len(value) == 32 else field_bytes(value)
    if not raw:
        raise CodecError(f"{name} must be 32 bytes in base64url")
    return raw


def numbered(value: bytes | Tabm | None, name: str) -> list[bytes | Tabm]:
    """Return the members of a map ``1..n``, which may also say that it is a list."""
    if value is None:
        return []
    if type(value) is bytes:
        raise CodecError(f"{name} must be a list")
    members: Tabm = value  # type: ignore[assignment]
    count = len(members) - ("ao-types" in members)
    if count > MAX_MEMBERS:
        raise SizeError(f"{name} has more than {MAX_MEMBERS} members")
    try:
        return [members[str(n)] for n in range(1, count + 1)]
    except KeyError:
        raise CodecError(f"{name} must be a list") from None


def committed_names(fields: Mapping[str, bytes | Tabm]) -> list[str]:
    """Return the ``committed`` names of a commitment, ``+link`` suffix removed."""
    names = numbered(fields.get("committed"), "committed")
    if any(type(name) is not bytes for name in names):
        raise CodecError("committed must list names")
    return [key_text(name).removesuffix(LINK) for name in names]  # type: ignore[arg-type]


def original_tags(fields: Mapping[str, bytes | Tabm]) -> tuple[Tag, ...] | None:
    """Return the ``original-tags`` of a commitment, or None."""
    if "original-tags" not in fields:
        return None
    tags: list[Tag] = []
    for entry in numbered(fields["original-tags"], "original-tags"):
        name, value = (entry.get("name"), entry.get("value")) if type(entry) is dict else (None, None)
        if type(name) is not bytes or type(value) is not bytes:
            raise CodecError("each of original-tags must have a name and a value")
        tags.append((name, value))
    return tuple(tags)


# -- what goes where -------------------------------------------------------------------------


def fresh(tabm: Tabm) -> Plan:
    """Return the content of a message without ANS-104 commitment."""
    names = bytewise(key for key in tabm if key != "commitments")
    target, anchor = field_bytes(tabm.get("target")), field_bytes(tabm.get("anchor"))
    return _sorted_out(tabm, names, target, anchor, None, None)


def committed(tabm: Tabm, fields: Mapping[str, bytes | Tabm]) -> Plan:
    """Return the content that a commitment covers.

    Raises:
        CodecError: a committed key is missing or does not fit the item, or the fields are malformed.
    """
    target, anchor = _committed_field(fields, "field-target"), _committed_field(fields, "field-anchor")
    bundled = fields.get("bundle") == b"true"
    named = "bundle-map" in fields if "bundle-format" in fields else None  # S keeps neither in the commitment
    tags, names = original_tags(fields), committed_names(fields)
    if tags is None:
        return _sorted_out(tabm, [_held(tabm, name) for name in names], target, anchor, bundled, named)
    shown = {name.removesuffix(LINK) for name in (tag_name(raw) for raw, _ in tags) if shows(name)}
    shown |= {name for name, value in (("target", target), ("anchor", anchor)) if value}
    if bundled:
        members, is_named = _in_order([_held(tabm, name) for name in names if name not in shown], named)
        return Plan(tags, b"", members, is_named, True, target, anchor)
    key = next((key_text(value) for name, value in tags if tag_name(name) == "ao-data-key"), "data")
    data = tabm.get(key) if key in names and key not in shown else b""
    if type(data) is not bytes:
        raise CodecError("the data of an item that is no bundle must be there, as bytes")
    return Plan(tags, data, None, False, True, target, anchor)


def _held(tabm: Tabm, name: str) -> str:
    if name in tabm:
        return name
    if name + LINK in tabm:
        return name + LINK
    raise CodecError(f"the committed key {name[:40]!a} is missing")


def _data_key(tabm: Tabm, names: Sequence[str]) -> str:
    """Return the key whose value is the item's data: named by ``ao-data-key``, ``data``, or ``body``."""
    held = frozenset(names)
    named = tabm["ao-data-key"] if "ao-data-key" in held else None
    if type(named) is bytes:
        if not holds_data(key_text(named)):
            raise CodecError("ao-data-key names a key that cannot hold data")
        return key_text(named)
    if "data" not in held and "data+link" not in held and type(tabm.get("body") if "body" in held else None) is bytes:
        return "body"
    return "data"


def _sorted_out(
    tabm: Tabm, names: Sequence[str], target: bytes, anchor: bytes, bundled: bool | None, named: bool | None
) -> Plan:
    """Put each key into a tag, the data, a field, or the bundle. None: as the content needs it."""
    data_key = _data_key(tabm, names)
    tags: list[Tag] = [] if data_key == "data" else [(b"ao-data-key", key_bytes(data_key))]
    members: list[str] = []
    data = b""
    for key in names:
        value = tabm[key]
        if key == "ao-data-key" or (key == "target" and target) or (key == "anchor" and anchor):
            continue
        if type(value) is not bytes:
            members.append(key)
        elif key == data_key:
            data = value
        elif len(value) > MAX_VALUE or len(name := _name_bytes(key)) > MAX_SIGNED_NAME:
            members.append(key)
        else:
            tags.append((name, value))
    if bundled is None:
        bundled = bool(members) or (len(data) > MAX_VALUE and data_key != "data")
    if not bundled:
        if members:
            raise CodecError(f"{members[0][:40]!a} has no room in an item that is no bundle")
        return Plan(tuple(tags), data, None, False, False, target, anchor)
    if data_key in names and data_key not in members:
        members.append(data_key)
    order, is_named = _in_order(members, named)
    return Plan(tuple(tags), b"", order, is_named, False, target, anchor)


def _in_order(members: Sequence[str], named: bool | None) -> tuple[tuple[str, ...], bool]:
    """Return a bundle's keys in order, and whether it has a manifest; lists (keys ``1..n``) need none."""
    numbers = [str(n) for n in range(1, len(members) + 1)]
    as_list = sorted(members) == sorted(numbers)
    is_named = not as_list if named is None else named
    return tuple(numbers if as_list and not is_named else bytewise(members)), is_named


# -- the item --------------------------------------------------------------------------------


def content(tabm: Tabm, plan: Plan, child: ChildItem, order: Order = "little", depth: int = 0) -> Item:
    """Return the unsigned item of a plan.

    Args:
        child: makes the item of a nested message.
        order: how sizes in a bundle are written.

    Raises:
        CodecError: a bundle misses a message that is only linked.
        SizeError: a limit of tags, items or depth is passed.
    """
    check_tags(plan.tags)
    if plan.members is None:
        return Item(target=plan.target, anchor=plan.anchor, tags=plan.tags, data=plan.data)
    if depth >= MAX_DEPTH:
        raise SizeError(f"bundles nest deeper than {MAX_DEPTH}")
    if len(plan.members) >= MAX_MEMBERS:
        raise SizeError(f"a bundle has more than {MAX_MEMBERS} items")
    items: list[tuple[str, Item]] = []
    for name in plan.members:
        value = tabm[name]
        if name.endswith(LINK):
            raise CodecError(f"the bundle needs the message behind {name[:40]!a}")
        made = Item(tags=BINARY_TAGS, data=value) if type(value) is bytes else child(value, depth + 1)  # type: ignore[arg-type]
        items.append((name, made))
    data, manifest = bundle([(name, item, item.encode()) for name, item in items], plan.named, order)
    tags = plan.tags if plan.original else (*BUNDLE_TAGS, *_map_tag(manifest), *plan.tags)
    check_tags(tags)
    return Item(target=plan.target, anchor=plan.anchor, tags=tags, data=data)


def _map_tag(manifest: Item | None) -> tuple[Tag, ...]:
    return () if manifest is None else ((b"bundle-map", manifest.unsigned_id.encode("ascii")),)


def bundle(items: Sequence[tuple[str, Item, bytes]], named: bool, order: Order) -> tuple[bytes, Item | None]:
    """Return bundle data and the manifest item, which lists do not have.

    Args:
        items: (name, item, the item's bytes), in order. Lists give signed IDs, maps unsigned ones.
    """
    if not named:
        return join_bundle([(b64u_decode(item.id), raw) for _, item, raw in items], order), None
    ids = {name: item.unsigned_id for name, item, _ in items}
    text = json.dumps(ids, ensure_ascii=False, separators=(",", ":"))
    try:
        manifest = Item(tags=MANIFEST_TAGS, data=text.encode("utf-8"))
    except UnicodeEncodeError:
        raise CodecError("a key of a bundle must be UTF-8") from None
    members = [(b64u_decode(item.unsigned_id), raw) for _, item, raw in items]
    return join_bundle([(b64u_decode(manifest.unsigned_id), manifest.encode()), *members], order), manifest
