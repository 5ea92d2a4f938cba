"""Manifests made to hurt: refused by a code of the list, before any costly work."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hyperpy.attest import rim
from hyperpy.errors import AttestationError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNED = (
    '<SignedInfo><CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>'
    '<SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/><Reference URI=""><Transforms>'
    '<Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></Transforms>'
    '<DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<DigestValue>AAAA</DigestValue></Reference></SignedInfo>"
)
SIGNATURE = f'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#">{SIGNED}</Signature>'
MANY = " ".join(f'xmlns:n{at}="urn:{at}"' for at in range(2000))
HOSTILE = {
    "a relative namespace": (f'<a xmlns:b="c/d">{SIGNATURE}</a>'.encode(), "no canonical form"),
    "many namespaces": (f"<a {MANY}>{SIGNATURE}</a>".encode(), "too many namespaces"),
    "a DTD in UTF-16": ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><a/>'.encode("utf-16"), "no XML"),
    "a DTD in UTF-7": (b'<?xml version="1.0" encoding="utf-7"?>+ADw-!DOCTYPE a+AD4-<a/>', "no XML"),
    "no XML": (b"\0\xff", "no XML"),
    "empty": (b"", "no XML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_by_code(name: str) -> None:
    data, why = HOSTILE[name]
    with pytest.raises(AttestationError, match=why) as found:
        rim.read(data, NOW)
    assert found.value.code == "endorsement/rim-signature"
