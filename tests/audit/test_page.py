"""The browser page as it is served: one text, under a policy that lets nothing load, made of all its modules."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hyperpy.devices.audit import browser

from hyperpy.testing import node

FOLDER = Path(browser.__file__).parent / "page"


def test_the_node_serves_it() -> None:
    with node() as made:
        answer = made.get("/~audit@1.0/page")
    assert answer.text("content-type") == "text/html; charset=utf-8"
    assert answer.text("body") == browser.page()


def test_every_module_is_in_it_after_those_it_needs() -> None:
    assert {f"{name}.mjs" for name in browser.MODULES} == {file.name for file in FOLDER.glob("*.mjs")}
    for at, name in enumerate(browser.MODULES):
        text = (FOLDER / f"{name}.mjs").read_text("utf-8")
        needed = re.findall(r'^import .* from "\./([a-z0-9]+)\.mjs";$', text, re.MULTILINE)
        assert text.count("import {") == len(needed)
        assert set(needed) <= set(browser.MODULES[:at]), name
    assert re.search(r"^(import|export)\b", browser.script(), re.MULTILINE) is None


def test_the_joined_text_is_a_module(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (Debian package: nodejs)")
    file = tmp_path / "page.mjs"
    file.write_text(browser.script(), "utf-8")
    made = subprocess.run(["node", "--check", str(file)], capture_output=True, timeout=30)
    assert made.returncode == 0, made.stderr.decode()


def test_nothing_else_can_run_or_load() -> None:
    page = browser.page()
    held = {tag: re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style")}
    for tag, (text,) in held.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
    assert "default-src 'none'; " in page
    assert (
        re.search(r"\b(src|action|poster|on[a-z]+)=", re.sub(r"<script.*</script>", "", page, flags=re.DOTALL)) is None
    )
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "innerHTML", "insertAdjacentHTML", "eval(", "document.write"):
        assert word not in page
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.mjs")), ids=lambda f: f.stem)
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 400
