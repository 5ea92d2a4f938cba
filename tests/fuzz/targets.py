"""The fuzz targets, and what counts as a finding.

A target is a function of bytes. It may return, or raise a HyperpyError with a 4xx status: anything
else is a finding, as is an input that takes more CPU time than :func:`bound` allows. Where a parser
has an inverse, its result is written again: that must not fail in another way either, and
what is one-to-one must come back.
"""

from __future__ import annotations

import base64
import hashlib
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from hyperpy import path
from hyperpy.codecs import ans104, canonical, httpsig, json, multipart, sfv
from hyperpy.errors import HyperpyError
from hyperpy.http.wire import RawRequest, read, write
from tests.fuzz import corpus

Target = Callable[[bytes], None]


class Finding(NamedTuple):
    """What is wrong with an input; ``name`` is the same for the same fault."""

    name: str
    detail: str


def bound(size: int) -> float:
    """Return the CPU seconds that many bytes may take: generous, for instrumented code on a busy machine."""
    return 0.5 + size * 50e-6


def examine(target: Target, data: bytes) -> tuple[Finding | None, float]:
    """Run a target; return what is wrong, if anything, and the CPU seconds it took."""
    started = time.process_time()
    finding = None
    try:
        target(data)
    except HyperpyError as error:
        if not 400 <= error.status < 500:
            finding = _finding(error)
    except Exception as error:
        finding = _finding(error)
    took = time.process_time() - started
    if finding is None and took > bound(len(data)):
        finding = Finding("slow", f"{took:.2f} s of CPU time for {len(data)} bytes")
    return finding, took


def _finding(error: Exception) -> Finding:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "hyperpy" in frame.filename]
    last = (frames or traceback.extract_tb(error.__traceback__))[-1]
    name = f"{type(error).__name__}-{last.filename.rpartition('/')[2]}-{last.lineno}"
    return Finding(name, "".join(traceback.format_exception(error, limit=-8)))


def _path(data: bytes) -> None:
    members = path.parse(data)
    made = path.format(members)
    path.parse(made)


def request(data: bytes) -> RawRequest:
    """Return the request an input stands for: lines, an empty line, the body; ``*`` as digest is the right one."""
    head, _, body = data.partition(b"\n\n")
    line, *rest = head.split(b"\n")
    method, _, target = line.partition(b" ")
    headers = []
    for one in rest:
        name, _, text = one.partition(b":")
        text = text.strip(b" ")
        if name == b"content-digest" and text == b"*":
            text = b"sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()) + b":"
        headers.append((name.lower(), text))
    return RawRequest(method.decode("latin-1").upper(), target, tuple(headers), body, "127.0.0.1")


def _httpsig(data: bytes) -> None:
    """Read a request, split it as the node does, and write its keys as a reply in the form it asks for."""
    found = read(request(data))
    _tolerant(lambda: path.parse(found.message))
    write(found.message.replace({"status": 200}), found.wants)


def _multipart(data: bytes) -> None:
    tabm, _ = multipart.decode(data, b"MARK", "body")
    made = httpsig.encode(tabm, whole=True)
    httpsig.decode(made.headers, made.body)


def _ans104(data: bytes) -> None:
    item = ans104.parse(data)
    found = ans104.to_tabm(item)
    if ans104.encode(found) != item.encode():
        raise AssertionError("another item came back")
    ans104.decode_message(data)


def _sfv(data: bytes) -> None:
    for parse, serialize in (
        (sfv.parse_item, sfv.serialize_item),
        (sfv.parse_list, sfv.serialize_list),
        (sfv.parse_dictionary, sfv.serialize_dictionary),
    ):
        _tolerant(lambda parse=parse, serialize=serialize: serialize(parse(data)))  # type: ignore[misc, unused-ignore]
    for kind in sfv.DECODERS:
        _tolerant(lambda kind=kind: sfv.decode_value(kind, data))  # type: ignore[misc, unused-ignore]


def _tolerant(work: Callable[[], object]) -> None:
    """Go on after an error of the caller's, so that one input reaches every parser of a target."""
    try:
        work()
    except HyperpyError as error:
        if not 400 <= error.status < 500:
            raise


def _json(data: bytes) -> None:
    found = json.decode(data)
    again = json.decode(json.encode(found))
    if canonical.encode(again) != canonical.encode(found):
        raise AssertionError("another message came back")


def _canonical(data: bytes) -> None:
    found = canonical.decode(data)
    if canonical.encode(found) != data:
        raise AssertionError("other bytes came back")


def _value(data: bytes) -> None:
    """Hold evidence against an honest computation: whatever it is, it must not show anything false."""
    from hyperpy.inference import evidence, judging, statements

    for reader in (statements.read, statements.read_partials):
        _tolerant(lambda reader=reader: reader(data))  # type: ignore[misc]
    found = judging.judge(corpus.computation().statement, evidence.read(data))
    if found.false:
        raise AssertionError(f"an honest computation is convicted: {found}")


TARGETS: dict[str, Target] = {
    "path": _path,
    "httpsig": _httpsig,
    "multipart": _multipart,
    "ans104": _ans104,
    "sfv": _sfv,
    "json": _json,
    "canonical": _canonical,
    "value": _value,
}
