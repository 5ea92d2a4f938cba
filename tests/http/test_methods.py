"""Methods that there are not, and device names that are none (RFC 9110, 15.5.6)."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

ADD = "/~calculator@1.0&a=1/add&b=2"


@pytest.mark.parametrize("method", ["FOO", "TRACE", "get", "PROPFIND"])
def test_an_unknown_method_is_a_405_that_says_which_there_are(server: Any, method: str) -> None:
    answer = httpx2.request(method, server.url + ADD, headers={"accept": "application/json"})
    if method == "get":  # the client or the server writes it large
        assert answer.status_code == 200
        return
    assert answer.status_code == 405
    assert answer.headers["allow"].split(", ") == ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    assert answer.json()["status"] == 405
    assert "no method" in answer.json()["body"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_the_others_are_answered(server: Any, method: str) -> None:
    assert httpx2.request(method, server.url + ADD).status_code == 200
    assert httpx2.options(server.url + ADD).status_code == 204


@pytest.mark.parametrize("path", ["/~", "/~@", "/~@1.0", "/~~", "/~&a=1", "/~/keys", "/~message@1.0&a=1/~/keys"])
def test_a_device_without_a_name_is_a_400(server: Any, path: str) -> None:
    answer = httpx2.get(server.url + path)
    assert answer.status_code == 400
    assert "name is missing" in answer.text
    assert "~message@1.0" in answer.headers["hint"]
