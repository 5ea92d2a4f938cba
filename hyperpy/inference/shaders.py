"""The texts of the WGSL files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from hyperpy.errors import ConfigError

NAMES = ("integers", "norm", "linear", "attention", "choose")
"""All that engines compute with."""


@lru_cache(maxsize=8)
def source(name: str) -> str:
    """Return a shader's text: of the installed package, or of the checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "shaders", here.parents[2] / "shaders"):
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8")
    raise ConfigError(f"the shader {name} is not installed", hint="Install hyperpy again.")
