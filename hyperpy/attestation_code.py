"""What code a node runs, as its evidence says it: tag 13, the runtime digest (tee-attestation 7.1).

It is what the software says of itself: it tells one honest build and configuration from another. That the software
is honest, so that it does say it, is what the measurement stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hyperpy.config import Config
from hyperpy.encoding import sha256

_DOMAIN: Final = b"hyperpy/tee/runtime/v1\0"
_BESIDE: Final = ("devices", "shaders")
"""Folders of a source tree that an installed hyperpy holds inside."""
_DIGESTS: list[bytes] = []


def runtime_digest() -> bytes:
    """Return the SHA-256 of hyperpy's own files: their paths and digests, sorted.

    Bundled devices and shaders are among them, under the paths that they have once installed, in a source tree too.
    """
    if not _DIGESTS:
        _DIGESTS.append(_digest(Path(__file__).resolve().parent))
    return _DIGESTS[0]


def _digest(folder: Path) -> bytes:
    """Return the digest of a package's folder, and of what is beside it if it is a source tree's."""
    found = dict(_files(folder))
    if (folder.parent / "pyproject.toml").is_file():
        for name in _BESIDE:
            found |= {f"{name}/{file}": data for file, data in _files(folder.parent / name)}
    return sha256("".join(f"{name} {found[name]}\n" for name in sorted(found)).encode())


def _files(folder: Path) -> Iterable[tuple[str, str]]:
    for one in folder.rglob("*"):
        own = one.relative_to(folder)
        if one.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in own.parts):
            yield own.as_posix(), sha256(one.read_bytes()).hex()


def node_digest(config: Config, added: Iterable[str]) -> bytes:
    """Return the runtime digest of a node: :func:`runtime_digest`, unless devices were added, replaced or granted to.

    Then it is the SHA-256 of that digest and of a line for each device that did not come with hyperpy, each file that
    was loaded, each name in ``[devices] override`` and each in ``grant``, sorted.

    Args:
        added: lines of :meth:`hyperpy.registry.Registry.added`.
    """
    rows = [*added]
    rows += [f"override {name}" for name in config.devices.override]
    rows += [f"grant {name} {','.join(sorted(needs))}" for name, needs in config.devices.grant.items()]
    if not rows:
        return runtime_digest()
    return sha256(_DOMAIN + runtime_digest() + "".join(f"{row}\n" for row in sorted(set(rows))).encode())
