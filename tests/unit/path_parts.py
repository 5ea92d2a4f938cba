"""What tests of paths share: short names for what a path is made of."""

from __future__ import annotations

from typing import Any

from hyperpy.encoding import b64u
from hyperpy.message import Message, Resolve

ID = b64u(bytes(range(32)))
BASE = Message()


def m(**items: Any) -> Message:
    return Message({name.replace("_", "-"): item for name, item in items.items()})


def seq(*members: Any) -> Resolve:
    return Resolve(members)
