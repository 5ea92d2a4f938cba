"""The page that checks a receipt in a browser, as one text that needs nothing else.

Its modules lie in ``page/``; they are joined here in the order in which they need each other, so that the
page may be saved and used without any node. Its content security policy lets nothing else run, and nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

MODULES: Final = (
    *("bytes", "canonical", "encoding", "rsa", "ans104", "legacy", "commitments"),
    *("receipt", "order", "checks", "rules", "verify", "page"),
)
"""Each needs only those before it."""

_FOLDER: Final = Path(__file__).parent / "page"
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z0-9]+\.mjs";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)


@lru_cache(maxsize=1)
def page() -> str:
    """Return the page: HTML with its style and script inside."""
    text = _read("page.html").replace("{{policy}}", policy())
    return text.replace("{{style}}", _read("page.css")).replace("{{script}}", script())


@lru_cache(maxsize=1)
def script() -> str:
    """Return the modules as one, without the imports and exports that join them."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _read(f"{name}.mjs"))).strip() for name in MODULES]
    return "\n\n".join(parts) + "\n"


@lru_cache(maxsize=1)
def policy() -> str:
    """Return a policy under which this page works and can neither load, send nor embed anything."""
    return (
        f"default-src 'none'; style-src '{_digest(_read('page.css'))}'; script-src '{_digest(script())}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
