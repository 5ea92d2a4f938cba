"""A headless Chromium for tests, over its own debugging protocol: no driver, no downloaded browser."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
PATIENCE = 30.0
"""Seconds that a page may take for what a test waits for."""


def executable() -> str:
    """Return the browser's path; skip the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium")
    return found


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send an order and return its answer; events that come meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            found = json.loads(self._socket.recv(timeout=PATIENCE))
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return found

    def open(self, url: str) -> None:
        """Go to an address, and wait until the page is there; what was told of others is forgotten."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.run("0")
        self.events.clear()
        self.send("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE
        while not any(one["method"] == "Page.loadEventFired" for one in self.events):
            assert time.monotonic() < end, f"never there: {url}"
            self.send("Runtime.evaluate", expression="0")
            time.sleep(0.01)

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for."""
        self.run("0")
        sent = [one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return what the browser complained about: errors, and what the policy stopped."""
        self.run("0")
        told = [str(one["params"]) for one in self.events if one["method"] == "Runtime.exceptionThrown"]
        logged = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        return told + [str(one) for one in logged if "favicon" not in str(one)]

    def key(self, name: str, code: int) -> None:
        """Press a key."""
        text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **text)

    def drop(self, target: str, data: bytes, name: str = "r.receipt") -> None:
        """Drop a file on an element, as a person's mouse would."""
        text = base64.b64encode(data).decode()
        self.run(
            f"(() => {{ const raw = Uint8Array.from(atob('{text}'), (c) => c.charCodeAt(0));"
            f"const files = new DataTransfer(); files.items.add(new File([raw], {json.dumps(name)}));"
            f"const target = document.querySelector({json.dumps(target)});"
            "for (const kind of ['dragenter', 'dragover', 'drop'])"
            "target.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: files})); })()"
        )

    def picture(self, file: Path, width: int = 1500, height: int = 1300) -> None:
        """Keep what is seen as a PNG file."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(0.2)
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(*flags: str) -> Iterator[Page]:
    """Start a browser with one empty tab, with more flags perhaps; it ends with the block."""
    home = tempfile.mkdtemp(prefix="hyperpy-chromium-")
    command = [executable(), *_FLAGS, *flags, f"--user-data-dir={home}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(Path(home) / "DevToolsActivePort", process)
        with connect(_tab(port), max_size=None, open_timeout=PATIENCE, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= 2:
            return int(lines[0])
        assert process.poll() is None, "the browser ended at once"
        assert time.monotonic() < end, "the browser opened no debugging port"
        time.sleep(0.05)


def _tab(port: int) -> str:
    """Return the socket address of the browser's first tab."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE
    while True:
        with opener.open(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as found:
            pages = [one for one in json.load(found) if one["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < end, "the browser has no tab"
        time.sleep(0.05)
