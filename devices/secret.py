"""secret@1.0: signing keys that this node keeps for people who trust it.

A key is bound to an *access-control* message, which answers ``commit`` (bind it to the caller) and
``verify`` (is this the caller). Private keys never leave the node: not in a reply, a message, the
store or the trail. They are in memory, or in files of mode 0600 in the folder ``secrets-dir``.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperpy import commitments, device, key
from hyperpy.capabilities import NodeControl
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import (
    Busy,
    CommitmentError,
    ConfigError,
    Forbidden,
    HyperpyError,
    KeyNotFound,
    ParameterError,
    StoreError,
    Unauthorized,
)
from hyperpy.keys import RsaKey
from hyperpy.message import Message, as_text, value
from hyperpy.sdk import Context

_MOST = 10_000
_KEYID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_BITS = 4096


@dataclass(frozen=True, slots=True)
class _Hosted:
    """A key and the message that says who may use it."""

    key: RsaKey
    access: Message


@device("secret@1.0", needs=("node",))
class Secret:
    """Makes, keeps and uses signing keys for callers that an access-control message recognises."""

    def start(self, node: NodeControl) -> None:
        """Take the settings and load the keys kept in files."""
        self._node = node
        self._hosted: dict[str, _Hosted] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        folder = self._folder()
        for path in sorted(folder.glob("*.json")) if folder is not None else ():
            self._hosted[path.stem] = _load(path)

    @key(deterministic=False)
    def generate(self, request: Message, ctx: Context) -> Message:
        """Make a key, bind it to the caller, and return its access-control message; ``body`` is the key's ID."""
        _identified(request)
        if not self._making.acquire(blocking=False):
            raise _busy()
        try:
            return self._bind(RsaKey.generate(_BITS), request, ctx)
        finally:
            self._making.release()

    @key(name="import", deterministic=False)
    def take(self, request: Message, ctx: Context) -> Message:
        """Keep the key (JWK text) in the private part of the request, as ``generate`` does.

        A key inside a message would be recorded with it, so ``key`` as an ordinary key is refused.
        """
        text = request.private.get("key", request.private.get("priv-key"))
        if not isinstance(text, (bytes, str)):
            raise ParameterError(
                "import: the key must come in the private part of the request",
                name="key",
                hint="Send it in the header 'priv-key'. What was part of a message is no secret any more.",
            )
        try:
            jwk = json.loads(text)
        except ValueError:
            raise ParameterError("import: the key is no JSON", name="key") from None
        if not isinstance(jwk, dict):
            raise ParameterError("import: the key is no JWK", name="key")
        return self._bind(RsaKey.from_jwk(jwk), request, ctx)

    @key(name="list", deterministic=False)
    def known(self, request: Message) -> tuple[bytes, ...]:
        """List the IDs of the keys this node keeps; with ``keyids`` those of them that it has."""
        asked = request.get("keyids")
        with self._lock:
            names = sorted(self._hosted)
        if isinstance(asked, tuple):
            wanted = {as_text(item, "keyids") for item in asked}
            names = [name for name in names if name in wanted]
        return tuple(name.encode() for name in names)

    @key(deterministic=False)
    def commit(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the message signed with the caller's key.

        The key is ``keyid``, else the one bound to the caller's secret. The message is the base, or what
        ``target`` names in the request; ``committed`` limits what is signed.

        Raises:
            CommitmentError: the access control does not recognise the caller.
        """
        hosted = self._find(request)
        if not _recognised(hosted.access, request, ctx):
            raise CommitmentError("Authentication failed.", hint="Send the credentials that the key is bound to.")
        name = request.text("target", "self")
        target = base if name == "self" else request.get(name)
        if not isinstance(target, Message):
            raise ParameterError("commit: the target is no message", name="target")
        names = request.get("committed")
        chosen = tuple(as_text(item, "committed") for item in names) if isinstance(names, tuple) else None
        return commitments.commit(target, hosted.key, committed=chosen)

    @key(deterministic=False)
    def export(self) -> Message:
        """Refuse: private keys never leave this node."""
        raise Forbidden(
            "private keys never leave this node",
            hint="Copy the files of the folder secrets-dir, as the node's administrator.",
        )

    @key(deterministic=False)
    def sync(self) -> Message:
        """Refuse: no node of this kind gives its keys away."""
        raise Forbidden(
            "private keys never travel between nodes",
            hint="Copy the files of the folder secrets-dir, as the node's administrator.",
        )

    def _bind(self, made: RsaKey, request: Message, ctx: Context) -> Message:
        name = request.text("keyid", made.address)
        kept = request.text("persist", "in-memory")
        folder = self._folder()
        if not _KEYID.match(name):
            raise ParameterError("generate: 'keyid' may hold letters, digits, - and _", name="keyid")
        if kept == "client":
            raise ParameterError(
                "generate: private keys never leave this node, not even to their owner", name="persist"
            )
        if made.address == as_text(self._node.setting("operator", b"")):
            raise Forbidden(
                "this is the operator's key, which no node may hold",
                hint="Whoever gets this node to sign with it could change its settings.",
            )
        if kept not in ("in-memory", "non-volatile"):
            raise ParameterError("generate: 'persist' must be in-memory or non-volatile", name="persist")
        if kept == "non-volatile" and folder is None:
            raise ConfigError("this node keeps hosted keys in memory only", hint="Set [node] secrets-dir = FOLDER.")
        control = request.get("access-control", Message({"device": "cookie@1.0"}))
        if not isinstance(control, Message):
            raise ParameterError("generate: 'access-control' must be a message", name="access-control")
        access = ctx.resolve(control | {"keyid": name}, _plain(request) | {"path": "commit"})
        if not isinstance(access, Message) or not access.commitments:
            raise ParameterError("generate: the access control did not commit to the key", name="access-control")
        hosted = _Hosted(made, Message.make(dict(access.raw_items()), access.commitments))
        with self._lock:
            if name in self._hosted:
                raise ParameterError(f"generate: there is a key with ID {name} already", name="keyid")
            if len(self._hosted) >= _MOST:
                raise _busy()
            self._hosted[name] = hosted
        if kept == "non-volatile" and folder is not None:
            _save(folder / f"{name}.json", hosted)
        return access | {"body": name}

    def _find(self, request: Message) -> _Hosted:
        with self._lock:
            if "keyid" in request:
                found = self._hosted.get(request.text("keyid"))
                candidates: Iterable[_Hosted] = () if found is None else (found,)
            else:
                candidates = list(self._hosted.values())
        secret = request.private.get("secret")
        named = b64u(sha256(secret)) if isinstance(secret, bytes) else None
        for hosted in candidates:
            if "keyid" in request or (named is not None and named in commitments.committers(hosted.access)):
                return hosted
        raise KeyNotFound("this node keeps no such key", hint="Name it in 'keyid', or make one with generate.")

    def _folder(self) -> Path | None:
        text = self._node.setting("secrets-dir")
        return Path(as_text(value(text))) if text is not None else None


def _recognised(access: Message, request: Message, ctx: Context) -> bool:
    try:
        return ctx.resolve(access, _plain(request) | {"path": "verify"}) is True
    except HyperpyError:
        return False


def _identified(request: Message) -> None:
    """Refuse callers without credentials: nobody could use a key made for them, and making one is work."""
    if not any(name in request.private for name in ("secret", "authorization", "cookie")):
        raise Unauthorized(
            "generate: the request has no credentials to bind the key to",
            hint="The request hook auth-hook@1.0 makes keys for callers who log in.",
        )


def _plain(request: Message) -> Message:
    """Return an empty request with the caller's credentials."""
    return Message.make({}, private=request.private)


def _busy() -> Busy:
    error = Busy("the node is making another key")
    error.retry_after = 5.0
    return error


def _save(path: Path, hosted: _Hosted) -> None:
    """Write the key file, and beside it who may use the key; both of mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hosted.key.save(path)
    access = path.with_suffix(".access")
    packed = Message.make(
        {"items": Message.make(dict(hosted.access.raw_items())), "by": Message.make(dict(hosted.access.commitments))}
    )
    try:
        access.touch(mode=0o600, exist_ok=False)
        access.write_bytes(canonical.encode(packed))
    except OSError as error:
        raise StoreError(f"{access} cannot be written: {error.strerror}") from None


def _load(path: Path) -> _Hosted:
    try:
        packed = canonical.decode(path.with_suffix(".access").read_bytes())
    except OSError as error:
        raise ConfigError(f"{path.with_suffix('.access')} cannot be read: {error.strerror}") from None
    items = packed["items"] if isinstance(packed, Message) else None
    given = packed["by"] if isinstance(packed, Message) else None
    if not isinstance(items, Message) or not isinstance(given, Message):
        raise ConfigError(f"{path.with_suffix('.access')} is damaged")
    by = {name: one for name, one in given.items() if isinstance(one, Message)}
    return _Hosted(RsaKey.load(path), items.with_commitments(by))
