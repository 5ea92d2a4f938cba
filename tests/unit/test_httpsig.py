"""httpsig@1.0: what must survive the way through headers and parts."""

from __future__ import annotations

import pytest

from hyperpy.codecs import httpsig, structured
from hyperpy.message import Message


@pytest.mark.parametrize("value", [b"x\r\ny: z", b"\r\n", b"x\r\n\r\ny", b"x\ny", b"x\r", b"\r\n--"])
@pytest.mark.parametrize("key", ["note", "body", "data"])
def test_line_breaks_in_nested_values_survive(key: str, value: bytes) -> None:
    """No value can end its own line and begin another, at any depth or in a list."""
    deep = Message({key: value, "other": b"1"})
    message = Message({"a": deep, "b": {"c": deep, key: value}, "list": (value, deep)})
    form = httpsig.encode(structured.encode(message))
    assert structured.decode(httpsig.decode(form.headers, form.body)) == message
