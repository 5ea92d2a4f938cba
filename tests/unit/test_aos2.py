"""The message structure of aos, against recorded answers and by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.codecs import aos2
from hyperpy.errors import CodecError, SizeError
from hyperpy.keys import RsaKey
from hyperpy.message import Message


def struct(message: Message) -> dict[str, Any]:
    owner = next(iter(commitments.committers(message)), "")
    return aos2.encode(message, ident=commitments.signed_id(message), owner=owner, link=commitments.signed_id)


def tags(made: dict[str, Any]) -> dict[str, str]:
    return {tag["name"]: tag["value"] for tag in made["Tags"]}


def test_fields_and_tags() -> None:
    made = struct(Message({"action": "Eval", "x-long-name": "1", "data": "return 1", "target": "T" * 43, "n": 3}))
    assert made["Data"] == "return 1"
    assert made["Target"] == "T" * 43
    assert (made["Owner"], made["From"], made["Signature"], made["Anchor"]) == ("", "", "", "")
    assert tags(made) == {"Action": "Eval", "Ao-Types": 'n="integer"', "N": "3", "X-Long-Name": "1"}
    assert [tag["name"] for tag in made["Tags"]] == sorted(tags(made))
    assert "PublicKey" not in made


def test_a_signer_stands_in_owner_from_and_signature() -> None:
    key = RsaKey.generate(2048)
    signed = commitments.commit(Message({"owner": "Mallory", "id": "x", "a": "1"}), key)
    made = struct(signed)
    assert made["Owner"] == made["From"] == key.address
    assert made["Id"] == commitments.signed_id(signed)
    assert made["Signature"] == signed.commitments[made["Id"]].text("signature")
    assert made["PublicKey"] == key.keyid.removeprefix("publickey:")
    assert tags(made) == {"A": "1"}


def test_a_process_speaks_as_itself() -> None:
    made = struct(Message({"from-process": "P" * 43, "a": "1"}))
    assert made["From"] == "P" * 43
    assert tags(made)["From-Process"] == "P" * 43


def test_nested_messages_stand_by_id() -> None:
    inner = Message({"a": 1})
    assert tags(struct(Message({"module": inner})))["Module+link"] == commitments.signed_id(inner)


def test_an_item_keeps_its_tags_as_they_were() -> None:
    kept = {str(n): {"name": f"Name-{n % 3}", "value": f"v{n}"} for n in range(1, 12)}
    one = {"commitment-device": "ans104@1.0", "committer": "A", "signature": "sig", "original-tags": kept}
    made = struct(Message({"name-1": "v1"}, commitments={"C" * 43: one}))
    assert [tag["value"] for tag in made["Tags"]] == [f"v{n}" for n in range(1, 12)]
    assert made["Tags"][0]["name"] == "Name-1"
    assert made["Signature"] == "sig"


def test_bytes_that_are_no_text_survive() -> None:
    made = struct(Message({"data": b"\xff\x00\xfe", "raw": b"\x80"}))
    back = aos2.decode(json.loads(json.dumps(made)))
    assert back["data"] == b"\xff\x00\xfe"
    assert back["raw"] == b"\x80"


def test_flatten_lets_tags_win_and_keeps_their_names() -> None:
    made = aos2.flatten(
        {"Target": "T", "Data": "d", "Tags": [{"name": "Action", "value": "A"}, {"name": "data", "value": "t"}]}
    )
    assert dict(made) == {"target": b"T", "data": b"t", "Action": b"A"}
    assert dict(aos2.flatten({"Tags": {"X": "1"}})) == {"X": b"1"}
    assert dict(aos2.flatten({"Anchor": None, "Tags": None})) == {}


def test_decode_fixes_types() -> None:
    made = aos2.decode(
        {"Owner": "O", "Anchor": "", "Tags": [{"name": "Timestamp", "value": "12"}, {"name": "Epoch", "value": "0"}]}
    )
    assert dict(made) == {"owner": b"O", "timestamp": 12, "epoch": 0, "data": b""}


def test_edges_name_body_and_assignment() -> None:
    made = aos2.edge(
        Message({"slot": 3, "type": "Assignment", "body": {"data": "x"}}),
        name=lambda one: (commitments.signed_id(one), "owner"),
        link=commitments.signed_id,
    )
    assert made["cursor"] == 3
    assert made["node"]["message"]["Data"] == "x"
    assert tags(made["node"]["assignment"]) == {"Ao-Types": 'slot="integer"', "Slot": "3", "Type": "Assignment"}


@pytest.mark.parametrize(
    "bad",
    [
        {"Tags": "x"},
        {"Tags": [1]},
        {"Tags": [{"value": "x"}]},
        {"Tags": [{"name": 1, "value": "x"}]},
        {"Tags": [{"name": "Slot", "value": "one"}]},
        {"Tags": [{"name": "Slot", "value": "9" * 40}]},
        {"Tags": [{"name": "Slot", "value": True}]},
        {1: "x"},
    ],
)
def test_garbage_is_refused(bad: Any) -> None:
    with pytest.raises(CodecError):
        aos2.decode(bad)


def test_too_many_tags_are_refused() -> None:
    with pytest.raises(SizeError):
        aos2.flatten({"Tags": [{"name": "a", "value": "b"}] * (aos2.MAX_TAGS + 1)})
