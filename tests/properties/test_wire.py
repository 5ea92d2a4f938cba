"""Wire: whatever the bytes, reading gives a message or a 4xx; writing never fails and never splits."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperpy.errors import HyperpyError
from hyperpy.http.app import wants_of
from hyperpy.http.wire import RawRequest, Wants, read, write, write_error
from hyperpy.message import Atom, Message

NAMES = st.sampled_from(
    b"signature signature-input content-type content-digest ao-types ao-ids ao-body-key inline-body-key body-keys "
    b"codec-device require-codec accept accept-bundle path method host cookie secret priv-x body data commitments "
    b"a%20b %zz k+link k a.b 0.k k+integer status content-length ao-peer-port x-real-ip !".split()
) | st.binary(min_size=0, max_size=12).map(bytes.lower)
VALUES = st.sampled_from(
    [
        b'comm-x=("a" "content-digest");alg="rsa-pss-sha512";keyid="publickey:AAAA"',
        b"comm-x=:AAAA:",
        b'sig1=("@path");keyid="ao";alg="hmac-sha256"',
        b"http-sig-00=()",
        b'multipart/form-data; boundary="b"',
        b"application/json",
        b"application/ans104",
        b"json@1.0",
        b"flat@1.0",
        b"ans104@1.0",
        b"httpsig@1.0",
        b'k="integer", .="list"',
        b'a="atom", body="float"',
        b"sha-256=:AAAA:",
        b"true",
        b"12",
        b'A="v"',
    ]
) | st.binary(max_size=40)
BODIES = st.sampled_from(
    [
        b"",
        b'--b\r\ncontent-disposition: form-data;name="a/b"\r\nx: 1\r\n--b--',
        b"--b\r\ncontent-disposition: inline\r\n\r\nx\r\n--b--",
        b'{"a":1,"ao-types":"a=\\"integer\\"","commitments":{"x":{"committed":["a"],"signature":"AA"}}}',
        b'{"commitments":1}',
        b"a/b: c\n",
    ]
) | st.binary(max_size=200)
TARGETS = st.sampled_from(
    [b"/", b"/a?b=1&c", b"/a?codec-device=json@1.0", b"/a%2", b"*", b"", b"/a?secret=x", b"/a&secret=1"]
) | st.binary(max_size=60)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "\udcff"]),
    TARGETS,
    st.lists(st.tuples(NAMES, VALUES), max_size=6).map(tuple),
    BODIES,
)
@example("POST", b"/a", ((b"content-type", b'multipart/form-data; boundary="b"'),), b"--b\r\n--b--")
@example("GET", b"/a?" + b"&" * 20_000, (), b"")
@example("GET", b"/" + b"(priv" * 4000, (), b"")
@example("POST", b"/a", ((b"codec-device", b"json@1.0"),), b"[" * 100_000)
def test_reading_never_fails_otherwise(method: str, target: bytes, headers: tuple, body: bytes) -> None:  # type: ignore[type-arg]
    raw = RawRequest(method, target, headers, body, "192.0.2.1")
    try:
        made = read(raw)
    except HyperpyError as error:
        reply = write_error(error, wants_of(raw))
    else:
        assert isinstance(made.message.raw("path"), bytes)
        assert not made.message.private
        assert b"192.0.2.1" not in made.origin
        reply = write(made.message | {"status": 200}, made.wants)
    assert 200 <= reply.status < 500
    safe(reply.headers)


VALUE = st.binary(max_size=20) | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text(max_size=10).filter(lambda k: not k.startswith("priv") and k != "commitments")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(KEYS, VALUE | st.dictionaries(KEYS, VALUE, max_size=3), max_size=6),
    st.sampled_from([Wants(), Wants(bundle=True), *(Wants(f"{name}@1.0") for name in ("json", "ans104", "flat"))]),
)
def test_writing_never_fails(items: dict, wants: Wants) -> None:  # type: ignore[type-arg]
    reply = write(Message({**items, "status": 200, "atom": Atom("x")}), wants)
    assert 200 <= reply.status < 500
    safe(reply.headers)


def safe(headers: list[tuple[bytes, bytes]]) -> None:
    """Assert that no header can be more than one line, or anything but a header."""
    assert len(headers) <= 90
    for name, value in headers:
        assert name
        assert not set(name) - set(b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"), name
        assert not any((byte < 32 and byte != 9) or byte == 127 for byte in value), value
