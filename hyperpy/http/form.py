"""What passes between sockets, wire form and node: raw requests, messages, raw replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from hyperpy.config import Config
from hyperpy.message import Message

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RawRequest:
    """An HTTP request as the server read it.

    Attributes:
        method: upper-case, such as ``GET``.
        target: raw path and query, never decoded.
        headers: names in lower case and values, in the order of the request.
        body: the whole body.
        peer: the client's IP address; it never enters a message.
    """

    method: str
    target: bytes
    headers: Headers = ()
    body: bytes = b""
    peer: str = ""


@dataclass(slots=True)
class RawReply:
    """An HTTP reply as the server writes it; header names are lower-case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class BodyType(NamedTuple):
    """The content type that a request's body came with, and whether a codec read the body by it."""

    text: bytes
    decoded: bool


@dataclass(frozen=True, slots=True)
class Wants:
    """What the caller wants the reply to look like (ao-core 10.4).

    Attributes:
        codec: ``require-codec`` as a device name, or None.
        accept: the ``accept`` text.
        bundle: nested messages inline.
        allow_headers: ``access-control-request-headers``, echoed.
        head: the method is HEAD: headers as for GET, no body.
        body_type: where the request's ``content-type`` is a key of its message, though nobody signed it.
    """

    codec: str | None = None
    accept: str = "*/*"
    bundle: bool = False
    allow_headers: bytes | None = None
    head: bool = False
    body_type: BodyType | None = None

    def codec_for(self, reply: Message) -> str:
        """Return the codec a reply is written in; one with a ``content-type`` is no document of ours."""
        return self.codec or (HTTPSIG if "content-type" in reply else codec_of(self.accept) or HTTPSIG)


@dataclass(frozen=True, slots=True)
class Ingress:
    """A request on its way into the node.

    Attributes:
        message: the singleton: ``path``, ``method``, ``accept`` and everything the caller sent.
        origin: canonical bytes of the cleaned raw request (design 3): ``method``, ``target``,
            ``headers``, ``body``, without secrets and addresses. The trail names their digest.
        wants: how to write the reply.
        private: secrets and the peer; no message, ID, store, trail or log sees them.
        sink: takes pieces of the answer ahead of the whole, where the caller asked for a stream.
    """

    message: Message
    origin: bytes = b""
    wants: Wants = Wants()
    private: Mapping[str, Any] = field(default_factory=dict)
    sink: Callable[[bytes], None] | None = None

    @property
    def loopback(self) -> bool:
        """Whether the client is on this machine (or there is no socket at all)."""
        return is_loopback(self.private.get("peer", ""))


def is_loopback(peer: str) -> bool:
    """Say whether an IP address is this machine's own; the empty one is: there is no socket at all."""
    return not peer or peer == "::1" or peer.startswith(("127.", "::ffff:127."))


@dataclass(frozen=True, slots=True)
class Rules:
    """How requests become messages.

    Attributes:
        host_with_port: keep the port in the key ``host``, as the September 2025 reference does.
    """

    host_with_port: bool = False

    @classmethod
    def of(cls, config: Config) -> Rules:
        """Return the rules of a node."""
        return cls(host_with_port=config.http.host_with_port)


DEFAULT_RULES: Final = Rules()
HTTPSIG: Final = "httpsig@1.0"
JSON: Final = "json@1.0"
ANS104: Final = "ans104@1.0"
FLAT: Final = "flat@1.0"
CODECS: Final = frozenset({HTTPSIG, JSON, ANS104, FLAT})
"""What requests and replies can be written in."""


def codec_of(mime: str) -> str | None:
    """Return the codec a media type or device name stands for; None means the default (10.2.2).

    ``application/x`` is ``x@1.0`` if that is a codec; any other text with ``@`` is itself.
    """
    text = mime.partition(";")[0].strip().lower()
    if text.startswith(("application/", "device/")):
        name = text.partition("/")[2]
        full = name if "@" in name else name + "@1.0"
        return full if full in CODECS or "@" in name else None
    return text if "@" in text and "/" not in text and "," not in text else None
