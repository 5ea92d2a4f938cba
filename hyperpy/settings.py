"""The node message: public settings, their changes, the operator and the hooks (ao-core 10.8, 10.6).

Settings come from the configuration; what the operator posts later is kept durably in the store
and wins. The operator is an address whose private key this process never holds: nothing the node
signs can change a setting (design 5, a).
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hyperpy import commitments
from hyperpy.codecs import canonical
from hyperpy.config import Config
from hyperpy.errors import ConfigError, Forbidden
from hyperpy.http.wire import Ingress
from hyperpy.message import Message, Value, as_text, value
from hyperpy.registry import Registry
from hyperpy.store.base import Store

_NOT_SETTINGS = frozenset(
    {"path", "method", "host", "accept", "accept-bundle", "accept-encoding", "user-agent", "connection", "device"}
    | {"address", "identities", "devices", "ao-peer", "body", "content-type", "content-length"}
)
_RATE_LIMIT = Message({"device": "rate-limit@1.0"})
_AUTH = Message({"device": "auth-hook@1.0", "path": "request", "secret-provider": {"device": "http-auth@1.0"}})


class Settings(Mapping[str, Any]):
    """Implements the ``node`` capability; as a mapping it is what ``ctx.config`` shows."""

    def __init__(self, config: Config, store: Store, *, address: str, operator: str, devices: Registry) -> None:
        if operator == address:
            raise ConfigError(
                "the operator's address is the node's own",
                hint="Use another key: whoever can make the node sign a message would be the operator.",
            )
        self.address = address
        self.operator = operator
        self._config = config
        self._store = store
        self._devices = devices
        self._lock = threading.RLock()
        self._values: dict[str, Value] = {
            k: v for k, v in config.as_message().raw_items().items() if not k.startswith("priv")
        }
        self._values["operator"] = operator.encode()
        for key, data in store.scan("config"):
            self._values[key.decode()] = canonical.decode(data)
        self._info: Message | None = None

    # -- reading ---------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def info(self) -> Message:
        """Return the public settings, the address, and the devices of this node."""
        made = self._info
        if made is None:
            with self._lock:
                public = {k: v for k, v in self._values.items() if k != "history"}
                made = self._info = Message(
                    public
                    | {"address": self.address, "identities": {"default": {"address": self.address}}}
                    | {"devices": list(self._devices.names())}
                )
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

    def devices(self) -> Mapping[str, str]:
        """Return device names and who brought each."""
        return {name: self._devices.owner(name) for name in self._devices.names()}

    # -- changing --------------------------------------------------------------------------

    def change(self, request: Message) -> int:
        """Merge a request's keys into the settings; return how many changes there have been.

        Raises:
            Forbidden: the operator did not sign it, or ``initialized`` is ``permanent``.
        """
        if as_text(self.setting("initialized", True)) == "permanent":
            raise Forbidden("The node message of this machine is already permanent. It cannot be changed.")
        if not self.is_operator(request):
            raise Forbidden("Unauthorized")
        changes = {k: v for k, v in request.raw_items().items() if k not in _NOT_SETTINGS}
        if "operator" in changes and as_text(changes["operator"]) == self.address:
            raise ConfigError("the operator's address is the node's own", hint="Use another key.")
        with self._lock:
            count = int(as_text(self.setting("history", 0))) + 1
            self._save({**changes, "history": count})
            if "operator" in changes:
                self.operator = as_text(changes["operator"])
        return count

    def put(self, name: str, item: Value) -> None:
        """Store one durable setting on the node's own account."""
        with self._lock:
            self._save({name: item})

    def _save(self, changes: Mapping[str, Any]) -> None:
        items = {name: value(item) for name, item in changes.items()}
        puts = [("config", name.encode("utf-8", "surrogateescape"), canonical.encode(v)) for name, v in items.items()]
        self._store.write(puts, durable=True)
        self._values.update(items)
        self._info = None

    # -- who may what ----------------------------------------------------------------------

    def is_operator(self, request: Message) -> bool:
        """Say whether the operator signed the request (signatures were verified at ingress)."""
        return self.operator != self.address and self.operator in commitments.committers(request)

    def reply_signers(self) -> frozenset[str]:
        """Return the addresses whose signature over a ``status`` is only a reply's (design 5, b)."""
        known = {self.address}
        for name in ("scheduler", "authority", "schedulers", "authorities"):
            listed = self.setting(name, ())
            known.update(as_text(item) for item in (listed if isinstance(listed, tuple) else (listed,)))
        return frozenset(known)

    def peers(self) -> Sequence[str]:
        """Return the peers that relay and push may reach."""
        listed = self.setting("relay-peers", ())
        return [as_text(item) for item in (listed if isinstance(listed, tuple) else (listed,))]

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
        without credentials.
        """
        found = list(self.hooks("request"))
        if "authorization" in ingress.private or any(name.startswith("!") for name in ingress.private):
            found.insert(0, _AUTH)
        if not ingress.loopback and self.setting("rate-limit-requests", 1000):
            found.insert(0, _RATE_LIMIT)
        return found
