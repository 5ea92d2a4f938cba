"""A device gets what it asks for only if it is bundled, or the operator granted it (design 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperpy import Context, Message, device, key
from hyperpy.errors import ConfigError
from hyperpy.testing import node

CAPABILITIES = ("node", "timers", "keys", "http", "store", "metrics")


def spy(*needs: str) -> type:
    """Return a device that asks for capabilities and says which it got."""

    @device("spy@1.0", needs=needs)
    class Spy:
        def start(self, **given: Any) -> None:
            self.given = given

        @key
        def got(self) -> list[str]:
            return sorted(self.given)

    return Spy


@pytest.mark.parametrize("need", CAPABILITIES)
def test_nothing_without_a_grant(need: str) -> None:
    with node(spy(need)) as n:
        reply = n.get("/~spy@1.0/got")
        assert reply["status"] == 403
        assert need in reply.text("body")
        assert n.get("/~message@1.0&a=1/a")["status"] == 200


@pytest.mark.parametrize("need", CAPABILITIES)
def test_a_grant_gives_it(need: str) -> None:
    with node(spy(need), flags={"devices.grant": {"spy@1.0": [need]}}) as n:
        reply = n.get("/~spy@1.0/got")
        assert (reply["status"], reply["1"]) == (200, need.encode())


def test_a_grant_gives_no_more_than_asked_and_no_less_than_needed() -> None:
    with node(spy("metrics"), flags={"devices.grant": {"spy@1.0": list(CAPABILITIES)}}) as n:
        reply = n.get("/~spy@1.0/got")
        assert [reply.get("1"), reply.get("2")] == [b"metrics", None]
    with node(spy("metrics", "keys"), flags={"devices.grant": {"spy@1.0": ["metrics"]}}) as n:
        assert n.get("/~spy@1.0/got")["status"] == 403


def test_a_grant_is_for_one_device() -> None:
    with node(spy("keys"), flags={"devices.grant": {"other@1.0": ["keys"]}}) as n:
        assert n.get("/~spy@1.0/got")["status"] == 403


def test_replacing_a_bundled_device_gives_none_of_its_rights() -> None:
    @device("meta@1.0", needs=("node",))
    class Impostor:
        def start(self, node: Any) -> None:
            self.node = node

        @key
        def info(self) -> str:
            return "mine"

    with pytest.raises(ConfigError, match="claimed by"), node(Impostor):
        pass
    with node(Impostor, flags={"devices.override": ["meta@1.0"]}) as n:
        assert n.get("/~meta@1.0/info")["status"] == 403


@pytest.mark.parametrize("name", ["hyperpy.devices.meta.py", "hyperpy.devices.spy.py"])
def test_a_files_name_makes_nothing_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(
        "from hyperpy import device, key\n"
        "@device('spy@1.0', needs=('keys',))\n"
        "class Spy:\n"
        "    def start(self, keys):\n"
        "        self.keys = keys\n"
        "    @key\n"
        "    def address(self) -> str:\n"
        "        return self.keys.address\n",
        "utf-8",
    )
    with node(name) as n:
        assert n.get("/~spy@1.0/address")["status"] == 403


def test_an_unknown_capability_is_never_there() -> None:
    with node(spy("root"), flags={"devices.grant": {"spy@1.0": ["root"]}}) as n:
        assert n.get("/~spy@1.0/got")["status"] >= 400


def test_deterministic_keys_see_nothing_of_the_node() -> None:
    @device("peek@1.0")
    class Peek:
        @key
        def clock(self, ctx: Context) -> float:
            return ctx.now()

        @key
        def dice(self, ctx: Context) -> bytes:
            return ctx.random(4)

        @key
        def net(self, ctx: Context) -> Message:
            return ctx.fetch("http://127.0.0.1:1", Message())

        @key
        def sign(self, ctx: Context) -> Message:
            return ctx.sign(Message({"x": "1"}))

        @key
        def config(self, ctx: Context) -> str:
            return str(ctx.config["operator"])

    with node(Peek, flags={"http.sign-on-request": True}) as n:
        for name in ("clock", "dice", "net", "sign", "config"):
            reply = n.get(f"/~peek@1.0/{name}")
            assert reply["status"] == 500, name
            assert b"is deterministic and asked for" in reply["body"]


def test_the_network_brings_no_code() -> None:
    for name in ("http://evil/device.py", "evil@1.0", "../evil@1.0", "file:///etc/passwd@1.0"):
        with node() as n:
            reply = n.request("POST", "/x", {"device": name})
            assert reply["status"] == 404
    with pytest.raises(ConfigError, match="does not exist"), node("http://127.0.0.1:1/device.py"):
        pass
