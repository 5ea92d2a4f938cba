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
