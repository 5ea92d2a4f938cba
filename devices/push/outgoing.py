"""From an outbox entry to the message that the target gets (devices/04-push-cron)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from hyperpy import Message, commitments
from hyperpy.capabilities import Jobs, Keys
from hyperpy.encoding import number_keys
from hyperpy.errors import Forbidden, HyperpyError, SizeError
from hyperpy.message import Link, Value, as_text, list_to_map, texts

MAX_DEPTH: Final = 64
_ORDER: Final = frozenset({"account", "quantity", "nonce"})
"""Keys of p4@1.0's orders, which ledgers obey if this node signed them."""
_TARGET: Final = re.compile(r"/?([A-Za-z0-9_-]{43})(?:[~/?&].*)?", re.DOTALL)


def entries(outbox: Value | None) -> list[tuple[str, Value]]:
    """Return the entries of an outbox: numbered ones first, by number."""
    if isinstance(outbox, tuple):
        return list(list_to_map(outbox).items())
    if not isinstance(outbox, Message):
        return []
    numbered = number_keys(outbox)
    others = [name for name in outbox if name not in set(numbered)]
    return [(name, outbox[name]) for name in (*numbered, *others)]


def lowered(item: Value, depth: int = 0) -> Value:
    """Return a value whose keys are in lower case at every level, and without private parts or commitments.

    Raises:
        SizeError: it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise SizeError(f"a message nested more than {MAX_DEPTH} deep cannot be sent")
    if isinstance(item, Link):
        item = item.load()
    if isinstance(item, tuple):
        return tuple(lowered(one, depth + 1) for one in item)
    if not isinstance(item, Message):
        return item
    return Message.make({name.lower(): lowered(item[name], depth + 1) for name in item})


def target_of(entry: Message) -> str | None:
    """Return the ID of the process an entry is for; None if it names none."""
    found = entry.get("target")
    match = _TARGET.fullmatch(as_text(found)) if isinstance(found, bytes) else None
    return match[1] if match is not None else None


def evaluated(entry: Message, index: str, sender: str, jobs: Jobs) -> Message:
    """Return the entry; one with the key ``resolve`` is a request, and its result is what is sent.

    It is resolved with a stranger's rights, whoever pushes; the timed tasks that it starts are the sender's.
    """
    asked = entry.get("resolve")
    if asked is None:
        return entry
    source = entry.without("target", "resolve")
    try:
        result = jobs.resolve((source | {"path": asked}).with_private(peer=f"process {sender}"))
        if result.status == "ok":
            found = result.value if isinstance(result.value, Message) else _forced(result.value)
            return Message.make(dict(found.raw_items())) | {"target": entry["target"]}
        reason: Value = result.value
    except HyperpyError as error:
        reason = error.message.encode("utf-8", "replace")
    failed = {"resolve": "error", "status": 400, "outbox-index": index, "reason": reason, "source": source}
    return Message({**failed, "target": sender})


def _forced(item: Value) -> Message:
    if isinstance(item, tuple):
        return Message.make(list_to_map(item))
    return Message({"ao-result": "body", "body": item})


def augmented(entry: Message, definition: Message, sender: str) -> Message:
    """Return the message to deliver: the entry, and who sent it. The sender cannot say otherwise.

    Where the sender has no ``scheduler`` or ``authority`` the reference writes the word ``not_found``; here
    the key is left out.
    """
    plain = definition.with_commitments({})
    made: dict[str, Value] = {
        "data-protocol": b"ao",
        "variant": b"ao.N.1",
        "type": b"Message",
        "from-process": sender.encode(),
        "from-uncommitted": commitments.unsigned_id(plain).encode(),
        "from-base": commitments.unsigned_id(plain.without("authority", "scheduler")).encode(),
    }
    rest = {name: item for name, item in entry.raw_items().items() if name not in ("from-scheduler", "from-authority")}
    for name in ("scheduler", "authority"):
        found = definition.get(name)
        if found is not None:
            made[f"from-{name}"] = found
    return Message.make({**rest, **made})


def signed(message: Message, target: Message, keys: Keys, *, always: bool, codec: str = "httpsig@1.0") -> Message:
    """Return the message signed as the target wants it: by its policy's or its authorities' keys held here.

    Raises:
        Forbidden: this node holds none of them and does not sign regardless; or what a process had sent reads
            like this node's order to charge somebody.
    """
    if _ORDER.issubset(re.split("[+ ]", name, maxsplit=1)[0].lower() for name in message.raw_items()):
        raise Forbidden(
            "a message with account, quantity and nonce reads like this node's order to a ledger: it is not signed"
        )
    wanted = _wanted(target)
    named = () if wanted is None else [keys.address if one == "default" else one for one in wanted]
    held = [one for one in keys.addresses if one in named]
    if wanted is not None and not held and not always:
        raise Forbidden("Application of security policy failed: No identities matching authority were found.")
    for address in held[: None if codec == "httpsig@1.0" else 1] or [keys.address]:
        message = keys.sign(message, address=address, device=codec)
    return message


def _wanted(target: Message) -> Collection[str] | None:
    policy = target.get("policy")
    if isinstance(policy, Message) and "accept-committers" in policy:
        return set(texts(policy.get("accept-committers")))
    authority = target.get("authority")
    return None if authority is None else set(texts(authority))
