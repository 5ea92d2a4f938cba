"""router@1.0: decides which node answers a path, and spreads load over several (devices part 05).

A route is ``{template, node}`` or ``{template, nodes, strategy, choose}``. A text template is a regular
expression that is searched in the path; a map must be contained in the request. A node is text, or
``{prefix}``, ``{suffix}`` or ``{match, with}``, with ``weight``, ``wallet`` and ``opts``. The router
names nodes; whether this node may talk to them, the operator's list of peers decides.

Only the operator's table holds regular expressions: one of them can take longer than the universe is old.
In routes that a caller brings along, a template is literal text, in which ``.`` and ``.*`` are wild.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hyperpy import device, key
from hyperpy.capabilities import Http, Keys, NodeControl
from hyperpy.commitments import committer_of, is_own_word
from hyperpy.encoding import b64u_decode, is_id, key_bytes, sha256
from hyperpy.errors import ConfigError, Forbidden, ParameterError
from hyperpy.message import Message, Value, as_text, committed_list, same
from hyperpy.sdk import Context, Result

_FIELD = 1 << 256
_LAST = 1 << 62
_MOST_ROUTES = 1000
_MOST_NODES = 1000
_MOST_OWN = 64
_LONGEST_OWN = 128
_LOOKED_AT_OWN = 1024
"""What a caller's own routes are limited to: how many, and characters of a template and of the path it sees."""
_LONGEST_PATH = 65_536
_LOOKED_AT = 8192
"""Characters of a path that templates see."""
_ROUTE_KEYS = frozenset({"template", "node", "nodes", "strategy", "choose", "priority", "price"})
_RELAYED = ("device", "user-path", "user-message")


@device("router@1.0", needs=("node", "keys", "http"), excludes=("set", "keys"))
class Router:
    """Finds the nodes for a path.

    Settings: ``routes``; ``route-owners``, addresses that may add some (default the operator);
    ``router-opts`` with ``offered``, ``provider``, ``registrar`` and ``registrar-path``;
    ``router-preprocess-default``, ``local`` or ``error``.
    """

    def start(self, node: NodeControl, keys: Keys, http: Http) -> None:
        """Take the settings, the node's key and the way to peers."""
        self._node, self._keys, self._http = node, keys, http

    @key(deterministic=False)
    def routes(self, request: Message, ctx: Context) -> Value | Result:
        """List the routes (GET), or add the signed one of an owner (POST)."""
        if request.get("method") != b"POST":
            return self._routes(ctx)
        registrar = _option(self._node, "registrar")
        if isinstance(registrar, Message):
            path = _option(self._node, "registrar-path")
            return ctx.step(registrar, request | ({"path": path} if path is not None else {}))
        return self._add(request, ctx)

    @key(deterministic=False, reads=True)
    def match(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """Return the first route whose template fits the path in ``route-path``, with its ``reference``."""
        found = self._found(base, _path(base, request), request, ctx)
        return found if found is not None else Result("error", b"no_matching_route")

    @key(deterministic=False, reads=True)
    def route(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """Return where the path in ``route-path`` leads: a node, or the route with all nodes and their ``uri``."""
        found, path, ordered = self._way(base, request, ctx)
        if found is None:
            return Result("error", b"no_matches")
        if "nodes" in found and _strategy(found) == "All":
            return found | {"nodes": tuple(_with_uri(node, path) for node in ordered)}
        chosen = ordered[: max(1, _number(found.get("choose", 1), "choose"))]
        if len(chosen) == 1:
            return _answer(chosen[0], path)
        return found | {"nodes": tuple(_with_uri(node, path) for node in chosen)}

    @key(deterministic=False, reads=True)
    def order(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """List the URLs of all nodes for the path in ``route-path``, the one to try first in front."""
        found, path, ordered = self._way(base, request, ctx)
        return tuple(_uri(node, path).encode() for node in ordered) if found else Result("error", b"no_matches")

    @key(deterministic=False)
    def register(self, request: Message) -> Result | bytes:
        """Offer this node's routes (``router-opts/offered``) to their ``registration-peer``; for the operator only."""
        if not self._node.is_operator(request):
            raise Forbidden("Unauthorized", hint="Sign the request, its path too, with the operator's key.")
        offered = _option(self._node, "offered")
        for route in _listed(offered):
            peer = route.get("registration-peer") if isinstance(route, Message) else None
            if not isinstance(route, Message) or not isinstance(peer, bytes):
                raise ConfigError("an offered route has no 'registration-peer'", hint="Set it in router-opts/offered.")
            sent = {"path": "/~router@1.0/routes", "method": "POST", "subject": "self", "action": "register"}
            reply = self._http.call(as_text(peer), self._keys.sign(Message({**sent, "route": _route_of(route)})))
            status = reply.get("status")
            if isinstance(status, int) and status >= 400:
                return Result("error", Message({"status": 502, "body": f"{as_text(peer)} answered {status}."}))
        return b"Routes registered."

    @key(deterministic=False)
    def preprocess(self, base: Message, request: Message, ctx: Context) -> Message:
        """Answer the request hook: pass the request on to the node its path leads to, or run it here."""
        source = request.get("request")
        if not isinstance(source, Message):
            raise ParameterError("router: the hook has no 'request'", name="request")
        if all(name in source for name in _RELAYED):
            return request  # it was passed on to this node
        path = source.text("path", "/")
        hooked = type(source.private.get("call")) is object  # then the operator named the base
        found = self._found(base, path, source, ctx, hooked=hooked)
        if found is None:
            unknown = base.get("router-preprocess-default", self._node.setting("router-preprocess-default", b"local"))
            if as_text(unknown) != "error":
                return request
            text = "No matching template found in the given routes."
            return request | {"body": (Message({"status": 404, "message": text}),)}
        peers = tuple(_peer(node, path).encode() for node in _preferred(found, path, ctx))
        readonly = source.get("method", b"GET") in (b"GET", b"HEAD")
        relay = {"device": "relay@1.0", "relay-device": "apply@1.0", "method": "POST", "peer": peers}
        inner = {"device": "apply@1.0", "path": "user-path", "source": "user-message", "user-path": path}
        sign = hooked and base.get("commit-request") in (True, b"true")
        first = Message(relay).with_private(**{"relay-commit": sign})  # it is the operator who names this hook
        proxy = Message(inner) | {"user-message": Message.make(dict(source.raw_items()), source.commitments)}
        call = {"path": "call", "target": "proxy-message", "proxy-message": proxy, "relay-retry": readonly}
        return request | {"body": (first, Message(call))}

    def _way(self, base: Message, request: Message, ctx: Context) -> tuple[Message | None, str, list[Value]]:
        """Return the route of the path in ``route-path``, the path, and the nodes, the one to try first in front."""
        path = _path(base, request)
        found = self._found(base, path, request, ctx)
        return found, path, _preferred(found, path, ctx) if found is not None else []

    def _found(
        self, base: Message, path: str, request: Message, ctx: Context, *, hooked: bool = False
    ) -> Message | None:
        """Return the first route that fits: of those in the base, else of the node's table."""
        given = base.get("routes")
        if given is None or hooked or _is(given, self._node.setting("routes"), _option(self._node, "offered")):
            return _matched(self._routes(ctx, base), path, request)
        routes = _listed(given)
        if len(routes) > _MOST_OWN:
            raise ParameterError(f"router: more than {_MOST_OWN} routes of one's own", name="routes")
        return _matched(routes, path, request, own=True)

    # -- the table -------------------------------------------------------------------------

    def _routes(self, ctx: Context, base: Message | None = None) -> tuple[Value, ...]:
        given = base.get("routes") if base is not None else None
        if given is None:
            provider = _option(self._node, "provider")
            given = (
                ctx.resolve(provider) if isinstance(provider, (Message, bytes)) else self._node.setting("routes", ())
            )
        found = _listed(given)
        if len(found) > _MOST_ROUTES:
            raise ConfigError(f"there are more than {_MOST_ROUTES} routes")
        return found

    def _add(self, request: Message, ctx: Context) -> Result:
        """Add the route an owner signed; what the signature does not cover is no part of it."""
        order = request.private.get("order")
        signed = order.commitments.values() if isinstance(order, Message) else ()
        owners = {as_text(one) for one in _listed(self._node.setting("route-owners", ()))}
        owners = owners or {as_text(self._node.setting("operator", b""))}
        covered = [set(committed_list(one)) for one in signed if committer_of(one) in owners and is_own_word(one)]
        names = {name for one in covered if "path" in one for name in one}
        if not isinstance(order, Message) or not names:
            return Result("error", Message({"status": 403, "body": "not_authorized"}))
        asked = Message.make({name: order[name] for name in names if name in order})
        inner = asked.get("route")
        route = _route_of(inner if isinstance(inner, Message) else asked)
        if "template" not in route or ("node" not in route and "nodes" not in route):
            raise ParameterError("routes: a route needs 'template' and 'node' or 'nodes'", name="template")
        _preferred(route, "/", ctx)
        known = _listed(self._node.setting("routes", ()))
        if not any(same(route, one) for one in known):
            if len(known) >= _MOST_ROUTES:
                raise ConfigError(f"there are {_MOST_ROUTES} routes already")
            self._node.put("routes", tuple(sorted((route, *known), key=_priority)))
        return Result("ok", b"Route added.")


def _option(node: NodeControl, name: str) -> Value | None:
    options = node.setting("router-opts")
    return options.get(name) if isinstance(options, Message) else None


def _listed(item: Any) -> tuple[Value, ...]:
    if isinstance(item, tuple):
        return item
    if isinstance(item, Message):
        return tuple(item[name] for name in item) if all(name.isdigit() for name in item) else (item,)
    return () if item is None else (item,)


def _route_of(item: Message) -> Message:
    return Message.make({name: item[name] for name in item if name in _ROUTE_KEYS})


def _priority(route: Value) -> int:
    found = route.get("priority") if isinstance(route, Message) else None
    return _LAST if found is None else _number(found, "priority")


def _number(item: Value, name: str) -> int:
    try:
        return int(as_text(item, name)[:20])
    except ValueError:
        raise ParameterError(f"a route's '{name}' must be a whole number", name=name) from None


# -- matching ------------------------------------------------------------------------------------


def _path(base: Message, request: Message) -> str:
    found = request.get("route-path", base.get("route-path"))
    if found is None:
        raise ParameterError("router: parameter 'route-path' is missing", name="route-path")
    text = as_text(found, "route-path")
    if len(text) > _LONGEST_PATH:
        raise ParameterError(f"router: 'route-path' is longer than {_LONGEST_PATH} characters", name="route-path")
    return text


def _is(given: Value, *known: Value | None) -> bool:
    """Say whether routes are the same as some that the operator wrote."""
    return any(isinstance(one, (Message, tuple)) and type(one) is type(given) and same(given, one) for one in known)


def _matched(routes: Sequence[Value], path: str, request: Message, *, own: bool = False) -> Message | None:
    """Return the first route that fits, ``own`` if a caller brought them; an absolute URL is its own."""
    if path.startswith(("http://", "https://")):
        return Message({"node": path, "reference": "explicit"})
    for number, item in enumerate(routes, 1):
        route = item.load() if hasattr(item, "load") else item
        if isinstance(route, Message) and _fits(route.get("template"), path, request, own):
            if own:
                _refuse_rewriting(route)
            return route | {"reference": f"routes/{number}"}
    return None


def _fits(template: Value | None, path: str, request: Message, own: bool) -> bool:
    if isinstance(template, Message):
        return all(name in request and _equal(template[name], request[name]) for name in template)
    if not isinstance(template, bytes):
        return False
    pattern = as_text(template)
    if own:
        return _plain(pattern).match(_slashed(path[:_LOOKED_AT_OWN])) is not None
    try:
        return re.search(pattern if pattern.startswith(("/", "^")) else "/" + pattern, _slashed(path)) is not None
    except (re.error, RecursionError, OverflowError):
        raise ConfigError(f"the template {pattern[:100]!r} of a route is no regular expression") from None


_PIECES = re.compile(r"(?P<wild>\.\*)|(?P<any>\.)|\\(?P<quoted>[^A-Za-z0-9])|(?P<plain>[^\\^$*+?{}\[\]()|])", re.DOTALL)


def _plain(template: str) -> re.Pattern[str]:
    """Return what finds a caller's own template, in time that grows as its length times the path's.

    It looks for the pieces between the wild parts one after another, each where it comes first, and goes
    back to none of them.

    Raises:
        ParameterError: it has more of a regular expression than ``^``, ``$``, ``.``, ``.*`` and ``\\``.
    """
    text = template if template.startswith(("/", "^")) else "/" + template
    start, end = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
    text = text[start : len(text) - end]
    pieces, at = [""], 0
    while at < len(text) <= _LONGEST_OWN:
        found = _PIECES.match(text, at)
        if found is None:
            break
        at = found.end()
        if found["wild"]:
            pieces.append("")
        else:
            pieces[-1] += "." if found["any"] else re.escape(found["quoted"] or found["plain"])
    if at < len(text):
        raise ParameterError(
            f"router: the template {template[:50]!r} of one's own is not plain text of at most {_LONGEST_OWN} letters",
            name="template",
            hint="Use ^, $, . and .* only; the operator's table may hold any regular expression.",
        )
    first, *others = pieces
    made = first if start else f"(?>.*?{first})"
    if end and others:
        *others, last = others
        return re.compile(made + "".join(f"(?>.*?{one})" for one in others) + f".*?{last}\\Z", re.DOTALL)
    if end:
        return re.compile((first if start else f".*?{first}") + "\\Z", re.DOTALL)
    return re.compile(made + "".join(f"(?>.*?{one})" for one in others), re.DOTALL)


def _refuse_rewriting(route: Message) -> None:
    """Raise ParameterError if a node of a caller's own route rewrites paths with a regular expression."""
    for node in (route.get("node"), *_listed(route.get("nodes"))[:_MOST_NODES]):
        if isinstance(node, Message) and "match" in node and "prefix" not in node and "suffix" not in node:
            raise ParameterError("router: 'match' is for the operator's routes", name="match", hint="Use 'prefix'.")


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, (Message, tuple)) or isinstance(right, (Message, tuple)):
        return same(left, right)
    return as_text(left) == as_text(right)


def _slashed(path: str) -> str:
    return ("" if path.startswith("/") else "/") + path[:_LOOKED_AT]


# -- choosing ------------------------------------------------------------------------------------


def _strategy(route: Message) -> str:
    return as_text(route.get("strategy", b"All"))


def _preferred(route: Message, path: str, ctx: Context) -> list[Value]:
    """Return a route's nodes, the one that its strategy wants first in front."""
    node = route.get("node")
    if node is not None:
        return [node]
    nodes = list(_listed(route.get("nodes")))
    if not 0 < len(nodes) <= _MOST_NODES:
        raise ConfigError("a route has no nodes, or too many")
    strategy = _strategy(route)
    if strategy == "All":
        return nodes
    if strategy == "Random":
        return [nodes[at] for at in _drawn([1.0] * len(nodes), ctx)]
    if strategy == "By-Weight":
        return [nodes[at] for at in _drawn([_weight(one) for one in nodes], ctx)]
    at = _base_id(path)
    if strategy == "By-Base":
        first = at % len(nodes)
        return nodes[first:] + nodes[:first]
    if strategy == "Nearest":
        return sorted(nodes, key=lambda one: _distance(at, one))
    raise ConfigError(
        f"a route has the unknown strategy '{strategy[:60]}'", hint="Use Random, By-Weight, By-Base, Nearest or All."
    )


def _drawn(weights: Sequence[float], ctx: Context) -> list[int]:
    """Return all indices in a random order in which heavy ones tend to be early (Efraimidis and Spirakis)."""
    drawn = []
    for at, weight in enumerate(weights):
        unit = (int.from_bytes(ctx.random(7), "big") >> 3 | 1) / (1 << 53)
        drawn.append((unit ** (1 / weight) if weight > 0 else -unit, at))
    return [at for _, at in sorted(drawn, reverse=True)]


def _weight(node: Value) -> float:
    found = node.get("weight", 1) if isinstance(node, Message) else 1
    try:
        return max(0.0, float(as_text(found, "weight")))
    except ValueError:
        raise ConfigError("a node's 'weight' must be a number") from None


def _distance(at: int, node: Value) -> int:
    wallet = node.get("wallet") if isinstance(node, Message) else None
    if not isinstance(wallet, bytes) or not is_id(wallet):
        raise ConfigError("strategy Nearest needs a 'wallet' on each node")
    apart = abs(at - int.from_bytes(b64u_decode(as_text(wallet)), "big"))
    return min(apart, _FIELD - apart)


def _base_id(path: str) -> int:
    """Return the 256 bits that a path begins with: its ID, or the hash of its first part."""
    first = path.strip("/").partition("/")[0]
    bare = re.split(r"[~?&]", first, maxsplit=1)[0]
    for name in (first, bare):
        if is_id(key_bytes(name)):
            return int.from_bytes(b64u_decode(name), "big")
    return int.from_bytes(sha256(key_bytes(first)), "big")


# -- naming --------------------------------------------------------------------------------------


def _uri(node: Value, path: str) -> str:
    if isinstance(node, Message):
        if "prefix" in node:
            return node.text("prefix") + path
        if "suffix" in node:
            return path + node.text("suffix")
        if "match" in node:
            try:
                return re.sub(node.text("match"), node.text("with", ""), path[:_LOOKED_AT])
            except (re.error, IndexError):
                raise ConfigError("a node's 'match' is no regular expression") from None
        raise ConfigError("a node of a route needs 'prefix', 'suffix' or 'match'")
    text = as_text(node, "node")
    return text if text == path else text.rstrip("/") + _slashed_whole(path)


def _slashed_whole(path: str) -> str:
    return path if path.startswith("/") else "/" + path


def _peer(node: Value, path: str) -> str:
    """Return scheme, host and port of where a node's URL leads."""
    match = re.match(r"https?://[^/?#]+", _uri(node, path))
    if match is None:
        raise ConfigError("a route leads to no URL", hint="Name nodes as http://HOST:PORT.")
    return match[0]


def _answer(node: Value, path: str) -> Value:
    if not isinstance(node, Message):
        return node
    made: Mapping[str, Value] = {"uri": _uri(node, path).encode()}
    return Message({**made, **({"opts": node["opts"]} if "opts" in node else {})})


def _with_uri(node: Value, path: str) -> Message:
    named = node if isinstance(node, Message) else Message({"node": node})
    return named | {"uri": _uri(node, path)}
