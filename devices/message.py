"""message@1.0: the identity device. A message answers its own keys (ao-core 8)."""

from __future__ import annotations

from typing import Any

from hyperpy import commitments, device, key
from hyperpy.encoding import is_id
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import UNDEFINED, UNSET, As, Atom, Link, Message, Value, as_text, committed_list
from hyperpy.sdk import Context, default

_NOT_SET = frozenset(
    {"id", "commitments", "committers", "keys", "path", "set", "remove", "verify", "set-mode", "cache-control"}
)


@device("message@1.0")
class MessageDevice:
    """Reads, changes, names, signs and verifies the message itself."""

    @default
    def get(self, key: str, base: Message) -> Value:
        """Return the value of exactly that key, else of its lower-case form."""
        found = base.get(key)
        if found is None and not key.islower():
            found = base.get(key.lower())
        if found is None:
            raise KeyNotFound(f"the message has no key '{key}'", hint=_near(key, base))
        return found

    @key
    def keys(self, base: Message) -> tuple[bytes, ...]:
        """List the keys in canonical order; commitments and private keys are not listed."""
        return tuple(name.encode("utf-8", "surrogateescape") for name in base.ordered())

    @key
    def path(self, base: Message) -> Value:
        """Return the stored path."""
        return base["path"]

    @key
    def id(self, base: Message, request: Message) -> str:
        """Return the ID: of the selected commitments, or the unsigned ID."""
        chosen, ids = _selection(request)
        return commitments.message_id(base, committers=chosen or "none", ids=ids)

    @key
    def commitments(self, base: Message) -> Message:
        """Return the commitments as a message, by ID."""
        if not base.commitments:
            raise KeyNotFound("the message has no commitments")
        return Message.make(dict(base.commitments))

    @key
    def committers(self, base: Message) -> tuple[bytes, ...]:
        """List the addresses of those who signed."""
        return tuple(address.encode() for address in commitments.committers(base))

    @key
    def committed(self, base: Message, request: Message) -> tuple[bytes, ...]:
        """List the keys that all selected commitments cover."""
        chosen, ids = _selection(request)
        target = _target(base, request)
        names = commitments.committed(target, committers=chosen or ("none" if ids else "all"), ids=ids)
        raw = _flag(request, "raw")
        return tuple((_linked(target, name) if raw else name).encode("utf-8", "surrogateescape") for name in names)

    @key
    def verify(self, base: Message, request: Message) -> bool:
        """Say whether all selected commitments hold; true if none is selected."""
        chosen, ids = _selection(request)
        secret = request.get("secret")
        return commitments.verify(
            _target(base, request),
            committers=chosen or "none",
            ids=ids,
            secret=secret if isinstance(secret, bytes) else None,
        )

    @key(deterministic=False)
    def commit(self, base: Message, request: Message, ctx: Context, type: str = "signed") -> Message:
        """Return the message with one more commitment, by this node's key or by a given secret."""
        target = _target(base, request)
        options: dict[str, Any] = {"type": type, "bundle": _flag(request, "bundle")}
        options["device"] = request.text("commitment-device", "httpsig@1.0")
        names = request.get("committed")
        if isinstance(names, tuple):
            options["committed"] = tuple(as_text(name) for name in names)
        for name in ("secret", "scheme", "keyid"):
            if name in request:
                options[name] = request["secret"] if name == "secret" else request.text(name)
        if type in ("unsigned", "hmac-sha256"):
            return commitments.commit(target, None, **options)
        return ctx.sign(_without_foreign(target), **options)

    @key
    def set(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the message with the request's keys set: nested maps merge unless set-mode is explicit."""
        explicit = request.text("set-mode", "deep") == "explicit"
        changes: dict[str, Value] = {}
        for name, item in request.raw_items().items():
            if name not in _NOT_SET and not (type(item) is Atom and item == UNDEFINED):
                changes[name] = item
        return _merge(base, changes, explicit, ctx)

    @key
    def set_path(self, base: Message, value: Any) -> Message:
        """Return the message with its ``path`` set, or removed if the value is ``unset``."""
        return base | {"path": value}

    @key
    def remove(self, base: Message, request: Message) -> Message:
        """Return the message without ``item``, or without each of ``items``."""
        items = request.get("items", request.get("item"))
        if items is None:
            raise ParameterError("remove: parameter 'item' or 'items' is missing", name="item")
        names = items if isinstance(items, tuple) else (items,)
        return base | {as_text(name, "item"): UNSET for name in names}

    @key(deterministic=False, reads=True)
    def index(self, base: Message, ctx: Context) -> Value:
        """Return the page a person sees of this message, made by the node's index device."""
        return ctx.resolve(As(str(ctx.config.get("default-index", "hyperbuddy@1.0")), base), "index")


def _without_foreign(target: Message) -> Message:
    """Return the message without commitments over keys it has not: those of the request it is a part of."""
    kept = {
        name: one
        for name, one in target.commitments.items()
        if all(key in target or key == "ao-types" for key in committed_list(one))
    }
    return target if len(kept) == len(target.commitments) else target.with_commitments(kept)


def _merge(base: Message, changes: dict[str, Value], explicit: bool, ctx: Context) -> Message:
    flat: dict[str, Any] = {}
    for name, item in changes.items():
        if "/" in name:
            first, _, rest = name.partition("/")
            if not first:
                first, _, rest = rest.partition("/")
            old = flat.get(first, base.get(first))
            child = old if isinstance(old, Message) else Message()
            flat[first] = _merge(child, {rest: item}, explicit, ctx) if rest else item
            continue
        if not explicit and type(item) is Message:
            old = flat.get(name)
            if old is None:
                old = base.get(name)
            if isinstance(old, Message):
                flat[name] = _child(old, item, explicit, ctx)
                continue
        flat[name] = item
    return base.replace(flat)


def _child(old: Message, new: Message, explicit: bool, ctx: Context) -> Value:
    own = old.raw("device")
    if own is not None and own != b"message@1.0":
        return ctx.resolve(old, new | {"path": "set"})
    return _merge(old, dict(new.raw_items()), explicit, ctx)


def _target(base: Message, request: Message) -> Message:
    """Return what commit, verify and committed work on (ao-core 8, "Target")."""
    name = request.get("target")
    if name is None or name == b"self":
        return base
    found = request.get(as_text(name, "target"), request.get("body"))
    if not isinstance(found, Message):
        raise ParameterError("the target is no message", name="target")
    return found


def _selection(request: Message) -> tuple[Any, Any]:
    """Return (committers, commitment IDs) as asked for; None where not asked."""
    ids = request.get("commitment-ids")
    if ids is None:
        old = request.get("commitments")
        ids = (
            old
            if isinstance(old, tuple) or (isinstance(old, bytes) and (old in (b"all", b"none") or is_id(old)))
            else None
        )
    return _names(request.get("committers")), _names(ids)


def _names(item: Value | None) -> Any:
    if item is None:
        return None
    if isinstance(item, tuple):
        return [as_text(name) for name in item]
    text = as_text(item)
    return text if text in ("all", "none") else [text]


def _linked(target: Message, name: str) -> str:
    """Return the name under which a key is committed: a map's or list's ID is, as ``K+link``."""
    return name + "+link" if isinstance(target.raw(name), (Link, Message, tuple)) else name


def _flag(request: Message, name: str) -> bool:
    return request.get(name) in (True, b"true")


def _near(key: str, base: Message) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(key, [*base.ordered(), "keys", "id", "set", "remove", "commit", "verify"], n=1)
    return f"Did you mean '{near[0]}'?" if near else None
