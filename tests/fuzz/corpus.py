"""Seeds for the fuzz targets: small valid inputs, made by the package itself.

Everything is deterministic: the only keys are fixed seeds of curves whose signatures are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from hyperpy import commitments
from hyperpy.codecs import ans104, canonical, flat, httpsig, json, multipart, structured
from hyperpy.encoding import key_text
from hyperpy.http.egress import http_message
from hyperpy.keys_ans104 import Ed25519Signer, EthereumSigner, SolanaSigner
from hyperpy.message import Atom, Link, Message

if TYPE_CHECKING:
    from hyperpy.inference.traces import Trace

_SEED = bytes(range(32))
_ID = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"

MESSAGES = (
    Message({}),
    Message({"a": b"1", "b": 2, "c": True, "d": Atom("ok"), "e": 1.5}),
    Message({"body": b"hello", "content-type": b"text/plain"}),
    Message({"body": b"two\nlines", "x": -(10**20), "Upper Key": b"v"}),
    Message({"n": {"a": b"1", "deep": {"list": (1, b"two", Atom("three"), 4.25)}}, "l": ((), ((),), b"")}),
    Message({"empty": b"", "map": {}, "list": (), "data": b"\x00\xff", "nothing": Atom("null")}),
    Message({"long": b"x" * 4100, "n": {"long": b"y" * 4100, "body": b"z"}}),
    Message({"child": Link(_ID), "path": b"/a/b&c=1", "method": b"GET"}),
)

_PATHS = (
    b"/",
    b"/a/b/c",
    b"/~meta@1.0/info/address",
    b"/" + _ID.encode() + b"/key~device@1.0&a=1&b+integer=2/next",
    b"/a&x=(b/c&d=1)/(e/f)/g?h=1&i+atom=ok&j",
    b"/a&t=%22quoted%20text%22&n=%27x%27&l+list=%221%22,%20%222%22",
    b"/(/a/(b/(c)))/d&e+resolve=/x/y",
    b"/~a@1.0&body+map=k=%22v%22,n=1/2.key/1.other",
    b"/a?1.b=c&2.d+float=1.5&ao-types=x%3D%22integer%22&x=5",
    b"/%7Eprocess@1.0/%C3%A9%2Fz&q==&&&",
)

_FIELDS = (
    b'1, -2, 3.25, ?1, ?0, token, "text \\" \\\\", :AAEC:',
    b'a=1, b="x";p=1;q="r", c, d=(1 "two" :AA==:);e, %41/k=?0',
    b'"(ao-type-integer) 5", "(ao-type-list) \\"a\\", \\"b\\"", "(ao-type-atom) ok"',
    b"(ao-type-integer) 5, plain, (ao-type-float) 1.5",
    b"12345678901234567890123",
    b"1.50000000000000000000e+00",
    b'a="integer", b%2f="list", .="list"',
)


def seeds(target: str) -> list[bytes]:
    """Return the valid inputs of a target of ``targets.TARGETS``."""
    return _MAKERS[target]()


def _texts() -> list[bytes]:
    return [json.encode(one) for one in _utf8()] + [
        b'["a",1,null,true,{"ao-types":".=\\"list\\"","1":"x","2":2}]',
        b'{"a+link":"'
        + _ID.encode()
        + b'","commitments":{"c":{"type":"hmac","committed":["a"]}},"u":"\\ud83d\\ude00"}',
        b'{"i":"5","f":"1.5","ao-types":"i=\\"integer\\", f=\\"float\\""}',
    ]


def _utf8() -> list[Message]:
    return [one for one in MESSAGES if "data" not in one]


def _parts() -> list[bytes]:
    forms = [httpsig.encode(structured.encode(one), whole=True) for one in MESSAGES]
    found = []
    for form in forms:
        mark = multipart.boundary(form.headers.get("content-type", b""))
        if mark is not None and form.body:
            found.append(form.body.replace(mark, b"MARK"))
    found.append(b'--MARK\r\ncontent-disposition: form-data;name="a"\r\nk: v\r\n\r\nbody\r\n--MARK--')
    found.append(
        b"--MARK\r\nao-body-key: k\r\ncontent-disposition: inline\r\n\r\nb\r\n--MARK\r\n"
        b'content-disposition: form-data;name="b/c"\r\nao-types: x="integer"\r\nx: 1\r\n--MARK--'
    )
    return found


def request(method: bytes, target: bytes, headers: dict[str, bytes], body: bytes) -> bytes:
    """Return a request as the fuzz input of target ``httpsig``: lines, an empty line, the body."""
    lines = [
        method + b" " + target,
        *(name.encode("utf-8", "surrogateescape") + b": " + text for name, text in headers.items()),
    ]
    return b"\n".join(lines) + b"\n\n" + body


def _requests() -> list[bytes]:
    found = [
        request(b"GET", path, {"host": b"localhost:8734", "accept": b"application/json"}, b"") for path in _PATHS[:4]
    ]
    for one in MESSAGES:
        form = httpsig.encode(structured.encode(one))
        digest = {"content-digest": b"*"} if "content-digest" in form.headers else {}
        found.append(request(b"POST", b"/~x@1.0/y", {**form.headers, **digest}, form.body or b""))
    for one in MESSAGES[:5]:
        headers, body = http_message(commitments.commit(one, None, type="unsigned"), bundle=True)
        found.append(request(b"POST", b"/a", {key_text(name): text for name, text in headers}, body))
    for one in _utf8()[:4]:
        found.append(request(b"POST", b"/a?q=1", {"content-type": b"application/json"}, json.encode(one)))
        found.append(request(b"POST", b"/a?codec-device=flat@1.0", {}, flat.serialize(structured.encode(one))))
    for item in _items()[:4]:
        found.append(request(b"POST", b"/a", {"codec-device": b"ans104@1.0"}, item))
    signed = {"signature-input": b's=("@path" "a");alg="hmac-sha256";keyid="constant:ao"', "signature": b"s=:AAAA:"}
    found.append(request(b"PUT", b"/b", {"content-digest": b"*", "cookie": b"a=b; c=d"}, b"hello"))
    found.append(request(b"GET", b"/c", {**signed, "a": b"1", "authorization": b"Bearer x"}, b""))
    return found


def _items() -> list[bytes]:
    signers = (Ed25519Signer(_SEED), EthereumSigner(_SEED), SolanaSigner(_SEED))
    found = []
    for one in MESSAGES:
        tabm = structured.encode(one)
        found.append(ans104.encode(tabm))
        found += [ans104.encode(ans104.sign(tabm, signer)) for signer in signers]
    return found


@lru_cache(maxsize=1)
def computation() -> Trace:
    """Return an honest computation of the toy model."""
    from hyperpy.inference import reference, weights
    from hyperpy.inference.engines import toy_model
    from hyperpy.inference.sampler import Sampling
    from hyperpy.inference.traces import Trace

    model = toy_model()
    root = weights.weight_root(dict(model.weights))
    return Trace(reference.Engine(model), root, (5, 6, 7, 200, 9), 5, Sampling())


def _values() -> list[bytes]:
    """Return evidence of true values, a statement and partials."""
    from hyperpy.inference.commitments import OPS
    from hyperpy.inference.evidence import Evidence
    from hyperpy.inference.openings import Openings
    from hyperpy.inference.statements import Partials
    from hyperpy.inference.traces import WeightTree

    trace = computation()
    opened = Openings.own(trace, WeightTree(trace.engine.model.weights), 1, 3)
    found = [trace.statement.encode(), Partials(trace.statement.name, 3, 1, bytes(32)).encode()]
    for op in ("embedding", *OPS, "output_norm", "logits"):
        parts = {**opened.inputs(3, op, 1, 5), "out": opened.tensor(3, op, 1, 5, 6)}
        found.append(Evidence(op, 3, 1, 5, 0, Message.make(parts)).encode())
    whole = opened.tensor(4, "logits", 0)
    return [*found, Evidence("state", 4, parts=Message.make({"in": whole})).encode()]


_MAKERS: dict[str, Callable[[], list[bytes]]] = {
    "path": lambda: list(_PATHS),
    "httpsig": _requests,
    "multipart": _parts,
    "ans104": _items,
    "sfv": lambda: list(_FIELDS),
    "json": _texts,
    "canonical": lambda: [canonical.encode(one) for one in (*MESSAGES, (1, (2, b"x")), 2**70, -1.5, None, Atom("a"))],
    "value": _values,
}


def item(*, data: bytes) -> bytes:
    """Return an unsigned item with that data."""
    return ans104.Item(tags=((b"a", b"1"),), data=data).encode()


def bundle(count: int) -> bytes:
    """Return an unsigned item that is a list of that many small items."""
    return ans104.encode(structured.encode(Message({"l": tuple({"k": at} for at in range(count))})))
