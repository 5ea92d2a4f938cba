"""Statements: the specified vector, and that nothing in them can be changed, left out or said twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.attest import statement
from hyperpy.errors import AppraisalError

IDENTITY = {
    "purpose": b"node-identity",
    "address": bytes(range(0x20)),
    "key": b"\x02" + bytes(range(0x20, 0x40)),
    "nonce": bytes(range(0x40, 0x60)),
    "node-message": bytes(range(0x60, 0x80)),
    "runtime": bytes(range(0x80, 0xA0)),
}


def test_the_vector_of_the_specification() -> None:
    """tee-attestation 7.1."""
    made = statement.make(IDENTITY)
    assert len(b"hyperpy/tee/binding/v1\0" + made.encode()) == 233
    assert made.report_data().hex() == (
        "f1feecd4f040287e8a20becf1df236bac5143051b50cc03dd46fd5a99c0aa44f"
        "3f7586261b20761f4420ad16973582c9895fa74ceb3aa4acccf4c9241d87363c"
    )
    assert made.gpu_nonce().hex() == "85722a93d14af7a7bd8fa3dc5c3de9c1a7a5bbf3e887674fb51aa84c3d723f5f"


def test_the_nonce_of_a_gpu_leaves_out_the_tag_of_the_gpu() -> None:
    made = statement.make({**IDENTITY, "gpu": statement.gpu_digest([b"a report"])})
    assert made.gpu_nonce() == statement.make(IDENTITY).gpu_nonce()
    assert made.report_data() != statement.make(IDENTITY).report_data()


def decoded(data: bytes) -> statement.Statement | None:
    """Return the statement of tagged values; None if they are refused, with the one code for that."""
    try:
        return statement.decode(data)
    except AppraisalError as error:
        if error.code != "binding/statement-malformed":
            raise
        return None


@given(st.integers(0, 232), st.integers(0, 7))
def test_any_bit_changes_the_binding_or_is_refused(at: int, bit: int) -> None:
    data = bytearray(statement.make(IDENTITY).encode())
    at %= len(data)
    data[at] ^= 1 << bit
    got = decoded(bytes(data))
    assert got is None or got.report_data() != statement.make(IDENTITY).report_data()


@given(st.binary(max_size=400))
def test_whatever_the_bytes_only_that_code(data: bytes) -> None:
    made = decoded(data)
    assert made is None or made.encode() == data


def rows(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(tag.to_bytes(2, "big") + len(value).to_bytes(4, "big") + value for tag, value in pairs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        rows((1, b"node-identity")),
        rows((1, b"anything"), (2, bytes(32)), (3, b"k"), (5, bytes(32)), (7, bytes(32))),
        rows((2, bytes(32)), (1, b"node-identity"), (3, b"k"), (5, bytes(32)), (7, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(32)), (3, b"k"), (3, b"k"), (5, bytes(32)), (7, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(31)), (3, b"k"), (5, bytes(32)), (7, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(32)), (3, b"k"), (5, bytes(15)), (7, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(32)), (3, b"k"), (7, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(32)), (3, b"k"), (5, bytes(32)), (7, bytes(32)), (18, b"")),
        rows((1, b"result"), (2, bytes(32)), (3, b"k"), (5, bytes(32)), (8, bytes(32))),
        rows((1, b"node-identity"), (2, bytes(32)), (3, b"k"), (5, bytes(32)), (7, bytes(32)))[:-1],
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(AppraisalError) as caught:
        statement.decode(data)
    assert caught.value.code == "binding/statement-malformed"


def test_another_report_data_is_refused() -> None:
    with pytest.raises(AppraisalError) as caught:
        statement.make(IDENTITY).check(bytes(64))
    assert caught.value.code == "binding/report-data-mismatch"


def test_a_software_attester_s_purpose_binds_differently() -> None:
    soft = statement.make({**IDENTITY, "purpose": b"software/node-identity"})
    assert soft.is_software
    assert soft.purpose == "node-identity"
    assert soft.report_data() != statement.make(IDENTITY).report_data()
