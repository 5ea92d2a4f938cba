"""The page that computes an answer again in a browser, as one text; its modules lie in ``page/``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from hyperpy.inference.shaders import source

MODULES: Final = ("tables", "model", "forward", "page")
"""Each needs only those before it."""
SHADERS: Final = ("integers", "norm", "linear", "attention")
"""Those that the page needs: it chooses no tokens."""

_FOLDER: Final = Path(__file__).parent / "page"
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z0-9]+\.mjs";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)


@lru_cache(maxsize=1)
def page() -> str:
    """Return the page: HTML with its style, script and shaders inside. It fetches from the node that serves it."""
    policy = (
        f"default-src 'none'; style-src '{_digest(_read('page.css'))}'; script-src '{_digest(script())}'; "
        "connect-src http: https:; base-uri 'none'; form-action 'none'"
    )
    text = _read("page.html").replace("{{policy}}", policy)
    return text.replace("{{style}}", _read("page.css")).replace("{{script}}", script())


@lru_cache(maxsize=1)
def script() -> str:
    """Return the shaders and modules as one, without the imports and exports that join them."""
    shaders = json.dumps({name: source(f"{name}.wgsl") for name in SHADERS}).replace("</", "<\\/")
    parts = [_EXPORT.sub("", _IMPORT.sub("", _read(f"{name}.mjs"))).strip() for name in MODULES]
    return "\n\n".join([f"const SHADERS = {shaders};", *parts]) + "\n"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
