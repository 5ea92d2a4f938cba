"""local-name@1.0: names that the operator of this node gives to values."""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.capabilities import NodeControl, Storage
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import Message, Value, as_text
from hyperpy.sdk import Result, default

_NAMES = "local-name@1.0/"


@device("local-name@1.0", needs=("node", "store"), excludes=("keys", "set"))
class LocalName:
    """Answers every key with the value registered under that name."""

    def start(self, node: NodeControl, store: Storage) -> None:
        """Take the settings and the store."""
        self._node = node
        self._store = store

    @default(deterministic=False, reads=True)
    def find(self, key: str) -> Value:
        """Return the value registered under the name."""
        ref = self._store.named(_NAMES + key.strip("/"))
        if ref is None:
            raise KeyNotFound(f"nothing is registered under the name '{key[:100]}'")
        return self._store.read(ref)

    @key(deterministic=False, reads=True)
    def lookup(self, request: Message) -> Value:
        """Return the value registered under the name in ``key``."""
        return self.find(request.text("key", ""))

    @key(deterministic=False)
    def register(self, request: Message) -> Result:
        """Register ``value`` under the name ``key``; for the operator only."""
        if not self._node.is_operator(request):
            return Result("error", Message({"status": 403, "message": "Unauthorized."}))
        name = request.text("key", "").strip("/")
        found = request.get("value")
        if not name or found is None:
            raise ParameterError("register: parameters 'key' and 'value' are needed", name="key")
        if not isinstance(found, (bytes, tuple, Message)):
            found = as_text(found).encode()
        self._store.link(_NAMES + name, self._store.write(found))
        return Result("ok", b"Registered.")
