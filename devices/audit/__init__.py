"""audit@1.0: trails, replays and receipts over HTTP, and a page that checks a receipt in the browser."""

from .device import Audit

__all__ = ["Audit"]
