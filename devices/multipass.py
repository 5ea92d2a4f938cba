"""multipass@1.0: makes a stack run again until ``passes`` passes are done."""

from __future__ import annotations

from hyperpy import device, handler
from hyperpy.errors import ParameterError
from hyperpy.message import Message
from hyperpy.sdk import Result


@device("multipass@1.0", excludes=("set", "keys"))
class Multipass:
    """The last entry of a stack that must run more than once, with ``passes`` in the message."""

    @handler
    def run(self, base: Message) -> Result:
        """Return the base: with status ``pass`` while ``pass`` is below ``passes``, else ``ok``."""
        return Result("pass" if _count(base, "pass") < _count(base, "passes") else "ok", base)


def _count(base: Message, name: str) -> int:
    text = base.text(name, "1")
    if not text.isdecimal() or len(text) > 9:
        raise ParameterError(f"multipass: '{name}' must be a whole number, not {text[:40]!r}", name=name)
    return int(text)
