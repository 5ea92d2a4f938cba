"""Certificate revocation lists, read strictly; signatures are the caller's to check."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from hyperpy.attest import der
from hyperpy.attest.codes import require

MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Crl:
    """A revocation list.

    Attributes:
        signed, algorithm, signature: as in :class:`hyperpy.attest.der.Certificate`.
        issuer: DER of the issuer's name.
        this_update, next_update: when it is valid, UTC.
        revoked: serial numbers.
    """

    signed: bytes
    algorithm: bytes
    signature: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime
    revoked: frozenset[int]

    @classmethod
    def parse(cls, data: bytes) -> Crl:
        """Return the list that DER bytes hold.

        Raises:
            AttestationError: ``endorsement/chain-invalid``; they hold none.
        """
        require(len(data) <= MAX_BYTES, "evidence/too-large", "the revocation list is too long")
        outer = der.Reader(data)
        inner = der.Reader(outer.take(der.SEQUENCE))
        outer.finish()
        signed, algorithm = inner.whole(der.SEQUENCE), inner.whole(der.SEQUENCE)
        signature = der.bits(inner.take(der.BIT_STRING))
        inner.finish()
        body = der.Reader(der.Reader(signed).take(der.SEQUENCE))
        if body.peek() == der.INTEGER:
            require(der.integer(body.take()) == 1, "endorsement/chain-invalid", "a revocation list of another version")
        require(body.whole(der.SEQUENCE) == algorithm, "endorsement/chain-invalid", "two signature algorithms")
        issuer = body.whole(der.SEQUENCE)
        begin, end = der.time(body), der.time(body)
        revoked = set()
        if body.peek() == der.SEQUENCE:
            rows = der.Reader(body.take())
            while not rows.done:
                row = der.Reader(rows.take(der.SEQUENCE))
                revoked.add(der.integer(row.take(der.INTEGER)))
                der.time(row)
        return cls(signed, algorithm, signature, issuer, begin, end, frozenset(revoked))

    def covers(self, now: datetime) -> bool:
        """Say whether the list is valid at a time."""
        return self.this_update <= now <= self.next_update
