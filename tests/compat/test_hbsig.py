"""HTTP signatures exchanged with npm hbsig, which speaks dialect D1 (http-clients.md 3).

What hbsig 0.1.5 can do with our D3 form:

- as sent, it verifies signatures that cover no ``path``, ``method`` or other derived name and are no
  bundles, RSA and HMAC, linked children and ``content-digest`` included
- over those others its base differs in the parameter line alone: it takes that line from the header,
  D3 makes it again. Given our line, its base is ours
- its exported ``verify`` calls every signature verified, so verifyMessage beneath it is asked
- it does not compare ``content-digest`` with the body
- it takes header text as Unicode; ``fetch`` hands it over as Latin-1, and other letters do not verify then

What it writes is read here with all values, but for what ``LOST`` and ``REFUSED`` name.
"""

from __future__ import annotations

import random
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.codecs import canonical, json, signature
from hyperpy.commitments import commit, committers
from hyperpy.encoding import b64u_decode
from hyperpy.errors import HyperpyError
from hyperpy.http.wire import RawRequest, Wants, read, write
from hyperpy.keys import RsaKey
from hyperpy.message import Message
from tests.compat.damage import changed, replaced

MESSAGES = 200
PATH = "/~message@1.0/set"
ASCII = "abcXYZ-_09 ,;=()'{}<>"
UNICODE = ASCII + '"\\é中😀'


class Peer:
    """hbsig, and a key that both sides sign with."""

    def __init__(self, script: Any) -> None:
        self.ask: Callable[..., Any] = script.ask
        self.key = RsaKey.generate(2048)
        self.jwk = self.key.to_jwk()

    def verify(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, bool]:
        """Return what hbsig's verifyMessage says of each signature, by keyid."""
        found: dict[str, bool] = self.ask(op="verify", headers=_texts(headers))
        return found

    def sign(self, fields: dict[str, Any], *, path: bool = True) -> tuple[RawRequest, str]:
        """Return the request hbsig makes of fields, and the ID it gives its signature."""
        made = self.ask(op="sign", jwk=self.jwk, fields={"path": PATH, **_shown(fields)}, signPath=path)
        lines = tuple((name.lower().encode(), str(text).encode()) for name, text in made["headers"].items())
        return RawRequest("POST", PATH.encode(), lines, b64decode(made["body"]), "127.0.0.1"), made["id"]


@pytest.fixture(scope="module")
def peer(node_script: Any) -> Peer:
    return Peer(node_script("hbsig.cjs", "hbsig"))


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("ascii"): text.decode("utf-8", "replace") for name, text in headers}


def _shown(item: Any) -> Any:
    """Return a value as hbsig.cjs takes it."""
    if isinstance(item, bytes):
        return {"$bytes": b64encode(item).decode("ascii")}
    if isinstance(item, dict):
        return {key: _shown(one) for key, one in item.items()}
    return [_shown(one) for one in item] if isinstance(item, tuple) else item


def _text(rng: random.Random, alphabet: str, longest: int = 40) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, longest))).strip() or "-"


def _names(rng: random.Random, counts: tuple[int, ...] = (1, 2, 5, 12, 40)) -> list[str]:
    words = ["action", "type", "x", "variant", "data-protocol", "k_1"]
    return [f"{rng.choice(words)}{number}" for number in range(rng.choice(counts))]


def _covered(headers: Iterable[tuple[bytes, bytes]]) -> list[int]:
    """Return the places of the headers that the first signature covers, empty ones left out."""
    lines = list(headers)
    names = re.findall(rb'"@?([^"]+)"', dict(lines)[b"signature-input"].partition(b")")[0])
    return [at for at, (name, text) in enumerate(lines) if name in names and text]


# -- ours, read by hbsig -----------------------------------------------------------------------


def _any(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of any kind; below the top there are also binaries and names in other scripts."""
    kind = rng.randrange(8)
    if kind < 3:
        return _text(rng, UNICODE)
    if kind == 3:
        return rng.choice([True, False, 1.5, -7, rng.randrange(10**18), ""])
    if kind == 4 and depth:
        return rng.randbytes(rng.choice([0, 1, 300]))
    if kind == 5:
        return tuple(_any(rng, depth + 1) for _ in range(rng.randint(0, 3 - depth)))
    if kind == 6 and depth < 3:
        return {f"ключ-{n}": _any(rng, depth + 1) for n in range(rng.randint(0, 3))}
    return rng.randint(-9, 9)


def _content(rng: random.Random) -> dict[str, Any]:
    items = {name: _any(rng) for name in _names(rng)}
    if rng.random() < 0.5:
        items["body"] = rng.randbytes(rng.choice([1, 50, 9000]))
    return items


@pytest.mark.timeout(120)
def test_ours_are_read(peer: Peer) -> None:
    """200 signed replies: hbsig verifies RSA and HMAC, and neither after one changed byte."""
    rng = random.Random(3)
    good, bad = ({peer.key.keyid: fits, "constant:ao": fits} for fits in (True, False))
    for number in range(MESSAGES):
        tag = _text(rng, ASCII) if rng.random() < 0.5 else None
        reply = write(commit(Message({**_content(rng), "status": 200}), peer.key, tag=tag), Wants())
        assert peer.verify(reply.headers) == good, number
        at = rng.choice(_covered(reply.headers))
        assert peer.verify(replaced(reply.headers, at, changed(reply.headers[at][1]))) == bad, number


@pytest.mark.timeout(120)
def test_derived_names_and_bundles_have_our_base(peer: Peer) -> None:
    """200 messages whose parameter line is not the header: hbsig's base, ended by that line, is ours."""
    rng = random.Random(4)
    for number in range(MESSAGES):
        bundle = number % 2 == 1
        items = {**_content(rng), "nested": {"é": b"\xff\n", "n": (1, {"deep": "x"})}}
        if not bundle or rng.random() < 0.5:
            items |= {"path": PATH, "method": "POST"}
        signed = commit(Message(items), peer.key, bundle=bundle, tag="t")
        headers = commitments.http_form(signed, bundle=bundle).headers.items()
        assert peer.verify((name.encode(), text) for name, text in headers)[peer.key.keyid] is False
        for one in signed.commitments.values():
            covered = commitments.covered(signed, one)
            fields = {key: text for key, text in one.items() if isinstance(text, bytes)}
            params = signature.param_names(covered.components) + signature.base_params(fields)
            request = {
                "op": "rebuilt",
                "fields": covered.components,
                "params": params.decode("ascii"),
                "keyid": one.text("keyid"),
                "signature": b64encode(b64u_decode(fields["signature"])).decode("ascii"),
            }
            lines = {name: text.decode("utf-8") for name, text in covered.headers.items()}
            assert peer.ask(headers=lines, **request), number
            broken = rng.choice([name for name in lines if lines[name]])
            assert not peer.ask(headers=lines | {broken: "~" + lines[broken]}, **request), number


def test_its_exported_verify_refuses_nothing(peer: Peer) -> None:
    """Why verifyMessage is asked: ``verify`` calls a broken signature of hbsig's own verified too."""
    raw, _ = peer.sign({"a": "1"})
    broken = [(name, b"2" if name == b"a" else text) for name, text in raw.headers]
    assert peer.ask(op="exported", headers=_texts(broken)) == {"valid": True, "verified": True}
    assert not any(peer.verify(broken).values())
    assert all(peer.verify(raw.headers).values())


def test_other_letters_must_be_decoded_first(peer: Peer) -> None:
    """Headers as ``fetch`` gives them, a character a byte, verify if they are ASCII."""
    for text, fits in (("abc", True), ("é中", False)):
        reply = write(commit(Message({"a": text, "status": 200}), peer.key), Wants())
        fetched = {name.decode("latin-1"): found.decode("latin-1") for name, found in reply.headers}
        assert set(peer.ask(op="verify", headers=fetched).values()) == {fits}
        assert all(peer.verify(reply.headers).values())


# -- hbsig's, read here ------------------------------------------------------------------------


REFUSED = {
    "digest of one byte a letter": {"body": "é"},
    "the same, as nothing binary is at the top": {"nested": {"a": "é"}},
    "quotes in lists are not escaped": {"list": ('a"b',)},
}
LOST = {"empty text": "", "empty list": ()}
"""Only ``ao-types`` names empty values, and a signature over it does not cover them."""


def _scalar(rng: random.Random) -> Any:
    return rng.choice([_text(rng, ASCII), rng.randint(-(10**9), 10**9), rng.random() < 0.5])


def _theirs(rng: random.Random, wide: bool, depth: int = 0) -> Any:
    """Return a value that hbsig encodes without loss; ``wide``: with text in any script in nested maps."""
    kind = rng.randrange(8)
    if kind == 0:
        return _text(rng, UNICODE if wide or depth == 0 else ASCII)
    if kind == 1 and depth == 0:
        return rng.randbytes(rng.choice([1, 5, 300, 5000]))
    if kind < 4:
        return tuple(_scalar(rng) for _ in range(rng.randint(1, 4)))
    if kind < 6 and depth < 3:
        return {name: _theirs(rng, wide, depth + 1) for name in _names(rng, (1, 2, 3))}
    return _scalar(rng)


def _refused(raw: RawRequest, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Say whether the request, changed, is a 400 for us."""
    try:
        read(RawRequest(raw.method, raw.target, tuple(headers), body, raw.peer))
    except HyperpyError as error:
        return error.status == 400
    return False


@pytest.mark.timeout(120)
def test_theirs_are_read(peer: Peer) -> None:
    """200 messages hbsig signed: verified at our ingress, with its ID, its address and all values."""
    rng = random.Random(1)
    assert peer.ask(op="address", jwk=peer.jwk) == peer.key.address
    for number in range(MESSAGES):
        wide = rng.random() < 0.4
        fields = {name: _theirs(rng, wide) for name in _names(rng)}
        if wide or rng.random() < 0.3:
            fields[rng.choice(["data", "body"])] = rng.randbytes(99) if wide else _text(rng, ASCII)
        raw, name = peer.sign(fields, path=rng.random() < 0.7)
        found = read(raw).message
        assert (committers(found), tuple(found.commitments)) == ((peer.key.address,), (name,)), number
        want = Message(fields)
        assert {key: found.get(key) for key in want} == dict(want), number
        at = rng.choice(_covered(raw.headers))
        assert _refused(raw, replaced(raw.headers, at, changed(raw.headers[at][1])), raw.body), number
        at, text = next((n, text) for n, (name, text) in enumerate(raw.headers) if name == b"signature")
        where = text.index(b"=:") + 2 + rng.randrange(300)
        assert _refused(raw, replaced(raw.headers, at, changed(text, where)), raw.body), number
        if raw.body:
            assert _refused(raw, raw.headers, changed(raw.body, rng.randrange(len(raw.body)))), number


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_what_it_writes_wrongly_is_refused(peer: Peer, fields: dict[str, Any]) -> None:
    """Its digest does not fit the bytes it sends, or a value does not parse: a 400."""
    raw, _ = peer.sign(fields)
    assert _refused(raw, raw.headers, raw.body)


KINDS = {
    "true": True,
    "integer": 7,
    "float": 1.5,
    "list": (1, "two", False),
    "list of maps": ({"a": 1}, {"b": ("c", 2)}),
    "mixed list": (1, {"a": "b"}, (1, 2)),
    "map": {"a": 1, "deep": {"list": (1, {"x": True})}},
}


@pytest.mark.parametrize("key", ["body", "data", "value"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_typed_values_and_lists_in_the_body(peer: Peer, key: str, kind: Any) -> None:
    """A plain body has a type too, lists with maps in them are lists, and all verify when read again."""
    raw, name = peer.sign({key: kind, "action": "x"})
    found = read(raw).message
    assert tuple(found.commitments) == (name,)
    assert found.get(key) == Message({key: kind}).get(key)
    stored = canonical.decode(canonical.encode(found))
    assert isinstance(stored, Message)
    kept = canonical.decode(canonical.encode(found.commitments[name]))
    assert isinstance(kept, Message)
    for again in (stored.with_commitments({name: kept}), json.decode(json.encode(found))):
        assert isinstance(again, Message)
        assert again.get(key) == found.get(key)
        commitments.check(again)
        changed = Message.make({**again.raw_items(), key: b"another"}, again.commitments)
        assert not commitments.verify(changed)


@pytest.mark.parametrize("name", ["authority", "scheme", "query"])
def test_fields_named_like_parts_of_a_request(peer: Peer, name: str) -> None:
    """hbsig signs such a field as it is called; it does not mean the request's own."""
    raw, ident = peer.sign({name: "x", "action": "y"})
    found = read(raw).message
    assert (tuple(found.commitments), found[name]) == ((ident,), b"x")
    at = next(n for n, (header, _) in enumerate(raw.headers) if header == name.encode())
    assert _refused(raw, replaced(raw.headers, at, b"z"), raw.body)


@pytest.mark.parametrize("empty", LOST.values(), ids=LOST.keys())
def test_empty_values_are_lost(peer: Peer, empty: Any) -> None:
    """The rest of the message is verified."""
    raw, _ = peer.sign({"a": "1", "empty": empty})
    found = read(raw).message
    assert committers(found) == (peer.key.address,)
    assert found["a"] == b"1"
    assert "empty" not in found
