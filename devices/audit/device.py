"""The keys of audit@1.0 (docs/audit.md)."""

from __future__ import annotations

from hyperpy import Message, device, key

from . import browser


@device("audit@1.0")
class Audit:
    """Audits what this node and others computed."""

    @key
    def page(self) -> Message:
        """Return an HTML page that checks a receipt in the browser: no node is asked for anything more."""
        return Message({"content-type": "text/html; charset=utf-8", "body": browser.page()})
