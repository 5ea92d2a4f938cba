"""An order to sign is good for what the operator wrote, where it was written, once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hyperpy import commitments, config, device, key
from hyperpy.codecs import ans104, flat, json, structured
from hyperpy.commitments import http_form
from hyperpy.errors import HyperpyError
from hyperpy.keys import RsaKey
from hyperpy.message import As, Message, Resolve, committed_list
from hyperpy.node import Node
from hyperpy.sdk import Context
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node
from tests.security.attack import ask, mallory, operator, send, sign, text

JSON = {"content-type": "application/json"}
COMMIT = "/~message@1.0/commit"
OWN = frozenset({"note", "path", "method", "device", "ao-types"})
"""Keys that the operator wrote, the device by the path."""
EVIL = {"type": "Assignment", "slot": 7, "action": "Transfer"}


def statements(n: TestNode, reply: Message) -> list[frozenset[str]]:
    """Return the keys under each signature of the node that is more than a reply's."""
    mine = (one for one in reply.commitments.values() if commitments.committer_of(one) == n.node.address)
    return [frozenset(committed_list(one)) for one in mine if "status" not in committed_list(one)]


def kept(n: TestNode) -> list[bytes]:
    """Return what the store holds of commitments by the node."""
    return [data for _, data in n.node.store.scan("commitments") if n.node.address.encode() in data]


def posted(
    n: TestNode, message: Message, form: str, target: str = COMMIT, headers: Mapping[str, str] | None = None
) -> Message:
    headers = headers or {}
    if form == "httpsig":
        sent = http_form(message, bundle=True)
        return ask(n, "POST", target, {**sent.headers, **headers}, sent.body or b"")
    if form == "json":
        return ask(n, "POST", target, {**JSON, **headers}, json.encode(message))
    body = flat.serialize(structured.encode(message))
    return ask(n, "POST", target, {"codec-device": "flat@1.0", **headers}, body)


def an_order() -> Message:
    return sign({"path": COMMIT, "method": "POST", "note": "hello"}, operator())


FORMS = ["httpsig", "json", "flat"]


@pytest.mark.parametrize("form", FORMS)
def test_an_order_to_sign_is_good_once_whatever_form_it_comes_in(form: str) -> None:
    made = an_order()
    with node() as n:
        first = posted(n, made, form)
        assert first["status"] == 200
        assert len(statements(n, first)) == 1
        for again in FORMS:
            reply = posted(n, made, again)
            assert (reply["status"], text(reply)) == (403, "this order was carried out before")
            assert not statements(n, reply)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_signed_is_what_the_operator_signed(form: str) -> None:
    with node() as n:
        headers = {"x-evil": "1", "accept": "evil/evil", "host": "evil", "target": "m", "committed": "x", "a+link": "b"}
        reply = posted(n, an_order(), form, COMMIT + "?target=m&action=Transfer&1.action=x", headers)
        assert reply["status"] == 200
        (names,) = statements(n, reply)
        assert names <= OWN
        assert "note" in names
        assert not {"action", "x-evil", "target"} & set(reply)


@pytest.mark.parametrize("form", ["json", "flat"])
def test_keys_beside_the_signed_ones_are_no_part_of_the_order(form: str) -> None:
    made = an_order()
    more = Message.make({**made.raw_items(), "target": b"m", "m": Message(EVIL)}, made.commitments)
    with node() as n:
        reply = posted(n, more, form)
        for names in statements(n, reply):
            assert names <= OWN
        assert "slot" not in reply


@pytest.mark.parametrize("who", [None, "mallory"])
@pytest.mark.parametrize("form", ["json", "flat"])
def test_nobody_narrows_an_order_with_another_commitment(form: str, who: str | None) -> None:
    made = sign({"path": COMMIT, "method": "POST", "amount": "1", "unless": "paid"}, operator())
    names = ["amount", "method", "path"]
    part = Message.make({name: made.raw(name) for name in names})
    own = commitments.commit(part, mallory()) if who else commitments.commit(part, None, type="unsigned")
    both = made.with_commitments({**made.commitments, **own.commitments})
    with node() as n:
        for names_signed in statements(n, posted(n, both, form)):
            assert {"amount", "unless"} <= names_signed


def test_an_order_that_leaves_its_method_unsigned_signs_no_method() -> None:
    made = sign({"path": COMMIT, "note": "hello"}, operator())
    with node() as n:
        (names,) = statements(n, send(n, made, COMMIT))
        assert names <= OWN - {"method"}


def test_a_message_inside_the_order_cannot_be_exchanged() -> None:
    """The operator's signature covers the signed ID of what is inside, which a forged text keeps."""
    bobs = sign({"action": "pay", "quantity": "1"}, mallory())
    forged = Message.make({"action": b"pay", "quantity": b"1000"}, bobs.commitments)
    wider = commitments.commit(Message({"a": "1"}), None, type="unsigned", committed=["a"])
    for true, false in ((bobs, forged), (Message({"a": "1"}), wider | {"quantity": b"1000"})):
        made = sign({"path": COMMIT, "method": "POST", "target": "m", "m": true}, operator())
        with node() as n:
            try:
                reply = posted(n, Message.make({**made.raw_items(), "m": false}, made.commitments), "json")
            except HyperpyError:
                continue
            assert not [one for one in statements(n, reply) if "quantity" in one]
            assert reply.text("quantity", "") != "1000" or not statements(n, reply)


def test_an_item_is_an_order_once() -> None:
    signer = RsaKey.generate(4096)
    big = RsaKey.generate(4096)
    with Node(config.load(environ={}), key=signer, store=MemoryStore(), operator=big.address) as inner:
        n = TestNode(inner)
        made = sign({"path": COMMIT, "method": "POST", "note": "hello"}, big, device="ans104@1.0")
        item = ans104.encode_message(made)
        headers = {"content-type": "application/ans104", "x-evil": "1"}
        first = ask(n, "POST", COMMIT + "?evil=1", headers, item)
        assert [one <= OWN for one in statements(n, first)] == [True]
        assert text(ask(n, "POST", COMMIT, headers, item)) == "this order was carried out before"


# -- a stranger's message on the way ---------------------------------------------------------------

_LUA = """function f(base, req)
  local status, r = ao.resolve({device="message@1.0"}, {path="commit", target="m", m={type="Assignment", slot="7"}})
  if type(r) == "table" then return r end
  return {err = tostring(status) .. " " .. tostring(r)}
end
commit = f"""


@device("deputy@1.0")
class Deputy:
    """Does what a message that a stranger stored makes it do."""

    @key(deterministic=False)
    def below(self, ctx: Context) -> object:
        """Have message@1.0 sign one level deeper."""
        return ctx.resolve(Message(EVIL), "commit")

    @key(deterministic=False)
    def commit(self, ctx: Context) -> object:
        """Do so under the name of the key that may sign."""
        return ctx.resolve(Message(EVIL), "commit")

    @key(deterministic=False)
    def form(self) -> object:
        """Return what stands for its result: resolved in the place of this one."""
        return Resolve((Message(EVIL), Message({"path": "commit"})))

    @key(deterministic=False)
    def alike(self) -> object:
        """Return a form that is opened as the base of the next step."""
        return As("message@1.0", Message({"path": "commit", **EVIL}))


def deputies(n: TestNode) -> list[str]:
    """Return paths of the operator over messages that strangers stored."""
    lua = {"device": "lua@5.3a", "module": {"content-type": "application/lua", "body": _LUA}}
    found = []
    for message, calls in (
        (Message(lua), ("f", "commit", "f/keys")),
        (Message({"device": "deputy@1.0"}), ("below", "commit", "form", "alike", "alike/type", "below/commit-not")),
        (Message({**EVIL, "p": COMMIT, "device": "apply@1.0"}), ("p", "commit-not")),
    ):
        ref = text(ask(n, "POST", "/~message@1.0/set/id", JSON, json.encode(message)))
        assert len(ref) == 43
        found += [f"/{ref}/{call}" for call in calls]
        found += [f"/({found[-1]})/x", f"/~message@1.0/set&m+resolve={found[-1]}"]
    return found


def test_what_strangers_stored_signs_nothing_in_the_operators_name() -> None:
    with node(Deputy) as n:
        for path in deputies(n):
            reply = send(n, sign({"path": path, "method": "GET"}, operator()), path, "GET")
            assert not statements(n, reply), path
        assert not kept(n)


def test_a_commit_further_on_gives_the_steps_before_it_nothing() -> None:
    with node(Deputy) as n:
        ref = text(ask(n, "POST", "/~message@1.0/set/id", JSON, json.encode(Message({"device": "deputy@1.0"}))))
        path = f"/{ref}/below/commit"
        reply = send(n, sign({"path": path, "method": "GET"}, operator()), path, "GET")
        assert reply["status"] == 403
        assert not kept(n)


def test_a_step_of_this_process_signs_no_more_than_was_asked() -> None:
    with node(Deputy) as n:
        made = n.node.resolve("/~message@1.0&x=1/commit")
        assert n.node.address in commitments.committers(made)
        for path in ("/~deputy@1.0/below", "/~deputy@1.0/commit", "/~deputy@1.0/form"):
            with pytest.raises(HyperpyError):
                n.node.resolve(path)


def test_a_hook_that_changes_the_path_gets_no_signature() -> None:
    @device("turn@1.0")
    class Turn:
        """A request hook that answers with a path of its own."""

        @key(deterministic=False)
        def request(self, request: Message) -> Message:
            """Put another path in the place of the operator's."""
            return request | {"body": (Message(EVIL), Message({"path": "commit"}))}

    with node(Turn) as n:
        n.node.settings.put("on", {"request": {"device": "turn@1.0"}})
        reply = send(n, an_order(), COMMIT)
        assert reply["status"] == 403
        assert not statements(n, reply)


# -- orders whose signature never arrives ----------------------------------------------------------------


@device("outside@1.0")
class Outside:
    """Does something that stays done."""

    def __init__(self) -> None:
        self.done = 0

    @key(deterministic=False)
    def act(self, base: Message) -> Message:
        """Count, and answer with the base."""
        self.done += 1
        return base


WIDE = {f"{n:05d}".ljust(60, "x"): "1" for n in range(5000)}
"""More keys than HTTP headers can name."""


def json_of(n: TestNode, made: Message, target: str) -> Message:
    return ask(n, "POST", target, {**JSON, "require-codec": "application/json"}, json.encode(made))


@pytest.mark.parametrize(
    ("path", "items", "status"),
    [
        (COMMIT, WIDE, 413),  # a reply that HTTP cannot carry
        (COMMIT + "/nowhere", {"note": "hello"}, 404),  # a later step that fails
    ],
)
def test_an_order_whose_signature_was_lost_is_as_good_as_new(path: str, items: dict[str, str], status: int) -> None:
    made = sign({"path": path, "method": "POST", **items}, operator())
    with node() as n:
        for _ in range(2):
            reply = posted(n, made, "json", path)
            assert reply["status"] == status
            assert not statements(n, reply)
            assert not kept(n), "a signature that nobody got is in the store"
        reply = json_of(n, made, path)
        if status == 413:  # the same order, in a form that can carry what is signed
            assert (reply["status"], len(statements(n, reply))) == (200, 1)
            assert text(json_of(n, made, path)) == "this order was carried out before"


def test_an_order_that_did_more_than_sign_is_used_up() -> None:
    """What was begun may have had its effect, also outside of this node."""
    path = COMMIT + "/act~outside@1.0/nowhere"
    made = sign({"path": path, "method": "POST", "note": "hello"}, operator())
    with node(Outside) as n:
        first = posted(n, made, "json", path)
        assert first["status"] == 404
        again = posted(n, made, "json", path)
        assert (again["status"], text(again)) == (403, "this order was carried out before")


def test_settings_that_changed_stay_counted() -> None:
    path = "/~meta@1.0/info/nowhere"
    made = sign({"path": path, "method": "POST", "motto": "one"}, operator())
    with node() as n:
        assert posted(n, made, "json", path)["status"] == 404
        assert n.node.settings.setting("motto") == b"one"
        assert text(posted(n, made, "json", path)) == "this order was carried out before"
