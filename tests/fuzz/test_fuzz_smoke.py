"""A quick, deterministic pass over the fuzz targets, and the proof that parsing takes linear time.

Long runs: tests/fuzz/fuzz.py (docs/fuzzing.md).
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable

import pytest

from hyperpy.errors import HyperpyError
from tests.fuzz import corpus, targets

INPUTS = 300
_LONGEST = 2_000
_PIECES = (
    b"", b"\x00", b"\xff", b"%", b"%zz", b"%ff", b"(", b")", b'"', b"\\", b"/", b"&", b"=", b"~", b"+link",
    b"+integer=", b"\r\n\r\n", b"\n", b"--MARK", b"commitments", b"priv", b"ao-types", b"ao-types: a=\"list\"",
    b'.="list"', b"[", b"{", b"}", b"]", b":", b",", b"99999999999999999999", b"-1", b"1e999", b"\xc7\x00\x01",
    b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xed\xa0\x80", b"\\ud800", b"(ao-type-list) ",
)  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a seed with one to four random changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, at + 64)
        change = rng.randrange(5)
        if change == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif change == 1:
            data[at:at] = rng.choice(_PIECES)
        elif change == 2:
            del data[at:end]
        elif change == 3:
            data[at:at] = data[at:end]
        else:
            other = rng.choice(seeds)
            cut = rng.randint(0, len(other))
            data[at:] = other[cut:]
    return bytes(data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_only_errors_of_the_caller_come_out(name: str) -> None:
    rng = random.Random(f"hyperpy {name}")
    every = corpus.seeds(name)
    seeds = [one for one in every if len(one) <= _LONGEST]
    for data in every + [mutated(rng, seeds) for _ in range(INPUTS)]:
        finding, _ = targets.examine(targets.TARGETS[name], data)
        assert finding is None or finding.name == "slow", (data, finding)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_are_the_same_each_time(name: str) -> None:
    assert corpus.seeds(name) == corpus.seeds(name)


# -- linear time -----------------------------------------------------------------------------

_HEADERS = b"GET /a\nx: 1\n"

HARD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "path: parts": ("path", lambda n: b"/a" * n),
    "path: keys": ("path", lambda n: b"/a" + b"&b=c" * n),
    "path: parentheses": ("path", lambda n: b"/" + b"(" * n + b"a" + b")" * n),
    "path: open": ("path", lambda n: b"/a&b=" + b"(" * n),
    "path: quotes": ("path", lambda n: b'/a&b="' + b'\\"' * n),
    "path: escapes": ("path", lambda n: b"/" + b"%25" * n),
    "path: query": ("path", lambda n: b"/a?" + b"1.b=c&" * n),
    "httpsig: headers": ("httpsig", lambda n: b"GET /a" + b"".join(b"\nx%d: 1" % at for at in range(n)) + b"\n\nb"),
    "httpsig: one header": ("httpsig", lambda n: b"GET /a" + b"\nx: 1" * (2 * n) + b"\n\nb"),
    "httpsig: components": ("httpsig", lambda n: _HEADERS + b"signature-input: s=(" + b'"x" ' * n + b")\n\nb"),
    "httpsig: signatures": ("httpsig", lambda n: _HEADERS + b"signature: " + b"s=:AA==:, " * n + b"\n\nb"),
    "httpsig: types": ("httpsig", lambda n: _HEADERS + b"ao-types: " + b'x="integer", ' * n + b'x="integer"\n\nb'),
    "httpsig: spaces": ("httpsig", lambda n: _HEADERS + b"cookie: " + b"a=b; " * n + b"\n\nb"),
    "httpsig: list": ("httpsig", lambda n: b'GET /a\nao-types: x="list"\nx: ' + b'"a", ' * n + b'"a"\n\nb'),
    "httpsig: flat": ("httpsig", lambda n: b"POST /a?codec-device=flat@1.0\n\n" + b"".join(
        b"a/b/c%d: v\n" % at for at in range(n))),
    "httpsig: deep parts": ("httpsig", lambda n: b"POST /a\ncontent-type: multipart/form-data; boundary=M\n\n"
                            + b"\r\n".join(b'--M\r\ncontent-disposition: form-data;name="%s/k%d"\r\n\r\nb'
                                            % (b"/".join([b"d"] * 60), at) for at in range(n)) + b"\r\n--M--"),
    "httpsig: links": ("httpsig", lambda n: b"POST /a\n" + b"".join(
        b"k%d+link: %043d\n" % (at, at) for at in range(n)) + b"\n"),
    "httpsig: ids": ("httpsig", lambda n: b"POST /a\nao-ids: " + b", ".join(
        b'%043d="x"' % at for at in range(n // 3)) + b"\n\n"),
    "httpsig: query": ("httpsig", lambda n: b"GET /a?" + b"&".join(
        b"k%d=v" % at for at in range(n)) + b"\npath: /\n\n"),
    "httpsig: scopes": ("httpsig", lambda n: b"GET /a\n" + b"".join(b"1.k%d: v\n" % at for at in range(n)) + b"\n"),
    "httpsig: json": ("httpsig", lambda n: b"POST /a\ncontent-type: application/json\n\n{" + b",".join(
        b'"k%d":{"a":%d}' % (at, at) for at in range(n)) + b"}"),
    "multipart: parts": ("multipart", lambda n: b"\r\n".join(
        b'--MARK\r\ncontent-disposition: form-data;name="%d"\r\n\r\nb' % at for at in range(n)) + b"\r\n--MARK--"),
    "multipart: lines": ("multipart", lambda n: b'--MARK\r\ncontent-disposition: inline\r\n'
                         + b"".join(b"k%d: v\r\n" % at for at in range(n)) + b"\r\nb\r\n--MARK--"),
    "multipart: almost": ("multipart", lambda n: b"--MARK\r\n" + b"\r\n--MARK" * n),
    "multipart: name": ("multipart", lambda n: b'--MARK\r\ncontent-disposition: form-data'
                        + b';name="' * n + b"\r\n\r\nb\r\n--MARK--"),
    "multipart: name spaces": ("multipart", lambda n: b'--MARK\r\ncontent-disposition: form-data;'
                               + b' ' * n + b"\r\n\r\nb\r\n--MARK--"),
    "ans104: data": ("ans104", lambda n: corpus.item(data=b"d" * n * 10)),
    "ans104: bundle": ("ans104", lambda n: corpus.bundle(n // 16)),
    "sfv: list": ("sfv", lambda n: b'"a", ' * n + b"1"),
    "sfv: quotes": ("sfv", lambda n: b'"' + b'\\"' * n),
    "sfv: open quotes": ("sfv", lambda n: b'"a' * n),
    "sfv: parameters": ("sfv", lambda n: b"a" + b";b=1" * n),
    "sfv: inner list": ("sfv", lambda n: b"(" + b"a " * n + b")"),
    "sfv: unquoted": ("sfv", lambda n: b"(ao-type-integer) 1, " * n + b"x"),
    "sfv: digits": ("sfv", lambda n: b"1" * n * 4),
    "sfv: key": ("sfv", lambda n: b"a" * n * 4 + b"=1"),
    "sfv: commas": ("sfv", lambda n: b"a" + b" ," * n),
    "json: list": ("json", lambda n: b"[" + b"1," * n + b"1]"),
    "json: keys": ("json", lambda n: b"{" + b",".join(b'"k%d":"v"' % at for at in range(n)) + b"}"),
    "json: nested": ("json", lambda n: b"[" * n),
    "json: string": ("json", lambda n: b'["' + b"\\u00e9" * n * 4 + b'"]'),
    "json: types": ("json", lambda n: b'{"ao-types":"' + b'a=\\"integer\\", ' * n + b'b=\\"atom\\""}'),
    "canonical: list": ("canonical", lambda n: b"\xdd" + n.to_bytes(4, "big") + b"\x01" * n),
    "canonical: nested": ("canonical", lambda n: b"\x91" * n),
    "canonical: map": ("canonical", lambda n: b"\xde" + n.to_bytes(2, "big") + b"".join(
        b"\xc4\x04%04d\x01" % at for at in range(n))),
    "canonical: integer": ("canonical", lambda n: b"\xc8" + n.to_bytes(2, "big") + b"\x01" + b"\x01" * n),
}  # fmt: skip
"""Inputs of growing size that would show a parser that goes back over its input."""

_SMALL = 1_500
_LARGEST_RATIO = 12.0


def _seconds(target: targets.Target, data: bytes) -> float:
    """Return the least CPU time that this thread takes, of a few runs, garbage collection aside."""
    best = float("inf")
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            started = time.thread_time()
            with contextlib.suppress(HyperpyError):
                target(data)
            best = min(best, time.thread_time() - started)
    finally:
        gc.enable()
    return best


@pytest.mark.parametrize("name", HARD)
def test_four_times_the_input_takes_about_four_times_as_long(name: str) -> None:
    """Quadratic time would give 16. Below a millisecond the ratio says nothing, and is not looked at."""
    target, make = HARD[name]
    run = targets.TARGETS[target]
    small, large = _seconds(run, make(_SMALL)), _seconds(run, make(4 * _SMALL))
    assert large < max(small, 0.001) * _LARGEST_RATIO, f"{small * 1000:.2f} ms and {large * 1000:.2f} ms"
