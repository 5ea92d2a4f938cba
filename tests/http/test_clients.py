"""Requests of published JavaScript clients, byte for byte as recorded (http-clients.md)."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hyperpy.commitments import committers
from hyperpy.errors import HyperpyError, InvalidSignature
from hyperpy.http.wire import RawRequest, read

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("HYPERPY_SHARED", ROOT.parent / "shared"))
FOLDER = Path(os.environ.get("HYPERPY_VECTORS", SHARED / "vectors"))
FILE = FOLDER / "http_clients.jsonl"
SIGNER = "cW-R3010kAD_audwgt8dFNUHnGt3KQ9bX9pzPOqrCrc"
LOST_BODY = 20
"""ao-core-libs signs a digest and sends no body."""

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="no http_clients.jsonl: set HYPERPY_SHARED")


def exchanges() -> list[dict[str, Any]]:
    if not FILE.is_file():
        return []
    return [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]


def raw_of(request: dict[str, Any]) -> RawRequest:
    pairs = request["headers"].items() if isinstance(request["headers"], dict) else request["headers"]
    lines = tuple((name.lower().encode(), value.encode("utf-8")) for name, value in pairs)
    body = base64.b64decode(request["body_base64"] or "")
    return RawRequest(request["method"], request["target"].encode(), lines, body, "127.0.0.1")


def is_signed(raw: RawRequest) -> bool:
    named = dict(raw.headers)
    return b"signature" in named or (raw.method == "POST" and named.get(b"content-type") == b"application/ans104")


@pytest.mark.parametrize("case", exchanges(), ids=lambda case: f"{case['n']}-{case['call'][:30]}")
def test_request_is_understood(case: dict[str, Any]) -> None:
    """Signed requests verify, whatever their dialect; all have a path."""
    raw = raw_of(case["request"])
    if case["n"] == LOST_BODY:
        with pytest.raises(InvalidSignature, match="no body"):
            read(raw)
        return
    made = read(raw)
    assert committers(made.message) == ((SIGNER,) if is_signed(raw) else ())
    assert made.message.text("path").startswith("/")
    headers = case["response"]["headers"]
    codec = dict(headers.items() if isinstance(headers, dict) else headers).get("codec-device")
    if codec == "json@1.0" and case["response"]["status"] == 200:
        assert made.wants.codec == codec or "json" in made.message.text("path") + made.wants.accept


def covered(raw: RawRequest) -> list[bytes]:
    """Return the header names that a request's first signature covers."""
    return re.findall(rb'"@?([^"]+)"', dict(raw.headers).get(b"signature-input", b"").partition(b")")[0])


SIGNED = [
    case for case in exchanges() for raw in (raw_of(case["request"]),) if is_signed(raw) and (raw.body or covered(raw))
]


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: str(case["n"]))
def test_a_flipped_byte_is_refused(case: dict[str, Any]) -> None:
    """No signed request survives a change of its body, or of a covered header where it has none."""
    raw = raw_of(case["request"])
    body, headers = bytearray(raw.body), raw.headers
    if body:
        body[len(body) // 2] ^= 1
    else:
        first = covered(raw)[0]
        headers = tuple((name, value + b"x" if name == first else value) for name, value in headers)
    with pytest.raises(HyperpyError) as caught:
        read(RawRequest(raw.method, raw.target, headers, bytes(body)))
    assert caught.value.status == 400
