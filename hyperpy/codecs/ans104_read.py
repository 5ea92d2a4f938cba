"""The TABM of an ANS-104 item (ao-core 13.4, v0.9-final 4.1).

Tag names become keys in lower case, the fields ``target`` and ``anchor`` keys of that name,
the data the key ``ao-data-key`` names, else ``data``. What a key cannot say is kept in the
commitment, so that the item's exact bytes can be made again:

* ``original-tags`` where names have capitals, are repeated, hide behind a field, or stand in an
  order that ``committed`` does not give, or where a typed value has another text than this node
  would write. (The references leave it out for repeated lower-case names, and then cannot verify
  the item.)
* a bundle becomes nested messages only if it is written exactly as this codec writes bundles;
  else it stays bytes, under the data's key.

Tags that no message key may have (``commitments``, ``priv...``, ``unsigned_id``,
``content-digest``, and ``data`` beside the data) are in ``original-tags`` only.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Final, NamedTuple

from hyperpy.codecs import ans104_build as build
from hyperpy.codecs import structured
from hyperpy.codecs.ans104_build import BINARY_TAGS, BUNDLE_TAGS, DEVICE, LINK, MANIFEST_TAGS, tag_name, unusable
from hyperpy.codecs.ans104_item import Item, Order, parse, parse_bundle
from hyperpy.codecs.ans104_tags import MAX_DEPTH, Tag
from hyperpy.codecs.sfv import escape_key
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import b64u, bytewise, key_bytes, key_text
from hyperpy.errors import CodecError, SizeError
from hyperpy.keys_ans104 import TYPES

UNSIGNED_TYPE: Final = b"unsigned-sha256"
_LIST_TYPE: Final = b'.="list"'
_BUNDLE_FIELDS = ("bundle-format", "bundle-version", "bundle-map")


class Read(NamedTuple):
    """An item as a message."""

    tabm: Tabm
    """The keys, without commitments."""
    fields: Tabm
    """The commitment."""
    exact: bool
    """Whether a message of the keys alone stands for the item."""
    lossy: bool
    """Whether it does so although its bytes differ: ``ao-data-key`` of an unsigned item without data."""


class _Bundle(NamedTuple):
    members: dict[str, bytes | Tabm]
    order: Order


def read(item: Item, depth: int = 0) -> Read:
    """Return an item as keys and commitment; its signature is not checked.

    Raises:
        CodecError: the tags contradict each other, or a bundle is malformed.
        SizeError: bundles nest deeper than MAX_DEPTH.
    """
    tags = [(tag_name(name), value) for name, value in item.tags]
    bundled = _bundle(item, tags, depth)
    data_key = next((key_text(value) for name, value in tags if name == "ao-data-key"), "data")
    shown = _shown(item, tags, bundled is not None)
    tabm: Tabm = {name: values[0] if len(values) == 1 else _joined(values) for name, values in shown.items()}
    members = bundled.members if bundled else _data(item, data_key, shown, depth)
    covered = [*members, *(name.removesuffix(LINK) for name in shown)]
    tabm |= members
    if "ao-types" in shown:
        tabm["ao-types"] = _lower_types(shown["ao-types"][0])
    for name, value in (("anchor", item.anchor), ("target", item.target)):
        if value:
            tabm[name] = b64u(value).encode("ascii")
            covered.append(name)
    if len(set(covered)) != len(covered) or len(tabm) != len(covered):
        raise CodecError("two parts of an item have the same name")
    fields = _fields(item, tags, covered, bundled is not None)
    exact, lossy = _settle(item, tabm, fields, bundled and bundled.members)
    exact = exact and not (bundled and bundled.order == "big")
    return Read(tabm, fields, exact, lossy)


def message(found: Read, item: Item) -> Tabm:
    """Return the TABM with its commitment, which an unsigned item has only if it is needed."""
    if not item.signed and found.exact:
        return found.tabm
    return {**found.tabm, "commitments": {item.id: found.fields}}


def _data(item: Item, key: str, shown: Container[str], depth: int) -> dict[str, bytes | Tabm]:
    """Return the data under its key. Empty data has no key; but in a bundle a named key keeps it."""
    if item.data:
        if not build.holds_data(key):
            raise CodecError("ao-data-key names a key that cannot hold data")
        return {key: item.data}
    named = depth > 0 and not item.signed and key != "data" and build.holds_data(key) and key not in shown
    return {key: b""} if named else {}


def _shown(item: Item, tags: list[tuple[str, bytes]], bundled: bool) -> dict[str, list[bytes]]:
    """Return the tags that become keys, values of the same name together."""
    shown: dict[str, list[bytes]] = {}
    for name, value in tags:
        bare = name.removesuffix(LINK)
        if not build.shows(name) or (bundled and name in _BUNDLE_FIELDS):
            continue
        if (bare == "target" and item.target) or (bare == "anchor" and item.anchor):
            continue
        shown.setdefault(name, []).append(value)
    return shown


def _lower_types(text: bytes) -> bytes:
    """Return an ``ao-types`` text whose keys are in lower case, as those of the message are."""
    try:
        types = structured.parse_types(text)
    except CodecError:  # whoever reads the message's types will say so
        return text
    if all(key == key.lower() for key in types):
        return text
    lower = {key.lower(): name for key, name in types.items()}
    return ", ".join(f'{escape_key(key)}="{lower[key]}"' for key in bytewise(lower)).encode("ascii")


def retyped(tabm: Tabm) -> Tabm:
    """Return a TABM's own keys as they are written again after typing; as given if they cannot be."""
    if "ao-types" not in tabm:
        return tabm
    flat: Tabm = {key: value for key, value in tabm.items() if type(value) is bytes and not key.endswith(LINK)}
    try:
        written = structured.encode(structured.decode(flat))
    except (CodecError, SizeError):
        return tabm
    return {**{key: value for key, value in tabm.items() if key not in flat}, **written}


def _joined(values: list[bytes]) -> bytes:
    """Return repeated values as one list of strings."""
    return b", ".join(b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"' for value in values)


def _numbered(values: list[bytes]) -> Tabm:
    return {str(n): value for n, value in enumerate(values, 1)}


def _fields(item: Item, tags: list[tuple[str, bytes]], covered: list[str], bundled: bool) -> Tabm:
    """Return the commitment of an item, without ``original-tags``."""
    fields: Tabm = {
        "commitment-device": DEVICE,
        "bundle": b"true" if bundled else b"false",
        "committed": {**_numbered([key_bytes(name) for name in covered]), "ao-types": _LIST_TYPE},
        "type": UNSIGNED_TYPE,
    }
    if item.signed:
        fields |= {
            "type": key_bytes(TYPES[item.signature_type].name),
            "committer": key_bytes(item.address),
            "keyid": b"publickey:" + key_bytes(b64u(item.owner)),
            "signature": key_bytes(b64u(item.signature)),
        }
    if bundled:
        fields |= {name: value for name, value in reversed(tags) if name in _BUNDLE_FIELDS}
    for name, value in (("field-target", item.target), ("field-anchor", item.anchor)):
        if value:
            fields[name] = b64u(value).encode("ascii")
    return fields


def _settle(item: Item, tabm: Tabm, fields: Tabm, members: dict[str, bytes | Tabm] | None) -> tuple[bool, bool]:
    """Add ``original-tags`` if the item cannot be rebuilt without; return (exact, lossy)."""
    names = [tag_name(name) for name, _ in item.tags]
    special = (
        retyped(tabm) != tabm
        or any(name in ("anchor", "target", "data") for name in names)
        or any(name != key_text(raw) for name, (raw, _) in zip(names, item.tags, strict=True))
    )
    if not special and not item.signed:
        plan = build.fresh(tabm)
        if _rebuilds(item, item.tags, plan, members):
            return True, False
        if not item.data and _rebuilds(
            item, tuple(tag for tag in item.tags if tag[0] != b"ao-data-key"), plan, members
        ):
            return True, True
    if not special:
        try:
            special = not _rebuilds(item, item.tags, build.committed(tabm, fields), members)
        except CodecError:  # a joined value has no room in a tag
            special = True
    if special:
        tags = enumerate(item.tags, 1)
        fields["original-tags"] = {str(n): {"name": name, "value": value} for n, (name, value) in tags}
    return False, False


def _rebuilds(item: Item, tags: tuple[Tag, ...], plan: build.Plan, members: dict[str, bytes | Tabm] | None) -> bool:
    if (plan.target, plan.anchor) != (item.target, item.anchor):
        return False
    if members is None:
        return plan.members is None and plan.tags == tags and plan.data == item.data
    named = tuple(tag for tag in tags if tag[0] == b"bundle-map")
    return (
        plan.members is not None
        and members.keys() == set(plan.members)
        and plan.named == bool(named)
        and (*BUNDLE_TAGS, *named, *plan.tags) == tags
    )


# -- bundles ---------------------------------------------------------------------------------


def _bundle(item: Item, tags: list[tuple[str, bytes]], depth: int) -> _Bundle | None:
    """Return the members of a bundle, or None if the data is to stay bytes."""
    if not all(tag in item.tags for tag in BUNDLE_TAGS):
        return None
    if depth >= MAX_DEPTH:
        raise SizeError(f"bundles nest deeper than {MAX_DEPTH}")
    order, parts = parse_bundle(item.data)
    inner = [(parse(raw), raw) for _, raw in parts]
    for (digest, _), (part, _) in zip(parts, inner, strict=True):
        if b64u(digest) not in (part.id, part.unsigned_id):
            raise CodecError("a bundle's header does not name its items")
    maps = [value for name, value in item.tags if name == b"bundle-map"]
    if len(maps) > 1 or [tag for tag in item.tags if tag in BUNDLE_TAGS] != list(BUNDLE_TAGS):
        return None
    if maps:
        items = _named_members(key_text(maps[0]), inner)
    else:
        items = [(str(n), part, raw) for n, (part, raw) in enumerate(inner, 1)]
    if items is None or build.bundle(items, bool(maps), order)[0] != item.data:
        return None
    members: dict[str, bytes | Tabm] = {}
    for name, part, _ in items:
        if part.tags == BINARY_TAGS and not (part.signed or part.target or part.anchor):
            members[name] = part.data
            continue
        found = read(part, depth + 1)
        if found.lossy:
            return None
        members[name] = message(found, part)
    taken = {name.removesuffix(LINK) for name, _ in tags}
    taken |= {name for name, value in (("target", item.target), ("anchor", item.anchor)) if value}
    if any(name in taken or name.endswith(LINK) or unusable(name) for name in members):
        return None
    return _Bundle(members, order)


def _named_members(manifest_id: str, inner: list[tuple[Item, bytes]]) -> list[tuple[str, Item, bytes]] | None:
    """Return (name, item, bytes) as the manifest has them; None if it is not of our form."""
    if not inner or inner[0][0].unsigned_id != manifest_id or inner[0][0].tags != MANIFEST_TAGS:
        return None
    try:
        names = json.loads(inner[0][0].data)
        if not isinstance(names, dict) or len(names) != len(inner) - 1 or list(names) != bytewise(names):
            return None
    except (ValueError, RecursionError):
        return None
    return [(name, part, raw) for name, (part, raw) in zip(names, inner[1:], strict=True)]
