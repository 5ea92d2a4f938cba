"""The page in a real Chromium: its own WebGPU and WGSL compiler (Tint) on SwiftShader compute the node's states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpy.http.server import Server
from hyperpy.inference import toy
from hyperpy.inference.library import Library
from hyperpy.testing import TestNode, node
from tests.audit.chromium import Page, browser

VERDICT = "document.querySelector('#verdict').textContent"
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


def with_q6_k() -> bytes:
    """Return the toy, wide enough for blocks of Q6_K (256 columns): its embedding and one ffn_down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "WIDTH", 256)
        patch.setattr(toy, "HIDDEN", 256)
        made = toy.tensors()
        rng = np.random.default_rng(6)
        for name in ("token_embd.weight", "blk.1.ffn_down.weight"):
            (_, sizes, _), blocks = made[name], int(np.prod(made[name][1])) // 256
            digits = rng.integers(0, 256, (blocks, 192), np.uint8)
            scales = rng.integers(-128, 128, (blocks, 16)).astype(np.int8).view(np.uint8)
            factor = np.full((blocks, 1), 2.0**-14, "<f2").view(np.uint8)
            made[name] = (14, sizes, np.concatenate([digits, scales, factor], axis=1).tobytes())
        return toy.write(toy.metadata(), made)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestNode, str]]:
    folder = tmp_path_factory.mktemp("models")
    library = Library(folder / "kept")
    for architecture, name in (("llama", "toy"), ("qwen2", "toy2"), ("qwen3", "toy3")):
        file = folder / f"{name}.gguf"
        file.write_bytes(toy.gguf_bytes(architecture=architecture))
        library.add(file, name)
    (folder / "toy6.gguf").write_bytes(with_q6_k())
    entry = library.add(folder / "toy6.gguf", "toy6")
    assert {record.get("group") for record in entry.manifest["tensors"]} == {None, 16, 32}
    with node(flags={"inference.models": str(folder / "kept"), "inference.engine": "reference"}) as made:
        server = Server(made.node, "127.0.0.1", 0)
        server.start()
        try:
            yield made, f"http://127.0.0.1:{server.port}/~inference@1.0/page"
        finally:
            server.stop()


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser(*WEBGPU) as page:
        yield page


def asked(tab: Page, url: str, model: str = "toy") -> str:
    """Open the page, pick a model, press the button, and return the verdict."""
    tab.open(url)
    tab.wait("!document.querySelector('#ask').disabled")
    pick = f"[...document.querySelectorAll('#model option')].find((one) => one.textContent === '{model}').value"
    tab.run(f"document.querySelector('#model').value = {pick}")
    tab.run("document.querySelector('#ask').click()")
    tab.wait(f"{VERDICT} !== ''")
    return str(tab.run(VERDICT))


def test_the_browser_computes_the_nodes_states(tab: Page, served: tuple[TestNode, str], tmp_path: Path) -> None:
    made, url = served
    verdict = asked(tab, url)
    assert verdict.startswith("equal: all "), verdict
    assert not tab.complaints()
    shown = tab.run("document.querySelector('#last').textContent")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": "toy", "messages": question, "temperature": 0, "max_tokens": 16}
    reply = made.http("POST", "/~inference@1.0/v1/chat/completions", {}, json.dumps(body).encode())
    assert shown == json.loads(reply.body)["hyperpy"]["state"][0]
    assert tab.run("document.querySelectorAll('#states tr').length") == 16


@pytest.mark.parametrize("model", ["toy2", "toy3", "toy6"])
def test_every_kind_of_model(tab: Page, served: tuple[TestNode, str], model: str) -> None:
    """Biases (qwen2), head norms (qwen3), groups of 16 (Q6_K)."""
    verdict = asked(tab, served[1], model)
    assert verdict.startswith("equal: all "), verdict
    assert not tab.complaints()


def test_a_lying_node_is_seen(tab: Page, served: tuple[TestNode, str], monkeypatch: pytest.MonkeyPatch) -> None:
    made, url = served
    forms = type(made.node.registry.lookup("inference@1.0").instance)._answered.__globals__["Forms"]
    honest = forms.whole

    def lie(self: Any, choices: Any) -> bytes:
        choices[0].states[5] = "00" + choices[0].states[5][2:]
        return bytes(honest(self, choices))

    monkeypatch.setattr(forms, "whole", lie)
    assert asked(tab, url).startswith("DIFFERENT: 1 of 16 states")


def test_without_webgpu_the_page_says_so(served: tuple[TestNode, str]) -> None:
    with browser() as plain:
        plain.open(served[1])
        plain.wait(f"{VERDICT} !== ''")
        assert "no WebGPU here" in plain.run(VERDICT)
