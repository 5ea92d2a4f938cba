"""All that a language model's answer says, held against the answer that this machine makes to the same request."""

from __future__ import annotations

import json
from typing import Any, Final

from hyperpy.audit.fault import Peer, signer_of, with_account
from hyperpy.errors import CodecError, MessageNotFound
from hyperpy.fault_proof import account_of, path_of
from hyperpy.message import Message, same

SHOWN: Final = ("choices", "usage", "hyperpy", "state")
"""Fields that follow from model and request alone: where one differs, the answer is false."""
_OPENED: Final = ("hyperpy", "choices", "message")
"""Fields whose own fields are named."""


def request_of(peer: Peer, reply: Message) -> tuple[Message, Message]:
    """Return base and request of a signed answer, from its signer's account of the step.

    Raises:
        MessageNotFound: there is no account of it, or none with base and request.
        CodecError: they do not lead to the reply's hashpath, or are more than a plain question of parameters.
    """
    accused = signer_of(reply)
    found = account_of(with_account(peer, reply, accused)[1], accused)
    if found.base is None or found.request is None:
        raise MessageNotFound("the account tells no base and request")
    if path_of(found.base, found.request, found.record.hashpath_before) != reply.hashpath:
        raise CodecError("the account is of another request than the answer's")
    _check_plain(found.base, found.request)
    return found.base, found.request


def _check_plain(base: Message, request: Message) -> None:
    """Refuse a base that says more than its request: the reply's hashpath does not tell what it holds."""
    plain = base.get("device") == b"inference@1.0" and request.get("path") == b"completions"
    said = (one for one in base.raw_items() if one not in ("device", "chat-mode"))
    if not plain or "completions" in base or "device" in request or any(_other(base, request, one) for one in said):
        raise CodecError("the answer's base has parameters that its request does not have")


def _other(base: Message, request: Message, key: str) -> bool:
    return key not in request or not same(base[key], request[key])


def differences(mine: bytes, theirs: bytes) -> list[str]:
    """Return the fields in which two answers, JSON documents, differ, such as ``choices.0.message.content``.

    Raises:
        CodecError: one is no JSON document.
    """
    try:
        own, other = json.loads(mine), json.loads(theirs)
    except (ValueError, RecursionError):
        raise CodecError("not an answer of a language model") from None
    return list(_parted(own, other, "")) if isinstance(own, dict) and isinstance(other, dict) else ["the document"]


def _parted(own: Any, other: Any, where: str) -> list[str]:
    name = where.rpartition(".")[2]
    opened = not where or name in _OPENED or name.isdigit()
    if opened and isinstance(own, dict) and isinstance(other, dict):
        pairs = [(key, own.get(key), other.get(key), key in own and key in other) for key in {**own, **other}]
    elif opened and isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        pairs = [(str(at), one, two, True) for at, (one, two) in enumerate(zip(own, other, strict=True))]
    else:
        return [] if _same(own, other) else [where]
    found: list[str] = []
    for key, one, two, both in pairs:
        inner = f"{where}.{key}" if where else str(key)[:80]
        found += _parted(one, two, inner) if both else [inner]
    return found


def _same(own: Any, other: Any) -> bool:
    """Compare two values strictly: 1, 1.0 and true are three."""
    return json.dumps(own, sort_keys=True) == json.dumps(other, sort_keys=True)


def falsified(fields: list[str]) -> bool:
    """Say whether a difference shows an answer to be false."""
    return any(one.partition(".")[0] in SHOWN for one in fields)


def words_of(fields: list[str]) -> str:
    """Return what people are told of differences."""
    listed = ", ".join(fields[:12]) + (f" and {len(fields) - 12} more" if len(fields) > 12 else "")
    return f"this machine makes another answer of the signed request, it differs in: {listed}"


def model_of(document: bytes) -> str:
    """Return the model-id (hex) in an answer that was made here."""
    return str(json.loads(document)["hyperpy"]["model-id"])
