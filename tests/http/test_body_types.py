"""The content type of a request's body stands in no reply's way: what clients post as JSON, text or form is echoed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import httpx2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA512

from hyperpy.http.client import decode_reply
from hyperpy.message import Message
from hyperpy.testing import node

SET = "/~message@1.0/set"
JSON = "application/json"
BODIES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "line break": ({"n": "a\nb"}, {}),
    "many keys": ({f"k{n}": "1" for n in range(80)}, {}),
    "small": ({"a": "1"}, {}),
    "body and line break": ({"body": "x", "n": "a\nb"}, {}),
}


def parts_of(answer: Any) -> dict[str, bytes]:
    """Return the parts of a reply's body that are one value, by name, as RFC 2046 has them."""
    found = re.search(r'boundary="([^"]+)"', answer.headers.get("content-type", ""))
    if found is None:
        return {}
    out = {}
    for block in (b"\r\n" + answer.content).split(b"\r\n--" + found[1].encode())[1:-1]:
        head, gap, body = block.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        if gap:
            out[name[1].decode() if name else "body"] = body
    return out


def digest(text: bytes) -> bytes:
    return b"sha-256=:" + base64.b64encode(hashlib.sha256(text).digest()) + b":"


def assert_verifies(answer: Any) -> None:
    """Check the reply's RSA signature, line by line (RFC 9421, 2.5; ao-core 4.7), without any code of the node.

    A covered name is a header, or a value that travels as a part of the body; the digest is that of the key ``body``.
    """
    member = re.match(r"([^=]+)=\(([^)]*)\)(;[^,]*)", answer.headers["signature-input"])
    raw = re.match(r"[^=]+=:([^:]+):", answer.headers["signature"])
    assert member is not None
    assert raw is not None
    parts, names = parts_of(answer), re.findall(r'"([^"]+)"', member[2])
    sent = dict(answer.headers.raw)
    assert sent.get(b"content-digest", digest(answer.content)) == digest(answer.content)
    if parts:
        sent[b"content-digest"] = digest(parts.get("body", b""))
    lines = []
    for name in names:
        value = parts[name] if name in parts else sent[name.encode()]
        lines.append(b'"%s": %s' % (name.encode(), value))
    given = dict(re.findall(r';([a-z0-9-]+)="([^"]*)"', member[3]))
    shown = " ".join(f'"@{name}"' if name in ("path", "method") else f'"{name}"' for name in names)
    params = "".join(f';{name}="{given[name]}"' for name in sorted(given) if name in ("alg", "keyid", "tag", "nonce"))
    base = b"\n".join([*lines, f'"@signature-params": ({shown}){params}'.encode()])
    modulus = int.from_bytes(base64.b64decode(given["keyid"].removeprefix("publickey:")), "big")
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    key.verify(base64.b64decode(raw[1]), base, padding.PSS(padding.MGF1(SHA512()), padding.PSS.AUTO), SHA512())


@pytest.mark.parametrize("name", BODIES)
def test_what_is_posted_as_json_comes_back_and_verifies(server: Any, name: str) -> None:
    items, headers = BODIES[name]
    answer = httpx2.post(server.url + SET, json=items, headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get("content-type", "multipart/form-data").startswith("multipart/form-data")
    assert_verifies(answer)
    found = parts_of(answer)
    for key, value in items.items():
        if isinstance(value, str):
            assert found.get(key, answer.headers.get(key, "").encode()) == value.encode()


def test_nested_messages_come_back_too(server: Any) -> None:
    answer = httpx2.post(server.url + SET, json={"a": {"b": "1"}, "n": "x"}, headers={"accept-bundle": "true"})
    assert answer.status_code == 200
    found = decode_reply(200, answer.headers.raw, answer.content)  # verified: what is signed is the ID of `a`
    assert (found["a"], found["n"]) == (Message({"b": "1"}), b"x")
    assert found.commitments


def test_the_reader_of_these_tests_sees_what_is_wrong(server: Any) -> None:
    answer = httpx2.post(server.url + SET, json={"n": "a\nb"})
    answer.headers["accept-bundle"] = "true"
    with pytest.raises(InvalidSignature):
        assert_verifies(answer)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
@pytest.mark.parametrize("count", [0, 80])
def test_other_bodies_too(server: Any, kind: str, count: int) -> None:
    """The type of a body that is echoed stays, as ever; where parts take its place it is not signed."""
    many = {f"k{n}": "1" for n in range(count)}
    answer = httpx2.post(server.url + SET, content=b"hello", headers={"content-type": kind, **many})
    assert answer.status_code == 200
    assert_verifies(answer)
    if many:
        assert parts_of(answer)["body"] == b"hello"
    else:
        assert (answer.headers["content-type"], answer.content) == (kind, b"hello")


def test_who_posts_json_and_asks_for_json_gets_json(server: Any) -> None:
    answer = httpx2.post(server.url + SET, json={"a": "1"}, headers={"accept": JSON})
    assert (answer.status_code, answer.headers["content-type"], answer.json()["a"]) == (200, JSON, "1")


def test_a_type_of_the_message_s_own_stays(server: Any) -> None:
    """In the body, in the path, or a device's: none of them described the request's body."""
    own = httpx2.post(server.url + SET, json={"content-type": JSON, "body": "{}"})
    assert (own.headers["content-type"], own.text) == (JSON, "{}")
    asked = httpx2.post(server.url + SET + "?content-type=text/css", json={"body": "a"})
    assert asked.headers["content-type"] == "text/css"
    made = httpx2.post(server.url + SET + "/serialize~json@1.0", json={"a": "1"})
    assert made.headers["content-type"] == JSON
    assert json.loads(made.content)["a"] == "1"
    for answer in (own, asked, made):
        assert_verifies(answer)


def test_hashpaths_know_the_type_as_they_ever_did() -> None:
    """It stays a key of the request (ao-core 10.2): only the reply lacks it."""
    with node() as n:
        body = b'{"a":"1"}'
        made = [n.http("POST", SET, {"content-type": JSON, "x": x}, body) for x in ("1", "1", "2")]
        keys = n.http("POST", "/~message@1.0/keys", {"content-type": JSON}, body)
    tags = [re.findall(rb'tag="([^"]+)"', dict(one.headers)[b"signature-input"]) for one in made]
    assert tags[0] == tags[1] != tags[2]
    assert b"content-type" in [text for _, text in keys.headers]
