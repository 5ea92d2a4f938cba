"""ANS-104 items from messages: with the signature a commitment holds, or unsigned.

A signed bundle is rebuilt in the byte order in which its signature fits: little-endian, else
big-endian as the September 2025 reference wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias, Union

from hyperpy.codecs import ans104_build as build
from hyperpy.codecs.ans104_build import DEVICE, LINK, committed_names
from hyperpy.codecs.ans104_item import Item, Order
from hyperpy.codecs.ans104_read import UNSIGNED_TYPE
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import b64u_decode, key_text
from hyperpy.errors import CodecError
from hyperpy.keys_ans104 import TYPE_OF_NAME

Fields: TypeAlias = Mapping[str, Union[bytes, Tabm]]


def is_bundle(fields: Fields) -> bool:
    """Say whether a commitment covers nested messages themselves rather than their IDs."""
    return fields.get("bundle") == b"true"


def from_tabm(tabm: Tabm, commitment_id: str | None = None) -> Item:
    """Return the item of a TABM: as it was signed if it has an ANS-104 commitment, else unsigned.

    The signature is put back, not checked: a message that changed gives an item that does not verify.

    Args:
        commitment_id: which of several commitments.

    Raises:
        CodecError: what was committed is no longer there, or there are several commitments and
            none is named, or a key cannot be a tag.
        SizeError: a limit is passed.
    """
    return _item(tabm, 0, commitment_id)


def _item(tabm: Tabm, depth: int, commitment_id: str | None = None) -> Item:
    found = commitments_of(tabm)
    if commitment_id is not None:
        if commitment_id not in found:
            raise CodecError("the message has no ANS-104 commitment of that ID")
        found = {commitment_id: found[commitment_id]}
    signed = [fields for fields in found.values() if fields.get("type") != UNSIGNED_TYPE]
    if len(signed) > 1:
        raise CodecError("an item has one signer; the message has several ANS-104 commitments")
    if signed:
        return restored(tabm, signed[0], depth)
    for name, fields in found.items():
        for item in _unsigned(tabm, fields, depth):
            if item.id == name:
                return item
    return content(tabm, build.fresh(tabm), "little", depth)


def content(tabm: Tabm, plan: build.Plan, order: Order, depth: int) -> Item:
    """Return the unsigned item of a plan; ``order`` is that of its own bundle."""
    return build.content(tabm, plan, _item, order, depth)


def commitments_of(tabm: Tabm) -> dict[str, Tabm]:
    """Return the ANS-104 commitments of a TABM."""
    found = tabm.get("commitments", {})
    if type(found) is not dict or not all(type(one) is dict for one in found.values()):
        raise CodecError("commitments must be a map of maps")
    return {name: one for name, one in found.items() if one.get("commitment-device") == DEVICE}  # type: ignore[union-attr, misc]


def orders(fields: Fields) -> tuple[Order, ...]:
    return ("little", "big") if is_bundle(fields) else ("little",)


def _unsigned(tabm: Tabm, fields: Fields, depth: int) -> Iterator[Item]:
    """Give what an unsigned commitment may describe; nothing if the message has other keys now."""
    if {name.removesuffix(LINK) for name in tabm} - {"commitments"} != set(committed_names(fields)):
        return
    try:
        plan = build.committed(tabm, fields)
        for order in orders(fields):
            yield content(tabm, plan, order, depth)
    except CodecError:
        return


def restored(tabm: Tabm, fields: Fields, depth: int = 0) -> Item:
    """Return the signed item of a commitment; of two byte orders of a bundle the one that fits."""
    kind, owner, signature = signature_of(fields)
    plan = build.committed(tabm, fields)
    made: list[Item] = []
    for order in orders(fields):
        bare = content(tabm, plan, order, depth)
        item = replace(bare, signature_type=kind, owner=owner, signature=signature)
        if len(orders(fields)) == 1 or item.verify():
            return item
        made.append(item)
    return made[0]


def signature_of(fields: Fields) -> tuple[int, bytes, bytes]:
    """Return (signature type, owner, signature) of a signed commitment; CodecError if malformed."""
    kind = TYPE_OF_NAME.get(text(fields, "type"))
    scheme, _, key = text(fields, "keyid").partition(":")
    if kind is None or scheme != "publickey":
        raise CodecError("the commitment has no type or key of ANS-104")
    owner, signature = b64u_decode(key), b64u_decode(text(fields, "signature"))
    if len(owner) != kind.owner_size or len(signature) != kind.signature_size:
        raise CodecError("the commitment's key or signature has a wrong size")
    return kind.number, owner, signature


def text(fields: Fields, name: str) -> str:
    value = fields.get(name, b"")
    if type(value) is not bytes:
        raise CodecError(f"a commitment's {name} must be text")
    return key_text(value)
