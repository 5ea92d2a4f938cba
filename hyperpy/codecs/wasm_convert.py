"""Rewrites images that use WebAssembly's older exception operators, which no current engine takes.

The work is done by ``wasm-opt`` of the npm package ``binaryen``. Its version is fixed, since the bytes it
makes decide how many steps a call takes, and two nodes must count alike.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hyperpy.errors import CodecError, ConfigError, DeviceTimeout

BINARYEN = "132.0.0"
CONVERTER = f"binaryen-{BINARYEN}"
"""Name of the converter: part of the name under which a converted image is kept."""

_FEATURES = (
    *("memory64", "exception-handling", "reference-types", "multivalue", "bulk-memory", "sign-ext"),
    *("mutable-globals", "nontrapping-float-to-int"),
)
"""What the converter may use. With all features on it writes what the engine refuses."""
_SECONDS = 60


def kept_as(image: str) -> str:
    """Return the name in the store that stands for the converted form of an image, given the image's ID."""
    return f"wasm-converted/{CONVERTER}/{image}"


def convert(image: bytes) -> bytes:
    """Return the image with its exception operators in the current form.

    Raises:
        ConfigError: Node.js or the package is missing; the hint names the step.
        CodecError: the converter does not take the image.
        DeviceTimeout: it took more than a minute.
    """
    node, program = _found()
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "in.wasm", Path(folder) / "out.wasm"
        before.write_bytes(image)
        flags = [f"--enable-{name}" for name in _FEATURES]
        command = [node, "--max-old-space-size=2048", str(program), str(before), "-o", str(after)]
        try:
            done = subprocess.run(  # noqa: S603  (the program of a package the operator installed)
                [*command, "--translate-to-exnref", *flags], capture_output=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeviceTimeout(f"wasm-opt took more than {_SECONDS} s for this image") from None
        if done.returncode != 0 or not after.is_file():
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise CodecError(f"wasm-opt does not take this image: {lines[0][:200] if lines else 'no reason given'}")
        return after.read_bytes()


def available() -> bool:
    """Say whether :func:`convert` finds its program."""
    try:
        _found()
    except ConfigError:
        return False
    return True


def _found() -> tuple[str, Path]:
    node = shutil.which("node")
    if node is None:
        raise ConfigError("converting an image needs Node.js, which is not installed", hint=_step())
    other = None
    for folder in _folders():
        package = folder / "binaryen" / "package.json"
        if package.is_file():
            version = json.loads(package.read_text("utf-8")).get("version")
            if version == BINARYEN:
                return node, package.with_name("bin") / "wasm-opt"
            other = version
    seen = f"; version {other} was found" if other else ""
    raise ConfigError(f"converting an image needs version {BINARYEN} of the npm package binaryen{seen}", hint=_step())


def _folders() -> list[Path]:
    named = os.environ.get("HYPERPY_NODE_MODULES")
    here = [Path.cwd() / "node_modules", Path("/usr/local/lib/node_modules"), Path("/usr/lib/node_modules")]
    return [Path(named), *here] if named else here


def _step() -> str:
    return (
        f"Install Node.js and run `npm install binaryen@{BINARYEN}` where the node runs (or set HYPERPY_NODE_MODULES "
        "to the node_modules folder that has it), then `hyperpy wasm convert IMAGE`."
    )
