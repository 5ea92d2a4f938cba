"""The processes that fill in chat templates: kept, replaced, bounded; what one template does reaches no other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperpy.errors import Busy, CodecError
from hyperpy.inference import chat, templating, toy

TURNS = [{"role": "user", "content": "hi"}]
FILLED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def _none_kept() -> Iterator[None]:
    """Begin and end without processes."""
    _clear()
    yield
    _clear()


def _clear() -> None:
    while templating._idle:
        templating._idle.pop().kill()


def kept() -> list[int]:
    return sorted(one._process.pid for one in templating._idle)


def test_a_process_is_kept_and_replaced_when_it_is_gone() -> None:
    assert {chat.render(toy.TEMPLATE, TURNS, {}) for _ in range(5)} == {FILLED}
    [first] = kept()
    os.kill(first, signal.SIGKILL)
    assert chat.render(toy.TEMPLATE, TURNS, {}) == FILLED
    [second] = kept()
    assert second != first


def test_a_template_leaves_nothing_for_the_next() -> None:
    """Each runs in a fork: what it set, used up or wrote is gone."""
    with pytest.raises(CodecError, match=r"more time or memory|failed"):
        chat.render("{{ 'a' * 10**10 }}", TURNS, {})
    text = "{% set ns = namespace(x=1) %}{{ ns.x }}{% set messages = 5 %}"
    assert chat.render(text, TURNS, {}) == chat.render(text, TURNS, {}) == "1"
    assert chat.render(toy.TEMPLATE, TURNS, {}) == FILLED
    assert len(kept()) == 1


def test_many_at_once_share_a_few_processes() -> None:
    turns = [[{"role": "user", "content": f"{n} " * (n * 200)}] for n in range(24)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda one: chat.render(toy.TEMPLATE, one, {}), turns))
    assert found == [FILLED.replace("hi", one[0]["content"]) for one in turns]
    assert 1 <= len(kept()) <= templating.AT_ONCE


def test_lack_of_time_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time is the template's bound, and a result; waiting is this machine's business, and none."""
    assert chat.render(toy.TEMPLATE, TURNS, {}) == FILLED
    [first] = kept()
    monkeypatch.setattr(templating, "PATIENCE_S", 0.3)
    with pytest.raises(Busy):
        chat.render(ENDLESS, TURNS, {})
    assert kept() == [], "its process is ended, with the fork"
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    monkeypatch.undo()
    assert chat.render(toy.TEMPLATE, TURNS, {}) == FILLED


def test_who_waits_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templating, "_turns", threading.BoundedSemaphore(1))
    monkeypatch.setattr(templating, "PATIENCE_S", 0.2)
    templating._turns.acquire()
    with pytest.raises(Busy, match="too many"):
        chat.render(toy.TEMPLATE, TURNS, {})
    templating._turns.release()
