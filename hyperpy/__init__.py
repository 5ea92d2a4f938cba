"""hyperpy: an AO-Core device host whose every result can be replayed.

A device author needs ``device``, ``key``, ``Message`` and :mod:`hyperpy.errors`; see docs/write-a-device.md.
"""

from hyperpy.message import Atom, Link, Message
from hyperpy.sdk import Context, Result, default, device, handler, key

__all__ = ["Atom", "Context", "Link", "Message", "Result", "default", "device", "handler", "key"]
