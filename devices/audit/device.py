"""The keys of audit@1.0 (docs/audit.md)."""

from __future__ import annotations

import json
import re
from typing import Final

from hyperpy import Context, Message, device, key
from hyperpy.capabilities import Audit as Audits
from hyperpy.errors import ParameterError

from . import browser

_RANGE: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_MOST: Final = 1_000_000
_RECEIPT: Final = 32 << 20
"""Bytes of messages that a receipt made for a request holds."""


@device("audit@1.0", needs=("audit",))
class Audit:
    """Audits what this node and others computed."""

    def start(self, audit: Audits) -> None:
        """Take what makes recorded steps again."""
        self._audit = audit

    def stop(self) -> None:
        """Let go of audits that nobody went on with."""
        self._audit.close()

    @key
    def page(self) -> Message:
        """Return an HTML page that checks a receipt in the browser: no node is asked for anything more."""
        return Message({"content-type": "text/html; charset=utf-8", "body": browser.page()})

    @key(deterministic=False, reads=True)
    def replay(
        self, ref: str, ctx: Context, slots: str = "", sample: int = 0, seed: int = 0, first: bool = False
    ) -> Message:
        """Make again what led to ``ref`` and compare; the body is the report as JSON, ``verdict`` its verdict.

        ``slots=A-B`` names slots of a process, ``sample=K`` and ``seed=S`` draw K steps, ``first=true`` stops at
        the first fault. Work that takes longer than a request may is gone on with when it is asked for again.
        """
        if not 0 <= sample <= _MOST:
            raise ParameterError("'sample' must be a number of steps", name="sample")
        found = self._audit.replay(ref, ctx, slots=_slots(slots), sample=sample, seed=seed, first=first)
        return Message(
            {
                "verdict": found.verdict.value,
                "exit-code": found.exit_code(),
                "content-type": "application/json",
                "body": json.dumps(found.as_json(), ensure_ascii=False),
            }
        )

    @key(deterministic=False, reads=True)
    def trail(self, ref: str, ctx: Context) -> Message:
        """Return the recorded steps that led to ``ref``, oldest first: ``steps``; nothing is made again."""
        return self._audit.trail(ref, ctx)

    @key(deterministic=False, reads=True)
    def receipt(
        self,
        ref: str,
        ctx: Context,
        slots: str = "",
        part: str = "",
        sign: bool = True,
        max_bytes: int = _RECEIPT,
    ) -> Message:
        """Return the receipt of ``ref`` as a file: its steps, with all that is needed to check and repeat them.

        ``slots=A-B`` names slots of a process, ``part=a/b`` proves one part of the result alone, ``sign=false``
        leaves out this node's signature, ``max-bytes=N`` bounds the messages that it holds. ``kept-until`` of the
        reply says until when this node keeps what the receipt is about, in seconds since 1970; 0: it does not.
        """
        if not 0 <= max_bytes <= _RECEIPT:
            raise ParameterError(f"'max-bytes' must be a number of at most {_RECEIPT}", name="max-bytes")
        options = {"slots": _slots(slots), "part": part, "sign": sign, "max_bytes": max_bytes}
        made, until = self._audit.receipt(ref, ctx, **options)
        return Message({"content-type": "application/x-hyperpy-receipt", "body": made, "kept-until": until})


def _slots(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = _RANGE.fullmatch(text)
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise ParameterError("'slots' must be A-B or one number, the first slot before the last", name="slots")
    return int(found[1]), int(found[2] or found[1])
