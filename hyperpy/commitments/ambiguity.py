"""Messages whose signed text another message could share are not signed and do not verify.

A signature covers text: header lines, and for bundles the lines of parts. What could be read as
two different messages is refused here. IDs stay defined for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hyperpy.codecs import httpsig
from hyperpy.codecs.structured import MAX_DEPTH
from hyperpy.commitments.ids import tabm_of
from hyperpy.errors import InvalidSignature, MessageError, SizeError
from hyperpy.message import Atom, Link, Message, Value, committed_list

_NOT_TOP = frozenset({"signature", "signature-input", "ao-types", "ao-ids", "ao-body-key"})
"""Words of the codec: a reader of the signed text takes them for something else than a key."""
_NOT_NESTED = frozenset({"ao-types", "content-disposition", "content-digest", "ao-body-key"})
_UNSIGNABLE = re.compile(r"\A@|[%\x00-\x1f\x7f]")
_UNSIGNABLE_NESTED = re.compile(r'\A@|[%/":\x00-\x1f\x7f]')


def refuse_ambiguous(msg: Message, names: Iterable[str] | None = None, bundle: bool = False) -> None:
    """Refuse a message whose signed text another message could share.

    Raises:
        MessageError: a header value goes on with a line that reads as another component; a key
            holds ``%`` or a control character, begins with ``@`` (which marks derived names and is
            left out elsewhere), or is one of the codec's own words; or, bundled, a key or value
            that names and lines of parts give another meaning.
    """
    chosen = None if names is None else frozenset(names)
    items = msg.raw_items()
    if chosen is not None and not chosen.issuperset(items):
        items = {k: v for k, v in items.items() if k in chosen or k.removesuffix("+link") in chosen}
    if not _usual("".join(items)) or not _NOT_TOP.isdisjoint(items):
        for key in items:
            if key in _NOT_TOP or _UNSIGNABLE.search(key) is not None:
                raise _refused(key)
    for key, value in items.items():
        if type(value) is bytes:
            smuggles = b'\n"' in value and key != "body" and len(value) <= httpsig.MAX_HEADER
            if smuggles and key != httpsig.inline_key(tabm_of(msg, bundle)):
                raise _smuggles(key)
        elif bundle:
            _refuse_nested(value, 1)


def _usual(text: str) -> bool:
    """Say whether a text holds nothing for which a key is refused."""
    return text.isascii() and text.isprintable() and "%" not in text and "@" not in text


def refuse_untyped(message: Message, commitment: Message) -> None:
    """Refuse a signature over typed values that leaves out ``ao-types``.

    It fits the text ``1`` and the number 1 alike: whoever passes the message on could choose, and two
    messages would have one signed ID. ANS-104 and the older dialects sign texts, and are compared as such.

    Raises:
        InvalidSignature: it is such a signature.
    """
    names = committed_list(commitment)
    if "ao-types" in names or "dialect" in commitment or commitment.get("commitment-device") == b"ans104@1.0":
        return
    for name in names:
        if isinstance(message.raw(name), (int, float, Atom)):
            raise InvalidSignature(
                f"the signature covers {name[:64]!a} and not the type of its value", hint="Sign the key ao-types too."
            )


def _refuse_nested(value: Value, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SizeError(f"a message is nested deeper than {MAX_DEPTH}")
    if type(value) is Link and value.loader is not None:
        value = value.load()
    if type(value) is tuple:
        _refuse_map({str(n): one for n, one in enumerate(value, 1)}, depth)
    elif type(value) is Message:
        _refuse_map(value.raw_items(), depth)


def _refuse_map(items: Mapping[str, Value], depth: int) -> None:
    for key, value in items.items():
        if key in _NOT_NESTED or _UNSIGNABLE_NESTED.search(key) is not None:
            raise _refused(key)
        if type(value) is bytes:
            if b"\r\n" in value and key != "body" and len(value) <= httpsig.MAX_HEADER:
                raise _smuggles(key)
        else:
            _refuse_nested(value, depth + 1)


def _refused(key: str) -> MessageError:
    return MessageError(
        f"the key {key[:60]!a} cannot be signed without ambiguity",
        hint="Use other key names: without percent signs, control characters and @ in front, and none that the "
        "httpsig codec uses itself; bundled, without / : and quotes.",
    )


def _smuggles(key: str) -> MessageError:
    return MessageError(
        f"the value of {key[:60]!a} holds a line that reads as another key",
        hint="Put text with line breaks under 'body' or 'data'.",
    )
