"""The keys of query@1.0 (devices part 10)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hyperpy import device, key
from hyperpy.capabilities import Matches, NodeControl, Storage
from hyperpy.commitments import content_id, signed_id
from hyperpy.encoding import is_id, number_keys
from hyperpy.errors import Busy, Forbidden, KeyNotFound, NotFound, ParameterError
from hyperpy.message import Atom, Link, Message, Value, as_text
from hyperpy.sdk import Context, Result, default

from . import graphql as gql
from .transactions import fits, keys_of, listed, node_of, pairs, signers, wanted_ids

_OWN = frozenset({"path", "commitments", "return", "exclude", "only", "query-after"})
_CARRIED = frozenset(
    {"accept", "accept-bundle", "accept-encoding", "accept-language", "accept-codec", "require-codec", "host", "method"}
    | {"connection", "user-agent", "content-type", "content-length", "codec-device", "content-digest", "referer"}
    | {"origin", "priority", "cache-control", "pragma", "ao-types", "body"}
)
"""What HTTP adds to each request is not searched for, unless ``only`` names it."""
_RETURNS = ("count", "paths", "messages", "first-path", "first-message", "boolean")
_MOST = 1000
_QUICK = 10
"""Signed messages that are looked at where one is enough, before all others are."""
_MOST_EDGES = 100
_MOST_FIELDS = 20


@device("query@1.0", needs=("node", "store"), excludes=("set", "keys", "id", "commit", "verify"))
class Query:
    """Finds stored messages by exact keys and values; ``return`` says what of them is answered.

    ``return`` is ``count``, ``paths`` (IDs, the default), ``messages``, ``first-path``, ``first-message`` or
    ``boolean``. Signed messages are in an index, which answers GraphQL's ``transactions``. Else one query looks
    through the store for at most ``query-seconds`` (default 1), or until it has 1000 matches; an answer that is
    not complete has ``next``, and the same query with ``query-after`` set to it goes on. Unsigned requests of
    steps are no results. With ``[trail] public = false`` only signed messages are found, and only those that the
    caller may read.
    """

    def start(self, node: NodeControl, store: Storage) -> None:
        """Take the settings and the store."""
        self._node, self._store = node, store
        self._turn = threading.Lock()

    @default(deterministic=False, reads=True)
    def all(self, request: Message, ctx: Context) -> Value | Result:
        """Search for all keys of the request."""
        wanted = {name: request.raw(name) for name in request if name not in _OWN | _CARRIED}
        return self._answer(_excluded(wanted, request), request, ctx)

    @key(name="all", deterministic=False, reads=True)
    def all_keys(self, request: Message, ctx: Context) -> Value | Result:
        """Search for all keys of the request."""
        return self.all(request, ctx)

    @key(deterministic=False, reads=True)
    def base(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """Search for all keys of the base."""
        wanted = {name: base.raw(name) for name in base if name not in _OWN | _CARRIED | {"device"}}
        return self._answer(_excluded(wanted, request), request, ctx)

    @key(deterministic=False, reads=True)
    def only(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """Search for the keys that ``only`` lists, or for the pairs in it."""
        named = request.get("only", base.get("only"))
        if isinstance(named, Message) and not number_keys(named):
            return self._answer(dict(named.raw_items()), request, ctx)
        names = _names(named)
        wanted = {name: request.raw(name) if name in request else base.raw(name) for name in names}
        missing = [name for name, item in wanted.items() if item is None]
        if not names or missing:
            raise ParameterError(f"only: there is no value for {', '.join(missing)[:100] or 'any key'}", name="only")
        return self._answer(wanted, request, ctx)

    @key(deterministic=False, reads=True)
    def graphql(self, request: Message, ctx: Context) -> Message:
        """Answer a GraphQL query (``query``, ``variables``): ``transactions``, ``transaction`` and ``message``."""
        text, variables = _asked(request)
        fields = gql.parse(text, variables)
        if len(fields) > _MOST_FIELDS:
            raise ParameterError(f"graphql: a query may have at most {_MOST_FIELDS} fields", name="query")
        data = gql.pick({}, fields, lambda one: self._field(one, ctx))
        body = json.dumps({"data": data}, ensure_ascii=False, separators=(",", ":"))
        return Message({"content-type": "application/json", "body": body.encode("utf-8", "replace")})

    @key(deterministic=False, reads=True)
    def has_results(self, base: Message, request: Message) -> bool:
        """Say whether the answer of ``graphql`` in ``body`` has edges."""
        found = request.get("body", base.get("body"))
        try:
            answer: Any = json.loads(found) if isinstance(found, bytes) else None
            return bool(answer["data"]["transactions"]["edges"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    # -- searching -------------------------------------------------------------------------

    def _find(
        self,
        wanted: Mapping[str, frozenset[str]],
        after: str,
        most: int,
        *,
        signed: bool = False,
        owners: Sequence[str] = (),
    ) -> Matches:
        """Look through the store; one query at a time, so that nobody can keep the node from its work."""
        if after and not is_id(after.encode("utf-8", "replace")):
            raise ParameterError("query: 'query-after' must be the 'next' of an earlier answer", name="query-after")
        seconds = float(as_text(self._node.setting("query-seconds", 1)))
        if not self._turn.acquire(timeout=5 * seconds):
            raise Busy("other queries are looking through the store")
        try:
            return self._store.find(wanted, after=after, most=most, seconds=seconds, signed=signed, owners=owners)
        finally:
            self._turn.release()

    def _read(self, ref: str, ctx: Context) -> Value | None:
        """Return a message if it is here and for the caller (see :mod:`hyperpy.privacy`)."""
        try:
            item = ctx.resolve(ref)
        except (NotFound, Forbidden):
            return None
        public = as_text(self._node.setting("trail-public", True)) != "false"
        return item if public or signers(item) else None

    def _found(self, ref: str, ctx: Context) -> Value | None:
        """Return a message that a search may answer: no request of a step, this query's own for one."""
        item = self._read(ref, ctx)
        if isinstance(item, Message) and not signers(item):
            return None if "path" in item or item.raw("device") == b"query@1.0" else item
        return item

    def _answer(self, wanted: Mapping[str, Value | None], request: Message, ctx: Context) -> Value | Result:
        kind = request.text("return", "paths")
        if kind not in _RETURNS:
            raise ParameterError(f"query: 'return' must be one of {', '.join(_RETURNS)}", name="return")
        if not wanted:
            raise ParameterError("query: there is nothing to search for", hint="Add KEY=VALUE to the path.")
        texts = {name: _texts(name, item) for name, item in wanted.items()}
        first = kind.startswith("first") or kind == "boolean"
        refs: list[bytes] = []
        items: list[Value] = []
        place: str | None = request.text("query-after", "")
        for ref in self._find(texts, "", _QUICK, signed=True).refs if first and not place else ():
            item = self._found(ref, ctx)
            if item is not None:
                return _formed(kind, [ref.encode()], [item], None)
        while place is not None:
            found = self._find(texts, place, 1 if first else _MOST)
            for ref in found.refs:
                item = self._found(ref, ctx)
                if item is not None:
                    refs.append(ref.encode())
                    items.append(item)
            place = found.next
            if not first or refs or not found.refs or time.monotonic() > ctx.deadline:
                break
        return _formed(kind, refs, items, place)

    # -- GraphQL ---------------------------------------------------------------------------

    def _field(self, one: gql.Field, ctx: Context) -> Any:
        if one.name == "__typename":
            return "Query"
        if one.name == "transaction":
            found = self._by_ids(listed(one.arguments, "id"), ctx)
            return found[0]["node"] if found else None
        if one.name == "transactions":
            return self._transactions(one.arguments, ctx)
        if one.name == "message":
            return self._message(one.arguments, ctx)
        raise ParameterError(f"graphql: there is no field '{one.name[:60]}'", name="query")

    def _by_ids(self, names: list[str], ctx: Context) -> list[dict[str, Any]]:
        items = [(name, self._read(name, ctx)) for name in names if is_id(name.encode("utf-8", "replace"))]
        return [{"cursor": name, "node": node_of(name, item)} for name, item in items if isinstance(item, Message)]

    def _transactions(self, arguments: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
        wanted, owners = pairs(arguments), listed(arguments, "owners")
        count = arguments.get("first", 10)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= _MOST_EDGES:
            raise ParameterError(f"graphql: 'first' must be a number from 1 to {_MOST_EDGES}", name="first")
        names = wanted_ids(arguments)
        if names is not None:
            items = [(name, self._read(name, ctx)) for name in names]
            fitting = [(name, item) for name, item in items if isinstance(item, Message) and fits(item, wanted, owners)]
            edges = [{"cursor": name, "node": node_of(name, item)} for name, item in fitting]
            return {"count": str(len(edges)), "pageInfo": {"hasNextPage": False}, "edges": edges}
        if not wanted and not owners:
            raise ParameterError("graphql: name 'ids', 'tags', 'owners' or 'recipients'", name="query")
        after = arguments.get("after") or ""
        found = self._find(wanted, after if isinstance(after, str) else "!", count, signed=True, owners=owners)
        edges = []
        for ref in found.refs:
            item = self._read(ref, ctx)
            if isinstance(item, Message) and signers(item) and fits(item, {}, owners):
                edges.append({"cursor": ref, "node": node_of(ref, item)})
        page = {"hasNextPage": found.next is not None, "endCursor": found.next or ""}
        return {"count": str(len(edges)), "pageInfo": page, "edges": edges}

    def _message(self, arguments: Mapping[str, Any], ctx: Context) -> dict[str, Any] | None:
        rows = arguments.get("keys") or []
        wanted = {}
        for row in rows if isinstance(rows, list) else [rows]:
            if not isinstance(row, Mapping) or not all(isinstance(row.get(name), str) for name in ("name", "value")):
                raise ParameterError("graphql: 'keys' must be a list of {name, value}", name="keys")
            wanted[row["name"]] = frozenset([row["value"]])
        if not wanted:
            raise ParameterError("graphql: 'keys' must be a list of {name, value}", name="keys")
        for ref in self._find(wanted, "", _MOST_EDGES).refs:
            item = self._found(ref, ctx)
            if isinstance(item, Message):
                return keys_of(ref, item)
        return None


def _excluded(wanted: dict[str, Value | None], request: Message) -> dict[str, Value | None]:
    left_out = _names(request.get("exclude"))
    return {name: item for name, item in wanted.items() if name not in left_out}


def _names(item: Value | None) -> list[str]:
    """Return key names given as a comma text, a list, or a list as a map."""
    if isinstance(item, Message):
        item = tuple(item[name] for name in number_keys(item))
    parts = [as_text(one, "only") for one in item] if isinstance(item, tuple) else as_text(item or b"").split(",")
    return [part.strip() for part in parts if part.strip()]


def _texts(name: str, item: Value | None) -> frozenset[str]:
    if isinstance(item, Link):
        return frozenset([item.id])
    if isinstance(item, Message):
        return frozenset([content_id(item), signed_id(item)])
    if isinstance(item, tuple):
        return frozenset([content_id(item)])
    return frozenset([as_text(item if item is not None else b"", name)])


def _formed(kind: str, refs: list[bytes], items: list[Value], place: str | None) -> Value | Result:
    if kind == "boolean":
        return bool(refs)
    if kind == "count":
        return len(refs) if place is None else Message({"count": len(refs), "next": place})
    if not refs and place is None:
        raise KeyNotFound("no stored message matches")
    if kind.startswith("first") and refs:
        return refs[0] if kind == "first-path" else items[0]
    found: tuple[Value, ...] = tuple(refs if kind.endswith(("paths", "path")) else items)
    if place is None:
        return found
    return Message({**{str(n): one for n, one in enumerate(found, 1)}, "next": place})


def _asked(request: Message) -> tuple[str, dict[str, Any]]:
    """Return a GraphQL request's query and variables, from its keys or from a JSON body."""
    text, variables = request.get("query"), request.get("variables")
    body = request.get("body")
    if text is None and isinstance(body, bytes):
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and isinstance(found.get("query"), str):
            given = found.get("variables")
            return found["query"], given if isinstance(given, dict) else {}
    if not isinstance(text, bytes):
        raise ParameterError("graphql: there is no 'query'", name="query", hint='POST JSON: {"query": "{ ... }"}.')
    if isinstance(variables, bytes):
        try:
            given = json.loads(variables)
        except (ValueError, RecursionError):
            given = None
        return as_text(text), given if isinstance(given, dict) else {}
    return as_text(text), _plain(variables) if isinstance(variables, Message) else {}


def _plain(item: Value) -> Any:
    """Return a message value as JSON has it."""
    if isinstance(item, Message):
        return {name: _plain(item[name]) for name in item}
    if isinstance(item, tuple):
        return [_plain(one) for one in item]
    if isinstance(item, Atom):
        return None
    return as_text(item) if isinstance(item, bytes) else item


__all__ = ["Query"]
