"""Prompts too long for any context cost nothing: they are refused before the tokenizer's library sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy.errors import Busy, ParameterError, SizeError
from hyperpy.inference import tokenizer, toy
from hyperpy.inference.tokenizer import Tokenizer, fields_of


class Counting:
    """Stands before the library's encoder: counts texts, and how many are being encoded at once."""

    def __init__(self, inner: Any, work: Callable[[], None] = lambda: None) -> None:
        self.texts: list[int] = []
        self.most = self._now = 0
        self._inner, self._work = inner, work
        self._lock = threading.Lock()

    def encode(self, text: str, **options: Any) -> Any:
        with self._lock:
            self.texts.append(len(text))
            self._now += 1
            self.most = max(self.most, self._now)
        self._work()
        try:
            return self._inner.encode(text, **options)
        finally:
            with self._lock:
                self._now -= 1


def watched(work: Callable[[], None] = lambda: None, **fields: Any) -> tuple[Tokenizer, Counting]:
    made = Tokenizer(fields_of(toy.metadata()) | fields)
    counting = Counting(made._bpe, work)
    made.__dict__["_bpe"] = counting
    return made, counting


def test_what_cannot_fit_is_refused_unread() -> None:
    made, counting = watched()
    longest = max(len(one.encode()) for one in toy.SPECIAL)
    assert made.longest == longest, "the toy's longest tokens are special ones"
    made.check_fits(["x" * longest * 4], 4)
    with pytest.raises(SizeError, match="context of 4 tokens"):
        made.check_fits(["x" * longest * 2, "x" * longest * 2, "x"], 4)
    with pytest.raises(SizeError, match="context of 4 tokens"):
        made.check_fits(["\N{EURO SIGN}" * (longest * 4 // 3 + 1)], 4)
    with pytest.raises(SizeError):
        made.encode("7" * (tokenizer.MAX_TEXT + 1))
    with pytest.raises(ParameterError):
        made.check_fits(["\ud800"], 4)
    assert counting.texts == []


def test_a_text_that_normalizing_shortens_is_not_refused_for_its_length() -> None:
    """Hangul in single jamo is three times as long as in syllables, which is what is encoded (NFC)."""
    made, _ = watched(pre="qwen2")
    jamo = "\u1112\u1161\u11ab"
    fits = jamo * 40
    count = len(made.encode("\ud55c" * 40))
    assert len(made.encode(fits)) == count
    made.check_fits([fits], count)


def test_long_texts_are_encoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, counting = watched(lambda: time.sleep(0.02))
    text = "7" * tokenizer._LARGE
    threads = [threading.Thread(target=made.encode, args=(text,)) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (len(counting.texts), counting.most) == (6, 1)
    monkeypatch.setattr(tokenizer, "_PATIENCE_S", 0.01)
    with tokenizer._one_large, pytest.raises(Busy):
        made.encode(text)
    assert made.encode("hello"), "short ones do not wait"
