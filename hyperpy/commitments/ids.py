"""IDs: of content, of signatures, of both; and the selection of commitments (ao-core 3.4).

What is computed from a message is remembered on it: its linked and bundled TABM, what each
selection of keys covers, its IDs.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias, cast

from hyperpy.codecs import envelope, httpsig, plan, signature, structured
from hyperpy.codecs.httpsig import Signed
from hyperpy.codecs.structured import Tabm
from hyperpy.commitments.fields import (
    CONSTANT,
    HMAC_TYPE,
    HTTPSIG,
    HTTPSIG_DEVICES,
    committer_of,
    device_of,
    fields_of,
    is_bundle,
    is_rebuilt,
)
from hyperpy.encoding import b64u, b64u_decode, ordered, sha256
from hyperpy.errors import (
    MessageError,
    UnknownCommitment,
)
from hyperpy.message import Link, Message, Value, committed_list

Committers: TypeAlias = Literal["none", "all"] | Sequence[str]
"""A selection of commitments: unsigned ones, signed ones, or those of the addresses."""

_MODULUS = 1 << 256
_LONG = 64
"""Members of a list that is worth remembering."""
_KEPT = 32
_long_lists: dict[int, tuple[tuple[Value, ...], bytes]] = {}
"""By identity; the entry keeps its list alive, so no other list can have that identity meanwhile."""


def content_id(item: Value) -> str:
    """Return the unsigned ID over all of an item's keys: what it says, and nothing else.

    A binary's is its SHA-256, a list's that of its numbered map, a link's the ID it names.

    Raises:
        MessageError: the item is a number, an atom or a control object and has no ID.
    """
    if type(item) is Message:
        found: str | None = item.memo.get("content-id")
        if found is None:
            found = item.memo["content-id"] = b64u(content_key(item))
        return found
    return item.id if type(item) is Link else b64u(content_key(item))


def content_key(item: Value) -> bytes:
    """Return what :func:`content_id` is the text of: 32 bytes; a link's ID may have another length.

    Raises:
        MessageError: the item has no ID.
    """
    if type(item) is Message:
        found: bytes | None = item.memo.get("content-key")
        if found is None:
            whole = _whole_base(item) if item.commitments else None
            base = plan.unsigned_base(item, signed_id) if whole is None else whole[0] + plan.UNSIGNED_PARAMS
            if base is None:
                base = httpsig.signed(tabm_of(item)).base(plan.UNSIGNED_PARAMS)
            found = item.memo["content-key"] = plan.unsigned_mac(base)
        return found
    if type(item) is bytes:
        return sha256(item)
    if type(item) is tuple:
        return _list_key(item)
    if type(item) is Link:
        return b64u_decode(item.id)
    raise MessageError(f"a {type(item).__name__} has no ID; put it into a message")


def _list_key(item: tuple[Value, ...]) -> bytes:
    """Return the key of a list's content.

    A list has no place to remember it, and is part of a base, a request and a result at once; so
    the last few long ones are remembered here.
    """
    known = _long_lists.get(id(item))
    if known is not None and known[0] is item:
        return known[1]
    made = plan.unsigned_mac(httpsig.signed(structured.encode(item, link=signed_id)).base(plan.UNSIGNED_PARAMS))
    if len(item) >= _LONG:
        _long_lists[id(item)] = item, made
        while len(_long_lists) > _KEPT:
            with suppress(KeyError, StopIteration, RuntimeError):  # other threads do this too
                del _long_lists[next(iter(_long_lists))]
    return made


def unsigned_id(item: Value) -> str:
    """Return the ID over what unsigned commitments cover: all keys, unless one covers fewer."""
    return message_id(item, "none")


def signed_id(item: Value) -> str:
    """Return the sum of the signatures' IDs, or the unsigned ID where there are none (3.4)."""
    return message_id(item, "all")


def message_id(item: Value, committers: Committers = "none", ids: Literal["all"] | Sequence[str] | None = None) -> str:
    """Return the ID over a selection of commitments (3.4).

    Args:
        committers: ``none``, ``all``, or addresses.
        ids: commitments by ID, in addition; ``all`` is every one.

    Raises:
        UnknownCommitment: an address or ID that was asked for is not there.
    """
    if type(item) is not Message or not item.commitments:
        if not isinstance(committers, str) and committers:
            raise UnknownCommitment(f"nobody signed the message, so not {committers[0]!a}")
        return content_id(item)
    memo = f"id {committers}" if ids is None and isinstance(committers, str) else None
    found: str | None = item.memo.get(memo) if memo else None
    if found is None:
        chosen = [_own_id(item, name) for name in select(item, committers, ids)]
        found = _sum(chosen) if chosen else content_id(item)
        if memo:
            item.memo[memo] = found
    return found


def whole_signers(message: Message) -> tuple[str, ...]:
    """Return the addresses whose signatures cover every key of a message: these alone vouch for all of it."""
    keys = set(message.raw_items())
    return tuple(
        one for one in committers(message) if keys <= set(committed(message, committers=(one,))) | {"commitments"}
    )


def hashpath_id(item: Value) -> str:
    """Return the ID a hashpath starts from, or names a request by (5.1).

    The sum of the signatures' IDs and of the unsigned ID the httpsig ones come with. It does
    not depend on whether a derivable unsigned commitment is on the message or was left out.
    """
    if type(item) is not Message or not item.commitments:
        return content_id(item)
    found: str | None = item.memo.get("hashpath-id")
    if found is None:
        found = item.memo["hashpath-id"] = _sum(_hashpath_parts(item)) or content_id(item)
    return found


def _hashpath_parts(msg: Message) -> list[str]:
    everything = content_id(msg)
    signed = [name for name, one in msg.commitments.items() if committer_of(one)]
    unsigned = {_own_id(msg, name) for name in select(msg, "none")}
    partial = sorted(unsigned - {everything})
    parts = [_own_id(msg, name) for name in signed]
    if not signed or partial:
        return parts + (partial or [everything])
    rebuilt = [msg.commitments[name] for name in signed if is_rebuilt(msg.commitments[name])]
    if not rebuilt:
        return parts
    if everything in unsigned:
        return [*parts, everything]
    widest = max(rebuilt, key=lambda one: len(committed_list(one)))
    return [*parts, b64u(mac_of(msg, unsigned_fields(is_bundle(widest)), committed_list(widest), CONSTANT.encode()))]


def _sum(ids: Iterable[str]) -> str:
    """Return the sum of IDs mod 2^256; the empty text for none (3.4)."""
    found = list(ids)
    if len(found) < 2:
        return found[0] if found else ""
    total = sum(int.from_bytes(b64u_decode(one), "big") for one in found)
    return b64u((total % _MODULUS).to_bytes(32, "big"))


def _own_id(msg: Message, name: str) -> str:
    """Return a commitment's ID, recomputed from its signature, or from content if unsigned."""
    if name in msg.memo.get("genuine", ()):
        return name
    one = msg.commitments[name]
    fields = fields_of(one)
    if committer_of(one) is None and device_of(one) in HTTPSIG_DEVICES and "dialect" not in fields:
        key, names = fields.get("keyid", CONSTANT.encode()), committed_list(one)
        found = b64u(mac_of(msg, fields, names, key))
        if found != name and not msg.raw_items().keys() <= set(names):
            return b64u(mac_of(only(msg, names), fields, names, key))  # its own ``ao-types``, see _other_forms
        return found
    return envelope.commitment_id(b64u_decode(fields.get("signature", b"")))


def select(msg: Message, committers: Committers, ids: Literal["all"] | Sequence[str] | None = None) -> list[str]:
    """Return the map keys of the commitments a selection names (3.4)."""
    found = msg.commitments
    if ids == "all":
        return list(found)
    chosen = dict.fromkeys(_known(msg, one) for one in ids or ())
    if committers == "all":
        signers = [name for name, one in found.items() if committer_of(one)]
        if not signers and not chosen:
            return select(msg, "none")
        chosen.update(dict.fromkeys(signers))
    elif committers == "none":
        if ids is None:
            plain = [name for name, one in found.items() if not committer_of(one) and device_of(one) == HTTPSIG]
            chosen.update(dict.fromkeys(plain))
    else:
        for address in committers:
            theirs = [name for name, one in found.items() if committer_of(one) == address]
            if not theirs:
                raise UnknownCommitment(f"the message has no commitment by {address!a}")
            chosen.update(dict.fromkeys(theirs))
    return list(chosen)


def _known(msg: Message, name: str) -> str:
    if name not in msg.commitments:
        raise UnknownCommitment(f"the message has no commitment {name!a}")
    return name


def committers(msg: Message) -> tuple[str, ...]:
    """Return the addresses that signed, each once, in the commitments' order."""
    found = (committer_of(msg.commitments[name]) for name in ordered(msg.commitments))
    return tuple(dict.fromkeys(one for one in found if one))


def committed(
    msg: Message, committers: Committers = "all", ids: Literal["all"] | Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the key names that every selected commitment covers (3.5).

    A message without commitments covers all its keys: its unsigned ID does.
    """
    chosen = select(msg, committers, ids)
    if not chosen:
        return tuple(msg)
    lists = [committed_list(msg.commitments[name]) for name in chosen]
    common = frozenset(lists[0]).intersection(*lists[1:])
    return tuple(name for name in lists[0] if name in common)


def only_committed(msg: Message) -> Message:
    """Return the message with only the keys that every commitment covers (3.5).

    Without commitments it is returned as it is. Nothing is verified here.
    """
    if not msg.commitments:
        return msg
    kept = set(committed(msg, ids="all"))
    items = msg.raw_items()
    if kept.issuperset(items):
        return msg
    return Message.make({k: v for k, v in items.items() if k in kept}, msg.commitments, msg.private)


def tabm_of(msg: Message, bundle: bool = False) -> Tabm:
    """Return the TABM without the message's own commitments, remembered. Do not change it."""
    memo = "bundle" if bundle else "tabm"
    found = msg.memo.get(memo)
    if found is None:
        bare = Message.make(cast("dict[str, Value]", msg.raw_items()))
        found = msg.memo[memo] = structured.encode(bare, link=None if bundle else signed_id)
    return cast(Tabm, found)


def signed_form(msg: Message, names: tuple[str, ...] | None, bundle: bool) -> Signed:
    """Return what a commitment over these keys (None: all) covers, remembered."""
    known: dict[Any, Signed] = msg.memo.setdefault("signed", {})
    found = known.get((names, bundle))
    if found is None and names is not None:
        whole = known.get((None, bundle))
        found = whole if whole is not None and whole.committed == names else None
    if found is None:
        found = known[names, bundle] = httpsig.signed(tabm_of(msg, bundle), names)
    return found


def covered(msg: Message, commitment: Message) -> Signed:
    """Return what a rebuilt commitment covers: components, header lines, key names (4.7)."""
    return signed_form(msg, committed_list(commitment), is_bundle(commitment))


def mac_of(msg: Message, fields: Mapping[str, bytes], names: tuple[str, ...] | None, key: bytes) -> bytes:
    base = base_of(msg, names, fields.get("bundle") == b"true", signature.base_params(fields))
    return hmac.digest(key, base, "sha256")


def base_of(msg: Message, names: tuple[str, ...] | None, bundle: bool, params: bytes) -> bytes:
    """Return the signature base of a commitment over these keys (None: all)."""
    whole = None if bundle else _whole_base(msg)
    if whole is not None and (names is None or whole[1] == frozenset(names)):
        return whole[0] + params
    return signed_form(msg, names, bundle).base(params)


def _whole_base(msg: Message) -> tuple[bytes, frozenset[str]] | None:
    """Return :func:`hyperpy.codecs.plan.whole_base`, remembered: several commitments cover the same."""
    if "whole-base" not in msg.memo:
        msg.memo["whole-base"] = plan.whole_base(msg, signed_id)
    return cast("tuple[bytes, frozenset[str]] | None", msg.memo["whole-base"])


def only(msg: Message, names: Iterable[str]) -> Message:
    """Return the content of these keys."""
    kept = set(names)
    return Message.make({name: value for name, value in msg.raw_items().items() if name in kept})


def unsigned_fields(bundle: bool = False) -> dict[str, bytes]:
    """Return the fields of an unsigned commitment."""
    fields = {"commitment-device": HTTPSIG.encode(), "type": HMAC_TYPE.encode(), "keyid": CONSTANT.encode()}
    return {**fields, "bundle": b"true"} if bundle else fields
