"""Every setting of a node, and where its value came from.

schema    the settings: frozen dataclasses, one a section
sources   load(): defaults < file < environment < flags
page      the table in docs/configuration.md
"""

from __future__ import annotations

from hyperpy.config.page import as_markdown
from hyperpy.config.schema import Config
from hyperpy.config.sources import load

__all__ = ["Config", "as_markdown", "load"]
