"""The node message: public settings, their changes, the operator and the hooks (ao-core 10.8, 10.6).

Settings come from the configuration; what the operator posts later is kept durably in the store
and wins. The operator is an address whose private key this process never holds: nothing the node
signs can change a setting (design 5, a).

An *order* is a request that the operator signed. Its signature must cover the ``path``, so that no
message signed for another purpose becomes one; only keys it covers change settings, whatever else
the request's path adds; and each signature is an order once.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hyperpy import commitments
from hyperpy.codecs import canonical
from hyperpy.config import Config
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import ConfigError, Forbidden, HyperpyError, ParameterError
from hyperpy.http.wire import Ingress
from hyperpy.keys import RsaKey
from hyperpy.message import Link, Message, Value, as_text, committed_list, same, texts, value
from hyperpy.registry import Registry
from hyperpy.store.base import Store

_NOT_SETTINGS = frozenset(
    {"path", "method", "host", "accept", "accept-bundle", "accept-encoding", "user-agent", "connection", "device"}
    | {"address", "identities", "devices", "ao-peer", "body", "content-type", "content-length"}
)
_AT_START = frozenset({"port", "host-with-port", "default-request", "cors", "worker-threads"})
"""Settings that what listens for requests reads once, and every one that begins with ``limits-``."""
_ORDER = b"\x00order/"
"""Begins the names, in the table of settings, of orders that were carried out."""
_ADDED = frozenset({"host", "method", "accept", "accept-bundle"})
"""Keys that the node adds to a request which did not sign them."""
_NOT_KEYS = frozenset({"ao-types", "content-digest", "content-length", "body-keys", "ao-body-key", "inline-body-key"})
"""What a signature of the HTTP form covers that is no key of the message."""
_RATE_LIMIT = Message({"device": "rate-limit@1.0"})
_AUTH = Message({"device": "auth-hook@1.0", "path": "request", "secret-provider": {"device": "http-auth@1.0"}})


class Settings(Mapping[str, Any]):
    """Implements the ``node`` capability; as a mapping it is what ``ctx.config`` shows."""

    def __init__(
        self, config: Config, store: Store, *, address: str, operator: str, devices: Registry, held: Sequence[str] = ()
    ) -> None:
        self.address = address
        self._held = frozenset({address, *held})
        if operator in self._held:
            raise ConfigError(
                "the operator's address is the node's own",
                hint="Use another key: whoever can make the node sign a message would be the operator.",
            )
        self.operator = operator
        self._store = store
        self._devices = devices
        self._lock = threading.RLock()
        self._values: dict[str, Value] = {
            k: v for k, v in config.as_message().raw_items().items() if not k.startswith("priv")
        }
        self._values["operator"] = operator.encode()
        for key, data in store.scan("config"):
            if not key.startswith(_ORDER):
                self._values[key_text(key)] = canonical.decode(data)
        self.operator = as_text(self._values["operator"])
        self._identities = {"default": {"address": address}} | {
            f"scheduler-{number}": {"address": one} for number, one in enumerate(held, 1)
        }
        self._check_signing(self._values)
        self._info: tuple[Mapping[str, Value], Message] | None = None  # and the values it was made from

    # -- reading ---------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def info(self) -> Message:
        """Return the public settings, the address, and the devices of this node. Waits for nobody."""
        known = self._info
        if known is not None and known[0] is self._values:
            return known[1]
        values = self._values
        public = {k: v for k, v in values.items() if k != "history"}
        made = Message(
            public
            | {"address": self.address, "identities": self._identities}
            | {"devices": list(self._devices.names())}
        )
        self._info = (values, made)
        return made

    def build(self) -> Message:
        """Return what software runs."""
        try:
            own = version("hyperpy")
        except PackageNotFoundError:
            own = "0.1.0"
        return Message({"node": "hyperpy", "version": own, "python": platform.python_version()})

    def setting(self, name: str, default: Any = None) -> Any:
        """Return one setting by its ``-`` name."""
        return self._values.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a setting that is true or false, however it was written."""
        found = self._values.get(name, default)
        return found if isinstance(found, bool) else as_text(found).lower() == "true"

    def devices(self) -> Mapping[str, str]:
        """Return device names and who brought each."""
        return {name: self._devices.owner(name) for name in self._devices.names()}

    # -- changing --------------------------------------------------------------------------

    def change(self, request: Message) -> int:
        """Merge a request's keys into the settings; return how many changes there have been.

        Only keys that the operator's signature covers count; see the module's text.

        Raises:
            Forbidden: the operator did not sign it, it was carried out before, or ``initialized`` is
                ``permanent``.
            ConfigError: a setting that cannot change while the node runs, or not to this.
        """
        if as_text(self.setting("initialized", True)) == "permanent":
            raise Forbidden("The node message of this machine is already permanent. It cannot be changed.")
        order: Any = request.private.get("order")
        signatures = self._orders(order)
        if not signatures:
            raise Forbidden("Unauthorized")
        covered = {name for one in signatures.values() for name in committed_list(one)} - _NOT_SETTINGS
        signed, asked = order.raw_items(), request.raw_items()
        changes = {k: asked[k] for k in covered if k in asked and k in signed and same(asked[k], signed[k])}
        if "operator" in changes and as_text(changes["operator"]) in self._held:
            raise ConfigError("the operator's address is the node's own", hint="Use another key.")
        for name, item in changes.items():
            self._check_change(name, item)
        self._check_signing({**self._values, **changes})
        with self._lock:
            names = self._unused(signatures)
            count = int(as_text(self.setting("history", 0))) + 1
            self._save({**changes, "history": count}, names)
            if "operator" in changes:
                self.operator = as_text(changes["operator"])
        return count

    def _check_change(self, name: str, item: Value) -> None:
        """Raise ConfigError or ParameterError for what cannot be set while the node runs."""
        if _is_elsewhere(item):
            raise ParameterError(
                f"the setting '{name}' came as a link", name=name, hint="Send the value itself: inline, bundled."
            )
        known = self._values.get(name)
        if known is not None and (name in _AT_START or name.startswith("limits-")):
            if _word(item) != _word(known):
                raise ConfigError(
                    f"the setting '{name}' cannot change while the node runs",
                    hint="Set it in the configuration file or as a flag of hyperpy serve, and start again.",
                )
        elif isinstance(known, bool) and name != "initialized" and _word(item) not in ("true", "false"):
            raise ConfigError(f"the setting '{name}' is either true or false")

    def _check_signing(self, values: Mapping[str, Value]) -> None:
        """Raise ConfigError where anybody could have assignments signed."""
        if as_text(values.get("sign-on-request", False)).lower() == "true" and self._held & _signers(values):
            raise ConfigError(
                "[http] sign-on-request is on and this node's address is a scheduler or authority",
                hint="Whoever asks could sign assignments. Turn it off.",
            )

    def put(self, name: str, item: Value) -> None:
        """Store one durable setting on the node's own account."""
        with self._lock:
            self._save({name: item})

    def _save(self, changes: Mapping[str, Any], orders: Sequence[bytes] = ()) -> None:
        items = {name: value(item) for name, item in changes.items()}
        puts = [("config", key_bytes(name), canonical.encode(v)) for name, v in items.items()]
        self._store.write([*puts, *(("config", name, b"") for name in orders)], durable=True)
        self._values = {**self._values, **items}  # never changed in place: readers hold no lock

    # -- who may what ----------------------------------------------------------------------

    def is_operator(self, request: Message) -> bool:
        """Say whether the request came over HTTP, and the operator signed it and its path.

        What counts is the request as it was verified at ingress, which the node puts into the private
        part of each message of its path: a commitment on a message that a path or a device made, or
        that lay inside another one, was verified by nobody.
        """
        return bool(self._orders(request.private.get("order")))

    def signing_order(self, request: Message) -> tuple[Message, Callable[[], None], Callable[[], None]] | None:
        """Return what the operator signed, if it may have this node sign something, what uses it up, what undoes that.

        The operator's signature must cover every key but those that the node itself adds, which are left
        out with everything that others committed to; and every commitment inside must hold.

        Args:
            request: with its private part, as ``is_operator`` takes it.
        """
        order: Any = request.private.get("order")
        whole = {name: one for name, one in self._orders(order).items() if _covers(one, order)}
        if not whole:
            return None
        names = {name for one in whole.values() for name in committed_list(one)}
        items = {name: item for name, item in request.raw_items().items() if name in names}
        if not all(map(_is_sound, items.values())):
            return None
        return Message.make(items, whole, request.private), lambda: self._use(whole), lambda: self._undo(whole)

    def _use(self, signatures: Collection[str]) -> None:
        """Note durably that signatures were an order.

        Raises:
            Forbidden: one of them was before.
        """
        with self._lock:
            self._store.write([("config", name, b"") for name in self._unused(signatures)], durable=True)

    def _undo(self, signatures: Collection[str]) -> None:
        """Forget that signatures, which were used just now, were an order: nothing of what they did remains."""
        with self._lock:
            self._store.write([], [("config", _ORDER + key_bytes(name)) for name in signatures], durable=True)

    def _unused(self, signatures: Collection[str]) -> list[bytes]:
        names = [_ORDER + key_bytes(name) for name in signatures]
        if any(self._store.get("config", name) is not None for name in names):
            raise Forbidden("this order was carried out before", hint="Sign it again to repeat it.")
        return names

    def _orders(self, order: Any) -> Mapping[str, Message]:
        """Return the operator's commitments that make a verified request an order, by ID."""
        if not isinstance(order, Message) or self.operator in self._held:
            return {}
        return {
            name: one
            for name, one in order.commitments.items()
            if commitments.committer_of(one) == self.operator
            and "path" in committed_list(one)
            and commitments.is_own_word(one)
        }

    def readers(self, request: Message | None) -> frozenset[str] | None:
        """Return whose results a request may read; None is everybody's (see :mod:`hyperpy.privacy`).

        Args:
            request: with its private part, as ``is_operator`` takes it.
        """
        if as_text(self.setting("trail-public", True)) != "false":
            return None
        order = request.private.get("order") if request is not None else None
        if not isinstance(order, Message):
            return frozenset()
        if self._orders(order):
            return None
        bound = [one for one in order.commitments.values() if "path" in committed_list(one)]
        return frozenset(filter(None, map(commitments.committer_of, bound)))

    def reply_signers(self) -> frozenset[str]:
        """Return the addresses whose signature over a ``status`` is only a reply's (design 5, b)."""
        return self._held | _signers(self._values)

    def peers(self) -> Sequence[str]:
        """Return the peers that relay and push may reach."""
        return texts(self.setting("relay-peers"))

    # -- hooks -----------------------------------------------------------------------------

    def hooks(self, event: str) -> Sequence[Message]:
        """Return the operator's handlers of a hook, in order."""
        events = self.setting("on")
        found = events.get(event) if isinstance(events, Message) else None
        if isinstance(found, Message):
            return [found]
        return [item for item in found if isinstance(item, Message)] if isinstance(found, tuple) else []

    def request_hooks(self, ingress: Ingress) -> Sequence[Message]:
        """Return the handlers for one request: rate limit, hosted keys, then the operator's own.

        The first two are left out where they would do nothing: for loopback peers, and for requests
        without credentials of HTTP Basic. Other schemes are for whoever knows them: clients of OpenAI's
        interface send ``Bearer`` with any text.
        """
        found = list(self.hooks("request"))
        given = ingress.private.get("authorization", b"")
        basic = isinstance(given, bytes) and given.lstrip()[:6].lower() == b"basic "
        if basic or any(name.startswith("!") for name in ingress.private):
            found.insert(0, _AUTH)
        if not ingress.loopback and self.setting("rate-limit-requests", 1000):
            found.insert(0, _RATE_LIMIT)
        return found


def _covers(commitment: Message, order: Message) -> bool:
    """Say whether a commitment covers the whole message, and nothing that was taken out of it."""
    names = set(committed_list(commitment))
    return names >= set(order.raw_items()) - _ADDED and names <= set(order.raw_items()) | _NOT_KEYS


def _is_sound(item: Value) -> bool:
    """Say whether every commitment inside a value holds and covers its whole message."""
    if isinstance(item, tuple):
        return all(map(_is_sound, item))
    if not isinstance(item, Message):
        return True
    for one in item.commitments.values():
        if not set(committed_list(one)) >= set(item.raw_items()):
            return False
    try:
        commitments.check(item)
    except HyperpyError:
        return False
    return all(map(_is_sound, item.raw_items().values()))


def _signers(values: Mapping[str, Value]) -> set[str]:
    """Return the addresses of the schedulers and authorities that settings list, in any form of a list."""
    named = ("scheduler", "authority", "schedulers", "authorities")
    return {text.partition("?")[0] for name in named for text in texts(values.get(name))}


def _word(item: Value) -> str | None:
    """Return a scalar as text in lower case; None for lists and maps."""
    return None if isinstance(item, (Message, tuple)) else as_text(item).lower()


def _is_elsewhere(item: Value) -> bool:
    """Say whether a value, or one inside it, is named rather than there."""
    if isinstance(item, Message):
        return any(map(_is_elsewhere, item.raw_items().values()))
    if isinstance(item, tuple):
        return any(map(_is_elsewhere, item))
    return isinstance(item, Link)


def operator_address(file: Path) -> str:
    """Return the operator's address; make the key file at first run. The private key is not kept.

    The address stands in a file of its own beside the key, so that serving never reads the key.
    """
    beside = file.with_suffix(".address")
    if not beside.exists():
        made = RsaKey.load(file) if file.exists() else RsaKey.create(file)
        beside.write_text(made.address + "\n", "ascii")
    return beside.read_text("ascii").strip()
