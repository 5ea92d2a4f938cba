"""The node message: what is shown, who changes it, what a restart remembers (ao-core 10.8)."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Message, config
from hyperpy.commitments import commit
from hyperpy.errors import ConfigError, Forbidden, MessageNotFound, ParameterError
from hyperpy.http.wire import Ingress
from hyperpy.keys import RsaKey
from hyperpy.message import Link
from hyperpy.node import Node
from hyperpy.registry import Registry
from hyperpy.settings import Settings
from hyperpy.store.memory import MemoryStore
from hyperpy.testing import TestNode, node, wallet

PATH = "/~meta@1.0/info"


def operator() -> RsaKey:
    return wallet("operator")


def made(store: MemoryStore | None = None, **flags: Any) -> Settings:
    return Settings(
        config.load(environ={}, flags=flags),
        store if store is not None else MemoryStore(),
        address=wallet().address,
        operator=operator().address,
        devices=Registry(),
    )


def order(items: dict[str, Any], key: RsaKey | None = None, **options: Any) -> Message:
    """Return a request as the node hands it to meta@1.0: signed, its verified self in the private part."""
    signed = commit(Message({"path": PATH, "method": "POST", **items}), key or operator(), **options)
    return Message.make({**signed.raw_items(), "path": b"info"}, signed.commitments, {"order": signed})


# -- reading -----------------------------------------------------------------------------------


def test_what_is_shown() -> None:
    settings = made(**{"http.port": 0, "meta.wallet": "/secret/place.json", "store.dir": "/secret/store"})
    info = settings.info()
    assert info["address"] == wallet().address.encode()
    assert info["operator"] == operator().address.encode()
    identities = info["identities"]
    assert isinstance(identities, Message)
    assert identities["default"] == Message({"address": wallet().address})
    assert b"message@1.0" in info["devices"]  # type: ignore[operator]
    assert b"/secret" not in repr(info).encode()
    assert info is settings.info(), "made once"
    assert settings.build()["node"] == b"hyperpy"


def test_it_is_a_mapping() -> None:
    settings = made()
    assert settings["operator"] == operator().address.encode()
    assert sorted(settings) == list(settings)
    assert len(settings) == len(list(settings))
    assert settings.setting("absent", 5) == 5
    assert settings.devices()["message@1.0"] == "hyperpy.devices.message"


def test_extra_keys_of_the_configuration_and_no_private_ones() -> None:
    given = config.load(environ={}, flags={})
    assert not [name for name in made() if name.startswith("priv")]
    assert given.as_message().get("operator") is None


# -- changing ----------------------------------------------------------------------------------


def test_a_change_is_kept_and_counted() -> None:
    store = MemoryStore()
    settings = made(store)
    assert settings.change(order({"zone": "north", "nested": {"a": 1}, "list": [1, "b"]})) == 1
    assert settings.change(order({"zone": "south"})) == 2
    assert settings["zone"] == b"south"
    assert settings.info()["zone"] == b"south"
    again = made(store)
    assert again["zone"] == b"south"
    assert again["nested"] == Message({"a": 1})
    assert again["list"] == (1, b"b")
    assert again.setting("history") == 2
    assert "history" not in again.info()
    assert not [name for name in again if "order" in name]


def test_the_operator_is_who_the_last_change_says() -> None:
    store = MemoryStore()
    settings = made(store)
    chief = wallet("chief")
    settings.change(order({"operator": chief.address}))
    for known in (settings, made(store)):
        assert known.operator == chief.address
        with pytest.raises(Forbidden):
            known.change(order({"zone": "x"}))
    assert made(store).change(order({"zone": "x"}, chief)) == 2


@pytest.mark.parametrize("name", ["path", "method", "host", "address", "identities", "devices", "device", "body"])
def test_names_that_are_no_settings(name: str) -> None:
    settings = made()
    before = dict(settings)
    if name in ("path", "method"):
        return
    settings.change(order({name: "evil"}))
    assert {**dict(settings), "history": 0} == {**before, "history": 0}
    assert settings.info()["address"] == wallet().address.encode()


def test_who_may_not() -> None:
    settings = made()
    genuine = order({"zone": "x"})
    strangers = order({"zone": "x"}, wallet("mallory"))
    bare = Message({"zone": "x"})
    without = Message.make(dict(genuine.raw_items()), genuine.commitments)
    partial = order({"zone": "x"}, committed=["zone"])
    lying = Message.make({**genuine.raw_items()}, genuine.commitments, {"order": "x"})
    for request in (strangers, bare, without, partial, lying):
        assert not settings.is_operator(request)
        with pytest.raises(Forbidden, match="Unauthorized"):
            settings.change(request)
    assert "zone" not in settings
    assert settings.is_operator(genuine)


def test_only_what_was_signed_and_asked_changes() -> None:
    settings = made()
    genuine = order({"zone": "north", "b": "1"})
    twisted = Message.make({**genuine.raw_items(), "zone": b"evil", "more": b"x"}, genuine.commitments, genuine.private)
    settings.change(twisted)
    assert "zone" not in settings
    assert "more" not in settings
    assert settings["b"] == b"1"


def test_an_order_is_used_up_for_good() -> None:
    store = MemoryStore()
    request = order({"zone": "north"})
    made(store).change(request)
    for _ in range(2):
        with pytest.raises(Forbidden, match="carried out before"):
            made(store).change(request)
    assert made(store).setting("history") == 1


def test_a_permanent_node_message() -> None:
    settings = made()
    settings.change(order({"initialized": "permanent"}))
    with pytest.raises(Forbidden, match="permanent"):
        settings.change(order({"zone": "x"}))
    with node(flags={"meta.initialized": "permanent"}) as n:
        reply = n.post(PATH, b"", {"zone": "x"})
        assert (reply["status"], b"permanent" in reply["body"]) == (400, True)  # type: ignore[operator]


def test_links_and_the_nodes_own_address_are_refused() -> None:
    settings = made()
    for item in (Link("A" * 43), [Link("A" * 43)], {"a": {"b": Link("A" * 43)}}):
        with pytest.raises((ParameterError, MessageNotFound)):
            settings.change(order({"on": item}))
    with pytest.raises(ConfigError):
        settings.change(order({"operator": wallet().address}))
    assert settings.operator == operator().address
    assert "history" not in dict(settings)


def test_a_setting_of_the_nodes_own() -> None:
    store = MemoryStore()
    made(store).put("note", [1, 2])
    assert made(store)["note"] == (1, 2)


# -- who is who --------------------------------------------------------------------------------


def test_reply_signers() -> None:
    settings = made(**{"scheduler.schedulers": ["S"], "scheduler.authorities": ["A", "B"]})
    assert settings.reply_signers() == {wallet().address, "S", "A", "B"}
    settings.put("scheduler", b"C")
    assert "C" in settings.reply_signers()


@pytest.mark.parametrize(
    "listed",
    [b"B, C", b'"B", "C"', b"B,C,", [b"B", b"C"], {"1": b"B", "2": b"C"}, b"B?hint=http://x:1, C"],
    ids=["comma", "structured field", "no space", "list", "map", "hints"],
)
def test_reply_signers_in_every_form_of_a_list(listed: Any) -> None:
    settings = made()
    settings.put("authority", listed)
    assert settings.reply_signers() == {wallet().address, "B", "C"}
    settings.put("scheduler", f"A, {wallet().address}")
    with pytest.raises(ConfigError, match="sign-on-request"):
        settings.change(order({"sign-on-request": True}))


def test_peers_follow_the_settings() -> None:
    settings = made(**{"relay.peers": ["http://a:1"]})
    assert list(settings.peers()) == ["http://a:1"]
    settings.put("relay-peers", "http://b:1")
    assert list(settings.peers()) == ["http://b:1"]
    settings.put("relay-peers", "http://b:1, http://c:1")
    assert list(settings.peers()) == ["http://b:1", "http://c:1"]


def test_readers() -> None:
    assert made().readers(order({})) is None
    closed = made(**{"trail.public": False})
    assert closed.readers(None) == frozenset()
    assert closed.readers(Message()) == frozenset()
    assert closed.readers(order({})) is None
    mallory = wallet("mallory")
    assert closed.readers(order({"x": "1"}, mallory)) == {mallory.address}
    assert closed.readers(order({"x": "1"}, mallory, committed=["x"])) == frozenset()
    closed.put("trail-public", b"true")
    assert closed.readers(None) is None


# -- hooks -----------------------------------------------------------------------------------------


def ingress(peer: str = "127.0.0.1", **private: Any) -> Ingress:
    return Ingress(Message(), private={"peer": peer, **private})


def test_hooks_of_a_request() -> None:
    settings = made()
    assert list(settings.request_hooks(ingress())) == []
    assert [hook.text("device") for hook in settings.request_hooks(ingress("10.0.0.1"))] == ["rate-limit@1.0"]
    assert [hook.text("device") for hook in settings.request_hooks(ingress(authorization=b"Basic eDp5"))] == [
        "auth-hook@1.0"
    ]
    assert list(settings.request_hooks(ingress(authorization=b"Bearer x"))) == []
    assert [hook.text("device") for hook in settings.request_hooks(ingress(**{"!x": b"y"}))] == ["auth-hook@1.0"]
    settings.put("on", {"request": [{"device": "a@1.0"}, {"device": "b@1.0"}, "rubbish"], "step": {"device": "s@1.0"}})
    both = settings.request_hooks(ingress("10.0.0.1", authorization=b"Basic eDp5"))
    assert [hook.text("device") for hook in both] == ["rate-limit@1.0", "auth-hook@1.0", "a@1.0", "b@1.0"]
    assert [hook.text("device") for hook in settings.hooks("step")] == ["s@1.0"]
    assert list(settings.hooks("absent")) == []
    settings.put("on", "rubbish")
    assert list(settings.hooks("request")) == []
    settings.put("rate-limit-requests", 0)
    assert list(settings.request_hooks(ingress("10.0.0.1"))) == []


# -- a whole node ------------------------------------------------------------------------------------


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def start(store: MemoryStore, **flags: Any) -> TestNode:
    settings = config.load(environ={}, flags=flags)
    return TestNode(Node(settings, key=wallet(), store=store, operator=operator().address))


def test_the_initialized_switch(store: MemoryStore) -> None:
    n = start(store, **{"meta.initialized": "false"})
    assert n.get("/~message@1.0&a=1/a")["status"] == 400
    assert n.get(PATH)["status"] == 200
    n.node.settings.change(order({"initialized": True}))
    assert n.get("/~message@1.0&a=1/a")["body"] == b"1"
    assert start(store, **{"meta.initialized": "false"}).get("/~message@1.0&a=1/a")["body"] == b"1"


def test_info_over_http_is_quick_and_whole(store: MemoryStore) -> None:
    n = start(store)
    assert n.get(f"{PATH}/address")["body"] == wallet().address.encode()
    assert n.get(f"{PATH}/operator")["body"] == operator().address.encode()
    assert n.get(f"{PATH}/absent")["status"] == 404
    assert n.get("/~meta@1.0/build/node")["body"] == b"hyperpy"


# -- changes that must take effect, or be refused ----------------------------------------------


@pytest.mark.parametrize("off", [False, "false"])
def test_reply_signing_is_turned_off_by_the_operator(off: Any) -> None:
    with node() as n:
        assert n.get("/~message@1.0&a=1/a").commitments
        n.node.settings.change(order({"force-signed": off}))
        assert not n.get("/~message@1.0&a=1/a").commitments


@pytest.mark.parametrize("on", [True, "true"])
def test_signing_on_request_is_turned_on_by_the_operator(on: Any) -> None:
    with node() as n:
        assert n.get("/~message@1.0&a=1/commit")["status"] == 403
        n.node.settings.change(order({"sign-on-request": on}))
        assert n.get("/~message@1.0&a=1/commit")["status"] == 200


def test_signing_on_request_is_refused_where_assignments_are_signed() -> None:
    settings = made(**{"scheduler.schedulers": [wallet().address]})
    with pytest.raises(ConfigError, match="scheduler or authority"):
        settings.change(order({"sign-on-request": True}))
    settings = made(**{"http.sign-on-request": True})
    with pytest.raises(ConfigError, match="scheduler or authority"):
        settings.change(order({"authorities": [wallet().address]}))
    assert settings.setting("authorities") == ()


@pytest.mark.parametrize(
    ("name", "item"),
    [("port", 1), ("cors", False), ("host-with-port", True), ("worker-threads", 2), ("default-request", "/x")],
)
def test_what_cannot_change_now_is_refused(name: str, item: Any) -> None:
    settings = made()
    with pytest.raises(ConfigError, match=f"'{name}' cannot change while"):
        settings.change(order({name: item}))
    assert settings.change(order({name: settings.setting(name)})) == 1, "what it is already may be sent along"


def test_a_switch_is_true_or_false() -> None:
    settings = made()
    for item in ("perhaps", 1, ["true"], {"a": 1}):
        with pytest.raises(ConfigError, match="either true or false"):
            settings.change(order({"force-signed": item}))
