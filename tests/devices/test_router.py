"""router@1.0: matching, choosing, the table, and load spread over two real nodes of which one dies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message, config, device, key
from hyperpy.devices import router
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import ParameterError
from hyperpy.http.server import Server
from hyperpy.node import Node
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import ask, http, mallory, operator, send, sign, text

A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"
ROUTES = [
    {"template": "/special/.*", "node": A},
    {"template": {"type": "Odd"}, "node": B},
    {"template": "/prefixed", "node": {"prefix": A + "/root", "opts": {"http": 2}}},
    {"template": "/suffixed", "node": {"suffix": "/end"}},
    {"template": "/rewritten", "node": {"match": "^/rewritten", "with": A + "/new"}},
    {"template": "/all", "nodes": [A, B], "strategy": "All"},
    {"template": "/both", "nodes": [A, B], "strategy": "Random", "choose": 2},
]


def routed(path: str, routes: Any = ROUTES, key_name: str = "route", **keys: Any) -> Any:
    with node(flags={"routes.table": routes}) as n:
        return n.node.resolve(
            Message({"device": "router@1.0", **keys}), Message({"path": key_name, "route-path": path})
        )


# -- matching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reference"),
    [("/special/x", "routes/1"), ("/prefixed/x", "routes/3"), ("all", "routes/6"), (A + "/x", "explicit")],
)
def test_the_first_fitting_route(path: str, reference: str) -> None:
    assert routed(path, key_name="match")["reference"] == reference.encode()


def test_a_map_template_looks_at_the_request() -> None:
    with node(flags={"routes.table": ROUTES}) as n:
        assert text(ask(n, "GET", "/~router@1.0/route?route-path=/x&type=Odd")) == B
        assert ask(n, "GET", "/~router@1.0/route?route-path=/x&type=Even")["status"] == 400
        assert text(ask(n, "GET", "/~router@1.0/match?route-path=/x")) == "no_matching_route"
        assert text(ask(n, "GET", "/~router@1.0/route?route-path=/x")) == "no_matches"


def test_routes_on_the_base_come_first() -> None:
    with node(flags={"routes.table": ROUTES}) as n:
        base = Message({"device": "router@1.0", "routes": [{"template": "/special", "node": B}]})
        assert n.node.resolve(base, Message({"path": "route", "route-path": "/special/x"})) == B.encode()


def test_where_nodes_lead() -> None:
    assert routed("/special/x") == A.encode()
    found = routed("/prefixed/x")
    assert (found["uri"], found["opts"]["http"]) == (f"{A}/root/prefixed/x".encode(), 2)
    assert routed("/suffixed")["uri"] == b"/suffixed/end"
    assert routed("/rewritten/a?b=c")["uri"] == f"{A}/new/a?b=c".encode()
    assert [one["uri"] for one in routed("/all/x")["nodes"]] == [f"{A}/all/x".encode(), f"{B}/all/x".encode()]
    assert {one["node"] for one in routed("/both")["nodes"]} == {A.encode(), B.encode()}
    assert routed("/all/x", key_name="order") == (f"{A}/all/x".encode(), f"{B}/all/x".encode())


# -- routes that a caller brings along ------------------------------------------------------------


def own(template: str, path: str, **more: Any) -> Message:
    with node() as n:
        given = {"routes": [{"template": template, "node": A, **more}], "route-path": path}
        return send(n, sign({"path": "/~router@1.0/match", "method": "POST", **given}, mallory()), "/~router@1.0/match")


EVIL = ["(a+)+$", "(a|a)*$", "a+a+$", "a{1,9}", "[ab]*c", "a*a*a*b", "a?", "\\d", "a\\", "(?R)", "x|y"]


@pytest.mark.parametrize("template", EVIL)
def test_a_stranger_brings_no_regular_expression(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re, "search", lambda *_: pytest.fail("a stranger's expression was run"))
    reply = own(template, "/" + "a" * 28 + "!")
    assert reply["status"] == 400
    assert "of one's own is not plain text" in text(reply)


@pytest.mark.parametrize("rewriting", [{"match": "(a+)+$", "with": "x"}, {"match": "^/", "with": "x"}])
def test_a_stranger_rewrites_no_path(rewriting: Any) -> None:
    assert own("/", "/a", node=rewriting)["status"] == 400
    assert own("/", "/a", node="http://x", nodes=[A, rewriting])["status"] == 400


def test_a_stranger_brings_so_many_routes_of_such_a_length() -> None:
    assert own("/" + "a" * 127, "/" + "a" * 127)["reference"] == b"routes/1"
    assert own("/" + "a" * 128, "/" + "a" * 128)["status"] == 400
    with node() as n:
        base = Message({"device": "router@1.0", "routes": [{"template": "/x", "node": A}] * 65})
        with pytest.raises(ParameterError):
            n.node.resolve(base, Message({"path": "match", "route-path": "/x"}))


PLAIN = [
    "/x",
    "x",
    "^/x$",
    "/x$",
    "^/a.*b",
    "a.*b.*c$",
    "^/.*b.c$",
    "b",
    "/a.b",
    "^",
    "$",
    ".*",
    "a\\.b",
    "a\\$",
    "^/.*.*$",
]
PATHS = [
    "/x",
    "/xx",
    "/y/x",
    "/a/b/c",
    "/aXb",
    "/a.b",
    "/abc",
    "/abcb",
    "/ab.c/abcc",
    "/a$",
    "",
    "/",
    "/a\nb",
    "/b/a",
    "/x\n",
]


def test_a_plain_template_means_what_it_means_in_the_table() -> None:
    """The same answer as the expression gives, where it is searched over more lines than one, up to the very end."""
    for template in PLAIN:
        rooted = template if template.startswith(("/", "^")) else "/" + template
        strict = rooted[:-1] + r"\Z" if rooted.endswith("$") and not rooted.endswith("\\$") else rooted
        for path in PATHS:
            want = re.search(strict, path if path.startswith("/") else "/" + path, re.DOTALL) is not None
            assert (router._plain(template).match(router._slashed(path)) is not None) == want, (template, path)


def test_routes_that_the_operator_wrote_are_no_strangers() -> None:
    routes = [{"template": "/(x|y)+$", "node": A}]
    with node(flags={"routes.table": routes}) as n:
        base = Message({"device": "router@1.0", "routes": routes})
        found = n.node.resolve(base, Message({"path": "match", "route-path": "/xyx"}))
        assert found["reference"] == b"routes/1"


# -- strategies ----------------------------------------------------------------------------------


def spread(strategy: str, nodes: list[Any], paths: list[str]) -> list[Any]:
    routes = [{"template": "/", "nodes": nodes, "strategy": strategy}]
    with node(flags={"routes.table": routes}) as n:
        base = Message({"device": "router@1.0"})
        return [n.node.resolve(base, Message({"path": "route", "route-path": path}), record=False) for path in paths]


def test_random_uses_all() -> None:
    seen = Counter(spread("Random", [A, B], ["/x"] * 200))
    assert min(seen[A.encode()], seen[B.encode()]) > 50


def test_weights() -> None:
    heavy, light, never = ({"prefix": A, "weight": 9}, {"prefix": B, "weight": 1}, {"prefix": "http://c", "weight": 0})
    seen = Counter(found["uri"] for found in spread("By-Weight", [light, heavy, never], ["/x"] * 300))
    assert seen[f"{A}/x".encode()] > 5 * seen[f"{B}/x".encode()] > 0
    assert seen[b"http://c/x"] == 0


def test_by_base_is_the_id_modulo_the_nodes() -> None:
    nodes = [f"http://node-{at}" for at in range(7)]
    names = [b64u(sha256(b"%d" % at)) for at in range(20)]
    paths = [
        f"/{name}{end}" for name, end in zip(names, ["", "/x", "~process@1.0/now", "?a=b", "&c=d"] * 4, strict=True)
    ]
    want = [nodes[int.from_bytes(sha256(b"%d" % at), "big") % 7] for at in range(20)]
    assert [found.decode() for found in spread("By-Base", nodes, paths)] == want
    assert spread("By-Base", nodes, ["/word/x"])[0].decode() == nodes[int.from_bytes(sha256(b"word"), "big") % 7]


def test_nearest_is_measured_around_the_circle() -> None:
    def at(number: int) -> str:
        return b64u((number % (1 << 256)).to_bytes(32, "big"))

    nodes = [{"prefix": "http://low", "wallet": at(10)}, {"prefix": "http://mid", "wallet": at(1 << 255)}]
    paths = [f"/{at(number)}/x" for number in (0, 5000, -20, (1 << 255) - 7, (1 << 254) - 100)]
    hosts = [found["uri"].decode().split("/")[2] for found in spread("Nearest", nodes, paths)]
    assert hosts == ["low", "low", "low", "mid", "low"]


@pytest.mark.parametrize(
    "route",
    [
        {"template": "/x", "nodes": [A, B], "strategy": "Psychic"},
        {"template": "/x", "nodes": []},
        {"template": "(", "node": A},
        {"template": "/x", "nodes": [A, B], "strategy": "Nearest"},
        {"template": "/x", "nodes": [{"prefix": A, "weight": "much"}, B], "strategy": "By-Weight"},
        {"template": "/x", "node": {"other": A}},
        {"template": "/x", "node": {"match": "(", "with": A}},
        {"template": "/x", "nodes": [A, B], "strategy": "Random", "choose": "some"},
    ],
)
def test_a_broken_route_is_an_error_of_its_owner(route: Any) -> None:
    with node(flags={"routes.table": [route]}) as n:
        assert ask(n, "GET", "/~router@1.0/route?route-path=/x")["status"] == 400


# -- the table -----------------------------------------------------------------------------------


def add(n: TestNode, who: Any, **route: Any) -> Message:
    return send(n, sign({"path": "/~router@1.0/routes", "method": "POST", **route}, who), "/~router@1.0/routes")


def test_owners_add_routes_and_nobody_else() -> None:
    owner = wallet("route-owner")
    with node() as n:
        assert add(n, mallory(), template="/x", node=A)["status"] == 403
        assert text(add(n, operator(), template="/x", node=A, priority=5)) == "Route added."
        assert text(add(n, operator(), route={"template": "/x", "node": B, "priority": 2})) == "Route added."
        assert text(add(n, operator(), template="/x", node=A, priority=5)) == "Route added."
        assert len(n.node.settings.setting("routes")) == 2, "the same one again is no other"
        assert text(ask(n, "GET", "/~router@1.0/route?route-path=/x")) == B, "the lower priority number is first"
        assert add(n, owner, template="/y", node=A)["status"] == 403
        n.node.settings.put("route-owners", (owner.address.encode(),))
        assert text(add(n, owner, template="/y", node=A)) == "Route added."
        assert add(n, operator(), template="/z", node=A)["status"] == 403
        assert add(n, owner, template="/z")["status"] == 400
        reply = http(n, "GET", "/~router@1.0/routes", {"accept": "application/json", "accept-bundle": "true"})
        assert reply.body.count(b'"template"') == 3


def test_what_the_owner_did_not_sign_is_no_route() -> None:
    with node() as n:
        path = "/~router@1.0/routes"
        order = sign(
            {"path": path, "method": "POST", "template": "/x", "node": A}, operator(), committed=["path", "method"]
        )
        assert send(n, order, path)["status"] in (400, 403)
        assert n.node.settings.setting("routes") == ()


@device("table@1.0")
class Table:
    """Keeps routes elsewhere."""

    added: list[Message] = []

    @key(deterministic=False)
    def routes(self) -> list[Any]:
        """List them."""
        return [{"template": "/mine", "node": B}, *self.added]

    @key(deterministic=False)
    def take(self, request: Message) -> str:
        """Note a route."""
        self.added.append(Message({"template": request["template"], "node": request["node"]}))
        return "taken"


def test_the_table_may_be_kept_elsewhere() -> None:
    """``provider`` and ``registrar`` can be any path or message, such as a process that scores nodes."""
    options = {"provider": "/~table@1.0/routes", "registrar": {"device": "table@1.0"}, "registrar-path": "take"}
    with node(Table) as n:
        n.node.settings.put("router-opts", Message(options))
        assert text(ask(n, "GET", "/~router@1.0/route?route-path=/mine/x")) == B
        assert text(add(n, mallory(), template="/other", node=A)) == "taken", "the registrar decides"
        assert text(ask(n, "GET", "/~router@1.0/route?route-path=/other")) == A


# -- two nodes, one of which dies -------------------------------------------------------------------


@device("who@1.0")
class Who:
    """Says which node answers."""

    name = ""

    @key(deterministic=False)
    def am_i(self, ctx: Any, say: str = "") -> str:
        """Return this node's URL."""
        return f"{ctx.config['url'].decode()} {say}".strip()


class Pair:
    """Two real nodes behind sockets, and one in memory that routes to them."""

    def __init__(self, stack: ExitStack) -> None:
        self.servers = [self._serve(stack, name) for name in ("one", "two")]
        self.urls = [server.url for server in self.servers]

    def _serve(self, stack: ExitStack, name: str) -> Server:
        inner = stack.enter_context(node(Who, flags={"http.url": name})).node
        server = Server(inner, "127.0.0.1", 0)
        server.start()
        stack.callback(server.stop)
        return server


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def front(pair: Pair, *, peers: Any = None, hook: bool = False, strategy: str = "Random", **extra: Any) -> Any:
    route = {"template": "/~who@1.0", "nodes": pair.urls, "strategy": strategy}
    flags = {"relay.peers": pair.urls if peers is None else peers, "routes.table": [route], **extra}
    if hook:
        flags["hooks.on"] = {"request": {"device": "router@1.0", "path": "preprocess"}}
    return node(flags=flags)


CALL = "/~relay@1.0/call?relay-path=/~who@1.0/am-i"


def test_relay_spreads_over_both(pair: Pair) -> None:
    with front(pair) as n:
        seen = Counter(text(ask(n, "GET", CALL)) for _ in range(40))
        assert set(seen) == {"one", "two"}
        assert min(seen.values()) >= 5


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_hook_passes_requests_on(pair: Pair, method: str) -> None:
    with front(pair, hook=True) as n:
        seen = Counter(text(ask(n, method, "/~who@1.0/am-i?say=hello")) for _ in range(30))
        assert set(seen) == {"one hello", "two hello"}
        assert text(ask(n, "GET", "/~message@1.0&a=here/a")) == "here", "what no route names runs here"


def test_only_allowed_peers_are_used(pair: Pair) -> None:
    with front(pair, peers=pair.urls[:1]) as n:
        assert Counter(text(ask(n, "GET", CALL)) for _ in range(20)) == {"one": 20}
    for hook, path in ((False, CALL), (True, "/~who@1.0/am-i")):
        with front(pair, peers=[], hook=hook) as n:
            assert ask(n, "GET", path)["status"] == 403


def test_no_route_and_the_operator_wants_an_error(pair: Pair) -> None:
    with front(pair, hook=True) as n:
        n.node.settings.put("router-preprocess-default", b"error")
        reply = ask(n, "GET", "/~message@1.0&a=here/a")
        assert (reply["status"], reply["message"]) == (404, b"No matching template found in the given routes.")


@pytest.mark.parametrize("strategy", ["Random", "All", "By-Base"])
def test_one_node_dies_and_the_other_goes_on(strategy: str) -> None:
    with ExitStack() as stack:
        pair = Pair(stack)
        relayed = stack.enter_context(front(pair, strategy=strategy))
        hooked = stack.enter_context(front(pair, strategy=strategy, hook=True))
        for _ in range(6):
            ask(relayed, "GET", CALL)
            ask(hooked, "GET", "/~who@1.0/am-i")
        pair.servers[0].stop()
        for n, method, path in (
            (relayed, "GET", CALL),
            (hooked, "GET", "/~who@1.0/am-i"),
            (relayed, "POST", CALL + "&relay-method=GET"),
        ):
            assert [text(ask(n, method, path)) for _ in range(12)] == ["two"] * 12
        pair.servers[1].stop()
        assert ask(relayed, "GET", CALL)["status"] == 502


def test_what_may_have_happened_is_not_sent_again() -> None:
    """A peer that takes a POST and then says nothing may have carried it out."""
    from tests.security.test_relay import Listener

    broken, friend = Listener(), Listener()
    try:
        broken.server.RequestHandlerClass.do_POST = lambda handler: handler.connection.close()  # type: ignore[attr-defined]
        flags = {
            "relay.peers": [broken.url, friend.url],
            "routes.table": [{"template": "/x", "nodes": [broken.url, friend.url]}],
        }
        with node(flags=flags) as n:
            reply = ask(n, "POST", "/~relay@1.0/call", {"relay-path": "/x", "relay-method": "POST"})
            assert reply["status"] == 502
            assert not friend.seen
    finally:
        broken.close()
        friend.close()


def test_offered_routes_are_registered_by_the_operator(pair: Pair) -> None:
    with ExitStack() as stack:
        registry = stack.enter_context(node())
        registry.node.settings.put("route-owners", (wallet().address.encode(),))
        server = Server(registry.node, "127.0.0.1", 0)
        server.start()
        stack.callback(server.stop)
        n = stack.enter_context(node(flags={"relay.peers": [server.url]}))
        offered = {"template": "/mine", "node": A, "registration-peer": server.url}
        n.node.settings.put("router-opts", Message({"offered": [offered]}))
        path = "/~router@1.0/register"
        assert send(n, sign({"path": path, "method": "POST"}, mallory()), path)["status"] == 403
        assert text(send(n, sign({"path": path, "method": "POST"}, operator()), path)) == "Routes registered."
        assert text(ask(registry, "GET", "/~router@1.0/route?route-path=/mine")) == A


def test_the_settings_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text("utf-8")
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    file = tmp_path / "hyperpy.toml"
    with ExitStack() as stack:
        pair = Pair(stack)
        text_ = block[1].replace("calculator@1.0", "who@1.0")
        for number, url in enumerate(pair.urls, 9001):
            text_ = text_.replace(f"http://127.0.0.1:{number}", url)
        file.write_text(text_, "utf-8")
        inner = Node(config.load(file, environ={}), key=wallet(), store=MemoryStore(), operator=operator().address)
        stack.callback(inner.close)
        seen = Counter(text(ask(TestNode(inner), "GET", "/~who@1.0/am-i")) for _ in range(30))
        assert set(seen) == {"one", "two"}
