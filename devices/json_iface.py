"""json-iface@1.0: speaks with aos images: a message in as JSON, results out of the JSON that comes back.

In a process's stack it stands before wasm-64@1.0 and runs twice: it writes the call in the first pass
and reads the answer in the second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyperpy import Context, Message, Result, commitments, device, key
from hyperpy.codecs import aos2
from hyperpy.encoding import key_bytes
from hyperpy.errors import CodecError, HyperpyError, ParameterError
from hyperpy.message import NULL, Value, as_text

_DEPTH = 32
_OUTBOX = 10_000
_OWN = frozenset({"from-process", "from-image"})
_DROPPED = frozenset({*_OWN, "anchor", "tags"})


@device("json-iface@1.0", uses=("hyperpy.codecs.aos2",))
class JsonIface:
    """Writes the assignment's message and the process into the guest, and reads what ``handle`` answers.

    ``outbox-form: reference`` in the base leaves the guest's ``Tags`` and ``Anchor`` in outbox messages,
    as HyperBEAM does.
    """

    @key
    def init(self, base: Message) -> Message:
        """Set the function that computes: ``handle``."""
        return base | {"function": "handle"}

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Value | Result:
        """Write the call (pass 1), or turn the answer into ``results`` (pass 2)."""
        number = base.text("pass", "1")
        if number == "1":
            return _call(base, request, ctx)
        if number == "2":
            return _results(base, ctx)
        return base


def _call(base: Message, request: Message, ctx: Context) -> Message:
    process = base.get("process")
    if not isinstance(process, Message):
        process = Message()
    message = request.get("body")
    if not isinstance(message, Message):  # a dry run: the request is the message, whoever signed it
        items = {name: item for name, item in request.raw_items().items() if name not in ("path", "method")}
        message = Message.make(items, request.commitments)
    module = _module(process)
    texts = [_json(_message(message, request, module)), _json({"Process": _struct(process)})]
    name = "/".join([*_prefix(base), "instance"])
    state: Any = base.private.get(name)
    parameters: list[Value] = []
    if hasattr(state, "write"):
        for text in texts:
            try:
                state, at = state.write(text, ctx.deadline)
            except HyperpyError:
                raise
            except Exception as error:  # what the guest's own malloc did is the call's result
                raise ParameterError(f"json-iface: the guest could not take the message: {error}") from None
            parameters.append(at)
        base = base.with_private(**{name: state})
    else:
        parameters.extend(texts)
    return base | {"function": "handle", "parameters": parameters}


def _struct(message: Message) -> dict[str, Any]:
    signers = sorted(commitments.committers(message))
    ident = commitments.signed_id(message) if signers else commitments.unsigned_id(message)
    return aos2.encode(message, ident=ident, owner=signers[0] if signers else "", link=commitments.unsigned_id)


def _message(message: Message, assignment: Message, module: str) -> dict[str, Any]:
    """Return the structure of a message with what its assignment adds."""
    made = {**_struct(message), "Module": module}
    for name, field in (("block-height", "Block-Height"), ("timestamp", "Timestamp")):
        found = assignment.get(name)
        if found is not None and not isinstance(found, (Message, tuple)):
            made[field] = found if isinstance(found, int) else as_text(found, name)
    return made


def _module(process: Message) -> str:
    found = process.get("image", process.get("module"))
    return found.decode("ascii", "replace") if isinstance(found, bytes) and len(found) == 43 else ""


def _json(item: Any) -> bytes:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


# -- results -------------------------------------------------------------------------------------


def _results(base: Message, ctx: Context) -> Value | Result:
    """Return the base with what the guest answered."""
    results = base.get("results")
    found = _below(results, _prefix(base)) if isinstance(results, Message) else None
    if not isinstance(found, Message) or "type" not in found:
        return base
    output = found.get("output")
    if found.text("type") == "error":
        reason = as_text(output, "output") if isinstance(output, bytes) else "no reason given"
        return _failed(base, "WASM execution error.", reason)
    try:
        answer = json.loads(_answer(base, output).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return _failed(base, "JSON error parsing result output.", "the answer is no JSON")
    response = answer.get("response") if isinstance(answer, dict) and answer.get("ok") is True else None
    if not isinstance(response, dict):
        told = (answer.get("error"), answer.get("response")) if isinstance(answer, dict) else ()
        reason = next((text for text in told if isinstance(text, str)), "the answer is not 'ok'")
        return _failed(base, "JSON error parsing result output.", reason)
    try:
        return _merged(base, response)
    except HyperpyError as error:
        return _failed(base, "JSON error parsing result output.", error.message)


def _answer(base: Message, output: Value | None) -> bytes:
    """Return the text whose address ``handle`` returned."""
    first = output[0] if isinstance(output, tuple) and output else None
    state: Any = base.private.get("/".join([*_prefix(base), "instance"]))
    if isinstance(first, bytes):
        return first
    if not isinstance(first, int) or not hasattr(state, "read"):
        raise ValueError("no answer")
    try:
        found: bytes = state.read(first)
    except HyperpyError:
        raise
    except Exception as error:
        raise ValueError(str(error)) from None
    return found


def _failed(base: Message, body: str, reason: str) -> Value | Result:
    """Return the guest's failure: status ``error``, unless the caller asked (privately) to have it as a result."""
    if base.private.get("json-iface/keep-errors"):
        results = base.get("results")
        made = (results if isinstance(results, Message) else Message()) | {"body": body}
        return (base | {"results": made}).with_private(**{"json-iface/response": {"Error": reason}})
    return Result(
        "error", base.with_private(**dict.fromkeys(base.private)) | {"results": Message({"body": body}), "body": body}
    )


def _merged(base: Message, response: dict[str, Any]) -> Message:
    error = response.get("Error")
    changes: dict[str, Value] = {}
    if error:
        changes["data"] = _value(error)
    else:
        changes["data"] = _value(_data(response))
        for name, field in (("outbox", "Messages"), ("patches", "patches")):
            made = _entries(base, response.get(field), name)
            if made:
                changes[name] = _below_or_new(base, name) | made
    results = base.get("results")
    merged = (results if isinstance(results, Message) else Message()) | changes
    return (base | {"results": merged}).with_private(**{"json-iface/response": response})


def _data(response: dict[str, Any]) -> Any:
    output = response.get("Output")
    found = output.get("data") if isinstance(output, dict) else output if isinstance(output, str) else None
    return found if found is not None else response.get("Data") or ""


def _entries(base: Message, entries: Any, name: str) -> dict[str, Message]:
    """Return the messages of one list by number."""
    if isinstance(entries, dict):  # an empty Lua table may be either
        entries = [entries[part] for part in sorted(entries)]
    if not entries:
        return {}
    if not isinstance(entries, list) or len(entries) > _OUTBOX:
        raise CodecError(f"json-iface: '{name}' must be a list of at most {_OUTBOX} messages")
    process = base.get("process")
    own: dict[str, Value] = {}
    if isinstance(process, Message) and name == "outbox":
        own = {"from-process": _struct(process)["Id"].encode(), "from-image": _module(process).encode()}
    keep = base.text("outbox-form", "") == "reference"
    return {str(number): _entry(item, own, keep) for number, item in enumerate(entries, 1)}


def _entry(item: Any, own: Mapping[str, Value], keep: bool) -> Message:
    """Return one message of the guest's: its fields in lower case, its tags as keys, its sender set by us."""
    if not isinstance(item, dict):
        raise CodecError("json-iface: a message must be an object")
    fields = {name: _value(part) for name, part in item.items() if _taken(name, _DROPPED) and part is not None}
    kept = {name: _value(part) for name, part in item.items() if keep and name.lower() in ("tags", "anchor")}
    tags = next((part for name, part in item.items() if name.lower() == "tags"), None)
    flat = aos2.flatten({**fields, "Tags": _safe(tags)})
    return Message.make({**flat.raw_items(), **kept, **own})


def _safe(tags: Any) -> Any:
    """Return the tags that a message may have as keys."""
    if isinstance(tags, dict):
        tags = [{"name": name, "value": part} for name, part in tags.items()]
    if not isinstance(tags, list):
        return tags
    return [
        {**tag, "value": _value(tag.get("value"))}
        for tag in tags
        if isinstance(tag, dict) and isinstance(tag.get("name"), str) and _taken(tag["name"], _OWN)
    ]


def _taken(name: str, dropped: frozenset[str]) -> bool:
    low = name.lower()
    return low not in dropped and low != "commitments" and not low.startswith("priv")


def _value(item: Any, depth: int = 0) -> Value:
    """Return a piece of the guest's JSON as a message value, exactly as it stands."""
    if depth > _DEPTH:
        raise CodecError(f"json-iface: the answer is nested more than {_DEPTH} deep")
    if isinstance(item, dict):
        return Message.make({name: _value(part, depth + 1) for name, part in item.items() if _taken(name, frozenset())})
    if isinstance(item, list):
        return tuple(_value(part, depth + 1) for part in item)
    if isinstance(item, str):
        return key_bytes(item)
    if isinstance(item, float) and item.is_integer() and abs(item) < 1 << 53:
        return int(item)
    return NULL if item is None else item


def _prefix(base: Message) -> list[str]:
    return [part for part in base.text("output-prefix", "").split("/") if part]


def _below(base: Message, parts: list[str]) -> Value | None:
    found: Value | None = base
    for part in parts:
        found = found.get(part) if isinstance(found, Message) else None
    return found


def _below_or_new(base: Message, name: str) -> Message:
    found = _below(base, ["results", name])
    return found if isinstance(found, Message) else Message()
