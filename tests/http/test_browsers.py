"""A link makes no browser do anything: no cookies, no redirects to elsewhere, no scripts in the node's origin."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from hyperpy import commitments
from hyperpy.client import Client
from hyperpy.http.client import decode_reply
from hyperpy.http.wire import Wants, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message

SET = "/~message@1.0/set"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ORDERS = {
    "set-cookie2": "sid=evil",
    "content-encoding": "gzip",
    "refresh": "0",
    "clear-site-data": "*",
    "content-security-policy": "default-src *",
    "strict-transport-security": "max-age=9",
    "www-authenticate": "Basic",
    "access-control-allow-credentials": "true",
    "service-worker-allowed": "x",
}


@pytest.mark.parametrize("accept", ["*/*", "application/json", BROWSER["accept"]])
@pytest.mark.parametrize("extra", ["", "&content-type=text&body=x"])
@pytest.mark.parametrize("name", ORDERS)
def test_a_key_is_no_order_to_a_browser(server: Any, name: str, extra: str, accept: str) -> None:
    answer = httpx2.get(f"{server.url}{SET}&{name}={quote(ORDERS[name], safe='')}{extra}", headers={"accept": accept})
    assert answer.status_code == 200
    sent = [value for header, value in answer.headers.raw if header.lower() == name.encode()]
    assert ORDERS[name].encode() not in sent
    if accept == "*/*":
        message = decode_reply(200, answer.headers.raw, answer.content)
        assert message[name] == ORDERS[name].encode()
        assert message.commitments


@pytest.mark.parametrize("more", [{}, {"content-type": b"text/html", "body": b"x"}])
def test_only_the_node_sets_cookies(more: dict[str, bytes]) -> None:
    """The key is refused in requests; it must not come out of a stored message or a device either."""
    made = commitments.commit(Message({"set-cookie": b"sid=evil", "status": 200, **more}), RsaKey.generate(2048))
    sent = write(made.with_private(**{"set-cookie": [b"sid=own"]}), Wants())
    assert [value for name, value in sent.headers if name == b"set-cookie"] == [b"sid=own"]
    kept = [pair for pair in sent.headers if pair[0] != b"set-cookie"]
    assert decode_reply(200, kept, sent.body)["set-cookie"] == b"sid=evil"


@pytest.mark.parametrize("where", ["//evil.example", "https://evil.example/", "/\\evil.example", "\\evil", "x:y"])
def test_no_browser_is_led_to_another_origin(server: Any, where: str) -> None:
    asked = f"{server.url}{SET}?status=302&location={where}"
    answer = httpx2.get(asked, headers=BROWSER)
    assert answer.status_code == 302
    assert "location" not in answer.headers
    assert decode_reply(302, answer.headers.raw, answer.content)["location"] == where.encode()
    assert httpx2.get(asked).headers["location"] == where  # programs decide for themselves
    overruled = httpx2.get(asked + "&accept=*/*", headers=BROWSER)
    assert "location" not in overruled.headers


def test_a_browser_is_led_about_within_the_node(server: Any) -> None:
    answer = httpx2.get(f"{server.url}{SET}?status=302&location=/~meta@1.0/info", headers=BROWSER)
    assert answer.headers["location"] == "/~meta@1.0/info"


_PAGES = ["text/html", "TEXT/HTML; charset=utf-8", "image/svg+xml", "text/xml", "x", None]
_LISTS = ["image/png,text/html", "text/plain;,text/html", "image/,text/html", "text/css;x=a,text/html"]
"""Of a list a browser takes the last type."""


@pytest.mark.parametrize("kind", _PAGES + _LISTS)
@pytest.mark.parametrize("asked", [BROWSER, {"sec-fetch-mode": "navigate"}, {"accept": "TEXT/HTML"}])
def test_a_page_gets_an_origin_of_its_own(server: Any, kind: str | None, asked: dict[str, str]) -> None:
    query = f"content-type={kind}&" if kind else ""
    for more in ("", "&accept=*/*"):
        url = f"{server.url}{SET}?{query}body=%3Cscript%3Ealert(1)%3C/script%3E{more}"
        policy = httpx2.get(url, headers=asked).headers["content-security-policy"]
        assert policy.startswith("sandbox")
        assert "allow-same-origin" not in policy


def test_what_is_no_page_is_not_touched(server: Any) -> None:
    for kind in ("text/plain", "application/json", "image/png"):
        answer = httpx2.get(f"{server.url}{SET}?content-type={kind}&body=x", headers=BROWSER)
        assert "content-security-policy" not in answer.headers
    page = httpx2.get(f"{server.url}{SET}?content-type=text/html&body=x")
    assert "content-security-policy" not in page.headers


def test_our_client_reads_a_page_in_its_sandbox(server: Any) -> None:
    with Client(server.url) as client:
        reply = client.get(SET, {"content-type": "text/html", "body": "<p>", "accept": "text/html"})
        assert client.signers(reply)
        assert "content-security-policy" not in reply


def test_no_order_to_a_proxy_in_front(server: Any) -> None:
    for name in ("x-accel-redirect", "x-sendfile"):
        answer = httpx2.get(f"{server.url}{SET}?{name}=/inside", headers=BROWSER)
        assert answer.status_code == 200
        assert name not in answer.headers


_DEPENDS = {"accept", "accept-bundle", "access-control-request-headers", "authorization", "cookie", "require-codec"}


@pytest.mark.parametrize("headers", [BROWSER, {"accept": "*/*"}, {"accept": "application/json"}])
@pytest.mark.parametrize("path", [SET + "&a=1", "/~nope@1.0/x", "/~meta@1.0/info/address", "/", SET + "&vary=*"])
def test_caches_are_told_what_a_reply_depends_on(server: Any, path: str, headers: dict[str, str]) -> None:
    """Else one could hand a page that a program asked for, without a sandbox, to a browser."""
    answer = httpx2.get(server.url + path, headers=headers)
    assert set(answer.headers["vary"].split(", ")) == _DEPENDS | {"sec-fetch-mode"}
    assert len([name for name, _ in answer.headers.raw if name.lower() == b"vary"]) == 1


def test_whatever_the_list_names_makes_a_difference(server: Any) -> None:
    def sent(**more: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return httpx2.get(f"{server.url}{SET}&a=(~message@1.0&b=1)", headers={"accept": "*/*", **named})

    plain = sent()
    assert sent(accept="application/json").headers["content-type"] != plain.headers.get("content-type")
    assert sent(accept_bundle="true").content != plain.content
    assert sent(require_codec="json@1.0").content != plain.content
    assert "content-security-policy" in sent(sec_fetch_mode="navigate").headers
    asked = sent(access_control_request_headers="x-a").headers
    assert asked["access-control-allow-headers"] == "x-a" not in plain.headers


@pytest.mark.parametrize("more", ["", "&content-type=text&body=x"])
@pytest.mark.parametrize("name", ["vary", "link", "x-content-type-options", "content-security-policy"])
def test_a_key_named_like_a_header_of_ours_is_told_from_it(server: Any, name: str, more: str) -> None:
    for headers in ({"accept": "*/*"}, BROWSER):
        answer = httpx2.get(f"{server.url}{SET}&{name}=evil{more}", headers=headers)
        assert "evil" not in answer.headers.get(name, "")
        found = decode_reply(200, answer.headers.raw, answer.content)
        assert (found[name], bool(found.commitments)) == (b"evil", True)


def test_a_browser_guesses_no_types(server: Any) -> None:
    for kind in ("text/plain", "image/png", "text/html"):
        answer = httpx2.get(f"{server.url}{SET}?content-type={kind}&body=%3Cscript%3E", headers=BROWSER)
        assert answer.headers["x-content-type-options"] == "nosniff"


STORED = {
    "link": b"</~evil@1.0/x>; rel=preload",
    "refresh": b"0; url=https://evil.example/",
    "set-cookie": b"sid=evil",
    "clear-site-data": b'"*"',
    "strict-transport-security": b"max-age=31536000",
    "alt-svc": b'h3="evil.example:443"',
    "service-worker-allowed": b"/",
    "access-control-allow-credentials": b"true",
    "sec-session-registration": b'(ES256);path="/x"',
    "secure-session-registration": b'(ES256);path="/x"',
    "accept-ch": b"sec-ch-ua-model",
    "x-litespeed-location": b"/inside",
    "x-reproxy-url": b"http://127.0.0.1/",
    "no-vary-search": b"params",
    "www-authenticate": b"Basic",
}


@pytest.mark.parametrize("body", [{}, {"body": b"x"}, {"content-type": b"text/html", "body": b"<p>"}])
@pytest.mark.parametrize("codec", [None, "json@1.0"])
def test_a_stored_message_gives_no_orders(body: dict[str, bytes], codec: str | None) -> None:
    """As a stranger may have put it: with all of them, under a signature of its own."""
    made = commitments.commit(Message({**STORED, **body, "status": 200}), RsaKey.generate(2048))
    sent = write(made, Wants(codec))
    assert not {name.decode() for name, _ in sent.headers} & set(STORED)
    found = decode_reply(200, sent.headers, sent.body)
    assert {name: found[name] for name in STORED} == STORED
    assert commitments.committers(found) == commitments.committers(made)
