"""trie@1.0: layout, keys of any name, and equality with a plain map under random changes."""

from __future__ import annotations

from typing import Any

import pytest
from hyperpy.devices.trie import Trie, _removed, _stored
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpy import Message
from hyperpy.codecs import structured
from hyperpy.commitments import unsigned_id
from hyperpy.errors import HyperpyError, KeyNotFound, ParameterError, SizeError
from hyperpy.message import UNSET

EMPTY = Message({"device": "trie@1.0"})


def test_layout_of_the_reference(bench: Any) -> None:
    """A trie merged by ``set`` on the message that holds it (v0.9-final 2): its own device merges."""
    base = Message({"balances": {"device": "trie@1.0", "aa": "100", "bb": "200", "cc": "300"}, "other": "old"})
    made = bench.get(base, Message({"path": "set", "other": "new", "balances": {"ab": "150"}}))
    balances = {"device": "trie@1.0", "a": {"a": "100", "b": "150"}, "bb": "200", "cc": "300"}
    assert made == Message({"balances": balances, "other": "new"})


def test_one_entry_has_the_recorded_id() -> None:
    """The dedup state of vector resolve/59."""
    made = _stored(EMPTY, b"LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ", True)
    assert unsigned_id(made) == "xWtmWn8A1uOvG4GUzDtnSE8kmxIqsqyByyci80LCVE0"


def test_get_set_keys_remove(bench: Any) -> None:
    trie = bench.get(EMPTY, {"path": "set", "romane": 1, "romanus": 2, "roman": 3, "rubens": 4})
    assert bench.get(trie, "keys") == (b"roman", b"romane", b"romanus", b"rubens")
    assert bench.get(trie, "roman") == 3
    assert bench.get(trie, {"path": "get", "key": "romanus"}) == 2
    smaller = bench.get(trie, {"path": "remove", "item": "roman"})
    assert bench.get(smaller, "keys") == (b"romane", b"romanus", b"rubens")
    gone = bench.get(smaller, {"path": "remove", "items": ["romane", "romanus", "rubens", "rome"]})
    assert gone == EMPTY
    assert bench.get(trie, {"path": "set", "roman": UNSET}) == smaller


@pytest.mark.parametrize("name", ["ro", "romanes", "x", "roman\n", ""])
def test_what_is_not_there(bench: Any, name: str) -> None:
    trie = bench.get(EMPTY, {"path": "set", "romane": 1, "romanus": 2})
    with pytest.raises(KeyNotFound):
        bench.get(trie, {"path": "get", "key": name})


def test_messages_as_values(bench: Any) -> None:
    """A message is kept whole and merged with the one that is there, unless set-mode says otherwise."""
    trie = bench.get(EMPTY, {"path": "set", "alice": {"a": 1}, "alan": 2})
    merged = bench.get(trie, {"path": "set", "alice": {"b": 2}})
    assert bench.get(merged, "alice") == Message({"a": 1, "b": 2})
    replaced = bench.get(trie, {"path": "set", "alice": {"b": 2}, "set-mode": "explicit"})
    assert bench.get(replaced, "alice") == Message({"b": 2})


def test_errors(bench: Any) -> None:
    with pytest.raises(ParameterError, match="'key'"):
        bench.get(EMPTY, "get")
    with pytest.raises(ParameterError, match="'item'"):
        bench.get(EMPTY, "remove")


def test_other_keys_of_messages_still_work(bench: Any) -> None:
    trie = bench.get(EMPTY, {"path": "set", "a": 1})
    assert bench.get(trie, "id") == unsigned_id(trie).encode()


def _deep(length: int) -> Message:
    trie = EMPTY
    for size in range(1, length):
        trie = _stored(trie, b"a" * size, 1)
    return trie


def test_depth_is_bounded() -> None:
    assert len(Trie().keys(_deep(40))) == 39
    with pytest.raises(SizeError):
        _deep(100)
    with pytest.raises(SizeError):
        _stored(EMPTY, b"+link" * 13_000, 1)


NAMES = st.lists(
    st.sampled_from(["a", "b", "priv", "+link", "device", "node-value", "path", "ao-types", "é", "\udcff"]),
    min_size=1,
    max_size=4,
).map("".join)
CHANGES = st.lists(st.tuples(NAMES, st.one_of(st.none(), st.integers(), st.just(Message({"q": 1})))), max_size=40)


@settings(deadline=None)
@given(CHANGES)
def test_it_is_a_map(changes: list[tuple[str, Any]]) -> None:
    """Whatever is stored and removed: keys and values are those of a dict, and every form can be encoded."""
    trie, model = EMPTY, {}
    device = Trie()
    for name, item in changes:
        raw = name.encode("utf-8", "surrogateescape")
        if item is None:
            trie = _removed(trie, raw)
            model.pop(raw, None)
        else:
            trie = _stored(trie, raw, item)
            model[raw] = item
        assert device.keys(trie) == tuple(sorted(model))
    for raw, item in model.items():
        request = Message({"key": raw})
        assert device.get(trie, request) == item
    back = structured.decode(structured.encode(trie))
    assert unsigned_id(back) == unsigned_id(trie)
    for raw in model:
        trie = _removed(trie, raw)
    assert trie == EMPTY


@given(st.binary(max_size=30))
def test_any_key_is_stored_or_refused(raw: bytes) -> None:
    try:
        made = _stored(EMPTY, raw, 1)
    except HyperpyError:
        return
    assert Trie().get(made, Message({"key": raw})) == 1
