"""relay@1.0: passes messages on to peers that the operator allowed, and to no others."""

from __future__ import annotations

import threading

from hyperpy import Context, Message, Result, device, key
from hyperpy.capabilities import Http, NodeControl
from hyperpy.errors import Forbidden, HyperpyError, NotFound, ParameterError
from hyperpy.message import As, Value, as_text


@device("relay@1.0", needs=("node", "http"), excludes=("set", "keys", "id"))
class Relay:
    """Calls other nodes. Peers come from ``[relay] peers``; everything else is refused."""

    def start(self, node: NodeControl, http: Http) -> None:
        """Take the settings and the way to peers."""
        self._node, self._http = node, http

    @key(deterministic=False)
    def call(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the peer's reply."""
        peer, message = self._prepare(base, request, ctx)
        return self._http.call(peer, message).without("set-cookie")

    @key(deterministic=False)
    def cast(self, base: Message, request: Message, ctx: Context) -> bytes:
        """Send and do not wait for the reply."""
        peer, message = self._prepare(base, request, ctx)
        if not self._http.allowed(peer):
            raise Forbidden(f"this node may not talk to {peer}", hint="The operator lists peers in [relay] peers.")

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

    def _prepare(self, base: Message, request: Message, ctx: Context) -> tuple[str, Message]:
        target = _target(base, request)
        path = _first((base, "path"), (target, "path"), (request, "relay-path"), (base, "relay-path"))
        if target is request or path is None:
            path = _first((request, "relay-path"), (base, "relay-path"), (base, "path"))
        if path is None:
            raise ParameterError("relay: there is no path to call", name="relay-path", hint="Add relay-path=/PATH.")
        text = as_text(path, "relay-path")
        peer = _first((base, "peer"), (target, "peer"), (request, "peer"))
        at, text = _split(text) if peer is None else (as_text(peer, "peer"), text)
        if at is None:
            at = self._route(text, ctx)
        method = _first(
            (base, "method"), (target, "method"), (request, "relay-method"), (base, "relay-method"), (request, "method")
        )
        body = _first(
            (base, "body"), (target, "body"), (request, "relay-body"), (base, "relay-body"), (request, "body")
        )
        kept = {k: v for k, v in target.raw_items().items() if k not in _OWN} if target is not base else {}
        made = Message.make({**kept, "path": text.encode(), "method": method if method is not None else b"GET"})
        if body is not None and made.get("method") != b"GET":
            made = made | {"body": body}
        return at, made

    def _route(self, path: str, ctx: Context) -> str:
        try:
            found = ctx.step(As("router@1.0", Message()), Message({"path": "route", "route-path": path}))
        except NotFound:
            found = Result("not_found", b"")
        if found.status != "ok":
            raise ParameterError(
                "relay: no peer is named, and no route leads to that path",
                name="peer",
                hint="Add peer=http://HOST:PORT; the operator allows peers with [relay] peers.",
            )
        return as_text(found.value, "route")


_OWN = frozenset(
    {"path", "method", "body", "peer", "host", "connection", "accept", "accept-encoding", "accept-bundle", "device"}
    | {"relay-path", "relay-method", "relay-body", "relay-device", "target", "user-agent", "content-length"}
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
