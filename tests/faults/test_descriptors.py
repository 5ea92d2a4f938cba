"""Child processes whose pipes have numbers above 1,023, as in a node with many connections."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator

import pytest

from hyperpy.inference import chat, templating, toy
from hyperpy.lua.pool import Child

HIGH = 1100


@pytest.fixture
def crowded() -> Iterator[None]:
    """Have so many descriptors open that the next one has a high number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * HIGH:
        pytest.skip(f"this user may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    null = os.open(os.devnull, os.O_RDONLY)
    opened = [null]
    while opened[-1] < HIGH:
        opened.append(os.dup(null))
    yield
    for one in opened:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_chat_templates(crowded: None) -> None:
    while templating._idle:
        templating._idle.pop().kill()
    turns = [{"role": "user", "content": "x" * 300_000}]
    assert chat.render(toy.TEMPLATE, turns, {}).count("x") == 300_000
    process = templating._idle.pop()
    assert process._out > 1023
    process.kill()


def test_lua(crowded: None) -> None:
    """More than a pipe holds, while the child still starts: the writer has to wait for it."""
    child = Child()
    try:
        assert child._in > 1023
        child._write(["drop", ["x" * 5_000_000]], time.monotonic() + 30)
        assert child.alive
    finally:
        child.kill()


@pytest.mark.timeout(180)
def test_webgpu(crowded: None) -> None:
    pytest.importorskip("wgpu")
    from hyperpy.inference import engines, webgpu, webgpu_adapter

    if not webgpu_adapter.adapters():
        pytest.skip("no adapter: install mesa-vulkan-drivers, or a GPU's driver")
    engine = webgpu.Engine(engines.toy_model())
    try:
        assert len(engine.forward([1, 2], engine.cache())) == engine.config.vocabulary
    finally:
        engine.close()
