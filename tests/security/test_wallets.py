"""Private keys live in files of mode 0600 and nowhere else; the operator's is never loaded (design 4, 5)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import config
from hyperpy.encoding import b64u_decode
from hyperpy.errors import ConfigError
from hyperpy.keys import RsaKey
from hyperpy.node import Node, open_node
from hyperpy.store.base import TABLES
from hyperpy.testing import TestNode, node
from tests.security.attack import ask, mallory, operator, order

_PRIVATE = ("d", "p", "q", "dp", "dq", "qi")


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    """A folder with a wallet and an operator's key, as the first run makes them (smaller, to be quick)."""
    for name in ("hyperpy-wallet.json", "operator.json"):
        RsaKey.generate(2048).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def served(wallets: Path) -> Iterator[Node]:
    with open_node(settings(wallets)) as node:
        yield node


def settings(folder: Path, **flags: object) -> config.Config:
    given = {"meta.wallet": str(folder / "hyperpy-wallet.json"), "store.dir": str(folder / "store"), **flags}
    return config.load(environ={}, flags=given)


def secrets_of(file: Path) -> list[bytes]:
    """Return the private numbers of a JWK, as text and as bytes."""
    jwk = json.loads(file.read_text("utf-8"))
    texts = [jwk[name].encode() for name in _PRIVATE if name in jwk]
    assert texts
    return texts + [b64u_decode(text) for text in texts]


def test_private_numbers_are_in_no_table_reply_or_setting(wallets: Path, served: Node) -> None:
    n = TestNode(served)
    seen = [
        repr(ask(n, "GET", path))
        for path in (
            *("/~meta@1.0/info", "/~meta@1.0/build", "/~secret@1.0/list", "/~secret@1.0/export", "/~secret@1.0/sync"),
            *("/~meta@1.0/info/priv_wallet", "/~meta@1.0/info/priv-wallet", "/~meta@1.0/info/wallet", "/wallet"),
            *("/~meta@1.0/info/~json@1.0/serialize", "/~message@1.0&a=1/commit", "/~location@1.0/node"),
        )
    ]
    seen += [repr(dict(served.settings)), repr(served.settings.info()), repr(served.config.as_message())]
    whole = "\n".join(seen).encode()
    stored = b"".join(key + data for table in TABLES for key, data in served.store.scan(table))
    files = b"".join(
        file.read_bytes() for file in (wallets / "store").rglob("*") if file.is_file() and file.stat().st_size < 1 << 28
    )
    for name in ("hyperpy-wallet.json", "operator.json"):
        for secret in secrets_of(wallets / name):
            assert secret not in whole
            assert secret not in stored
            assert secret not in files


def test_the_operators_key_is_never_read(wallets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_node(settings(wallets)) as first:
        address = first.settings.operator
    assert address == RsaKey.load(wallets / "operator.json").address
    read: list[str] = []
    genuine = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: (read.append(self.name), genuine(self, *a, **k))[1])
    (wallets / "operator.json").unlink()
    with open_node(settings(wallets)) as second:
        assert second.settings.operator == address, "the address stands beside the key: the file may move away"
    assert "operator.json" not in read


def test_meta_operator_needs_no_key_here(tmp_path: Path) -> None:
    RsaKey.generate(2048).save(tmp_path / "hyperpy-wallet.json")
    with open_node(settings(tmp_path, **{"meta.operator": operator().address})) as node:
        assert not (tmp_path / "operator.json").exists()
        assert order(TestNode(node), operator(), zone="north")["status"] == 200


def test_the_wallet_itself_cannot_be_the_operator(wallets: Path) -> None:
    own = RsaKey.load(wallets / "hyperpy-wallet.json").address
    with pytest.raises(ConfigError, match="is the node's own"):
        open_node(settings(wallets, **{"meta.operator": own}))


def test_key_files_are_for_their_owner_alone(wallets: Path) -> None:
    file = wallets / "hyperpy-wallet.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.chmod(file, 0o644)
    with pytest.raises(ConfigError):
        open_node(settings(wallets))


def test_a_wallet_is_never_overwritten(wallets: Path) -> None:
    before = (wallets / "hyperpy-wallet.json").read_bytes()
    with pytest.raises(ConfigError):
        RsaKey.generate(2048).save(wallets / "hyperpy-wallet.json")
    assert (wallets / "hyperpy-wallet.json").read_bytes() == before


def test_keys_do_not_show_themselves(wallets: Path) -> None:
    key = RsaKey.load(wallets / "hyperpy-wallet.json")
    for text in (repr(key), str(key), repr(vars(key))):
        for secret in secrets_of(wallets / "hyperpy-wallet.json"):
            assert secret.decode("latin-1") not in text


def test_a_new_operator_is_the_operator_after_a_restart(wallets: Path) -> None:
    chief = RsaKey.load(wallets / "operator.json")
    with open_node(settings(wallets)) as node:
        n = TestNode(node)
        assert order(n, chief, operator=operator().address, zone="north")["status"] == 200
        assert order(n, chief, zone="south")["status"] == 400
    with open_node(settings(wallets)) as node:
        n = TestNode(node)
        assert node.settings.operator == operator().address
        assert ask(n, "GET", "/~meta@1.0/info/zone")["body"] == b"north"
        assert order(n, chief, zone="south")["status"] == 400
        assert order(n, operator(), zone="east")["status"] == 200
        assert node.settings["zone"] == b"east"


def test_the_operators_key_is_not_taken_in() -> None:
    """A key this node holds signs for others; the operator's must not be one (design 5, a)."""
    with node() as n:
        for key, words in ((operator(), "no node may hold"), (mallory(), "")):
            given = {"priv-key": json.dumps(key.to_jwk()), "secret": "the caller's own"}
            assert words in repr(ask(n, "POST", "/~secret@1.0/import", given))
        assert operator().address.encode() not in repr(ask(n, "GET", "/~secret@1.0/list")).encode()
