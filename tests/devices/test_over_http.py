"""The bundled devices as a client meets them: whole requests to a node."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from hyperpy.devices import http_auth, secret
from hyperpy.message import NOT_FOUND
from hyperpy.testing import TestNode, node


@pytest.fixture(scope="module")
def n() -> Iterator[TestNode]:
    """One node for all requests."""
    with node() as made:
        yield made


def _login(name: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:password".encode()).decode()}


def test_a_login_signs_the_request(n: TestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same credentials give the same signer, and never show up in what the node keeps."""
    monkeypatch.setattr(http_auth, "_ROUNDS", 1000)
    monkeypatch.setattr(secret, "_BITS", 2048)
    path = "/~message@1.0&a=1/committers"
    first, again, other = (n.get(path, _login(name)) for name in ("ada", "ada", "eve"))
    assert first["status"] == 200
    assert first["1"] == again["1"] != other["1"]
    kept = repr([list(n.node.store.scan(table)) for table in ("messages", "origins", "trail", "names", "config")])
    assert "ada:password" not in kept
    assert _login("ada")["authorization"] not in kept


def test_asking_to_sign_without_login(n: TestNode) -> None:
    reply = n.get("/~message@1.0&a=1/a", {"!": "1"})
    assert (reply["status"], reply["www-authenticate"]) == (401, b"Basic")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/~test-device@1.0/test_func", 200, b"GOOD_FUNCTION"),
        ("/~trie@1.0/set&romane=1&romanus=2/romanus", 200, b"2"),
        ("/~apply@1.0&run=x&x=7/run", 200, b"7"),
        ("/~message@1.0&a+integer=5/serialize~json@1.0/content-type", 200, b"application/json"),
        ("/~patch@1.0&x=1/compute&patch-from=nowhere", 404, NOT_FOUND),
        ("/~local-name@1.0/nobody", 404, NOT_FOUND),
        ("/~stack@1.0/anything", 400, None),
        ("/~http-auth@1.0/generate", 401, None),
        ("/~secret@1.0/generate", 401, None),
        ("/~secret@1.0/export", 403, None),
        ("/~cache@1.0/write", 403, None),
    ],
)
def test_paths(n: TestNode, path: str, status: int, body: Any) -> None:
    reply = n.get(path)
    assert reply["status"] == status
    assert body is None or reply["body"] == body


def test_a_stack_over_http(n: TestNode) -> None:
    """``device-stack`` comes as a typed header; the result is read as message@1.0, past the stack."""
    headers = {"device-stack": '"test-device@1.0", "multipass@1.0"', "ao-types": 'device-stack="list"'}
    made = n.get("/~stack@1.0/compute&slot+integer=3", headers)
    assert (made["device"], made["already-seen"]) == (b"stack@1.0", (3,))
    read = n.get("/~stack@1.0/compute&slot+integer=3/results~message@1.0/assignment-slot", headers)
    assert read["body"] == 3
