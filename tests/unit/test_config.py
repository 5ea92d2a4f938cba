"""Settings: sources and their order, names, types, ranges, origins, the node message, the docs page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hyperpy import config
from hyperpy.config.schema import CLASSES, KINDS, WORDS, each, wire_name
from hyperpy.errors import ConfigError
from hyperpy.message import Message

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def write(folder: Path, text: str) -> Path:
    file = folder / "node.toml"
    file.write_text(text, "utf-8")
    return file


def refused(*, file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(file, environ=environ or {}, flags={name.replace("__", "."): item for name, item in flags.items()})
    return caught.value


def test_defaults() -> None:
    made = config.load(environ={})
    assert made == config.Config()
    assert (made.http.host, made.http.port, made.http.sign) == ("127.0.0.1", 8734, True)
    assert (made.limits.body, made.limits.header, made.limits.headers) == (64 << 20, 64 << 10, 256 << 10)
    assert (made.limits.path, made.limits.parts, made.limits.nesting) == (64 << 10, 256, 64)
    assert (made.limits.keys, made.limits.deadline, made.limits.steps) == (10_000, 30.0, 10_000)
    assert (made.limits.recursion, made.http.threads, made.rate_limit.requests) == (64, 64, 1000)
    assert made.store.quota == 10_000_000_000
    assert made.relay.peers == made.devices.override == []
    assert made.trail.public
    assert not made.http.sign_on_request
    assert not made.scheduler.unsigned


def test_defaults_are_of_their_own_type() -> None:
    for section, item in each():
        name = f"{section.replace('_', '-')}.{item.name}"
        default = getattr(getattr(config.Config(), section), item.name)
        assert config.load(environ={}, flags={name: default}) is not None


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = write(tmp_path, "[http]\nport = 1\nhost = 'file'\nurl = 'file'\n[rate-limit]\nperiod = 5\n")
    environ = {"HYPERPY_HTTP_PORT": "2", "HYPERPY_HTTP_HOST": "env", "PATH": "/bin"}
    made = config.load(file, environ=environ, flags={"http.port": 3, "store.dir": None})
    assert (made.http.port, made.http.host, made.http.url) == (3, "env", "file")
    assert made.rate_limit.period == 5.0
    assert type(made.rate_limit.period) is float
    origins = {name: origin for name, _, origin, _ in made.rows()}
    assert origins["http.port"] == "flag"
    assert origins["http.host"] == "HYPERPY_HTTP_HOST"
    assert origins["http.url"] == str(file)
    assert origins["rate-limit.period"] == str(file)
    assert origins["store.dir"] == "default"


def test_rows_show_every_setting() -> None:
    rows = config.Config().rows()
    assert [name for name, *_ in rows] == [name.replace("_", "-") for name in KINDS]
    assert all(meaning and origin == "default" for *_, origin, meaning in rows)


def test_dashes_and_underscores_are_equal(tmp_path: Path) -> None:
    for text in ("[http]\nsign-on-request = true", "[http]\nsign_on_request = true"):
        assert config.load(write(tmp_path, text), environ={}).http.sign_on_request
    for text in ("[rate-limit]\nmin = -5", "[rate_limit]\nmin = -5"):
        assert config.load(write(tmp_path, text), environ={}).rate_limit.min == -5
    assert config.load(environ={}, flags={"http.sign-on-request": True}).http.sign_on_request
    assert config.load(environ={"HYPERPY_RATE_LIMIT_MIN": "-7"}).rate_limit.min == -7
    both = write(tmp_path, "[http]\nsign-on-request = true\nsign_on_request = false")
    assert "set twice" in refused(file=both).message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[htpp]\nport = 1", "'http'"),
        ("[http]\nprot = 1", "'port'"),
        ("[http]\nsign-on-requests = true", "'sign-on-request'"),
        ("[ratelimit]\nmin = 1", "'rate-limit'"),
        ("[zzz]\nport = 1", "Known:"),
        ("port = 1", "[port]"),
        ("[node]\nrelay-peers = []", "[relay] as peers"),
        ("[node]\nrelay_peers = []", "[relay] as peers"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(tmp_path: Path, text: str, hint: str) -> None:
    error = refused(file=write(tmp_path, text))
    assert hint in error.diagnostics()
    assert "node.toml" in error.message


def test_unknown_names_in_environment_and_flags() -> None:
    assert "'port'" in refused(environ={"HYPERPY_HTTP_PROT": "1"}).diagnostics()
    assert "HYPERPY_HTTP_PORT" in refused(environ={"HYPERPY_HTPP_PORT": "1"}).diagnostics()
    assert config.load(environ={"HYPERPY_SHARED": "/x", "HYPERPY_VECTORS": "/y"}) == config.Config()
    assert "'port'" in refused(http__prot=1).diagnostics()
    assert "'http'" in refused(htpp__port=1).diagnostics()
    assert "no section" in refused(nonsense=1).message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[http]\nport = '8734'", "a whole number"),
        ("[http]\nport = true", "a whole number"),
        ("[http]\nport = 1.5", "a whole number"),
        ("[http]\nport = 65536", "from 0 to 65535"),
        ("[http]\nport = -1", "from 0 to 65535"),
        ("[http]\nsign = 1", "true or false"),
        ("[http]\nhost = 1", "text"),
        ("[limits]\ndeadline = true", "a number"),
        ("[limits]\ndeadline = nan", "at least"),
        ("[limits]\ndeadline = inf", "at least"),
        ("[limits]\ndeadline = 0", "at least"),
        ("[limits]\nkeys = 0", "at least 1"),
        ("[relay]\npeers = 'http://x'", "a list of text"),
        ("[relay]\npeers = [1]", "a list of text"),
        ("[devices]\ngrant = ['x']", "a table of lists of text"),
        ("[devices.grant]\n'x@1.0' = 'node'", "a table of lists of text"),
        ("[routes]\ntable = ['x']", "a list of tables"),
        ("[meta]\ninitialized = 'maybe'", "one of true, false, permanent"),
    ],
)
def test_types_and_ranges(tmp_path: Path, text: str, word: str) -> None:
    error = refused(file=write(tmp_path, text))
    assert word in error.message
    assert "node.toml" in error.message


def test_environment_values() -> None:
    def one(name: str, text: str) -> config.Config:
        return config.load(environ={name: text})

    for text, truth in [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("no", False)]:
        assert one("HYPERPY_HTTP_SIGN", text).http.sign is truth
    assert one("HYPERPY_LIMITS_DEADLINE", "2.5").limits.deadline == 2.5
    assert one("HYPERPY_RELAY_PEERS", "http://a:1, http://b:2").relay.peers == ["http://a:1", "http://b:2"]
    assert one("HYPERPY_RELAY_PEERS", '["http://a:1"]').relay.peers == ["http://a:1"]
    assert one("HYPERPY_RELAY_PEERS", "").relay.peers == []
    assert one("HYPERPY_DEVICES_GRANT", '{"x@1.0" = ["node"]}').devices.grant == {"x@1.0": ["node"]}
    for name, text in [
        ("HYPERPY_HTTP_SIGN", "maybe"),
        ("HYPERPY_HTTP_PORT", "x"),
        ("HYPERPY_HTTP_PORT", "9" * 5000),
        ("HYPERPY_LIMITS_DEADLINE", "nan"),
        ("HYPERPY_DEVICES_GRANT", "x"),
        ("HYPERPY_DEVICES_GRANT", "{x"),
        ("HYPERPY_RELAY_PEERS", "[[[" * 2000),
    ]:
        assert name in refused(environ={name: text}).message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refused(file=tmp_path / "absent.toml").message
    assert "cannot be read" in refused(file=tmp_path).message
    assert "cannot be read" in refused(file=write(tmp_path, "[http\n")).message
    assert "cannot be read" in refused(file=write(tmp_path, "x = " + "[" * 50_000)).message
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(file=tmp_path / "node.toml").message


def test_node_message(tmp_path: Path) -> None:
    text = """
        [http]
        host = "10.0.0.1"
        [meta]
        initialized = false
        wallet = "secret.json"
        [hooks.on.request]
        device = "relay@1.0"
        [[routes]]
        template = "/x"
        node = "http://y"
        [node]
        some_note = "hello"
        priv-token = "t"
        host = "node.example.org"
    """
    message = config.load(write(tmp_path, text), environ={}).as_message()
    assert message["initialized"] is False
    assert message["some-note"] == b"hello"
    assert message["host"] == b"node.example.org"
    assert message["port"] == 8734
    assert message["limits-body"] == 64 << 20
    hooks, routes = message["on"], message["routes"]
    assert isinstance(hooks, Message)
    assert isinstance(hooks["request"], Message)
    assert isinstance(routes, tuple)
    assert len(routes) == 1
    assert all("_" not in name for name in message)
    assert "priv-token" not in message
    for absent in ("wallet", "store-dir", "devices-grant", "actors-mailbox"):
        assert absent not in message
    assert config.load(environ={}, flags={"meta.initialized": "permanent"}).as_message()["initialized"] == b"permanent"


def test_a_value_no_message_can_hold(tmp_path: Path) -> None:
    assert "node message" in refused(file=write(tmp_path, "[node]\nsince = 2026-01-01")).message


def test_wire_names_are_distinct() -> None:
    names = [name for section, item in each() if (name := wire_name(section, item)) is not None]
    assert len(names) == len(set(names))
    assert all("_" not in name for name in names)


def test_settings_are_frozen_and_documented() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().http.port = 1  # type: ignore[misc]
    for section, item in each():
        assert item.metadata["doc"].endswith("."), (section, item.name)
        assert KINDS[f"{section}.{item.name}"] in WORDS
    assert all(cls.__doc__ for cls in CLASSES.values())


def test_the_page_says_what_the_dataclasses_say() -> None:
    _, mark, table = PAGE.read_text("utf-8").partition("<!-- settings -->\n")
    assert mark
    assert table == config.as_markdown(), "put hyperpy.config.as_markdown() below the mark in docs/configuration.md"


def test_the_pages_example_loads(tmp_path: Path) -> None:
    example = PAGE.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    made = config.load(write(tmp_path, example), environ={})
    assert made.relay.peers == ["https://other.example.org:443"]
    assert made.extra == {"note": "run by the example organisation"}
