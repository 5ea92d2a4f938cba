"""The browser page's verifier under Node: the same IDs, the same signatures, the same verdicts as in Python."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schema

from hyperpy import commitments
from hyperpy.codecs import ans104, canonical, httpsig, structured, whole
from hyperpy.encoding import float_text
from hyperpy.errors import HyperpyError
from hyperpy.keys import RsaKey
from hyperpy.keys_ans104 import Ed25519Signer, SolanaSigner, as_signer
from hyperpy.message import Atom, Link, Message, Value

SCRIPT = Path(__file__).parent / "page.mjs"


class Page:
    """The page's modules, in a Node process."""

    def __init__(self) -> None:
        if shutil.which("node") is None:
            pytest.skip("node is not installed (Debian package: nodejs)")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(["node", str(SCRIPT)], stdin=pipe, stdout=pipe, text=True, encoding="utf-8")

    def ask(self, op: str, data: bytes) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, "data": base64.b64encode(data).decode()}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the page's modules do not load"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.close()


@pytest.fixture(scope="module")
def key() -> RsaKey:
    return RsaKey.generate(2048)


def ids_of(item: Value) -> dict[str, str]:
    return {
        "content": commitments.content_id(item),
        "unsigned": commitments.unsigned_id(item),
        "signed": commitments.signed_id(item),
        "hashpath": commitments.hashpath_id(item),
    }


# -- what can be in a message --------------------------------------------------------------

KEYS = (
    "a",
    "b",
    "body",
    "data",
    "path",
    "method",
    "status",
    "Type",
    "ao-types",
    "ao-body-key",
    "content-type",
    "é",
    "x/y",
)
KEYS += (
    "unsigned_id",
    "content-digest",
    "k" * 32,
    "K" * 43,
    "A-42" + "z" * 38,
    "signature",
    "authority",
    "@path",
    "sp ace",
)
TEXTS = (
    "",
    "x",
    "two\nlines",
    'line\n"b": c',
    "cr\r\nlf",
    "body",
    "data",
    '"q\\"',
    "\x00\xff",
    "é中",
    "z" * 4096,
    "z" * 4097,
)


def scalar(rng: random.Random) -> Value:
    big = rng.choice((0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, 2**127, 2**200))
    number = rng.choice((1, -1)) * (big + rng.choice((-1, 0, 1)))
    real = rng.choice((1.5, -0.0, 0.1, 1e300, 5e-324, 2.0**-31, 2.0**-1074, 3.0 * 2**-33, rng.uniform(-1e9, 1e9)))
    text = rng.choice(TEXTS).encode("utf-8")
    word: Any = rng.choice((Atom("ok"), Atom("not_found"), Atom("two words"), Atom(""), True, False))
    return rng.choice((text, text, text, number, real, word))


def message(rng: random.Random, depth: int = 0) -> Message:
    items: dict[str, Value] = {}
    for _ in range(rng.choice((0, 1, 2, 3, 5, 8))):
        items[rng.choice(KEYS)] = value(rng, depth)
    if depth == 0 and rng.random() < 0.15:
        items |= {f"key-{n}{'x' * (n % 23)}": n for n in range(40)}
    return Message.make(items)


def value(rng: random.Random, depth: int) -> Value:
    kind = rng.random()
    if kind < 0.65 or depth > 3:
        return scalar(rng)
    if kind < 0.72:
        return Link("L" * 43)
    if kind < 0.85:
        return tuple(value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 12))))
    return message(rng, depth + 1)


def outcome(work: Any) -> Any:
    """Return what a function gives, or None if it refuses."""
    try:
        return work()
    except HyperpyError:
        return None


def test_ids_are_the_same_for_every_kind_of_message(page: Page) -> None:
    rng = random.Random(4)
    compared = 0
    for _ in range(600):
        item: Value = rng.choice((message, message, value))(rng, 0)
        if isinstance(item, tuple | Message):
            data = canonical.encode(plain(item))
            ours, theirs = outcome(lambda item=item: ids_of(item)), page.ask("ids", data)
            assert theirs == ours or (ours is None and "refused" in theirs), (item, theirs)
            compared += ours is not None
    assert compared > 300


def plain(item: Value) -> Value:
    """Return the form of :mod:`hyperpy.codecs.whole`, with links left as they are."""
    if isinstance(item, Message):
        return Message.make({key: plain(child) for key, child in item.raw_items().items()})
    return (b"list", *map(plain, item)) if isinstance(item, tuple) else item


def unlinked(item: Value) -> Value:
    """Return a value with a text in place of each link, as nothing stands behind them here.

    Keys with ``@`` in front go too: no signature can name them.
    """
    if isinstance(item, Message):
        kept = {key: child for key, child in item.raw_items().items() if not key.startswith("@")}
        return Message.make({key: unlinked(child) for key, child in kept.items()})
    if isinstance(item, tuple):
        return tuple(map(unlinked, item))
    return b"linked" if isinstance(item, Link) else item


def signed(rng: random.Random, key: RsaKey) -> Message | None:
    """Return a message with a commitment or two; None if it cannot be signed."""
    names = ["a", "b", "body", "c", "Type", "n"]
    made = Message({name: unlinked(value(rng, 1)) for name in rng.sample(names, rng.choice((1, 3, 5)))})
    options: dict[str, Any] = {"bundle": True} if rng.random() < 0.3 else {}
    return outcome(lambda: commitments.commit(made, key, **options))


def test_signatures_that_are_genuine_pass_and_others_do_not(page: Page, key: RsaKey) -> None:
    rng = random.Random(5)
    passed = refused = 0
    for _ in range(60):
        made = signed(rng, key)
        if made is None:
            continue
        data = whole.encode(made)
        assert page.ask("ids", data) == ids_of(made)
        assert page.ask("check", data) == {"genuine": True}, made
        passed += 1
        for other in tampered(made, rng):
            ours = outcome(lambda other=other: commitments.check(other, ids="all") or True)
            theirs = page.ask("check", whole.encode(other))
            assert theirs.get("genuine") == ours, (made, other, theirs)
            refused += ours is None
    assert passed > 20
    assert refused > 60


def items(rng: random.Random, large: RsaKey) -> Iterator[Message]:
    """Yield messages that came as signed ANS-104 items, each kind of key, with tags of every sort."""
    signers = (large, Ed25519Signer(bytes(range(32))), SolanaSigner(bytes(range(32))))
    for number in range(24):
        names = [b"Type", b"a", b"b", b"Data-Protocol", b"ao-data-key", b"target", b"count"]
        tags = [
            (name, b"body" if name == b"ao-data-key" else b"7") for name in rng.sample(names, rng.choice((0, 2, 4)))
        ]
        if number % 3 == 0:
            tags = [(name.lower(), text) for name, text in tags] + [(b"ao-types", b'count="integer"')]
        fixed = {"target": b"T" * 32, "anchor": b"A" * 32} if number % 4 == 1 else {}
        item = ans104.Item(tags=tuple(tags), data=rng.choice((b"", b"data", b"x" * 5000)), **fixed)
        yield ans104.decode_message(item.sign(as_signer(signers[number % 3])).encode())


def test_items_that_are_genuine_pass_and_others_do_not(page: Page) -> None:
    rng = random.Random(8)
    passed = refused = 0
    for made in items(rng, RsaKey.generate(4096)):
        data = whole.encode(made)
        assert page.ask("ids", data) == ids_of(made)
        assert page.ask("check", data) == {"genuine": True}, made
        passed += 1
        for other in tampered(made, rng):
            ours = outcome(lambda other=other: commitments.check(other, ids="all") or True)
            theirs = page.ask("check", whole.encode(other))
            assert theirs.get("genuine") == ours, (made, other, theirs)
            refused += ours is None
    assert passed == 24
    assert refused > 100


def tampered(made: Message, rng: random.Random) -> Iterator[Message]:
    """Yield messages in which something is not as it was signed."""
    name, one = next(iter(made.commitments.items()))
    first = next(iter(made.raw_items()), "first")
    yield Message.make({**made.raw_items(), first: b"another"}, made.commitments)
    yield Message.make({**made.raw_items(), "added": b"later"}, made.commitments)
    yield Message.make({k: v for k, v in made.raw_items().items() if k != first}, made.commitments)
    for field, new in (("committer", b"A" * 43), ("type", b"hmac-sha256"), ("keyid", b"constant:ao"), ("tag", b"x")):
        yield made.with_commitments({name: one | {field: new}})
    yield made.with_commitments({"B" * 43: one})
    damaged = bytearray(base64.urlsafe_b64decode(one.text("signature") + "=="))
    damaged[rng.randrange(len(damaged))] ^= 1
    text = base64.urlsafe_b64encode(bytes(damaged)).rstrip(b"=")
    yield made.with_commitments({name: one | {"signature": text}})


def test_requests_of_older_clients_that_are_genuine_pass_and_others_do_not(page: Page) -> None:
    file = schema.folder() / "http_clients.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is missing; set HYPERPY_SHARED to the shared folder")
    rng = random.Random(9)
    passed, refused, unchecked = 0, 0, set()
    for line in file.read_text("utf-8").splitlines():
        request = json.loads(line)["request"]
        headers = {name.lower(): text.encode() for name, text in request["headers"]}
        body = base64.b64decode(request["body_base64"] or "") or None
        made = outcome(lambda h=headers, b=body: structured.decode(httpsig.decode(h, b)))
        if "signature-input" not in headers or not isinstance(made, Message):
            continue
        assert page.ask("ids", whole.encode(made)) == ids_of(made)
        for at, one in enumerate((made, *tampered(made, rng))):
            ours = outcome(lambda one=one: commitments.check(one, ids="all") or True)
            theirs = page.ask("check", whole.encode(one))
            if "unchecked" in theirs:
                unchecked.add(theirs["unchecked"])
                continue
            assert theirs.get("genuine") == ours, (one, theirs)
            passed += ours is not None and at == 0
            refused += ours is None
    assert passed == 15
    assert refused > 80
    assert not unchecked


def test_canonical_bytes_are_refused_where_python_refuses_them(page: Page) -> None:
    rng = random.Random(6)
    refused = 0
    for _ in range(400):
        data = bytearray(canonical.encode(message(rng)))
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(data))
            choice = rng.random()
            if choice < 0.7:
                data[at] = rng.randrange(256)
            elif choice < 0.85:
                del data[at:]
                data = data or bytearray(b"\x80")
            else:
                data.insert(at, rng.randrange(256))
        ours = outcome(lambda data=data: canonical.decode(bytes(data)) is None or True)
        theirs = page.ask("canonical", bytes(data))
        assert ("refused" in theirs) == (ours is None), (bytes(data), theirs)
        refused += ours is None
    assert 100 < refused < 400


def test_floats_have_the_one_text(page: Page) -> None:
    rng = random.Random(7)
    found = [rng.choice((1, -1)) * rng.getrandbits(54) * 2.0 ** -rng.randrange(20, 90) for _ in range(150)]
    for real in found:
        assert "digest" in page.ask("canonical", canonical.encode(real)), float_text(real)
