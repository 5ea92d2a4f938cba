"""relay@1.0: passes messages on to peers that the operator allowed, and to no others (devices part 05).

With ``commit-request`` this node signs what it sends: only where the operator turned that on, and only for
the operator's own order, carried out once, or for a hook that the operator wrote.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hyperpy import Context, Message, Result, device, key
from hyperpy.capabilities import Http, Keys, NodeControl
from hyperpy.errors import Forbidden, HyperpyError, NotFound, ParameterError, UpstreamError
from hyperpy.message import As, Value, as_text

_PAUSE = 10.0
"""Seconds for which a peer that failed is tried last."""
_MOST_PEERS = 16


@device("relay@1.0", needs=("node", "keys", "http"), excludes=("set", "keys", "id"))
class Relay:
    """Calls other nodes. Peers come from ``[relay] peers``; everything else is refused.

    ``commit-request``, or ``relay-commit-request``, has the node sign what it sends: for the operator, who signs
    every key of the order and its path, and with ``[relay] allow-commit-request`` alone.
    """

    def start(self, node: NodeControl, keys: Keys, http: Http) -> None:
        """Take the settings, the node's key and the way to peers."""
        self._node, self._keys, self._http = node, keys, http
        self._down: dict[str, float] = {}

    @key(deterministic=False)
    def call(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the peer's reply; of several peers, that of the first one that can be reached."""
        calls, again = self._prepare(base, request, ctx)
        calls = self._allowed(calls)
        sign = self._signs(base, request, ctx)
        if again and len(calls) == 1:
            calls = calls * 2  # a connection that was kept open may have ended
        for number, (peer, message) in enumerate(calls, 1):
            try:
                reply = self._http.call(*sign(peer, message)).without("set-cookie")
            except UpstreamError as error:
                self._down[peer] = time.monotonic() + _PAUSE
                if number == len(calls) or not (again or error.unsent):
                    raise
                ctx.log("peer-failed", peer=peer, error=error.message)
                continue
            if number < len(calls) and again and reply.get("status") in (502, 503):
                self._down[peer] = time.monotonic() + _PAUSE
                continue
            self._down.pop(peer, None)
            return reply
        raise UpstreamError("no peer answered")

    @key(deterministic=False)
    def cast(self, base: Message, request: Message, ctx: Context) -> bytes:
        """Send and do not wait for the reply."""
        calls = self._allowed(self._prepare(base, request, ctx)[0])
        peer, message = self._signs(base, request, ctx)(*calls[0])

        def send() -> None:
            try:
                self._http.call(peer, message)
            except HyperpyError as error:
                ctx.log("cast-failed", peer=peer, error=error.message)

        threading.Thread(target=send, name="hyperpy-cast", daemon=True).start()
        return b"OK"

    @key(deterministic=False)
    def request(self, request: Message) -> Message:
        """Answer the request hook: relay the original request to the peer."""
        original = request.get("request", Message())
        call = Message({"path": "call", "target": "body"}) | {"body": original}
        return Message({"body": [{"device": "relay@1.0"}, call]})

    def _prepare(self, base: Message, request: Message, ctx: Context) -> tuple[list[tuple[str, Message]], bool]:
        """Return who may be called with which message, in order, and whether calling again is harmless."""
        target = _target(base, request)
        path = _first((base, "path"), (target, "path"), (request, "relay-path"), (base, "relay-path"))
        if target is request or path is None:
            path = _first((request, "relay-path"), (base, "relay-path"), (base, "path"))
        if path is None:
            raise ParameterError("relay: there is no path to call", name="relay-path", hint="Add relay-path=/PATH.")
        text = as_text(path, "relay-path")
        method = _first(
            (base, "method"), (target, "method"), (request, "relay-method"), (base, "relay-method"), (request, "method")
        )
        body = _first(
            (base, "body"), (target, "body"), (request, "relay-body"), (base, "relay-body"), (request, "body")
        )
        device = _first((base, "relay-device"), (target, "relay-device"), (request, "relay-device"))
        kept = {k: v for k, v in target.raw_items().items() if k not in _OWN} if target is not base else {}
        made = Message.make({**kept, "method": method if method is not None else b"GET"})
        if device is not None:
            made = made | {"device": device}
        if body is not None and made.get("method") != b"GET":
            made = made | {"body": body}
        again = _first((base, "relay-retry"), (request, "relay-retry"))
        readonly = made.get("method") in (b"GET", b"HEAD")
        peer = _first((base, "peer"), (target, "peer"), (request, "peer"))
        calls = [(at, made | {"path": way}) for at, way in self._peers(peer, text, kept, ctx)]
        return calls, readonly if again is None else as_text(again) == "true"

    def _signs(self, base: Message, request: Message, ctx: Context) -> Callable[[str, Message], tuple[str, Message]]:
        """Return what makes a call one that is signed by this node, if that was asked for.

        Raises:
            Forbidden: the operator does not let anybody ask.
        """
        target = _target(base, request)
        asked = _first((target, "commit-request"), *((one, name) for name in _COMMIT for one in (request, base)))
        hook = base.private.get("relay-commit") is True
        if not hook and (asked is None or as_text(asked) != "true"):
            return lambda peer, message: (peer, message)
        if as_text(self._node.setting("relay-allow-commit-request", False)) != "true":
            raise Forbidden(
                "relay_commit_request_not_allowed: this node signs nothing that relay sends",
                hint="The operator may set [relay] allow-commit-request = true.",
            )
        sign = self._keys.sign if hook else ctx.sign

        def signed(peer: str, message: Message) -> tuple[str, Message]:
            at, prefix = _split(peer)
            way = prefix.rstrip("/") + message.text("path") if at is not None else message.text("path")
            return at or peer, sign(message | {"path": way})

        return signed

    def _peers(self, peer: Value | None, path: str, kept: dict[str, Value], ctx: Context) -> list[tuple[str, str]]:
        """Return peers and paths: the named peer or peers, that of an absolute URL, or those of a route."""
        if peer is not None:
            named = peer if isinstance(peer, tuple) else (peer,)
            return [(as_text(one, "peer"), path) for one in named[:_MOST_PEERS]]
        at, rest = _split(path)
        if at is not None:
            return [(at, rest)]
        try:
            call = Message.make({**kept, "path": b"order", "route-path": path.encode("utf-8", "surrogateescape")})
            found = ctx.step(As("router@1.0", Message()), call)
        except NotFound:
            found = Result("not_found", b"")
        if found.status != "ok" or not isinstance(found.value, tuple):
            raise ParameterError(
                "relay: no peer is named, and no route leads to that path",
                name="peer",
                hint="Add peer=http://HOST:PORT; the operator allows peers with [relay] peers.",
            )
        urls = [_split(as_text(one, "route")) for one in found.value[:_MOST_PEERS]]
        return [(at, way) for at, way in urls if at is not None]

    def _allowed(self, calls: list[tuple[str, Message]]) -> list[tuple[str, Message]]:
        """Return the calls to peers the operator allowed, those that failed lately last.

        Raises:
            Forbidden: there is none.
        """
        found = [one for one in calls if self._http.allowed(one[0])]
        if not found:
            who = calls[0][0] if calls else "that peer"
            raise Forbidden(f"this node may not talk to {who}", hint="The operator lists peers in [relay] peers.")
        now = time.monotonic()
        return sorted(found, key=lambda one: self._down.get(one[0], 0.0) > now)


_COMMIT = ("relay-commit-request", "commit-request")
_OWN = frozenset(
    {
        "path",
        "method",
        "body",
        "peer",
        "host",
        "relay-retry",
        "connection",
        "accept",
        "accept-encoding",
        "accept-bundle",
        "device",
    }
    | {*_COMMIT, "relay-path", "relay-method", "relay-body", "relay-device", "target", "user-agent", "content-length"}
)


def _target(base: Message, request: Message) -> Message:
    name = request.get("target")
    if name is None or name == b"self":
        return base
    found = request.get(as_text(name, "target"), request.get("body"))
    return found if isinstance(found, Message) else base


def _first(*places: tuple[Message, str]) -> Value | None:
    return next((found for message, name in places if (found := message.get(name)) is not None), None)


def _split(path: str) -> tuple[str | None, str]:
    """Return (peer, path) of an absolute URL; (None, path) of any other."""
    if not path.startswith(("http://", "https://")):
        return None, path
    scheme, _, rest = path.partition("://")
    authority, slash, tail = rest.partition("/")
    return f"{scheme}://{authority}", slash + tail or "/"
