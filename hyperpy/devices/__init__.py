"""Bundled devices. In a checkout they live in the top-level ``devices`` folder."""

from pathlib import Path

_root = Path(__file__).resolve().parents[2]
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root / "devices"))
