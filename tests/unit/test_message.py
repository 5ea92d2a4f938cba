"""What makes a message, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy.errors import MessageError
from hyperpy.message import Message


@pytest.mark.parametrize("item", [5, b"x", "x", [1], None, True, {"id": 5}, {"id": b"x"}, {"id": ["a"]}])
def test_commitments_are_a_map_of_maps(item: Any) -> None:
    with pytest.raises(MessageError, match="'commitments' must be a map"):
        Message({"a": 1, "commitments": item})
    if item is not None:
        with pytest.raises(MessageError, match="'commitments' must be a map"):
            Message({"a": 1}, commitments=item)


def test_commitments_ride_along() -> None:
    made = Message({"a": 1, "commitments": {"id": {"type": "x"}}})
    assert "commitments" not in made
    assert made.commitments == {"id": Message({"type": "x"})}
