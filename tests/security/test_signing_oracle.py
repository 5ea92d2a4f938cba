"""A reply is not an order (design 5): nothing the node can be made to sign gives anybody a right."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hyperpy import commitments, config
from hyperpy.codecs import ans104, json
from hyperpy.commitments import http_form, unsigned_id
from hyperpy.errors import ConfigError, InvalidSignature
from hyperpy.http.wire import RawReply
from hyperpy.keys import RsaKey
from hyperpy.message import Message, committed_list
from hyperpy.node import Node
from hyperpy.reply import without_reply_signatures
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet
from tests.security.attack import INFO, arrive, ask, http, mallory, operator, order, send, sign, text

EVIL = mallory().address
JSON = {"content-type": "application/json"}


@pytest.fixture
def n() -> Iterator[TestNode]:
    with node() as made:
        before = dict(made.node.settings)
        yield made
        assert dict(made.node.settings) == before, "an attack changed the settings"
        assert made.node.settings.operator == operator().address


@pytest.fixture(scope="module")
def big_key() -> RsaKey:
    """A key of the size that ANS-104 takes."""
    return RsaKey.generate(4096)


def resent(reply: RawReply) -> dict[str, bytes]:
    """Return the headers of a reply as an attacker sends them back."""
    return {name.decode(): text for name, text in reply.headers if not name.startswith(b"access-control")}


def signers(n: TestNode, message: Message) -> list[str]:
    """Return whom the node counts as signers of a message sent to it."""
    form = http_form(message)
    return counted(ask(n, "POST", "/~message@1.0/committers", form.headers, form.body or b""))


def counted(reply: Message) -> list[str]:
    assert reply["status"] == 200
    return [reply.text(key) for key in reply if key.isdigit()]


# -- orders ------------------------------------------------------------------------------------


def test_the_operator_can_and_others_cannot() -> None:
    with node() as n:
        assert order(n, operator(), zone="north")["status"] == 200
        assert n.node.settings["zone"] == b"north"
        refused = order(n, mallory(), zone="south")
        assert (refused["status"], text(refused)) == (400, "Unauthorized")
        assert send(n, Message({"path": INFO, "method": "POST", "zone": "south"}), INFO)["status"] == 400
        assert n.node.settings["zone"] == b"north"


@pytest.mark.parametrize(
    "path",
    [
        f"/~message@1.0/set&operator={EVIL}",
        f"/~message@1.0&method=POST/set&operator={EVIL}&x=1",
        f"/~message@1.0/set?operator={EVIL}",
        f"/~json@1.0/serialize&operator={EVIL}",
        f"/~message@1.0&operator={EVIL}",
    ],
    ids=range(5),
)
def test_a_signed_reply_is_no_order(n: TestNode, path: str) -> None:
    reply = http(n, "GET", path)
    assert reply.status == 200
    assert dict(reply.headers).get(b"signature"), "the node must have signed it, else this attacks nothing"
    for target in (INFO, INFO + "?x=1"):
        again = ask(n, "POST", target, resent(reply), reply.body)
        assert "history-length" not in again


def test_a_signed_reply_inside_other_messages_is_no_order(n: TestNode) -> None:
    made = ask(n, "GET", f"/~message@1.0/set&operator={EVIL}")
    body = json.encode(made)
    assert "history-length" not in ask(n, "POST", INFO, JSON, body)
    wrapped = json.encode(Message({"body": made, "r": made, "b": {"device": "meta@1.0"}}))
    assert "history-length" not in ask(n, "POST", INFO, JSON, wrapped)
    for path in ("/~apply@1.0/pair&base=b&request=r", "/~apply@1.0/info&base=b&request=r"):
        assert "history-length" not in ask(n, "POST", path, JSON, wrapped)


def test_the_operator_is_never_the_node() -> None:
    key = wallet()
    with pytest.raises(ConfigError, match="is the node's own"):
        Node(config.load(environ={}), key=key, store=MemoryStore(), operator=key.address)
    with node() as n:
        assert order(n, operator(), operator=key.address)["status"] == 400
        assert n.node.settings.operator == operator().address


@pytest.mark.parametrize(
    "target",
    [
        f"/~meta@1.0/info?operator={EVIL}",
        f"/~meta@1.0/info&operator={EVIL}",
        f"/~meta@1.0/info?1.operator={EVIL}",
        f"/~meta@1.0&operator={EVIL}/info",
        f"/~meta@1.0/info&greeting={EVIL}",
    ],
    ids=range(5),
)
@pytest.mark.parametrize("form", ["httpsig", "json"])
def test_a_message_the_operator_signed_for_something_else_is_no_order(n: TestNode, target: str, form: str) -> None:
    greeting = sign({"greeting": "hello"}, operator())
    if form == "json":
        reply = ask(n, "POST", target, {**JSON, "operator": EVIL}, json.encode(greeting))
    else:
        reply = send(n, greeting, target)
    assert text(reply) == "Unauthorized"


def test_only_keys_under_the_operators_signature_change() -> None:
    made = sign({"path": INFO, "method": "POST", "zone": "north"}, operator())
    with node() as n:
        headers = {**JSON, "operator": EVIL, "height": "1"}
        assert ask(n, "POST", INFO + "?depth=1", headers, json.encode(made))["status"] == 200
        assert n.node.settings["zone"] == b"north"
        assert n.node.settings.operator == operator().address
        assert not {"height", "depth", "1.zone"} & set(n.node.settings)


def test_an_order_is_carried_out_once() -> None:
    made = sign({"path": INFO, "method": "POST", "zone": "north"}, operator())
    with node() as n:
        assert send(n, made, INFO)["status"] == 200
        assert order(n, operator(), zone="south")["status"] == 200
        again = send(n, made, INFO)
        assert (again["status"], text(again)) == (400, "this order was carried out before")
        assert n.node.settings["zone"] == b"south"


def test_an_order_inside_another_message_was_verified_by_nobody(n: TestNode) -> None:
    genuine = sign({"path": "info", "method": "POST", "zone": "x"}, operator())
    forged = Message.make({"path": b"info", "method": b"POST", "operator": EVIL.encode()}, genuine.commitments)
    for inner in (genuine, forged):
        outer = Message({"b": {"device": "meta@1.0"}, "r": inner})
        reply = ask(n, "POST", "/~apply@1.0/pair&base=b&request=r", JSON, json.encode(outer))
        assert reply["status"] >= 400


def test_an_order_read_from_json_in_a_path_was_verified_by_nobody(n: TestNode) -> None:
    genuine = sign({"path": "info", "method": "POST", "zone": "x"}, operator())
    reply = ask(
        n, "POST", "/~apply@1.0/pair&base=b&r+resolve=~json@1.0/deserialize&request=r", {"body": json.encode(genuine)}
    )
    assert reply["status"] >= 400


def test_the_operators_rights_do_not_stick_to_stored_messages(n: TestNode) -> None:
    made = sign({"note": "hello", "method": "POST", "path": "info"}, operator())
    send(n, made, "/~message@1.0/note")
    for ref in (commitments.signed_id(made), unsigned_id(made)):
        assert ask(n, "POST", f"/~apply@1.0/pair&base=b&request={ref}", {"b": "x"})["status"] >= 400
        assert ask(n, "GET", f"/{ref}~meta@1.0/info?method=POST&operator={EVIL}").get("history-length") is None


# -- reply signatures --------------------------------------------------------------------------


def test_a_status_signed_by_the_node_is_a_reply(n: TestNode) -> None:
    own = wallet()
    assert signers(n, sign({"x": "1", "status": 200}, own)) == []
    assert signers(n, sign({"x": "1", "status": "shipped"}, own)) == [own.address]
    assert signers(n, sign({"x": "1"}, own)) == [own.address]


def test_a_status_signed_by_anybody_else_is_theirs(n: TestNode) -> None:
    assert signers(n, sign({"x": "1", "status": 200}, mallory())) == [EVIL]


def test_listed_schedulers_and_authorities_answer_too() -> None:
    for name in ("scheduler.schedulers", "scheduler.authorities"):
        with node(flags={name: [EVIL]}) as n:
            assert signers(n, sign({"x": "1", "status": 200}, mallory())) == []
            assert signers(n, sign({"x": "1"}, mallory())) == [EVIL]


def test_tags_have_no_types(big_key: RsaKey) -> None:
    """In ANS-104 a tag ``Status`` by the node is a reply's; by a user it is the user's own word."""
    own = Node(config.load(environ={}), key=big_key, store=MemoryStore(), operator=operator().address)
    with own:
        n = TestNode(own)
        for tags, found in (({"status": "200"}, []), ({"Status": "200"}, []), ({"colour": "red"}, [big_key.address])):
            item = ans104.encode_message(sign(tags, big_key, device="ans104@1.0"))
            reply = ask(n, "POST", "/~message@1.0/committers", {"content-type": "application/ans104"}, item)
            assert counted(reply) == found, tags
    with node() as other:
        item = ans104.encode_message(sign({"Status": "200"}, big_key, device="ans104@1.0"))
        reply = ask(other, "POST", "/~message@1.0/committers", {"content-type": "application/ans104"}, item)
        assert counted(reply) == [big_key.address]


def test_a_reply_is_one_in_the_older_dialects_too(n: TestNode) -> None:
    """The label says which dialect reads a signature; those sign texts, so types prove nothing."""
    form = http_form(sign({"x": "1", "status": 200}, wallet()))
    headers = {
        name: text.replace(b"comm-", b"sig-") if name.startswith("signature") else text
        for name, text in form.headers.items()
    }
    made = arrive(n, "POST", "/~message@1.0/committers", headers, form.body or b"").message
    dialects = {name: one for name, one in made.commitments.items() if "dialect" in one}
    assert dialects, "the older dialect must accept the signature, else this attacks nothing"
    plain = Message.make({**made.raw_items(), "status": b"200"}, dialects)
    with pytest.raises(InvalidSignature):
        ask(n, "POST", "/~message@1.0/committers", JSON, json.encode(plain))
    typed = Message.make(dict(made.raw_items()), dialects)
    assert counted(ask(n, "POST", "/~message@1.0/committers", JSON, json.encode(typed))) == []
    signers_of = without_reply_signatures(plain, {n.node.address}).commitments
    assert not [one for one in signers_of.values() if commitments.committer_of(one)]


@pytest.mark.parametrize("status", [None, "200", 200])
def test_nobody_chooses_which_keys_a_reply_signs(n: TestNode, status: object) -> None:
    """An unsigned commitment over some keys must not make the node sign just those."""
    items = {"operator": EVIL, "x": "1"} | ({} if status is None else {"status": status})
    partial = commitments.commit(Message(items), None, type="unsigned", committed=list(items))
    for path in ("/~message@1.0/set&y=2", "/~message@1.0", "/~message@1.0/set"):
        reply = send(n, partial, path)
        mine = [one for one in reply.commitments.values() if commitments.committer_of(one) == n.node.address]
        assert mine
        assert all("status" in committed_list(one) and isinstance(reply["status"], int) for one in mine)
        assert signers(n, reply) == []


# -- signing on request ------------------------------------------------------------------------

COMMITS = [
    "/~message@1.0&x=1/commit",
    "/~message@1.0&x=1/commit&type=rsa-pss-sha512",
    "/~message@1.0&x=1/commit&commitment-device=ans104@1.0",
    "/~httpsig@1.0&x=1/commit",
    "/~structured@1.0&x=1/commit",
    "/~json@1.0&x=1/commit",
    "/~ans104@1.0&x=1/commit",
    "/~cookie@1.0&x=1/commit&type=signed",
    "/(~message@1.0&x=1/commit)/x",
    "/~message@1.0&x=1/y?y+resolve=~message@1.0/commit",
    "/~message@1.0/commit~message@1.0",
    "/~patch@1.0&x=1/commit",
    "/~test-device@1.0&x=1/commit",
]


@pytest.mark.parametrize("path", COMMITS, ids=range(len(COMMITS)))
def test_commit_is_for_the_operator(n: TestNode, path: str) -> None:
    for reply in (ask(n, "GET", path), send(n, sign({"path": path, "method": "GET"}, mallory()), path)):
        mine = [one for one in reply.commitments.values() if commitments.committer_of(one) == n.node.address]
        assert all("status" in committed_list(one) for one in mine)
    assert ask(n, "GET", COMMITS[0])["status"] == 403


def test_commit_by_the_operator() -> None:
    path = "/~message@1.0&x=1/commit"
    with node() as n:
        reply = send(n, sign({"path": path, "method": "GET"}, operator()), path)
        assert reply["status"] == 200
        assert n.node.address in commitments.committers(reply)
        unbound = send(n, sign({"x": "1"}, operator()), "/~message@1.0/commit")
        assert unbound["status"] == 403, "a signature that covers no path fits every path"


def test_commit_with_sign_on_request() -> None:
    with node(flags={"http.sign-on-request": True}) as n:
        reply = ask(n, "GET", "/~message@1.0&x=1/commit")
        assert reply["status"] == 200
        assert any("status" not in committed_list(one) for one in reply.commitments.values())


def test_sign_on_request_is_refused_for_schedulers() -> None:
    for name in ("scheduler.schedulers", "scheduler.authorities"):
        flags = {"http.sign-on-request": True, name: [wallet().address]}
        with pytest.raises(ConfigError, match="sign-on-request"), node(flags=flags):
            pass


def test_timers_do_not_sign(n: TestNode) -> None:
    reply = ask(n, "GET", "/~cron@1.0/once", {"cron-path": "/~message@1.0&x=evil/commit"})
    assert reply["status"] == 200
    until = time.monotonic() + 5
    while n.node.timers.list() and time.monotonic() < until:
        time.sleep(0.01)
    keyid = wallet().keyid.encode()
    assert not [data for _, data in n.node.store.scan("commitments") if keyid in data]


def test_a_step_made_again_does_not_sign(n: TestNode) -> None:
    """A refused commit is on the trail; asking for its hashpath after its result is gone must not run it."""
    ask(n, "GET", "/~message@1.0&x=evil/commit")
    store = n.node.store
    refused = [n.node.trail.read(key) for key, _ in store.scan("trail")]
    record = next(one for one in refused if one is not None and one.key == "commit")
    store.write([], [("messages", key) for key, data in store.scan("messages") if b"signing with" in data])
    reply = ask(n, "GET", "/" + record.hashpath_after)
    assert reply["status"] >= 400


def test_a_reply_as_an_item_is_a_reply(big_key: RsaKey) -> None:
    """Who asks for ANS-104 gets the reply signed as an item; its tag ``status`` is covered like any other."""
    own = Node(config.load(environ={}), key=big_key, store=MemoryStore(), operator=operator().address)
    with own:
        n = TestNode(own)
        for path in (f"/~message@1.0/set&operator={EVIL}", f"/~message@1.0&operator={EVIL}", "/~message@1.0&x=1/x"):
            reply = http(n, "GET", path, {"accept": "application/ans104"})
            assert dict(reply.headers)[b"codec-device"] == b"ans104@1.0"
            item = {"content-type": "application/ans104"}
            assert counted(ask(n, "POST", "/~message@1.0/committers", item, reply.body)) == []
            assert "history-length" not in ask(n, "POST", INFO, item, reply.body)
