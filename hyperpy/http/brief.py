"""Which requests the event loop may answer itself (design 2.2).

The way to a worker thread and back costs as much as a small answer. A request goes without it if its
bytes alone show that the answer takes microseconds, whatever the node holds: no body, few and common
headers, and a short path that either runs on ``message@1.0`` from the texts in the path, or reads one
setting of ``meta@1.0``. Their keys compute on what is in the request; those that sign, resolve further
or describe a device, and names that would bring in another device, are left out. Only ``set``, which
answers with a message, has anything behind it: any other result may be a text as long as an ID, and what
that names has whatever device it likes. Whether the node itself has to wait for something (hooks, a
signature, the store) is for the node to say; should the store have to after all, a worker answers
(:mod:`hyperpy.store.haste`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from hyperpy.encoding import ID_LENGTHS
from hyperpy.http.form import Headers, RawRequest

_MAX_TARGET: Final = 512
_MAX_HEADERS: Final = 2048
_MAX_SETS: Final = 3
_MAX_PAIRS: Final = 16
_COMMON: Final = frozenset(
    {b"host", b"accept", b"accept-encoding", b"accept-language", b"user-agent", b"connection", b"origin", b"dnt"}
    | {b"priority", b"upgrade-insecure-requests", b"x-request-id", b"traceparent", b"content-length"}
    | {b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user", b"sec-gpc"}
    | {b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform"}
)
_PAIRS: Final = rb"(?:&[a-z][a-z0-9-]*=[A-Za-z0-9._-]*)*"
_PATH: Final = re.compile(
    rb"/~message@1\.0" + _PAIRS + rb"(?:/set" + _PAIRS + rb"){0,%d}" % _MAX_SETS + rb"/[a-z][a-z0-9-]*" + _PAIRS
    + rb"|/~meta@1\.0/(?:info|build)/[a-z][a-z0-9-]*"
)  # fmt: skip
_ID: Final = re.compile(
    rb"[/=](?:%s)(?:[/&]|\Z)" % b"|".join(rb"[A-Za-z0-9._-]{%d}" % size for size in sorted(ID_LENGTHS))
)
_SETTING: Final = b"/~meta@1.0/"
_LEFT_OUT: Final = re.compile(
    rb"[/&](?:commit|index|info|device|attest|attest-nonce|path|method|cache-control|hashpath-alg|ao-types|commitments|priv[a-z0-9-]*)"
    rb"(?:[/&=]|\Z)"
)


def is_brief(raw: RawRequest) -> bool:
    """Say whether a request's bytes show that answering it takes microseconds."""
    return (raw.method == "GET" or raw.method == "HEAD") and not raw.body and _short(raw.headers) and _runs(raw.target)


def _short(headers: Headers) -> bool:
    size = 0
    for name, value in headers:
        if name not in _COMMON:
            return False
        size += len(value)
    return size <= _MAX_HEADERS


def _runs(target: bytes) -> bool:
    return len(target) <= _MAX_TARGET and _runs_here(target)


@lru_cache(maxsize=1024)
def _runs_here(target: bytes) -> bool:
    if _PATH.fullmatch(target) is None or target.count(b"=") > _MAX_PAIRS:
        return False
    named = target.removeprefix(_SETTING + b"info") if target.startswith(_SETTING) else target
    return _LEFT_OUT.search(named) is None and _ID.search(target) is None
