"""structured_fields: items, lists, dictionaries, key escape, text of values (ao-core 13.1, 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import rules
import schema
from compare import brief
from outcome import Outcome, verdict

from hyperpy.codecs import sfv
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import HyperpyError


def run(header: Any, case: Any) -> Outcome:
    """Compare one call, both sides written as Erlang terms."""
    want = rules.expected(case)
    answer = want.case["out"]
    try:
        ours = _CALLS[case["op"]](want.case["in"])
    except HyperpyError as error:
        problems = [] if "error" in answer else [f"{type(error).__name__}: {error.message}"]
        return verdict(want.label, want.rules, problems)
    if "error" in answer:
        return verdict(want.label, want.rules, [f"accepted what must be refused: {brief(ours)}"])
    theirs = _read(answer["ok"])
    return verdict(want.label, want.rules, [] if ours == theirs else [f"{brief(ours)} is not {brief(theirs)}"])


def _read(term: Any) -> Any:
    """Return a recorded term: tuples as tuples, atoms as ``("atom", name)``, lists as lists."""
    if isinstance(term, dict) and "$tuple" in term:
        return tuple(_read(member) for member in term["$tuple"])
    if isinstance(term, dict) and "$atom" in term:
        return "atom", term["$atom"]
    if isinstance(term, list):
        return [_read(member) for member in term]
    return schema.value(term)


def _item(item: sfv.Member) -> Any:
    params = [(key_bytes(name), _bare(value)) for name, value in item.params.items()]
    if isinstance(item, sfv.Item):
        return ("atom", "item"), _bare(item.value), params
    return ("atom", "list"), [_item(member) for member in item.items], params


def _bare(value: sfv.Bare) -> Any:
    if isinstance(value, bool):
        return "atom", str(value).lower()
    if isinstance(value, int):
        return value
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        number = int("".join(map(str, digits)))
        return ("atom", "decimal"), (-number if value.is_signed() else number, exponent)
    if isinstance(value, bytes):
        return ("atom", "binary"), value
    return ("atom", "token" if isinstance(value, sfv.Token) else "string"), key_bytes(value)


def _from_term(term: Any) -> sfv.Item:
    _, value, params = _read(term)
    return sfv.Item(_from_bare(value), {key_text(name): _from_bare(found) for name, found in params})


def _from_bare(value: Any) -> sfv.Bare:
    if not isinstance(value, tuple):
        return value  # type: ignore[no-any-return]
    if value[0] == "atom":
        return bool(value[1] == "true")
    kind, found = value[0][1], value[1]
    if kind == "decimal":
        return Decimal(found[0]).scaleb(found[1])
    return found if kind == "binary" else sfv.Token(key_text(found)) if kind == "token" else key_text(found)


def _typed(term: Any) -> Any:
    name, text = sfv.encode_value(schema.value(term))
    return (name or "binary").encode(), text


_CALLS: dict[str, Callable[[Any], Any]] = {
    "parse_item": lambda term: _item(sfv.parse_item(schema.value(term))),
    "parse_list": lambda term: [_item(member) for member in sfv.parse_list(schema.value(term))],
    "parse_dictionary": lambda term: [
        (key_bytes(key), _item(member)) for key, member in sfv.parse_dictionary(schema.value(term)).items()
    ],
    "serialize_item": lambda term: sfv.serialize_item(_from_term(term)),
    "escape_encode": lambda term: key_bytes(sfv.escape_key(schema.key(term))),
    "escape_decode": lambda term: key_bytes(sfv.unescape_key(schema.key(term))),
    "encode_value": _typed,
}
