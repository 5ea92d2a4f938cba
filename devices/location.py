"""location@1.0: signed records that say at which URL an address is reached (v0.9-final 3.2, 5)."""

from __future__ import annotations

import time

from hyperpy import Context, Message, commitments, default, device, key
from hyperpy.capabilities import Keys, NodeControl, Storage
from hyperpy.errors import Forbidden, KeyNotFound, MessageError
from hyperpy.message import as_text

_NAME = "location/"
_TTL_MS = 7 * 24 * 3600 * 1000


@device("location@1.0", needs=("node", "keys", "store"), excludes=("set", "keys", "id", "commit", "verify"))
class Location:
    """Keeps one record per address: the newest by nonce."""

    def start(self, node: NodeControl, keys: Keys, store: Storage) -> None:
        """Take settings, the node's key and the store."""
        self._node, self._keys, self._store = node, keys, store

    @key(deterministic=False)
    def node(self) -> Message:
        """Return this node's own signed record; make it if there is none for the current URL."""
        url = as_text(self._node.setting("url") or self._node.setting("host") or b"")
        if not url:
            raise KeyNotFound("this node does not know its own URL", hint="Set [http] url = 'https://...'.")
        known = self._read(self._keys.address)
        if known is not None and known.text("url", "") == url:
            return known
        nonce = known.get("nonce", 0) if known is not None else 0
        record = Message(
            {
                "type": "location",
                "url": url,
                "nonce": int(as_text(nonce)) + 1,
                "time-to-live": _TTL_MS,
                "timestamp": int(time.time() * 1000),
                "codec-device": "httpsig@1.0",
            }
        )
        signed = self._keys.sign(record)
        self._keep(self._keys.address, signed)
        return signed

    @key(deterministic=False)
    def known(self, request: Message) -> Message:
        """List the known addresses (GET), or take a signed record (POST)."""
        if request.get("method") != b"POST":
            return Message({k.removeprefix(_NAME): v for k, v in self._store.names(_NAME).items()})
        body = request.get("body")
        record = body if isinstance(body, Message) else request
        signers = commitments.committers(record)
        if not signers:
            raise Forbidden("a location record must be signed by the address it speaks for")
        if not all(map(commitments.is_own_word, record.commitments.values())):
            raise Forbidden("a node's reply, or mail that it signed for a process, is no location record")
        commitments.check(record)
        record = commitments.only_committed(record)
        if not record.text("url", ""):
            raise MessageError("a location record needs a 'url'")
        nonce = int(as_text(record.get("nonce", 0)))
        for address in signers:
            old = self._read(address)
            if old is not None and int(as_text(old.get("nonce", 0))) >= nonce:
                raise MessageError(f"the known record of {address} is not older", hint="Raise the nonce.")
            self._keep(address, record)
        return record

    @default(deterministic=False, reads=True)
    def address(self, key: str, base: Message, ctx: Context) -> Message:
        """Return the record of the address that is asked for as a key."""
        found = self._read(key)
        if found is None:
            raise KeyNotFound(f"No location found for address: {key}")
        return found

    def _read(self, address: str) -> Message | None:
        ref = self._store.named(_NAME + address)
        found = None if ref is None else self._store.read(ref)
        return found if isinstance(found, Message) else None

    def _keep(self, address: str, record: Message) -> None:
        self._store.write(record)
        self._store.link(_NAME + address, commitments.signed_id(record))
