"""Credentials leave no trace: not in store, trail, logs, replies (design 5)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from hyperpy import device, key
from hyperpy.codecs import json
from hyperpy.commitments import http_form
from hyperpy.errors import HyperpyError
from hyperpy.http.server import serve
from hyperpy.http.wire import Wants, write_error
from hyperpy.message import Message
from hyperpy.store.base import TABLES
from hyperpy.testing import TestNode, node
from tests.security.attack import STRANGER, arrive, ask, http, mallory, sign

SEKRIT = "Sekrit-4711-xyz"
RAW = SEKRIT.encode()
JSON = {"content-type": "application/json"}
MULTIPART = {"content-type": 'multipart/form-data; boundary="q"'}
PATH = "/~message@1.0&a=1/a"


@pytest.fixture
def n(caplog: pytest.LogCaptureFixture) -> Iterator[TestNode]:
    caplog.set_level(logging.DEBUG)
    with node() as made:
        yield made
        assert_no_trace(made, caplog)


def assert_no_trace(n: TestNode, caplog: pytest.LogCaptureFixture) -> None:
    """Look for the secret in every byte that outlives the request."""
    for table in TABLES:
        for name, data in n.node.store.scan(table):
            assert RAW not in name, table
            assert RAW not in data, table
    assert SEKRIT not in caplog.text
    assert SEKRIT not in repr(dict(n.node.settings))
    assert SEKRIT not in repr(n.node.metrics.render())


def answers(n: TestNode, method: str, target: str, headers: dict[str, Any], body: bytes = b"") -> int:
    """Return the status of a reply that does not hold the secret, in the usual form and in JSON."""
    for accept in ({}, {"accept": "application/json"}):
        try:
            reply = http(n, method, target, {**headers, **accept}, body)
        except HyperpyError as error:
            reply = write_error(error, Wants())
        assert RAW not in reply.body
        assert not [text for pair in reply.headers for text in pair if RAW in text]
        status = reply.status
    return status


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "secret", "!", "!x", "priv", "priv-key"),
        *("private", "Authorization", "SECRET", "1.secret", "secret+integer", "1.priv-x", "%73ecret", "pri%76-x"),
    ],
)
def test_headers(n: TestNode, name: str) -> None:
    status = answers(n, "GET", PATH, {name: f"Basic {SEKRIT}"})
    assert status in (200, 401)
    for path in (f"/~message@1.0/{name.lower().replace('%', '%25')}", "/~message@1.0/keys", "/~message@1.0"):
        answers(n, "GET", path, {name: SEKRIT})


@pytest.mark.parametrize(
    "name",
    [
        *("secret", "!", "!x", "priv-key", "1.secret", "%73ecret", "%2573ecret", "secret+integer", "SECRET"),
        *("x=1&secret", "authorization", "%20priv-a", "+priv-a", "%20secret", "%09PRIV-a", "1.%20priv-a"),
    ],
)
def test_query_keys(n: TestNode, name: str) -> None:
    answers(n, "GET", f"{PATH}?{name}={SEKRIT}", {})
    answers(n, "GET", f"{PATH}?{name}={SEKRIT}&y=2", {})
    answers(n, "GET", f'{PATH}?x="&{name}={SEKRIT}"', {})


@pytest.mark.parametrize(
    "target",
    [
        f"{PATH}&secret={SEKRIT}",
        f"{PATH}%26secret={SEKRIT}",
        f"{PATH}%2526secret={SEKRIT}",
        f"{PATH}&!={SEKRIT}",
        f"{PATH}&priv-x={SEKRIT}",
        f"{PATH}&authorization={SEKRIT}",
        f"{PATH}&1.Authorization={SEKRIT}",
        f"{PATH}&proxy-authorization+integer={SEKRIT}",
        f"/~message@1.0&cookie={SEKRIT}/cookie",
        f"{PATH}/set&set-cookie={SEKRIT}",
        f"{PATH}&%20priv-a={SEKRIT}",
        f"{PATH}&+secret={SEKRIT}",
        f"/~message@1.0&a=1/(~message@1.0&secret={SEKRIT}/x)",
        f"{PATH}?x+resolve=~message@1.0%26secret={SEKRIT}/x",
        f"{PATH}?x+resolve=(~message@1.0%26priv-y={SEKRIT})",
    ],
    ids=range(15),
)
def test_inside_the_path_they_are_refused(n: TestNode, target: str) -> None:
    assert answers(n, "GET", target, {}) == 400


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"path": f"/~message@1.0/x?secret={SEKRIT}"}, b""),
        ({"path": f"/~message@1.0/x&secret={SEKRIT}"}, b""),
        ({"referer": f"http://node/~message@1.0/x?secret={SEKRIT}"}, b""),
        ({"referer": f"http://node/~message@1.0/x&secret={SEKRIT}"}, b""),
        ({"x+resolve": f"~message@1.0&secret={SEKRIT}/y"}, b""),
        (JSON, b'{"path":"/~message@1.0/x&secret=%s"}' % RAW),
        (JSON, b'{"path":"/~message@1.0/x?secret=%s"}' % RAW),
        (JSON, b'{"priv-key":"%s"}' % RAW),
        (JSON, b'{"priv":{"hashpath":"%s","order":"x","peer":"y"}}' % RAW),
        (JSON, b'{"\\u0070riv-key":"%s"}' % RAW),
        (JSON, b'{"b":{"c":{"private":"%s"}}}' % RAW),
        (JSON, b'[{"priv-key":"%s"}]' % RAW),
        (JSON, b'{"PRIV-a":"%s"}' % RAW),
        (JSON, b'{"a":[{"b":{"Priv":"%s"}}]}' % RAW),
        (JSON, b'{"\\u0050RIV-key":"%s"}' % RAW),
        ({"codec-device": "flat@1.0"}, b"a/PRIV-b: %s\n" % RAW),
        (MULTIPART, b'--q\r\ncontent-disposition: form-data;name="priv-x"\r\n\r\n%s\r\n--q--' % RAW),
        (MULTIPART, b'--q\r\ncontent-disposition: form-data;name="b"\r\npriv-x: %s\r\n\r\n1\r\n--q--' % RAW),
        (MULTIPART, b'--q\r\ncontent-disposition: form-data;name="pri%%76"\r\n\r\n%s\r\n--q--' % RAW),
        (MULTIPART, b'--q\r\ncontent-disposition: form-data;name="PRIV-x"\r\n\r\n%s\r\n--q--' % RAW),
        (MULTIPART, b'--q\r\ncontent-disposition: form-data;name="b"\r\nPRIV-x: %s\r\n\r\n1\r\n--q--' % RAW),
        ({"codec-device": "flat@1.0"}, b"priv-x: %s\n" % RAW),
        ({"codec-device": "flat@1.0"}, b"a/priv-x: %s\n" % RAW),
    ],
    ids=range(23),
)
def test_where_paths_and_private_keys_hide(n: TestNode, headers: dict[str, str], body: bytes) -> None:
    answers(n, "POST", "/~message@1.0/a", headers, body)
    answers(n, "POST", "/~message@1.0/priv-x", headers, body)


def test_in_a_body_they_are_ordinary_keys() -> None:
    """Whoever writes ``secret`` into a message means a key of it; only ``priv`` names stay out."""
    with node() as n:
        assert ask(n, "POST", "/~message@1.0/secret", JSON, b'{"secret":"mine"}')["body"] == b"mine"
        assert ask(n, "POST", "/~message@1.0/priv-x", JSON, b'{"priv-x":"mine"}')["status"] == 404


@pytest.mark.parametrize("name", ["authorization", "cookie", "secret", "!x"])
def test_a_signature_over_a_credential_is_refused(n: TestNode, name: str) -> None:
    form = http_form(sign({"x": "1", name: SEKRIT}, mallory()))
    assert answers(n, "POST", PATH, dict(form.headers), form.body or b"") == 400


def test_private_values_cannot_be_given_from_outside(n: TestNode) -> None:
    for body in (
        b'{"priv":{"order":{"operator":"x"},"hashpath":"A/b","peer":"127.0.0.1"}}',
        b'{"b":{"priv":{"hashpath":"A/b"}},"hashpath":"A/b"}',
    ):
        made = arrive(n, "POST", PATH, JSON, body)
        assert made.message.hashpath is None
        assert "order" not in made.message.private
        assert made.private == {"peer": "127.0.0.1"}


def test_the_address_of_who_asks_is_nowhere(n: TestNode, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"x-forwarded-for": "198.51.100.7", "x-real-ip": "198.51.100.7", "forwarded": "for=198.51.100.7"}
    reply = ask(n, "GET", "/~message@1.0/set&x=1", headers, peer=STRANGER)
    assert "198.51.100.7" not in repr(reply)
    for table in TABLES:
        for name, data in n.node.store.scan(table):
            for address in (STRANGER.encode(), b"198.51.100.7"):
                assert address not in name + data, table


def test_the_device_sees_what_the_store_does_not() -> None:
    """They are of use: secret@1.0 and cookie@1.0 read them from the private part."""

    @device("look@1.0")
    class Look:
        @key(deterministic=False)
        def here(self, request: Message) -> bool:
            return request.private.get("secret") == RAW and request.private.get("!x") == RAW

    with node(Look) as n:
        assert ask(n, "GET", "/~look@1.0/here?secret=" + SEKRIT, {"!x": SEKRIT})["status"] in (200, 401)
        assert ask(n, "GET", "/~look@1.0/here", {"secret": SEKRIT})["body"] is False


def test_errors_do_not_repeat_private_values(n: TestNode) -> None:
    answers(n, "GET", "/~relay@1.0/call?secret=" + SEKRIT, {})
    answers(n, "GET", "/~nowhere@1.0/x?secret=" + SEKRIT, {"cookie": SEKRIT})
    answers(n, "GET", "/~calculator@1.0/add?priv-a=" + SEKRIT, {"authorization": "Bearer " + SEKRIT})


def test_the_log_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """Over a real socket, where each request is one line in the log."""
    caplog.set_level(logging.DEBUG)
    with node() as n, serve(n.node) as server, httpx2.Client(trust_env=False) as client:
        client.get(f"{server.url}{PATH}?secret={SEKRIT}", headers={"cookie": SEKRIT, "authorization": SEKRIT})
        client.get(f"{server.url}{PATH}&secret={SEKRIT}")
        client.get(f"{server.url}{PATH}%26secret={SEKRIT}/x")
        assert "GET /~message@1.0" in caplog.text or "hyperpy.http" in {one.name for one in caplog.records}
        ours = [one.getMessage() for one in caplog.records if one.name.startswith("hyperpy")]
        assert ours
        assert SEKRIT not in " ".join(ours)
        for table in TABLES:
            assert not [1 for name, data in n.node.store.scan(table) if RAW in name + data], table


def test_json_replies_hold_no_private_part(n: TestNode) -> None:
    made = Message({"x": "1"}).with_private(secret=RAW, order=Message({"y": SEKRIT}))
    assert RAW not in json.encode(made)
