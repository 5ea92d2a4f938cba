"""query@1.0: what is found by keys, in which form, how much work a query may cause, and who finds what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hyperpy.devices.query import graphql

from hyperpy import Message, commitments
from hyperpy.cache import Cache
from hyperpy.codecs import ans104
from hyperpy.codecs.ans104_item import Item
from hyperpy.commitments import http_form
from hyperpy.encoding import b64u
from hyperpy.errors import InvalidSignature, ParameterError, SizeError
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import RsaSigner
from hyperpy.storage import Storage
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import ask, http, operator, send, sign, text

ALICE = wallet("alice")
RED = {"colour": "red", "size": 5}
BLUE = {"colour": "blue", "size": 5}


def stored(n: TestNode, *items: Any) -> list[str]:
    storage = Storage(n.node.cache, n.node.store)
    return [storage.write(item if isinstance(item, Message) else Message(item)) for item in items]


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        yield made


def paths(n: TestNode, target: str, **headers: str) -> set[str]:
    reply = ask(n, "GET", target, headers)
    assert reply["status"] == 200, reply
    return {reply.text(name) for name in reply if name.isdigit()}


# -- by keys -------------------------------------------------------------------------------------


def test_all_keys_must_fit(n: TestNode) -> None:
    red, blue, other = stored(n, RED, BLUE, {"colour": "red", "size": 6})
    found = paths(n, "/~query@1.0/all?colour=red")
    assert {red, other} <= found
    assert blue not in found
    assert red in (both := paths(n, "/~query@1.0/all?colour=red&size=5"))
    assert other not in both
    assert red in paths(n, "/~query@1.0/whatever?colour=red"), "any unknown key is all"


@pytest.mark.parametrize("size", ["5", "05", "5.0", "x"])
def test_numbers_are_found_by_their_text(n: TestNode, size: str) -> None:
    (red,) = stored(n, RED)
    reply = ask(n, "GET", f"/~query@1.0/all?colour=red&size={size}&return=count")
    assert (red in paths(n, "/~query@1.0/all?colour=red&size=5")) is True
    assert (text(reply) != "0") is (size == "5")


def test_the_query_is_no_answer_to_itself(n: TestNode) -> None:
    """What a query leaves in the trail holds all that it looked for."""
    (red,) = stored(n, {"colour": "crimson"})
    for target in ("/~query@1.0/all?colour=crimson", "/~query@1.0/only=colour&colour=crimson") * 3:
        assert paths(n, target) == {red}


def test_no_match(n: TestNode) -> None:
    target = "/~query@1.0/only=colour&colour=none"
    assert ask(n, "GET", target)["status"] == 404
    assert text(ask(n, "GET", target + "&return=boolean")) == "false"
    assert text(ask(n, "GET", target + "&return=count")) == "0"
    assert ask(n, "GET", target + "&return=psychic")["status"] == 400
    assert ask(n, "GET", "/~query@1.0/all")["status"] == 400


def test_only_and_exclude(n: TestNode) -> None:
    (red,) = stored(n, RED)
    assert red in paths(n, "/~query@1.0/only=colour&colour=red&wrong=1")
    assert red in paths(n, "/~query@1.0/only=colour,size&colour=red&size=5&wrong=1")
    assert red in paths(n, "/~query@1.0/all?colour=red&wrong=1&exclude=wrong,other")
    assert ask(n, "GET", "/~query@1.0/only=colour")["status"] == 400
    base = Message({"device": "query@1.0"})
    found = n.node.resolve(base, Message({"path": "only", "only": {"colour": "red"}}))
    assert red.encode() in found  # type: ignore[operator]
    found = n.node.resolve(base | {"colour": "red", "size": 5}, Message({"path": "base"}))
    assert red.encode() in found  # type: ignore[operator]


def test_forms_of_an_answer(n: TestNode) -> None:
    (red,) = stored(n, {"colour": "vermilion", "deep": {"a": 1}})
    target = "/~query@1.0/only=colour&colour=vermilion&return="
    assert text(ask(n, "GET", target + "count")) == "1"
    assert text(ask(n, "GET", target + "boolean")) == "true"
    assert ask(n, "GET", target + "first-path").text("body") in paths(n, target + "paths")
    assert red in paths(n, target + "paths")
    assert ask(n, "GET", target + "first-message")["colour"] == b"vermilion"
    made = json.loads(http(n, "GET", target + "messages", {"accept": "application/json", "accept-bundle": "true"}).body)
    assert {"a": 1} in [made[name].get("deep") for name in made if name.isdigit()]


def test_nested_messages_are_found_by_their_id(n: TestNode) -> None:
    child = Message({"a": 1})
    (parent,) = stored(n, {"child": child, "kind": "parent"})
    assert parent in paths(n, f"/~query@1.0/only=child&child={commitments.unsigned_id(child)}")
    base = Message({"device": "query@1.0"})
    assert parent.encode() in n.node.resolve(base, Message({"path": "all", "child": child}))  # type: ignore[operator]


# -- bounded work ----------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "lmdb"])
def storage(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Storage]:
    store: Any = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path)
    yield Storage(Cache(store), store)
    store.close()


def test_a_search_goes_on_where_it_stopped(storage: Storage) -> None:
    want = {storage.write(Message({"n": number, "even": number % 2 == 0})) for number in range(500) if number % 2 == 0}
    for number in range(1, 500, 2):
        storage.write(Message({"n": number, "even": False}))
    storage.write(b"even true")
    storage.write((b"even", b"true"))
    for most, seconds in ((7, 60.0), (1000, 0.0), (1, 60.0)):
        seen: list[str] = []
        place: str | None = ""
        rounds = 0
        while place is not None:
            found = storage.find({"even": frozenset(["true"])}, after=place, most=most, seconds=seconds)
            assert len(found.refs) <= most
            seen += found.refs
            place = found.next
            rounds += 1
        assert len(seen) == len(set(seen))
        assert set(seen) == want
        assert rounds > 1


def test_no_time_no_complete_answer(n: TestNode) -> None:
    stored(n, *({"kind": "many", "n": number} for number in range(300)))
    n.node.settings.put("query-seconds", 0)
    seen: set[str] = set()
    after = ""
    for _ in range(50):
        reply = ask(n, "GET", f"/~query@1.0/only=kind&kind=many{after}")
        seen |= {reply.text(name) for name in reply if name.isdigit()}
        if "next" not in reply:
            break
        after = f"&query-after={reply.text('next')}"
    assert len(seen) == 300
    assert ask(n, "GET", "/~query@1.0/only=kind&kind=many&query-after=nonsense")["status"] == 400


# -- who finds what --------------------------------------------------------------------------------


def test_a_closed_trail_closes_the_search() -> None:
    with node(flags={"trail.public": False}) as n:
        mine = sign({"path": "/~message@1.0/set", "method": "POST", "colour": "red"}, ALICE)
        send(n, mine, "/~message@1.0/set")
        stored(n, Message({"colour": "red", "kind": "unsigned"}), sign({"colour": "red", "kind": "statement"}, ALICE))
        target = "/~query@1.0/only=colour&colour=red&return=messages"
        found = ask(n, "GET", target)
        kinds = [found[name].get("kind") for name in found if name.isdigit()]  # type: ignore[union-attr]
        assert b"unsigned" not in kinds
        assert b"statement" in kinds
        count = int(text(ask(n, "GET", "/~query@1.0/only=colour&colour=red&return=count")))
        assert count == len(kinds), "what may not be read is not counted"


# -- GraphQL ---------------------------------------------------------------------------------------

CLIENTS = """query GetTransactions ($transactionIds: [ID!]!) {
  transactions(ids: $transactionIds) {
    edges {
      node { id owner { address key } tags { name value } block { id height timestamp } recipient anchor data { size } }
    }
  }
}"""


def graph(n: TestNode, query: str, at: str = "/~query@1.0/graphql", **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    reply = http(n, "POST", at, {"content-type": "application/json"}, body)
    assert dict(reply.headers)[b"content-type"] == b"application/json"
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["data"]


def item(n: TestNode, key: RsaKey, **tags: str) -> str:
    """Store a data item as clients sign it; return its ID."""
    made = commitments.commit(Message({**tags, "data": "1984"}), key, device="ans104@1.0")
    stored(n, made)
    return commitments.signed_id(made)


@pytest.fixture(scope="module")
def arweave() -> RsaKey:
    return RsaKey.generate(4096)


def test_the_query_of_the_clients(n: TestNode, arweave: RsaKey) -> None:
    tags = ((b"Data-Protocol", b"ao"), (b"Type", b"Module"))
    made = ans104.decode_message(Item(tags=tags, data=b"1984").sign(RsaSigner(arweave)).encode())
    stored(n, made)
    ref = commitments.signed_id(made)
    found = graph(n, CLIENTS, transactionIds=[ref, b64u(bytes(32))])
    (edge,) = found["transactions"]["edges"]
    assert edge["node"] == {
        "id": ref,
        "owner": {"address": arweave.address, "key": arweave.to_jwk()["n"]},
        "tags": [{"name": "Data-Protocol", "value": "ao"}, {"name": "Type", "value": "Module"}],
        "block": None,
        "recipient": "",
        "anchor": "",
        "data": {"size": "4"},
    }
    assert graph(n, f'{{ transaction(id: "{ref}") {{ id }} }}') == {"transaction": {"id": ref}}
    assert graph(n, f'{{ transaction(id: "{b64u(bytes(32))}") {{ id }} }}') == {"transaction": None}


@pytest.mark.parametrize("at", ["/graphql", "/graphql?x=1"])
def test_the_path_that_gateways_have(n: TestNode, at: str) -> None:
    query = '{ transaction(id: "' + b64u(bytes(32)) + '") { id } }'
    assert graph(n, query, at) == {"transaction": None}
    assert ask(n, "POST", "/graphqlx")["status"] == 404


@pytest.mark.parametrize("at", ["/graphql", "/~query@1.0/graphql"])
@pytest.mark.parametrize("form", ["keys", "body"])
def test_a_query_may_be_signed(n: TestNode, at: str, form: str) -> None:
    """The path lies inside the signed message then; what was asked for is what the signature covers."""
    query = '{ transaction(id: "' + b64u(bytes(32)) + '") { id } }'
    asked = {"query": query} if form == "keys" else json_of({"query": query})
    for covered in ({"path": at, "method": "POST"}, {}):
        reply = send(n, sign({**asked, **covered}, ALICE), at)
        assert reply["status"] == 200
        assert json.loads(text(reply)) == {"data": {"transaction": None}}


def json_of(item: Any) -> dict[str, Any]:
    return {"content-type": "application/json", "body": json.dumps(item).encode()}


def test_a_query_whose_body_is_not_what_was_signed(n: TestNode) -> None:
    form = http_form(sign({**json_of({"query": "{ __typename }"}), "path": "/graphql", "method": "POST"}, ALICE))
    changed = (form.body or b"").replace(b"typename", b"typenome")
    assert ask(n, "POST", "/graphql", form.headers, form.body)["status"] == 200
    with pytest.raises(InvalidSignature):
        ask(n, "POST", "/graphql", form.headers, changed)


def test_no_other_key_of_a_message_is_a_gateways_path(n: TestNode) -> None:
    for target in ("/~message@1.0/graphql", "/~message@1.0&a=1/a/graphql", "/graphql/graphql/x", "/x/graphql"):
        assert ask(n, "GET", target)["status"] in (400, 404), target
    assert ask(n, "GET", "/graphql", {"device": "message@1.0"})["status"] == 404


def test_transactions_by_tags_owner_and_recipient(n: TestNode, arweave: RsaKey) -> None:
    refs = [item(n, arweave, kind=kind, target=b64u(b"x" * 32)) for kind in ("a", "b", "c")]
    stored(n, {"kind": "a", "note": "nobody signed this"})

    def ids(arguments: str) -> set[str]:
        query = f"{{ transactions({arguments}) {{ edges {{ cursor node {{ id }} }} }} }}"
        return {edge["node"]["id"] for edge in graph(n, query)["transactions"]["edges"]}

    assert ids('tags: [{name: "Kind", values: ["a", "b"]}]') == set(refs[:2])
    assert ids(f'tags: {{name: "kind", values: "c"}}, owners: ["{arweave.address}"]') == {refs[2]}
    assert ids(f'tags: [{{name: "kind", values: ["a"]}}], owners: ["{ALICE.address}"]') == set()
    assert ids('recipients: ["{}"]'.format(b64u(b"x" * 32))) == set(refs)
    assert ids(f'ids: ["{refs[0]}", "{refs[1]}"], tags: [{{name: "kind", values: ["b"]}}]') == {refs[1]}


def test_an_index_answers_whatever_else_is_stored(n: TestNode, arweave: RsaKey) -> None:
    """Once the index has all, no time at all is left to look at every message, and the answer is complete."""
    ref = item(n, arweave, kind="rare")
    stored(n, *({"kind": "rare", "n": number} for number in range(300)))

    def page(arguments: str) -> Any:
        query = f"{{ transactions({arguments}) {{ count pageInfo {{ hasNextPage }} edges {{ node {{ id }} }} }} }}"
        return graph(n, query)["transactions"]

    page('tags: [{name: "kind", values: ["none"]}]')  # the first query takes in what was written
    n.node.settings.put("query-seconds", 0)

    whole = {"count": "1", "pageInfo": {"hasNextPage": False}, "edges": [{"node": {"id": ref}}]}
    assert page('tags: [{name: "kind", values: ["rare"]}]') == whole
    assert page(f'owners: ["{arweave.address}"]') == whole, "owners alone will do"
    assert page(f'owners: ["{arweave.address}"], tags: [{{name: "kind", values: ["none"]}}]')["count"] == "0"
    target = "/~query@1.0/only=kind&kind=rare&return="
    assert text(ask(n, "GET", target + "boolean")) == "true"
    assert ask(n, "GET", target + "first-message")["data"] == b"1984"


def test_pages(n: TestNode, arweave: RsaKey) -> None:
    refs = {item(n, arweave, kind="page", number=str(number)) for number in range(5)}
    query = """query($after: String) { transactions(tags: [{name: "kind", values: ["page"]}], first: 2, after: $after)
               { pageInfo { hasNextPage endCursor } edges { node { id } } } }"""
    seen: list[str] = []
    after = None
    for _ in range(10):
        found = graph(n, query, after=after)["transactions"]
        seen += [edge["node"]["id"] for edge in found["edges"]]
        if not found["pageInfo"]["hasNextPage"]:
            break
        after = found["pageInfo"]["endCursor"]
    assert (len(seen), set(seen)) == (5, refs)


def test_aliases_messages_and_typename(n: TestNode) -> None:
    (ref,) = stored(n, {"colour": "mauve", "n": 1})
    found = graph(
        n, '{ __typename mine: message(keys: [{name: "colour", value: "mauve"}]) { key: id keys { name value } } }'
    )
    assert found["__typename"] == "Query"
    assert found["mine"] == {"key": ref, "keys": [{"name": "colour", "value": "mauve"}, {"name": "n", "value": "1"}]}


def test_has_results(n: TestNode) -> None:
    base = Message({"device": "query@1.0"})
    for body, want in (
        ('{"data":{"transactions":{"edges":[1]}}}', True),
        ('{"data":{"transactions":{"edges":[]}}}', False),
        ("[" * 5000, False),
        ("{}", False),
    ):
        assert n.node.resolve(base, Message({"path": "has_results", "body": body})) is want


@pytest.mark.parametrize(
    "query",
    [
        "",
        "{",
        "}",
        "{ a",
        "mutation { a }",
        "{ transactions { edges } } { b }",
        "{ ...F }",
        "{ a @skip(if: true) }",
        "{ a(b: ) }",
        '{ a(b: "x) }',
        "{ nonsense }",
        "{ transactions { edges } }",
        '{ transactions(first: 0, recipients: "x") { edges } }',
        '{ transactions(first: 101, recipients: "x") { edges } }',
        "{ transactions(ids: 5) { edges } }",
        "{ transactions(tags: [1]) { edges } }",
        "{" * 5000,
        "{ a(b: " + "[" * 5000 + ") }",
        "query(" + "$a: " + "[" * 5000,
        "{ " + "a " * 20_000 + "}",
        "x" * 100_000,
        "{ a(b: \x00) }",
        "{ message(keys: []) { id } }",
        r'{ transactions(owners: ["\ud800"]) { edges { cursor } } }',
        r'{ transactions(tags: [{name: "\ud800", values: ["x"]}]) { edges { cursor } } }',
        r'{ transactions(tags: [{name: "x", values: ["\udfff"]}]) { edges { cursor } } }',
        r'{ transactions(recipients: ["\ud800\ud800"], after: "\ud801") { edges { cursor } } }',
        r'{ message(keys: [{name: "x", value: "\ud800"}]) { id } }',
        r'{ message(keys: [{name: "\ud800", value: "x"}]) { id } }',
        r'{ transaction(id: "\ud800") { id } }',
    ],
    ids=range(30),
)
def test_what_is_no_query_is_the_callers_error(n: TestNode, query: str) -> None:
    body = json.dumps({"query": query}).encode()
    assert 400 <= http(n, "POST", "/~query@1.0/graphql", {"content-type": "application/json"}, body).status < 500


@pytest.mark.parametrize("given", [["\ud800"], "\ud800", {"a": [["\ud800"]]}, [[[[0]]] * 9]])
def test_variables_are_the_callers_too(n: TestNode, given: Any) -> None:
    query = "query ($o: [String!]) { transactions(owners: $o) { edges { cursor } } }"
    body = json.dumps({"query": query, "variables": {"o": given}}).encode()
    assert http(n, "POST", "/graphql", {"content-type": "text/plain"}, body).status == 400
    deep = b'{"query": "{ a(b: $x) }", "variables": {"x": ' + b"[" * 900 + b"]" * 900 + b"}}"
    assert 400 <= http(n, "POST", "/graphql", {"content-type": "text/plain"}, deep).status < 500


def test_the_grammar() -> None:
    text_ = (
        'query Q($a: [Int!]! = [1, 2], $b: T) # note\n{ x: f(i: -1, f: 1.5e3, s: "a\\"\\u00e9", e: ENUM, n: null, '
        "o: {k: $b}, l: $a, t: true) { g } }"
    )
    (one,) = graphql.parse(text_, {"B": "given"})
    assert (one.name, one.alias, [inner.name for inner in one.fields]) == ("f", "x", ["g"])
    want = {"i": -1, "f": 1500.0, "s": 'a"é', "e": "ENUM", "n": None, "o": {"k": "given"}, "l": [1, 2], "t": True}
    assert one.arguments == want
    with pytest.raises(SizeError):
        graphql.parse("{" + "a{" * 50 + "b" + "}" * 51, {})
    with pytest.raises(ParameterError):
        graphql.parse("{ a(b: 12abc) }", {})


def test_the_operator_finds_everything() -> None:
    with node(flags={"trail.public": False}) as n:
        stored(n, sign({"colour": "red"}, ALICE))
        target = "/~query@1.0/only=colour&colour=red&return=count"
        assert int(text(send(n, sign({"path": target, "method": "POST"}, operator()), target))) >= 1
