"""Odd keys over real sockets: every answer is ours, and our own client can verify it or it is a 4xx."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from hyperpy.client import Client
from hyperpy.http.client import decode_reply

SET = "/~message@1.0/set"


@pytest.mark.parametrize("key", ["x%00", "%01", "x%09y", "x%0b", "x%1f", "x%7f", "x%0a", "@method", "ao-ids"])
@pytest.mark.parametrize("join", ["&", "?"])
def test_a_key_that_cannot_be_signed_is_a_400(server: Any, key: str, join: str) -> None:
    answer = httpx2.get(server.url + SET + join + key + "=2")
    assert answer.status_code == 400
    assert "cannot be signed" in answer.text
    assert "hint" in answer.headers


@pytest.mark.parametrize("start", ["granian"], indirect=True)
def test_a_control_character_over_http_2_is_a_400(start: Any) -> None:
    server = start()
    with httpx2.Client(http1=False, http2=True) as client:
        answer = client.get(server.url + SET + "&x%00=2")
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 400)


@pytest.mark.parametrize("body", ['{"x\\u0001":"1"}', '{"a":"1","\\u007f":"1"}'])
def test_a_control_character_from_json_is_a_400(server: Any, body: str) -> None:
    answer = httpx2.post(server.url + SET, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "A=1",
        "a=%0a",
        "a=%20x",
        "te=x",
        "x%C2%85=1",
        "inline-body-key=x&x=1",
        "content-type=text&body=x",
        "codec-device=json@1.0",
        "connection=close",
    ],
)
def test_our_client_verifies_odd_replies(server: Any, query: str) -> None:
    with Client(server.url) as client:
        reply = client.get(f"{SET}&{query}")
        assert reply["status"] == 200
        assert client.signers(reply)


def test_a_content_type_that_parts_would_overwrite_is_a_400(server: Any) -> None:
    answer = httpx2.get(server.url + SET + "&content-type=text&a=(~message@1.0&b=1)", headers={"accept-bundle": "true"})
    assert answer.status_code == 400
    assert "require-codec" in answer.headers["hint"]
    linked = httpx2.get(server.url + SET + "&content-type=text&a=(~message@1.0&b=1)")
    assert linked.status_code == 200
    assert decode_reply(200, linked.headers.raw, linked.content)["content-type"] == b"text"


@pytest.mark.parametrize("status", [100, 103, 199, 204, 205, 304])
@pytest.mark.parametrize("more", ["&body=x", "&a=1%0a2", "&n=1&body=x&m=%0a"])
@pytest.mark.parametrize("head", [{}, {"accept-bundle": "true"}])
def test_a_status_without_a_body_does_not_cost_the_reply_its_body(
    server: Any, status: int, more: str, head: dict[str, str]
) -> None:
    """HTTP has no body there (RFC 9110, 15): the key says the status, and the reply goes as 200."""
    with httpx2.Client() as client:
        answer = client.get(f"{server.url}{SET}&status+integer={status}{more}", headers=head)
        assert (answer.status_code, answer.headers["status"]) == (200, str(status))
        found = decode_reply(200, answer.headers.raw, answer.content)
        assert found["status"] == status
        assert found.commitments
        assert found.get("body", b"x") == b"x"
        assert len(answer.content) == int(answer.headers["content-length"]) > 0
        assert client.get(server.url + "/~message@1.0&a=1/a").text == "1"


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_reply_without_a_body_has_its_status(server: Any, status: int) -> None:
    with httpx2.Client() as client:
        answer = client.get(f"{server.url}{SET}&status+integer={status}&a=1")
        assert (answer.status_code, answer.content) == (status, b"")
        found = decode_reply(status, answer.headers.raw, answer.content)
        assert (found["a"], found["status"]) == (b"1", status)
        assert found.commitments
        assert client.get(server.url + "/~message@1.0&a=1/a").text == "1"


def test_a_status_without_a_body_is_said_in_json_too(server: Any) -> None:
    answer = httpx2.get(f"{server.url}{SET}&status+integer=204&a=1", headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["status"], answer.json()["a"]) == (200, 204, "1")
    head = httpx2.head(f"{server.url}{SET}&status+integer=204&body=x")
    assert (head.status_code, head.headers["status"], head.content) == (200, "204", b"")
