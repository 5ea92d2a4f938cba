"""Below ``/~DEVICE/v1`` every error has OpenAI's shape, wherever it comes from."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from typing import Any

import pytest

from hyperpy.http.form import RawReply
from hyperpy.http.openai import shaped
from tests.http.conftest import BOUNDS, Nap, Start

V1 = "/~inference@1.0/v1"


def ask(
    server: Any, path: str, body: bytes = b"", method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        sent = {"content-type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        connection.request(method, path, body, sent)
        reply = connection.getresponse()
        return reply.status, {name.lower(): one for name, one in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def is_shaped(status: int, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    assert headers["content-type"] == "application/json"
    assert set(found) == {"message", "type", "param", "code"}
    assert found["message"]
    assert found["type"] == {400: "invalid_request_error", 404: "not_found_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
    assert not any(name.startswith("signature") for name in headers)
    return found


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{V1}/chat/completions", b'{"model": ', 400),
        (f"{V1}/chat/completions", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (f"{V1}/chat/completions", b'{"a": 1, "a": 2}', 400),
        (f"{V1}/chat/completions", b"[]", 400),
        (f"{V1}/embeddings", b'{"model": "x", "input": "y"}', 404),
        (f"{V1}/responses", b"{}", 404),
        (f"{V1}/chat/completions/x", b'{"messages": []}', 400),
        (f"{V1}/chat/completions?(", b"{}", None),
        ("/~nobody@1.0/v1/models", b"{}", 404),
    ],
)
def test_what_fails_around_a_device_has_the_shape(
    server: Any, path: str, body: bytes, status: int | None, accept: str
) -> None:
    got, headers, found = ask(server, path, body, accept=accept)
    assert got >= 400
    assert status in (None, got)
    is_shaped(got, headers, found)


def test_so_has_a_deadline(start: Start, nap: type[Nap]) -> None:
    made = start(replace(BOUNDS, deadline=0.5))
    status, headers, body = ask(made, "/~nap@1.0/v1/take", b"{}")
    if status == 404:  # no key v1: the deadline is met on a path that is there, by the function alone
        is_shaped(status, headers, body)
    late = ask(made, "/~nap@1.0/take", b"{}")
    assert late[0] == 504
    raw = RawReply(504, [(name.encode(), one.encode()) for name, one in late[1].items()], late[2])
    again = shaped(b"/~inference@1.0/v1/chat/completions?x=1", raw)
    told = {name.decode(): one.decode() for name, one in again.headers}
    assert "deadline" in is_shaped(again.status, told, again.body)["message"]
    assert told.get("retry-after") == late[1].get("retry-after")


@pytest.mark.parametrize(
    "path", ["/~inference@1.0/v2/x", "/~inference@1.0/v10/x", "/~nap@1.0/nothing", "/x/~inference@1.0/v1/x"]
)
def test_other_paths_keep_their_errors(server: Any, path: str) -> None:
    status, headers, _ = ask(server, path, b"{}", accept="*/*")
    assert status == 404
    assert headers["content-type"].startswith("text/plain")


def test_a_page_for_people_stays_one(server: Any) -> None:
    status, headers, body = ask(server, f"{V1}/nothing", method="GET", accept="text/html")
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"<h1>" in body


def test_what_is_no_error_or_has_the_shape_stays() -> None:
    target = b"/~inference@1.0/v1/models"
    fine = RawReply(200, [(b"content-type", b"text/plain")], b"x")
    assert shaped(target, fine) is fine
    own = RawReply(400, [(b"content-type", b"application/json")], b'{"error":{"message":"m","param":"n"}}')
    assert shaped(target, own) is own
