"""http: recorded exchanges, replayed against a node in memory (design.md 6).

Wire in, node, wire out; no sockets. Cases in which the references differ on both sides run twice:
on a node that keeps the port in ``host``, for ``tag`` and ``ao-result`` as in S's file, and on a
usual one for everything else as in F's. Where the reference answered 5xx or no HTTP at all, a 4xx
or 2xx is right; where it sent an HTML page, the status and the AO headers are compared.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import rules
from compare import brief, normal
from outcome import Outcome, verdict

from hyperpy.codecs import ans104, httpsig, json, structured
from hyperpy.commitments import unsigned_id
from hyperpy.errors import HyperpyError
from hyperpy.http.wire import RawReply, RawRequest, answer_at_edge, read, write, write_error
from hyperpy.message import Link, Message, committed_list, same
from hyperpy.testing import TestNode, node

_FACTS = re.compile(r"/~meta@1.0/info/port|/~test-device@1.0/test_func|/~router@1.0/routes")
"""Answers that only say how a node was started; S's was started as ours."""
_TRANSPORT = frozenset(
    {"date", "server", "transfer-encoding", "connection", "content-length", "hint", "retry-after", "signature"}
    | {"signature-input", "access-control-allow-origin", "access-control-allow-methods"}
    | {"access-control-expose-headers", "access-control-allow-headers", "content-digest"}
)
_PAGE = _TRANSPORT | {"content-type", "details", "stacktrace"}
_OWN_FIELDS = {"ui-page": ("ao-result", "content-type"), "cron-body": ("body", "tag")}
"""Fields that are not compared: our choice, or random."""
_ERROR = frozenset({"ao-types", "ao-result", "content-type"})
"""Errors are text with the next step, unsigned, unless JSON or a bundle was asked for."""
_TAG = re.compile(r'tag="([^"]*)"')

_stack = ExitStack()
_nodes: dict[tuple[bool, bool], TestNode] = {}


@dataclass(frozen=True)
class _Reply:
    """A reply in comparable form."""

    status: int
    headers: Mapping[str, bytes]
    body: bytes
    page: bool = False
    malformed: bool = False

    @property
    def codec(self) -> bytes:
        """The codec of the whole reply; a body that is only a key's value has none."""
        named = self.headers.get("codec-device", b"")
        return b"" if "signature-input" in self.headers or "content-digest" in self.headers else named

    @property
    def tag(self) -> str | None:
        """The hashpath that was signed, from the headers or the JSON body."""
        if self.codec == b"json@1.0":
            found = [one.get("tag") for one in _json(self).commitments.values()]
            texts = [tag.decode() for tag in found if isinstance(tag, bytes)]
        else:
            texts = _TAG.findall(self.headers.get("signature-input", b"").decode("latin-1"))
        return texts[0] if texts else None


def run(header: Any, case: Any) -> Outcome:
    """Compare one case."""
    want = rules.expected(case)
    path = case["request"]["path"]
    commits = "/commit" in path and "http-auth" not in path
    names = (*want.rules, "node-signs-on-request") if commits else want.rules
    label = "rule" if commits and want.label == "equal" else want.label
    traced = _recorded(want.base)
    settings = {"routes": _routes(traced)} if "~router@1.0/routes" in path else {}
    problems = []
    if traced.status < 400 and not traced.malformed and "only-if-cached" not in want.rules:
        problems = _tag_and_result(
            _ask(case["request"], host_with_port=True, signs=commits, settings=settings), traced, want
        )
    aliased = "scheduler-location-moved" in want.rules  # F moved it; here the old path answers as in S
    shown = want.base if want.final is None or aliased or _FACTS.search(path) else want.final
    got = _own_address(_ask(case["request"], signs=commits, settings=settings), header["node_address"])
    answer = _recorded(shown)
    if "query-results" in want.rules:
        problems += _unlisted(got, answer)
        got, answer = _without_list(got), _without_list(answer)
    problems += _compare(got, answer, want, traced)
    return verdict(label, names, problems)


def close() -> None:
    """Stop the nodes."""
    _nodes.clear()
    _stack.close()


def _routes(recorded: _Reply) -> tuple[Link, ...]:
    """Return the table of routes that the reference's node was started with, by its members' IDs."""
    found = _json(recorded)
    return tuple(item for number in range(1, len(found) + 1) if type(item := found.raw(str(number))) is Link)


def _ask(
    request: Any,
    *,
    host_with_port: bool = False,
    signs: bool = False,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> _Reply:
    if (host_with_port, signs) not in _nodes:
        flags = {"http.port": 10000, "http.host-with-port": host_with_port, "http.sign-on-request": signs}
        _nodes[host_with_port, signs] = _stack.enter_context(node(flags=flags))
    at = _nodes[host_with_port, signs]
    for name, setting in settings.items():
        at.node.settings.put(name, setting)
    lines = tuple((name.encode(), value.encode("utf-8")) for name, value in request["headers"])
    raw = RawRequest(request["method"], request["path"].encode("utf-8"), lines, _bytes(request["body"]), "127.0.0.1")
    made = answer_at_edge(raw, "/~meta@1.0/info") or _through(at, raw)
    headers = {name.decode("latin-1"): value for name, value in made.headers}
    return _Reply(made.status, headers, b"" if raw.method == "HEAD" else made.body)


def _own_address(reply: _Reply, theirs: str) -> _Reply:
    """Return a reply with our node's address replaced by theirs."""
    ours = next(iter(_nodes.values())).node.address.encode()
    headers = {name: theirs.encode() if value == ours else value for name, value in reply.headers.items()}
    return replace(reply, body=reply.body.replace(ours, theirs.encode()), headers=headers)


def _through(at: TestNode, raw: RawRequest) -> RawReply:
    from hyperpy.http.app import wants_of

    try:
        ingress = read(raw, at.rules)
    except HyperpyError as error:
        return write_error(error, wants_of(raw))
    return write(at.node.handle(ingress), ingress.wants)


def _bytes(item: Any) -> bytes:
    return base64.b64decode(item["$b64"]) if isinstance(item, dict) else item.encode("utf-8")


def _recorded(case: Any) -> _Reply:
    response = case["response"]
    line = response.get("status_line", "")
    headers = {name: value.encode("utf-8") for name, value in response.get("headers", []) if isinstance(value, str)}
    malformed = "malformed" in response
    page = "body_html" in response or malformed
    status = int(line.split()[1]) if line else 500
    return _Reply(status, headers, b"" if page else _bytes(response.get("body", "")), page, malformed)


# -- comparing ---------------------------------------------------------------------------------


def _tag_and_result(got: _Reply, answer: _Reply, want: rules.Expected) -> list[str]:
    """Compare what S's file decides: the hashpath, and ``ao-result`` where a rule is on S's side."""
    problems = []
    if answer.tag != got.tag and "tag" not in _OWN_FIELDS.get(want.rules[0] if want.rules else "", ()):
        problems.append(f"S tag: {got.tag} is not {answer.tag}")
    ours, theirs = got.headers.get("ao-result"), answer.headers.get("ao-result")
    if ours != theirs and "S" in want.sides and "cron-body" not in want.rules:
        problems.append(f"S ao-result: {ours!r} is not {theirs!r}")
    return problems


def _unlisted(got: _Reply, answer: _Reply) -> list[str]:
    """Check a list of matches: which messages there are is the store's, but what both hold is in both lists."""
    ours, theirs = ({one[key] for key in one if key.isdigit()} for one in (_json(got), _json(answer)))
    cache = _nodes[False, False].node.cache
    held = {name for name in theirs if isinstance(name, bytes) and cache.has(name.decode())}
    return [f"{len(held - ours)} of {len(held)} matches are missing"] if not held or held - ours else []


def _without_list(reply: _Reply) -> _Reply:
    """Return a JSON reply without the members 1..n."""
    kept = {key: item for key, item in _json(reply).raw_items().items() if not key.isdigit()}
    headers = {name: value for name, value in reply.headers.items() if not name.isdigit()}
    return replace(reply, headers=headers, body=json.encode(Message.make(kept)))


def _compare(got: _Reply, answer: _Reply, want: rules.Expected, traced: _Reply) -> list[str]:
    if answer.malformed or (answer.status >= 500 and "only-if-cached" not in want.rules):
        return [] if got.status < 500 else [f"status {got.status}: {brief(got.body)}"]
    if "relay-error" in want.rules and got.status // 100 == answer.status // 100:
        return []
    if got.status != answer.status:
        return [f"status {got.status} is not {answer.status}: {brief(got.body)}"]
    if answer.status == 204 or "build-info" in want.rules:
        return []
    if "root-redirect" in want.rules:
        return [] if "location" in got.headers else ["no location"]
    left_out = _left_out(want)
    if answer.page:
        ignored = _PAGE | left_out | (_ERROR if answer.status >= 400 else frozenset())
        return [] if answer.status == 404 else _headers(got, answer, ignored)
    if answer.codec == b"ans104@1.0":
        return _messages(got, answer, lambda reply: ans104.decode_message(reply.body), left_out)
    if answer.codec == b"json@1.0":
        ignored = _TRANSPORT | left_out | {"ao-types"}
        links = _json(traced) if traced.codec == b"json@1.0" and traced.body else None
        return _messages(got, answer, _json, left_out, links) + _headers(got, answer, ignored)
    return _httpsig(got, answer, left_out)


def _left_out(want: rules.Expected) -> frozenset[str]:
    """Return the header fields that a rule of ours touches."""
    fields = {field for name in want.rules for field in _OWN_FIELDS.get(name, ())}
    return frozenset(fields | ({"ao-result"} if "S" in want.sides else set()))


def _headers(got: _Reply, answer: _Reply, ignored: frozenset[str]) -> list[str]:
    names = (set(got.headers) | set(answer.headers)) - ignored
    return [
        f"{name}: {got.headers.get(name)!r} is not {answer.headers.get(name)!r}"
        for name in sorted(names)
        if got.headers.get(name) != answer.headers.get(name)
    ]


def _httpsig(got: _Reply, answer: _Reply, left_out: frozenset[str]) -> list[str]:
    if b"boundary=" in answer.headers.get("content-type", b""):
        return _messages(got, answer, _decoded, left_out)
    refused = answer.status >= 400 and got.headers.get("content-type", b"").startswith(b"text/plain")
    problems = _headers(got, answer, _TRANSPORT | left_out | (_ERROR if refused else frozenset()))
    if "body" in left_out or got.body == answer.body or (refused and got.body.startswith(answer.body)):
        return problems
    if answer.body.startswith(b"{") and same(normal(_json(got)), normal(_underived(_json(answer)))):
        return problems
    return [*problems, f"body: {brief(got.body)} is not {brief(answer.body)}"]


def _json(reply: _Reply) -> Message:
    found = json.decode(reply.body)
    assert isinstance(found, Message)
    return found


def _decoded(reply: _Reply) -> Message:
    kept = {name: value for name, value in reply.headers.items() if name not in _TRANSPORT}
    found = structured.decode(httpsig.decode(kept, reply.body))
    assert isinstance(found, Message)
    return found


def _messages(
    got: _Reply,
    answer: _Reply,
    read_reply: Callable[[_Reply], Message],
    left_out: frozenset[str],
    traced: Message | None = None,
) -> list[str]:
    """Compare whole messages.

    Links are those of either; ``traced`` is S's reply: F names a child that changed by the unsigned
    commitment that it had before.
    """
    ours, theirs = _plain(read_reply(got), left_out), _plain(read_reply(answer), left_out)
    if traced is not None:
        links = {key: item for key, item in traced.raw_items().items() if type(item) is Link and key in theirs}
        theirs = theirs | {key: item for key, item in links.items() if ours.raw(key) == item}
    if same(ours, theirs):
        return []
    keys = sorted(set(ours) | set(theirs))
    return [
        f"{key}: {brief(ours.raw(key))} is not {brief(theirs.raw(key))}"
        for key in keys
        if not same_or_none(ours.raw(key), theirs.raw(key))
    ] or ["nested commitments differ"]


def same_or_none(left: Any, right: Any) -> bool:
    """Compare two values, either of which may be missing."""
    return left is right or (left is not None and right is not None and same(left, right))


def _plain(message: Message, left_out: frozenset[str]) -> Message:
    """Return a message without the node's signatures and what is left out."""
    found = normal(message)
    return Message.make({key: item for key, item in found.raw_items().items() if key not in left_out})


def _underived(message: Message) -> Message:
    """Return a message without the unsigned commitments that follow from its keys, or some of them."""
    kept = {}
    for name, one in message.commitments.items():
        own = Message.make({key: message.raw_items()[key] for key in committed_list(one) if key in message})
        if one.get("keyid") != b"constant:ao" or name != unsigned_id(own):
            kept[name] = one
    return message.with_commitments(kept)
