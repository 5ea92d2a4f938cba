"""What never enters a message: credentials, addresses, and headers of the transport (design 5).

Credentials are the headers ``authorization``, ``cookie``, ``set-cookie`` and the request keys
``secret``, ``!...`` and ``priv...``, as header or in the query. Inside a message body these names
are ordinary keys, except ``priv...``. Addresses are what proxies say of the client.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from hyperpy.codecs.sfv import unescape_key
from hyperpy.encoding import key_text
from hyperpy.errors import CodecError, ParameterError

CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "secret"})
_ADDRESSES: Final = frozenset(
    {"x-real-ip", "x-forwarded-for", "forwarded", "x-client-ip", "cf-connecting-ip", "true-client-ip"}
    | {"fastly-client-ip", "x-cluster-client-ip", "ao-peer-port", "ao-peer"}
)
_TRANSPORT: Final = frozenset(
    {"transfer-encoding", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings", "expect"}
)
_DECODED: Final = frozenset(
    {"signature", "signature-input", "ao-types", "ao-ids", "ao-body-key", "inline-body-key", "body-keys", "body"}
    | {"codec-device", "content-type", "content-digest", "commitments", "path", "ao-result"}
)
"""Headers that make a request more than a map of texts."""

_SUSPECT = re.compile(rb"secret|priv|authorization|cookie|!|%", re.IGNORECASE)
_NAMED = re.compile(
    rb"(?:^|[&?/(])[+\s]*(?:[0-9]{1,9}\.)?"
    rb"(?:(?:secret|(?:proxy-)?authorization|(?:set-)?cookie)(?:[+ ][^=&/?(]*)?=|priv[^=&/?(]*=|!)",
    re.IGNORECASE,
)
_PRIVATE = re.compile(rb"priv|(?:\\u00|%)(?:[57]0|[57]2|[46]9|[57]6)", re.IGNORECASE)
"""What a body that names a private key holds, some of its letters escaped or not."""
_PLAN_BYTES: Final = 2048


class Plan(NamedTuple):
    """What to do with the headers of a request, given their names alone.

    Attributes:
        keys: index and key of each header that enters the message.
        private: index and name of each that does not.
        origin: indices of the headers that the trail may keep.
        paths: indices of the headers whose value holds a path, which may hold credentials in turn.
        plain: nothing needs decoding: no header is special, none comes twice.
        twice: a header that enters the message comes more than once.
    """

    keys: tuple[tuple[int, str], ...]
    private: tuple[tuple[int, str], ...]
    origin: tuple[int, ...]
    paths: tuple[int, ...]
    plain: bool
    twice: bool


def is_credential(name: str) -> bool:
    """Say whether a request key is a credential; ``N.`` scopes and ``+type`` suffixes are looked through."""
    bare = name.lower().strip()
    scope, dot, rest = bare.partition(".")
    if dot and scope.isdigit():
        bare = rest.strip()
    return bare.startswith(("!", "priv")) or re.split(r"[+ ]", bare, maxsplit=1)[0] in CREDENTIALS


def plan(names: tuple[bytes, ...]) -> Plan:
    """Return what to do with headers of these names (lower case).

    Raises:
        CodecError: a name is empty.
    """
    return _cached(names) if sum(map(len, names)) <= _PLAN_BYTES else _made(names)


def _made(names: tuple[bytes, ...]) -> Plan:
    keys: list[tuple[int, str]] = []
    private: list[tuple[int, str]] = []
    origin: list[int] = []
    paths: list[int] = []
    plain = True
    for at, raw in enumerate(names):
        name = key_text(raw)
        if not name:
            raise CodecError("a header has no name")
        bare = unescape_key(name) if "%" in name else name
        if is_credential(bare) or bare in _ADDRESSES:
            private.append((at, bare))
        elif name not in _TRANSPORT and name != "content-length":
            keys.append((at, name))
            origin.append(at)
            if bare in ("path", "referer") or bare.endswith("resolve"):
                paths.append(at)
            plain = plain and name not in _DECODED and not ("%" in name or name.endswith("+link"))
    twice = len({name for _, name in keys}) < len(keys)
    return Plan(tuple(keys), tuple(private), tuple(origin), tuple(paths), plain and not twice, twice)


_cached = lru_cache(maxsize=1024)(_made)


def scrub(target: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return a request target without the credentials of its query, and those credentials.

    Raises:
        ParameterError: a credential stands inside the path or is escaped more than once, where it
            cannot be taken out safely. The text never repeats it.
    """
    if _SUSPECT.search(target) is None:
        return target, {}
    path, mark, query = target.partition(b"?")
    found: dict[str, Any] = {}
    if mark:
        kept = []
        for pair in query.split(b"&"):
            name, equals, text = pair.partition(b"=")
            key = key_text(unquote_to_bytes(unquote_to_bytes(name).replace(b"+", b" ")))
            if is_credential(key):
                found[key] = unquote_to_bytes(unquote_to_bytes(text).replace(b"+", b" ")) if equals else True
            else:
                kept.append(pair)
        target = path + b"?" + b"&".join(kept) if kept else path
    once = unquote_to_bytes(target)
    if _NAMED.search(once) or _NAMED.search(unquote_to_bytes(once)):
        raise ParameterError(
            "the path holds a credential (secret=, authorization=, cookie=, priv...= or !)",
            hint="Send it as a header or a query key: there the node takes it out before anything is recorded.",
        )
    return target, found


def scrub_value(path: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the value of a header that holds a path or URL, as :func:`scrub` does.

    Where a credential cannot be taken out, nothing is left: a browser sends the URL of the page
    before as ``referer`` without being asked.
    """
    try:
        return scrub(path)
    except ParameterError:
        return b"", {}


def may_name_private(body: bytes) -> bool:
    """Say whether a body, once decoded, may hold keys beginning with ``priv``, which no message keeps."""
    return _PRIVATE.search(body) is not None
