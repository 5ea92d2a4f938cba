"""http-auth@1.0, cookie@1.0, secret@1.0 and auth-hook@1.0: credentials become signatures, and never show."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Message
from hyperpy.commitments import check, commit, committers
from hyperpy.devices import http_auth, secret
from hyperpy.encoding import b64u, sha256
from hyperpy.errors import (
    Busy,
    CommitmentError,
    ConfigError,
    DeviceError,
    Forbidden,
    KeyNotFound,
    ParameterError,
    Unauthorized,
)
from hyperpy.keys import RsaKey
from hyperpy.message import As
from hyperpy.testing import node
from tests.security.attack import ask

AUTH = Message({"device": "http-auth@1.0"})
COOKIE = Message({"device": "cookie@1.0"})
SECRET = Message({"device": "secret@1.0"})
USER = b"Basic " + base64.b64encode(b"ada:lovelace")
OTHER = b"Basic " + base64.b64encode(b"eve:x")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_auth, "_ROUNDS", 1000)
    monkeypatch.setattr(secret, "_BITS", 2048)


# -- http-auth -----------------------------------------------------------------------------------


def test_the_derivation_is_pbkdf2(bench: Any) -> None:
    made = bench.get(AUTH, {"path": "generate"}, authorization=USER)
    salt = hashlib.sha256(b"constant:ao").digest()
    assert made.private["secret"] == hashlib.pbkdf2_hmac("sha256", b"ada:lovelace", salt, 1000, 64)
    assert "secret" not in made
    again = bench.get(AUTH, {"path": "generate"}, authorization=USER)
    assert again.private["secret"] == made.private["secret"]


def test_parameters_of_the_derivation(bench: Any) -> None:
    keys = {"path": "generate", "salt": "s", "iterations": "3", "alg": "sha512", "key-length": 16}
    made = bench.get(AUTH, keys, authorization=USER)
    assert made.private["secret"] == hashlib.pbkdf2_hmac("sha512", b"ada:lovelace", b"s", 3, 16)
    raw = bench.get(AUTH, {"path": "generate", "raw": True}, authorization=USER)
    assert raw.private["secret"] == b"ada:lovelace"


def test_without_credentials(bench: Any) -> None:
    result = bench.step(AUTH, {"path": "generate"})
    assert (result.status, result.value["status"]) == ("error", 401)
    assert result.value["www-authenticate"] == b"Basic"


@pytest.mark.parametrize("header", [b"Bearer x", b"Basic !!!"])
def test_other_headers(bench: Any, header: bytes) -> None:
    with pytest.raises(Unauthorized):
        bench.step(AUTH, {"path": "generate"}, authorization=header)


@pytest.mark.parametrize("keys", [{"iterations": "0"}, {"iterations": "99999999"}, {"alg": "md5"}, {"key-length": "x"}])
def test_costly_or_unknown_derivations(bench: Any, keys: dict[str, str]) -> None:
    with pytest.raises(ParameterError):
        bench.step(AUTH, {"path": "generate", **keys}, authorization=USER)


@pytest.mark.parametrize("base", [AUTH, COOKIE])
def test_commit_and_verify(bench: Any, base: Message) -> None:
    first = bench.get(base | {"a": 1}, {"path": "commit"}, authorization=USER)
    mine = {"authorization": USER, "cookie": first.private.get("cookie")}
    assert len(first.commitments) == 1
    assert bench.get(first, {"path": "verify"}, **mine) is True
    changed = (first | {"a": 2}).with_commitments(first.commitments)
    assert bench.get(changed, {"path": "verify"}, **mine) is False
    theirs = {"authorization": OTHER, "cookie": {f"secret-{b64u(sha256(b'guess'))}": b"guess"}}
    assert bench.get(first, {"path": "verify"}, **theirs) is False
    with pytest.raises(Unauthorized):
        bench.get(first, {"path": "verify"})


# -- cookie --------------------------------------------------------------------------------------


def test_cookies_are_parsed_and_shown_to_their_owner(bench: Any) -> None:
    header = b'a=1; b="two"; junk; =x; c=3=4'
    assert bench.get(COOKIE, {"path": "extract"}, cookie=header) == Message({"a": "1", "b": "two", "c": "3=4"})
    for form, text in (("default", b"two"), ("cookie", b"b=two"), ("set-cookie", b"b=two; Path=/; HttpOnly")):
        found = bench.get(COOKIE, {"path": "get-cookie", "key": "b", "format": form}, cookie=header)
        assert found.startswith(text)
    with pytest.raises(KeyNotFound):
        bench.get(COOKIE, {"path": "get-cookie", "key": "z"}, cookie=header)
    with pytest.raises(ParameterError):
        bench.get(COOKIE, {"path": "get-cookie", "key": "a", "format": "odd"}, cookie=header)


def test_store_and_reset(bench: Any) -> None:
    made = bench.get(COOKIE, {"path": "store", "theme": "dark", "n": 3, "host": "h", "method": "GET"})
    assert made.private["cookie"] == {"theme": b"dark", "n": b"3"}
    assert [line.split(b";")[0] for line in made.private["set-cookie"]] == [b"n=3", b"theme=dark"]
    assert "theme" not in made
    assert bench.get(made, "to").private["set-cookie"] == made.private["set-cookie"]
    cleared = bench.get(made, "reset")
    assert "cookie" not in cleared.private
    assert bench.get(COOKIE.with_private(cookie=b"a=1"), "from").private["cookie"] == {"a": b"1"}


@pytest.mark.parametrize("text", ["a;b", "a\r\nset-cookie: x=1", "a b"])
def test_a_cookie_cannot_smuggle(bench: Any, text: str) -> None:
    with pytest.raises(ParameterError):
        bench.get(COOKIE, {"path": "store", "k": text})


def test_a_new_secret_becomes_a_cookie(bench: Any) -> None:
    made = bench.get(COOKIE, {"path": "generate"})
    (line,) = made.private["set-cookie"]
    again = bench.get(COOKIE, {"path": "generate"}, cookie=line.split(b";")[0])
    assert again.private["secret"] == made.private["secret"]
    assert "set-cookie" not in again.private


# -- secret --------------------------------------------------------------------------------------


def _control(device: str) -> dict[str, str]:
    return {"device": device}


def test_a_hosted_key_signs_for_its_owner_only(bench: Any) -> None:
    request = {"path": "generate", "access-control": _control("http-auth@1.0")}
    access = bench.get(SECRET, request, authorization=USER)
    name = access.text("body")
    signed = bench.get(SECRET | {"order": "tea"}, {"path": "commit", "keyid": name}, authorization=USER)
    assert committers(signed) == (name,)
    check(signed)
    for credentials in ({}, {"authorization": OTHER}):
        with pytest.raises(CommitmentError):
            bench.get(SECRET | {"order": "tea"}, {"path": "commit", "keyid": name}, **credentials)
    assert bench.get(SECRET, "list") == (name.encode(),)
    assert bench.get(SECRET, {"path": "list", "keyids": ["x"]}) == ()


def test_the_default_access_control_is_a_cookie(bench: Any) -> None:
    (line,) = bench.get(COOKIE, {"path": "generate"}).private["set-cookie"]
    cookie = line.split(b";")[0]
    access = bench.get(SECRET, {"path": "generate", "keyid": "mine"}, cookie=cookie)
    assert access["body"] == b"mine"
    signed = bench.get(SECRET | {"a": 1}, {"path": "commit", "keyid": "mine"}, cookie=cookie)
    assert len(committers(signed)) == 1


def test_import_takes_private_keys_from_the_private_part_alone(bench: Any, alice: RsaKey) -> None:
    jwk = json.dumps(alice.to_jwk())
    keys = {"path": "import", "access-control": _control("http-auth@1.0")}
    access = bench.get(SECRET, keys, authorization=USER, key=jwk)
    assert access["body"] == alice.address.encode()
    with pytest.raises(ParameterError, match="private part"):
        bench.get(SECRET, keys | {"key": jwk}, authorization=USER)
    for broken in ("{", "[]"):
        with pytest.raises(ParameterError):
            bench.get(SECRET, keys, authorization=USER, key=broken)
    with pytest.raises(ParameterError, match="already"):
        bench.get(SECRET, keys, authorization=USER, key=jwk)


@pytest.mark.parametrize("key", ["export", "sync"])
def test_private_keys_never_leave(bench: Any, key: str) -> None:
    with pytest.raises(Forbidden, match="never"):
        bench.get(SECRET, {"path": key, "keyids": "all"})
    with pytest.raises(ParameterError, match="never leave"):
        bench.get(SECRET, {"path": "generate", "persist": "client"}, authorization=USER)


def test_kept_keys_are_files_of_mode_0600(bench: Any, tmp_path: Path) -> None:
    request = {"path": "generate", "persist": "non-volatile", "keyid": "k", "access-control": _control("http-auth@1.0")}
    with pytest.raises(ConfigError, match="memory only"):
        bench.get(SECRET, request, authorization=USER)
    bench.node.settings["secrets-dir"] = str(tmp_path / "keys")
    bench.get(SECRET, request, authorization=USER)
    files = sorted((tmp_path / "keys").iterdir())
    assert [path.name for path in files] == ["k.access", "k.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    later = type(bench)()
    later.node.settings = dict(bench.node.settings)
    signed = later.get(SECRET | {"a": 1}, {"path": "commit", "keyid": "k"}, authorization=USER)
    assert committers(signed) == (RsaKey.load(tmp_path / "keys" / "k.json").address,)
    later.actors.stop()


@pytest.mark.parametrize("keys", [{"keyid": "../x"}, {"persist": "maybe"}, {"access-control": "text"}])
def test_wrong_parameters(bench: Any, keys: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        bench.get(SECRET, {"path": "generate", **keys}, authorization=USER)


def test_a_control_that_does_not_commit_is_refused(bench: Any) -> None:
    """message@1.0 could only sign with the node's own key: that binds nothing to the caller."""
    with pytest.raises(DeviceError, match="failed"):
        bench.get(SECRET, {"path": "generate", "access-control": _control("message@1.0")}, authorization=USER)
    with pytest.raises(ParameterError, match="did not commit"):
        bench.get(SECRET, {"path": "generate", "access-control": _control("multipass@1.0")}, authorization=USER)
    with pytest.raises(Unauthorized, match="no credentials"):
        bench.get(SECRET, {"path": "generate"})


def test_one_key_is_made_at_a_time(bench: Any) -> None:
    bench.get(SECRET, "list")
    instance = bench.resolver.registry.lookup("secret@1.0").instance
    with instance._making, pytest.raises(Busy):
        bench.get(SECRET, {"path": "generate"}, authorization=USER)


def test_an_unknown_key(bench: Any) -> None:
    with pytest.raises(KeyNotFound, match="no such key"):
        bench.get(SECRET, {"path": "commit", "keyid": "nobody"}, authorization=USER)


# -- auth-hook -----------------------------------------------------------------------------------

HOOK = Message({"device": "auth-hook@1.0", "path": "request", "secret-provider": {"device": "http-auth@1.0"}})


AS_IT_WAS = (As("message@1.0", Message({"a": "1"})), Message({"path": "a"}))


def _event(path: str = "/~message@1.0&a=1/a", source: Message | None = None, **private: Any) -> Message:
    singleton = (source or Message({"path": path, "method": "GET", "host": "h"})).with_private(**private)
    return Message.make({"path": b"request", "request": singleton, "body": AS_IT_WAS})


def _run(bench: Any, event: Message, hook: Message = HOOK) -> Any:
    return bench.hook(hook, event)


def test_a_request_with_credentials_is_signed(bench: Any) -> None:
    made = _run(bench, _event(authorization=USER)).value
    base, request = made["body"]
    assert isinstance(base, As)
    (signer,) = committers(base.message)
    assert committers(request) == (signer,)
    assert request["path"] == b"a"
    check(Message.make({"host": b"h"}, request.commitments))
    again = _run(bench, _event(authorization=USER)).value["body"][1]
    assert committers(again) == (signer,)
    other = _run(bench, _event(authorization=OTHER)).value["body"][1]
    assert committers(other) != (signer,)


def test_nothing_secret_is_in_what_is_resolved(bench: Any) -> None:
    made = _run(bench, _event(authorization=USER)).value
    base, request = made["body"]
    for member in (base.message, request):
        assert not {"authorization", "secret", "cookie"} & member.private.keys()
    assert "secret" not in made
    assert "secret" not in made["request"]


def test_a_request_without_credentials_is_left_alone(bench: Any) -> None:
    event = _event()
    assert _run(bench, event).value == event


def test_asked_to_sign_without_credentials(bench: Any) -> None:
    result = _run(bench, _event(**{"!": True}))
    assert (result.status, result.value["status"]) == ("error", 401)


def test_signed_requests_are_left_alone(bench: Any, alice: Any) -> None:
    source = commit(Message({"path": "/~message@1.0&a=1/a", "x": 1}), alice)
    event = _event(source=source, authorization=USER)
    assert _run(bench, event).value["body"] == AS_IT_WAS


@pytest.mark.parametrize(
    ("when", "signed"),
    [
        ({"keys": "always"}, True),
        ({"keys": ["authorization"]}, True),
        ({"keys": ["x-sign"]}, False),
        ({"committers": "always"}, True),
        ({"committers": ["somebody"]}, False),
    ],
)
def test_when(bench: Any, when: dict[str, Any], signed: bool) -> None:
    made = _run(bench, _event(authorization=USER), HOOK | {"when": when}).value
    assert (made["body"] != AS_IT_WAS) is signed


def test_cookies_as_provider_are_finalized(bench: Any) -> None:
    hook = HOOK | {"secret-provider": {"device": "cookie@1.0"}, "when": {"keys": "always"}}
    made = _run(bench, _event(), hook).value
    (line,) = made.private["set-cookie"]
    (first,) = committers(made["body"][1])
    again = _run(bench, _event(cookie=line.split(b";")[0]), hook).value
    assert committers(again["body"][1]) == (first,)


def test_a_hook_without_request(bench: Any) -> None:
    with pytest.raises(ParameterError, match="no 'request'"):
        bench.step(HOOK, {"path": "request"})


@pytest.mark.parametrize("target", ["/~message@1.0/committers?!", "/~message@1.0/committers?a=1&!"])
def test_a_mark_in_the_query_asks_for_a_signature(target: str) -> None:
    """The form ``/x?!`` (devices part 10): without credentials it is a 401, with them the request is signed."""
    with node() as n:
        assert ask(n, "GET", target)["status"] == 401
        reply = ask(n, "GET", target, {"authorization": USER})
        assert reply["status"] == 200
        assert len(reply.text("1")) == 43
        assert "!" not in reply
