"""codecs: ANS-104 items, tags, messages as items, and the deep hash."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import rules
import schema
from compare import attempt, brief, differs, normal, refused
from outcome import Outcome, verdict

from hyperpy import commitments
from hyperpy.codecs import ans104, structured
from hyperpy.codecs.ans104_build import BUNDLE_TAGS, bundle
from hyperpy.codecs.ans104_item import Item
from hyperpy.codecs.ans104_tags import MAX_VALUE, Tag
from hyperpy.encoding import b64u_decode
from hyperpy.errors import MessageNotFound
from hyperpy.keys import RsaKey
from hyperpy.message import Link, Message, Value


def run(header: Any, case: Any) -> Outcome:
    """Compare one case of the operation it names."""
    want = rules.expected(case)
    return verdict(want.label, want.rules, _OPERATIONS[case["op"]](header, want))


# -- reading the notation --------------------------------------------------------------------


def _item(found: Any) -> Item:
    """Return the item of a ``$tx``, a bundle inside it as bytes."""
    tx = found["$tx"]
    tags = tuple((schema.value(name), schema.value(value)) for name, value in tx["tags"])
    data = tx["data"]
    if isinstance(data, list) or (isinstance(data, dict) and any(isinstance(x, dict) for x in data.values())):
        return _bundle(tx, tags, data)
    return Item(target=_field(tx, "target"), anchor=_field(tx, "anchor"), tags=tags, data=schema.value(data))


def _bundle(tx: Any, tags: tuple[Tag, ...], data: Any) -> Item:
    named = isinstance(data, dict)
    pairs = sorted(data.items()) if named else [(str(n), one) for n, one in enumerate(data, 1)]
    items = [(name, item, item.encode()) for name, item in ((name, _item(one)) for name, one in pairs)]
    joined, manifest = bundle(items, named, "little")
    mapped = ((b"bundle-map", manifest.unsigned_id.encode()),) if manifest else ()
    return Item(tags=(*BUNDLE_TAGS, *mapped, *tags), data=joined)


def _field(tx: Any, name: str) -> bytes:
    return b64u_decode(tx[name])


@lru_cache
def _key(modulus: str, exponent: str, private: str) -> RsaKey:
    return RsaKey.from_jwk({"n": modulus, "e": exponent, "d": private})


def _keys(header: Any) -> list[RsaKey]:
    return [_key(jwk["n"], jwk["e"], jwk["d"]) for jwk in header["keys"].values()]


def _content(name: str, ours: Item, found: Any) -> list[str]:
    """Compare an item with the fields of a ``$tx``."""
    theirs = _item(found)
    fields = (ours.target, ours.anchor, ours.tags, ours.data)
    if fields != (theirs.target, theirs.anchor, theirs.tags, theirs.data):
        return [f"{name}: {brief(ours.tags)} {brief(ours.data)} is not {brief(theirs.tags)} {brief(theirs.data)}"]
    return differs(f"{name}.unsigned_id", ours.unsigned_id.encode(), found["$tx"]["unsigned_id"].encode())


# -- operations ------------------------------------------------------------------------------


def _item_case(header: Any, want: rules.Expected) -> list[str]:
    case = want.case
    raw = _bytes(case["serialized_b64"])
    item, unsigned = ans104.parse(raw), _item(case["tx"])
    problems = _content("normalized", unsigned, case["normalized"])
    problems += _content("signed_tx", item, case["signed_tx"])
    problems += differs("serialized", item.encode(), raw)
    problems += differs("signature_data", item.digest, _bytes(case["signature_data_b64"]))
    problems += differs("id", item.id.encode(), case["id"].encode())
    problems += differs("unsigned_id", unsigned.unsigned_id.encode(), case["unsigned_id"].encode())
    problems += differs("verify", item.verify(), case["verify"])
    problems += differs("verify_tampered", _tampered(item).verify(), case["verify_tampered"])
    problems += attempt("tabm", lambda: _plain(ans104.decode(raw)), case["tabm"], lambda x: _plain(schema.tabm(x)))
    back: Any = structured.decode(ans104.decode(raw))
    problems += attempt("msg", lambda: normal(back), {"ok": case["msg"]}, lambda x: normal(schema.value(x)))
    problems += attempt("msg_id_all", lambda: commitments.signed_id(back).encode(), case["msg_id_all"], schema.value)
    problems += attempt(
        "msg_id_none", lambda: commitments.unsigned_id(back).encode(), case["msg_id_none"], schema.value
    )
    problems += attempt("msg_verify", lambda: commitments.verify(back), case["msg_verify"], schema.value)
    again = ans104.encode(structured.encode(back))
    return problems + differs("encoded again", again, raw) + _sign_again(header, unsigned, item)


def _tampered(item: Item) -> Item:
    return Item(item.signature_type, item.signature, item.owner, item.target, item.anchor, item.tags, item.data + b"x")


def _sign_again(header: Any, unsigned: Item, theirs: Item) -> list[str]:
    """Sign the content with the same key: the deep hash must be theirs, the signature verify."""
    key = next((one for one in _keys(header) if one.modulus == theirs.owner), None)
    if key is None:
        return ["the signer's key is not in the header"]
    tabm = structured.encode(structured.decode(ans104.to_tabm(unsigned)))
    signed = ans104.from_tabm(ans104.sign(tabm, key))
    return differs("own signature", (signed.verify(), signed.digest), (True, theirs.digest))


def _plain(tabm: Any) -> Value:
    """Return a TABM as message, ``committed`` without its type and ``commitments`` as a key."""
    if not isinstance(tabm, dict):
        return bytes(tabm)
    items = {"~commitments" if key == "commitments" else key: value for key, value in tabm.items()}
    if "committed" in items:
        items["committed"] = {key: value for key, value in items["committed"].items() if key != "ao-types"}
    return Message({key: _plain(value) for key, value in items.items()})


def _message_case(header: Any, want: rules.Expected) -> list[str]:
    case, item = want.case, schema.value(want.case["msg"])
    known: dict[str, structured.Tabm] = {}

    def link(child: Message | tuple[Value, ...]) -> str:
        name = commitments.signed_id(child)
        known[name] = structured.encode(child, link=link)
        return name

    def encoded() -> Item:
        return ans104.from_tabm(structured.encode(item, link=link))

    if "error" in case["tx"]:
        problem = refused(encoded)
        return [f"tx: {problem}"] if problem else []
    ours = encoded()
    raw = ours.encode()
    problems = _content("tx", ours, case["tx"]["ok"])
    problems += differs("serialized", raw, _bytes(case["serialized"]["ok"]))
    work: Callable[[], Any] = lambda: normal(_loaded(structured.decode(ans104.decode(raw)), known))  # noqa: E731
    return problems + attempt("back", work, case["back"], lambda found: normal(schema.value(found)))


def _loaded(found: Value, known: dict[str, structured.Tabm]) -> Value:
    """Return a value with its links read from the children that were linked."""
    if isinstance(found, Link):
        if found.id not in known:
            raise MessageNotFound(found.id)
        return _loaded(structured.decode(known[found.id]), known)
    if isinstance(found, tuple):
        return tuple(_loaded(one, known) for one in found)
    if isinstance(found, Message):
        items = {key: _loaded(one, known) for key, one in found.raw_items().items()}
        return Message.make(items, found.commitments)
    return found


def _deep_hash(header: Any, want: rules.Expected) -> list[str]:
    return differs("deep hash", ans104.deep_hash(schema.value(want.case["in"])), bytes.fromhex(want.case["out_hex"]))


def _tags(header: Any, want: rules.Expected) -> list[str]:
    tags = tuple((schema.value(name), schema.value(value)) for name, value in want.case["tags"])
    problems = attempt("encoded", lambda: ans104.encode_tags(tags), want.case["encoded"], _bytes)
    if max((len(text) for tag in tags for text in tag), default=0) > MAX_VALUE:
        problem = refused(lambda: ans104.decode_tags(ans104.encode_tags(tags)))
        return [*problems, problem] if problem else problems
    return problems + differs("decoded", ans104.decode_tags(ans104.encode_tags(tags)), tags)


def _bytes(text: str) -> bytes:
    return bytes(schema.value({"$b64": text}))


_OPERATIONS: dict[str, Callable[[Any, rules.Expected], list[str]]] = {
    "ans104_item": _item_case,
    "ans104_msg": _message_case,
    "deep_hash": _deep_hash,
    "ans104_tags": _tags,
}
