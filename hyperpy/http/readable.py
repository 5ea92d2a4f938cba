"""Whether a reply can be read back as what it says, with its signatures (http-clients.md 0; ADR 6).

Nearly all messages can. What HTTP or the httpsig codec would turn into something else is refused
before it is sent: headers that are none, headers beyond what a reader takes, a ``content-type`` of
the message's own where the body's is another one. A reply with odd keys is read back as a client
reads it; one that does not come back verified is a 4xx that proposes JSON.
"""

from __future__ import annotations

import re
from typing import Final

from hyperpy import commitments
from hyperpy.codecs.structured import MAX_DEPTH
from hyperpy.errors import CodecError, HyperpyError, SizeError
from hyperpy.http.form import RawReply
from hyperpy.http.replies import decode_reply
from hyperpy.message import Link, Message, Value

MAX_HEADER: Final = 64 << 10
"""The longest header in bytes that our own readers take ([limits] header), and so the longest sent."""
MAX_HEADERS: Final = 256 << 10
"""All headers of a reply together, in bytes."""
_TOKEN: Final = b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+.^_`|~-"
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ODD: Final = frozenset(
    {"ao-types", "ao-ids", "ao-body-key", "inline-body-key", "body-keys", "codec-device", "content-digest"}
    | {"content-disposition", "content-type", "signature", "signature-input", "unsigned_id", "commitments"}
)
"""Keys that the codec or HTTP has a meaning for."""
_HINT: Final = "Ask for JSON: require-codec: application/json."


def refuse_unreadable(message: Message, made: RawReply, bundle: bool) -> None:
    """Refuse the httpsig reply that a message became, if clients could not read or verify it.

    Raises:
        CodecError: a header that is none, or the message does not come back verified.
        SizeError: more header bytes than readers take.
    """
    names, texts = [name for name, _ in made.headers], [text for _, text in made.headers]
    joined = b"".join(texts)
    if (
        len(joined.translate(None, _CONTROLS)) < len(joined)
        or b"".join(names).translate(None, _TOKEN)
        or not all(names)
    ):
        raise CodecError("a header of the reply cannot be written: it holds a control character", hint=_HINT)
    if len(joined) > MAX_HEADER and max(map(len, texts)) > MAX_HEADER:
        raise _too_wide(MAX_HEADER)
    if len(joined) + sum(map(len, names)) > MAX_HEADERS:
        raise _too_wide(MAX_HEADERS)
    if message.commitments and _is_odd(message, bundle, 0):
        _read_back(message, made)


def _too_wide(limit: int) -> SizeError:
    return SizeError(f"the reply has too many keys for HTTP headers of {limit} bytes", hint=_HINT)


def _is_odd(item: Value, bundle: bool, depth: int) -> bool:
    """Say whether a message has keys that need a second look; nested ones count where they are inline."""
    if depth > MAX_DEPTH:
        return True
    if type(item) is Link and item.loader is not None:
        item = item.load()
    if type(item) is tuple:
        return any(_is_odd(one, bundle, depth + 1) for one in item)
    if type(item) is not Message:
        return False
    for key, value in item.raw_items().items():
        if key in _ODD or _PLAIN.fullmatch(key) is None:
            return True
        if bundle and type(value) is not bytes and _is_odd(value, bundle, depth + 1):
            return True
    return False


def _read_back(message: Message, made: RawReply) -> None:
    """Read a reply as a client does; refuse it unless everybody who signed the message has signed what comes back."""
    try:
        found = decode_reply(made.status, made.headers, made.body)
        wanted = [one for one in commitments.committers(message) if _travels(message, one)]
        kept = set(commitments.committers(found)).issuperset(wanted)
    except HyperpyError as error:
        raise CodecError(f"the reply cannot be read back from HTTP: {error.message}", hint=_HINT) from None
    if not kept:
        raise CodecError("the reply's signature would be lost in HTTP", hint=_HINT)


def _travels(message: Message, committer: str) -> bool:
    """Say whether a signer has a commitment that HTTP carries; those of the older dialects stay in JSON."""
    return any(
        "dialect" not in one and commitments.committer_of(one) == committer for one in message.commitments.values()
    )
