"""ans104@1.0: messages as ANS-104 data items and back (ao-core 13.4, v0.9-final 4.1, 6).

What was posted comes back byte for byte: a signed item becomes a message whose commitment holds
what the keys do not say (order and letter case of tags, target, anchor). Bundles are written
little-endian; big-endian ones of the September 2025 reference are read and keep verifying.

TABMs here carry nested messages as ``K+link``, except in commitments with ``bundle: true``,
where they must be inline. The caller chooses (see :func:`is_bundle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hyperpy import keys_ans104
from hyperpy.codecs import ans104_build as build
from hyperpy.codecs import structured
from hyperpy.codecs.ans104_build import DEVICE, LINK, committed_names
from hyperpy.codecs.ans104_item import (
    Item,
    encode_bundle,
    parse,
    parse_bundle,
)
from hyperpy.codecs.ans104_read import UNSIGNED_TYPE, message, read, retyped
from hyperpy.codecs.ans104_restore import (
    Fields,
    commitments_of,
    content,
    from_tabm,
    is_bundle,
    orders,
    restored,
    signature_of,
    text,
)
from hyperpy.codecs.ans104_tags import decode_tags, deep_hash, encode_tags
from hyperpy.codecs.structured import LinkTo, Loader, Tabm, parse_types
from hyperpy.errors import CodecError, InvalidSignature, SizeError
from hyperpy.keys_ans104 import as_signer
from hyperpy.message import Message, Value

__all__ = [
    "Item",
    "committer",
    "decode",
    "decode_message",
    "decode_tags",
    "deep_hash",
    "encode",
    "encode_bundle",
    "encode_message",
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
    for name, fields in commitments_of(tabm).items():
        if not item_verify(tabm, fields, name):
            raise InvalidSignature(f"the ANS-104 commitment {name[:43]!a} does not fit the message")


# -- message to item -------------------------------------------------------------------------


def encode(tabm: Tabm, commitment_id: str | None = None) -> bytes:
    """Return the bytes of :func:`from_tabm`."""
    return from_tabm(tabm, commitment_id).encode()


def decode_message(raw: bytes, *, loader: Loader | None = None) -> Message:
    """Return the bytes of an item as message, verified as :func:`decode` does.

    Args:
        loader: goes into the links of the message.

    Raises:
        CodecError: malformed, or a list.
        SizeError, InvalidSignature: see :func:`decode`.
    """
    found = structured.decode(decode(raw), loader=loader)
    if not isinstance(found, Message):
        raise CodecError("the item is a list; a message must be a map of keys")
    return found


def encode_message(msg: Message, *, link: LinkTo | None = None) -> bytes:
    """Return a message as the bytes of an item: as it was signed, else unsigned.

    Args:
        link: names nested messages by their IDs. Without it an unsigned message becomes a bundle,
            and a signed one may have nested messages as links only. One that was signed as a
            bundle stays one.

    Raises:
        CodecError, SizeError: see :func:`from_tabm`.
        MessageNotFound: a bundle needs a linked message that is not at hand.
    """
    fields = [one for one in msg.commitments.values() if one.get("commitment-device") == DEVICE and "signature" in one]
    if any(one.get("bundle") == b"true" for one in fields):
        link = None
    elif fields and link is None:
        link = _not_linked
    return encode(structured.encode(msg, link=link))


def _not_linked(child: Message | tuple[Value, ...]) -> str:
    raise CodecError("the item was signed over the ID of a nested message, which must be given as a link")


# -- commitments -----------------------------------------------------------------------------


def committer(fields: Fields) -> str | None:
    """Return the address that a commitment's key has, or None if it is unsigned.

    Raises:
        CodecError: the fields are malformed.
    """
    if fields.get("type") == UNSIGNED_TYPE:
        return None
    kind, owner, _ = signature_of(fields)
    return keys_ans104.address_of(kind, owner)


def sign(tabm: Tabm, key: Any) -> Tabm:
    """Return the message that the signed item of ``tabm`` is; keys are in lower case then.

    Args:
        key: an RsaKey or a signer of keys_ans104.

    Raises:
        CodecError, SizeError: the message does not fit into an item.
    """
    return to_tabm(_bare(tabm).sign(as_signer(key)))


def _bare(tabm: Tabm) -> Item:
    """Return the unsigned item of all keys of a TABM, in the form of its unsigned commitment if it has one."""
    unsigned = {name: one for name, one in commitments_of(tabm).items() if one.get("type") == UNSIGNED_TYPE}
    bare: Tabm = {**tabm, "commitments": unsigned}  # type: ignore[dict-item]
    return from_tabm(bare)


def item_commit(tabm: Tabm, key: Any = None) -> tuple[str, Tabm]:
    """Return the ID and the fields of a new commitment over all keys of ``tabm``.

    Names in ``committed`` are in lower case. A message with other keys must take those over:
    use :func:`sign`, which returns the whole message.

    Args:
        key: an RsaKey or a signer of keys_ans104; None for an unsigned commitment.
    """
    item = _bare(tabm)
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
        items = (content(tabm, plan, order, 0) for order in orders(fields))
        unsigned = next((item for item in items if commitment_id in (None, item.id)), None)
        if unsigned is None:
            return False
        item = unsigned
    else:
        item = restored(tabm, fields)
        if not item.verify() or commitment_id not in (None, item.id):
            return False
        if "committer" in fields and text(fields, "committer") != item.address:
            return False
    found = read(item)
    covered = set(committed_names(found.fields))
    names = [name for name in committed_names(fields) if name != "ao-types"]
    return covered.issuperset(names) and _agree(tabm, found.tabm, names)


def _agree(ours: Tabm, theirs: Tabm, names: Iterable[str]) -> bool:
    """Say whether two TABMs have the same typed values under ``names``."""
    ours, theirs = retyped(ours), retyped(theirs)
    our_types, their_types = _types(ours), _types(theirs)
    for name in names:
        if our_types.get(name) != their_types.get(name):
            return False
        for key in (name, name + LINK):
            left, right = ours.get(key), theirs.get(key)
            if type(left) is dict and type(right) is dict:
                children = (left.keys() | right.keys()) - {"commitments", "ao-types"}
                if not _agree(left, right, children):
                    return False
            elif left != right:
                return False
    return our_types.get(".") == their_types.get(".")


def _types(tabm: Tabm) -> dict[str, str]:
    text = tabm.get("ao-types", b"")
    if type(text) is not bytes:
        raise CodecError("ao-types must be text")
    return parse_types(text) if text else {}
