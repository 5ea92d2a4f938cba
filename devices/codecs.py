"""structured@1.0, httpsig@1.0, flat@1.0, json@1.0 and ans104@1.0 as devices.

``to`` gives the message in the codec's own form and ``from`` reads that form; ``serialize`` and
``deserialize`` do the same for whole texts, as ``{content-type, body}``. What is read is the base's
key ``target``, default ``body``. Children are written as links (``K+link: ID``) unless the request
says ``bundle``. ``commit``, ``verify`` and ``committed`` are message@1.0's.
"""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.codecs import ans104, flat, httpsig, json, structured
from hyperpy.codecs.structured import LinkTo, Tabm
from hyperpy.commitments import commit, http_form, signed_id
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import CodecError, KeyNotFound, ParameterError
from hyperpy.message import Link, Message, Value, as_text
from hyperpy.sdk import Context, Result


@device("structured@1.0")
class Structured:
    """Typed values as text, with their types in ``ao-types``: the form that IDs are made of."""

    @key(name="from")
    def encode(self, base: Message, bundle: bool = False) -> Message:
        """Return the message with every value as text or a map."""
        return _plain(structured.encode(base, link=_link(bundle)))

    @key(name="to")
    def decode(self, base: Message, ctx: Context) -> Value:
        """Return the message with the values typed as ``ao-types`` says."""
        return structured.decode(structured.encode(_still_linked(base)), loader=ctx.resolve)


@device("httpsig@1.0")
class HttpSig:
    """Messages as HTTP carries them: headers, and a body of parts."""

    @key(name="to")
    def encode(self, base: Message, bundle: bool = False) -> Message:
        """Return headers and body as one flat message, signatures included."""
        form = http_form(base, bundle=bundle)
        body = {} if form.body is None else {"body": form.body}
        return Message.make({**form.headers, **body})

    @key(name="from")
    def decode(self, base: Message, ctx: Context) -> Value:
        """Return the message that headers and body stand for. Signatures are not verified."""
        items = {name: as_text(item, name).encode("utf-8", "surrogateescape") for name, item in base.items()}
        items.pop("device", None)
        body = items.pop("body", None)
        return structured.decode(httpsig.decode(items, body), loader=ctx.resolve)

    @key
    def serialize(self, base: Message, bundle: bool = True, format: str = "text") -> Message:
        """Return header lines, an empty line and the body; ``format`` components keeps them apart."""
        form = http_form(base, bundle=bundle)
        if format == "components":
            return Message({"headers": form.headers, "body": form.body or b""})
        for name, text in form.headers.items():
            if b"\n" in text or b"\r" in text:
                raise CodecError(f"httpsig: the value of '{name}' holds a line break and cannot be a header line")
        lines = [key_bytes(name) + b": " + text for name, text in form.headers.items()]
        text = b"\r\n".join(lines) + b"\r\n\r\n" + (form.body or b"")
        return Message({"content-type": "message/http", "body": text})

    @key
    def deserialize(self, base: Message, ctx: Context, target: str = "body") -> Value:
        """Return the message of a text as ``serialize`` writes it. Signatures are not verified."""
        text = _text(base, target)
        head, gap, body = text.partition(b"\r\n\r\n")
        headers: dict[str, bytes] = {}
        for line in head.split(b"\r\n"):
            name, colon, found = line.partition(b": ")
            if not colon:
                raise CodecError("httpsig: a header line has no colon")
            headers[key_text(name.lower())] = found
        return structured.decode(httpsig.decode(headers, body if gap and body else None), loader=ctx.resolve)


@device("flat@1.0")
class Flat:
    """Messages as one level of paths: ``a/b: 1``."""

    @key(name="to")
    def encode(self, base: Message, bundle: bool = True) -> Message:
        """Return the message with nested keys joined by ``/``."""
        return Message.make(dict(flat.encode(structured.encode(base, link=_link(bundle)))))

    @key(name="from")
    def decode(self, base: Message, ctx: Context) -> Value:
        """Return the message with keys split at ``/`` into maps."""
        tabm = structured.encode(_still_linked(base))
        texts = {name: item for name, item in tabm.items() if isinstance(item, bytes)}
        if len(texts) != len(tabm):
            raise CodecError("flat: a flat message holds no maps")
        return structured.decode(flat.decode(texts), loader=ctx.resolve)

    @key
    def serialize(self, base: Message, bundle: bool = True) -> Message:
        """Return sorted lines ``path: value``."""
        body = flat.serialize(structured.encode(base, link=_link(bundle)))
        return Message({"content-type": "application/flat", "body": body})

    @key
    def deserialize(self, base: Message, ctx: Context, target: str = "body") -> Value:
        """Return the message of lines ``path: value``."""
        return structured.decode(flat.deserialize(_text(base, target)), loader=ctx.resolve)


@device("json@1.0")
class Json:
    """Messages as JSON text."""

    @key(name="to")
    def encode(self, base: Message, bundle: bool = False) -> bytes:
        """Return the JSON text of the message."""
        return json.encode(base, link=_link(bundle))

    @key(name="from")
    def decode(self, base: Message, ctx: Context, target: str = "body") -> Value:
        """Return the message of a JSON text."""
        return json.decode_any(_text(base, target), loader=ctx.resolve)

    @key
    def serialize(self, base: Message, bundle: bool = False) -> Message:
        """Return ``{content-type, body}`` with the JSON text of the message."""
        return Message({"content-type": "application/json", "body": json.encode(base, link=_link(bundle))})

    @key
    def deserialize(self, base: Message, ctx: Context, target: str = "body") -> Result:
        """Return the message of the JSON text under ``target``; status 404 if there is none."""
        if target not in base:
            text = f"JSON payload not found in the base message.Searched for: {target}"
            return Result("error", Message({"status": 404, "body": text}))
        return Result("ok", json.decode_any(_text(base, target), loader=ctx.resolve))

    @key
    def content_type(self) -> bytes:
        """Return the media type of the codec."""
        return b"application/json"


@device("ans104@1.0")
class Ans104:
    """Messages as ANS-104 data items, the form of Arweave bundles."""

    @key(name="to")
    def encode(self, base: Message, bundle: bool = False) -> bytes:
        """Return the bytes of the message's item: as it was signed, or unsigned."""
        return ans104.encode(structured.encode(base, link=_link(bundle or _signed_bundle(base))))

    @key(name="from")
    def decode(self, base: Message, ctx: Context, target: str = "body") -> Value:
        """Return the message of an item's bytes. A signature that does not fit is refused."""
        return structured.decode(ans104.decode(_text(base, target)), loader=ctx.resolve)

    @key
    def serialize(self, base: Message, bundle: bool = False) -> Message:
        """Return ``{content-type, body}`` with the bytes of the message's item."""
        return Message({"content-type": "application/ans104", "body": self.encode(base, bundle)})

    @key
    def deserialize(self, base: Message, ctx: Context, target: str = "body") -> Value:
        """Return the message of an item's bytes. A signature that does not fit is refused."""
        return self.decode(base, ctx, target)

    @key
    def content_type(self) -> bytes:
        """Return the media type of the codec."""
        return b"application/ans104"

    @key(deterministic=False)
    def commit(self, base: Message, ctx: Context, type: str = "signed") -> Message:
        """Return the message with an ANS-104 commitment: this node's, or an unsigned one."""
        if type in ("unsigned", "unsigned-sha256"):
            return commit(base, None, device="ans104@1.0", type="unsigned")
        return ctx.sign(base, device="ans104@1.0")


def _link(bundle: bool) -> LinkTo | None:
    return None if bundle else signed_id


def _still_linked(item: Message) -> Message:
    """Return the message with links that an encoder writes as ``K+link`` rather than loads."""
    items: dict[str, Value] = {}
    for name, found in item.raw_items().items():
        inner = _still_linked(found) if isinstance(found, Message) else found
        items[name] = Link(inner.id) if isinstance(inner, Link) else inner
    return Message.make(items, item.commitments)


def _plain(tabm: Tabm) -> Message:
    """Return a TABM as a message of texts and maps. Its ``ao-types`` stay an ordinary key."""
    items: dict[str, Value] = {
        name: _plain(item) if isinstance(item, dict) else item for name, item in tabm.items() if name != "commitments"
    }
    given = tabm.get("commitments")
    commitments = (
        {name: _plain(one) for name, one in given.items() if isinstance(one, dict)} if isinstance(given, dict) else {}
    )
    return Message.make(items, commitments)


def _signed_bundle(base: Message) -> bool:
    """Say whether an item that was signed with its children inside must be written that way."""
    return any(
        one.get("commitment-device") == b"ans104@1.0" and one.text("bundle", "false") == "true"
        for one in base.commitments.values()
    )


def _text(base: Message, target: str) -> bytes:
    found = base.get(target)
    if found is None:
        raise KeyNotFound(f"the message has no key '{target}' to read")
    if not isinstance(found, bytes):
        raise ParameterError(f"'{target}' must be text or bytes", name=target)
    return found
