"""ans104@1.0: messages as ANS-104 data items and back (ao-core 13.4, v0.9-final 4.1, 6).

What was posted comes back byte for byte: a signed item becomes a message whose commitment holds
what the keys do not say (order and letter case of tags, target, anchor). Bundles are written
little-endian; big-endian ones of the September 2025 reference are read and keep verifying.

TABMs here carry nested messages as ``K+link``, except in commitments with ``bundle: true``,
where they must be inline. The caller chooses (see :func:`is_bundle`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hyperpy import keys_ans104
from hyperpy.codecs import ans104_build as build
from hyperpy.codecs.ans104_build import DEVICE, LINK, committed_names
from hyperpy.codecs.ans104_item import (
    Item,
    Order,
    decode_tags,
    deep_hash,
    encode_bundle,
    encode_tags,
    parse,
    parse_bundle,
)
from hyperpy.codecs.ans104_read import UNSIGNED_TYPE, message, read
from hyperpy.codecs.structured import Tabm
from hyperpy.encoding import b64u_decode, key_text
from hyperpy.errors import CodecError, InvalidSignature, SizeError
from hyperpy.keys_ans104 import TYPE_OF_NAME, as_signer

__all__ = [
    "Item",
    "committer",
    "decode",
    "decode_tags",
    "deep_hash",
    "encode",
    "encode_bundle",
    "encode_tags",
    "from_tabm",
    "is_bundle",
    "item_commit",
    "item_verify",
    "parse",
    "parse_bundle",
    "sign",
    "to_tabm",
    "verify",
]

Fields = Mapping[str, "bytes | Tabm"]


# -- item to message -------------------------------------------------------------------------


def to_tabm(item: Item) -> Tabm:
    """Return an item as TABM. A signed item has one commitment; signatures are not checked.

    Raises:
        CodecError: two parts of the item have the same name, or a bundle is malformed.
        SizeError: bundles nest too deeply.
    """
    return message(read(item), item)


def decode(raw: bytes, *, check: bool = True) -> Tabm:
    """Return the bytes of an item as TABM.

    Args:
        check: verify the item and every signed item inside it; unsigned ones pass.

    Raises:
        CodecError: malformed.
        SizeError: a limit is passed.
        InvalidSignature: a signature does not fit.
    """
    item = parse(raw)
    found = to_tabm(item)
    if check:
        if item.signed and not item.verify():
            raise InvalidSignature("the item's signature does not fit")
        for child in _committed_children(found):
            verify(child)
    return found


def _committed_children(tabm: Tabm) -> Iterator[Tabm]:
    for key, child in tabm.items():
        if key != "commitments" and type(child) is dict:
            if "commitments" in child:
                yield child
            yield from _committed_children(child)


def verify(tabm: Tabm) -> None:
    """Check every ANS-104 commitment of a TABM; raise InvalidSignature if one does not hold."""
    for name, fields in _commitments(tabm).items():
        if not item_verify(tabm, fields, name):
            raise InvalidSignature(f"the ANS-104 commitment {name[:43]!a} does not fit the message")


# -- message to item -------------------------------------------------------------------------


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


def encode(tabm: Tabm, commitment_id: str | None = None) -> bytes:
    """Return the bytes of :func:`from_tabm`."""
    return from_tabm(tabm, commitment_id).encode()


def _item(tabm: Tabm, depth: int, commitment_id: str | None = None, order: Order = "little") -> Item:
    found = _commitments(tabm)
    if commitment_id is not None:
        if commitment_id not in found:
            raise CodecError("the message has no ANS-104 commitment of that ID")
        return _restored(tabm, found[commitment_id], depth)
    signed = [fields for fields in found.values() if fields.get("type") != UNSIGNED_TYPE]
    if len(signed) > 1:
        raise CodecError("an item has one signer; the message has several ANS-104 commitments")
    if signed:
        return _restored(tabm, signed[0], depth)
    for name, fields in found.items():
        item = _unsigned(tabm, fields, depth, order)
        if item is not None and item.id == name:
            return item
    return _content(tabm, build.fresh(tabm), order, depth)


def _content(tabm: Tabm, plan: build.Plan, order: Order, depth: int) -> Item:
    """Return the unsigned item of a plan, unsigned bundles inside it in the same byte order."""
    return build.content(tabm, plan, lambda child, at: _item(child, at, order=order), order, depth)


def _commitments(tabm: Tabm) -> dict[str, Tabm]:
    """Return the ANS-104 commitments of a TABM."""
    found = tabm.get("commitments", {})
    if type(found) is not dict or not all(type(one) is dict for one in found.values()):
        raise CodecError("commitments must be a map of maps")
    return {name: one for name, one in found.items() if one.get("commitment-device") == DEVICE}  # type: ignore[union-attr, misc]


def _orders(fields: Fields) -> tuple[Order, ...]:
    return ("little", "big") if is_bundle(fields) else ("little",)


def _unsigned(tabm: Tabm, fields: Fields, depth: int, order: Order) -> Item | None:
    """Return the content an unsigned commitment describes, or None if its keys are gone."""
    try:
        return _content(tabm, build.committed(tabm, fields), order, depth)
    except CodecError:
        return None


def _restored(tabm: Tabm, fields: Fields, depth: int = 0) -> Item:
    """Return the signed item of a commitment; of two byte orders of a bundle the one that fits."""
    kind, owner, signature = _signature(fields)
    plan = build.committed(tabm, fields)
    made: list[Item] = []
    for order in _orders(fields):
        bare = _content(tabm, plan, order, depth)
        item = replace(bare, signature_type=kind, owner=owner, signature=signature)
        if len(_orders(fields)) == 1 or item.verify():
            return item
        made.append(item)
    return made[0]


def _signature(fields: Fields) -> tuple[int, bytes, bytes]:
    """Return (signature type, owner, signature) of a signed commitment; CodecError if malformed."""
    kind = TYPE_OF_NAME.get(_text(fields, "type"))
    scheme, _, key = _text(fields, "keyid").partition(":")
    if kind is None or scheme != "publickey":
        raise CodecError("the commitment has no type or key of ANS-104")
    owner, signature = b64u_decode(key), b64u_decode(_text(fields, "signature"))
    if len(owner) != kind.owner_size or len(signature) != kind.signature_size:
        raise CodecError("the commitment's key or signature has a wrong size")
    return kind.number, owner, signature


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name, b"")
    if type(value) is not bytes:
        raise CodecError(f"a commitment's {name} must be text")
    return key_text(value)


# -- commitments -----------------------------------------------------------------------------


def is_bundle(fields: Fields) -> bool:
    """Say whether a commitment covers nested messages themselves rather than their IDs."""
    return fields.get("bundle") == b"true"


def committer(fields: Fields) -> str | None:
    """Return the address that a commitment's key has, or None if it is unsigned.

    Raises:
        CodecError: the fields are malformed.
    """
    if fields.get("type") == UNSIGNED_TYPE:
        return None
    kind, owner, _ = _signature(fields)
    return keys_ans104.address_of(kind, owner)


def sign(tabm: Tabm, key: Any) -> Tabm:
    """Return the message that the signed item of ``tabm`` is; keys are in lower case then.

    Args:
        key: an RsaKey or a signer of keys_ans104.

    Raises:
        CodecError, SizeError: the message does not fit into an item.
    """
    item = from_tabm({name: value for name, value in tabm.items() if name != "commitments"})
    return to_tabm(item.sign(as_signer(key)))


def item_commit(tabm: Tabm, key: Any = None) -> tuple[str, Tabm]:
    """Return the ID and the fields of a new commitment over all keys of ``tabm``.

    Names in ``committed`` are in lower case. A message with other keys must take those over:
    use :func:`sign`, which returns the whole message.

    Args:
        key: an RsaKey or a signer of keys_ans104; None for an unsigned commitment.
    """
    item = from_tabm({name: value for name, value in tabm.items() if name != "commitments"})
    if key is not None:
        item = item.sign(as_signer(key))
    return item.id, read(item).fields


def item_verify(tabm: Tabm, fields: Fields, commitment_id: str | None = None) -> bool:
    """Say whether an ANS-104 commitment holds for a TABM.

    It holds if the item it describes is signed by its key, if ``committer`` (and the ID, if
    given) are that key's and that item's, and if every name in ``committed`` has the value that
    the item gives it. Keys that are not committed do not matter.

    Args:
        tabm: nested messages as ``K+link``, but inline if :func:`is_bundle`.
    """
    try:
        return _holds(tabm, fields, commitment_id)
    except (CodecError, SizeError):
        return False


def _holds(tabm: Tabm, fields: Fields, commitment_id: str | None) -> bool:
    if fields.get("commitment-device") != DEVICE:
        return False
    if fields.get("type") == UNSIGNED_TYPE:
        plan = build.committed(tabm, fields)
        items = (_content(tabm, plan, order, 0) for order in _orders(fields))
        unsigned = next((item for item in items if commitment_id in (None, item.id)), None)
        if unsigned is None:
            return False
        item = unsigned
    else:
        item = _restored(tabm, fields)
        if not item.verify() or commitment_id not in (None, item.id):
            return False
        if "committer" in fields and _text(fields, "committer") != item.address:
            return False
    found = read(item)
    covered = set(committed_names(found.fields))
    return all(name in covered and _same(tabm, found.tabm, name) for name in committed_names(fields))


def _same(ours: Tabm, theirs: Tabm, name: str) -> bool:
    for key in (name, name + LINK):
        left, right = ours.get(key), theirs.get(key)
        if type(left) is dict and type(right) is dict:
            names = (left.keys() | right.keys()) - {"commitments"}
            if not all(_same(left, right, child) for child in names):
                return False
        elif left != right:
            return False
    return True
