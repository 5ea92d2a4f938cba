"""http_process: one recorded story of a process, told again in order (design.md 6).

Each request is made anew: the identifiers of the recording become ours, and what was signed is
signed by wallets of ours. Then replies are compared as in ``run_http``: with S's file whether there
is a hashpath, with F's the status, header names and values, ``ao-types``, ``ao-result`` and body.
What depends on a clock or on the salt of a signature (``timestamp``, ``hash-chain``,
``base-hashpath``, IDs of signed messages) is learnt where it is first seen, and must then be the
same everywhere.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import rules
import run_http as wire
from compare import brief, normal
from outcome import Outcome, verdict
from story import Story

from hyperpy.codecs import httpsig, structured
from hyperpy.commitments import commit, http_form, only_committed, signed_id, verify
from hyperpy.errors import HyperpyError
from hyperpy.http.app import wants_of
from hyperpy.http.wire import RawRequest, read, write, write_error
from hyperpy.message import Link, Message
from hyperpy.testing import TestNode, node, wallet

_RESENT = frozenset({"signature", "signature-input", "content-digest", "content-type", "content-length"})

_stack = ExitStack()
_told: dict[str, tuple[TestNode, Story]] = {}


def run(header: Any, case: Any) -> Outcome:
    """Tell one case of the story; the cases before it must have been told."""
    if case["n"] == 1 or "story" not in _told:
        close()
        at = _stack.enter_context(node())
        _told["story"] = (at, Story({header["node_address"]: at.node.address}, at.node.cache.read))
    at, story = _told["story"]
    want = rules.expected(case)
    got = _asked(at, _request(case["request"], story))
    shown = want.base if want.final is None else want.final
    traced = wire._recorded(want.base)
    answer = wire._recorded(shown)
    if "result-cache" in want.rules:
        answer = _unmixed(want, case["request"])
    if "process-must-verify" in want.rules:
        problems = _spawned(story, got)
    else:
        problems = _compare(story, got, answer, traced)
    return verdict("rule" if want.label == "mixed" else want.label, want.rules, problems)


def close() -> None:
    """Stop the node."""
    _told.clear()
    _stack.close()


def _spawned(story: Story, got: wire._Reply) -> list[str]:
    """Judge a process by its signature: what does not verify is a 400.

    Both references refuse a signed process with a typed map in it, which they read otherwise than it
    was signed. Here it verifies, and is scheduled; the story then has one process more than theirs.
    """
    made = list(story.signed.values())[-1]
    if not verify(made):
        return [] if got.status == 400 else [f"status {got.status} for what does not verify"]
    story.only_ours.add(signed_id(made))
    fits = got.status == 200 and got.headers.get("slot") == b"0"
    return [] if fits else [f"status {got.status} for a process that verifies: {brief(got.body)}"]


def _unmixed(want: rules.Expected, request: Any) -> wire._Reply:
    """Return S's reply as F would have sent it, had it not mixed up its results."""
    found = wire._recorded(want.base)
    headers, body = dict(found.headers), found.body
    if "method" in headers:
        headers["host"] = dict(request["headers"])["host"].partition(":")[0].encode()
    if "keys-without-commitments" in want.rules:
        listed = json.loads(body)
        kept = [listed[key] for key in sorted(listed) if key.isdigit() and listed[key] != "commitments"]
        renamed = {str(n): value for n, value in enumerate(kept, 1)}
        body = json.dumps({key: value for key, value in listed.items() if not key.isdigit()} | renamed).encode()
        headers = {key: value for key, value in headers.items() if not key.isdigit()}
        headers |= {key: value.encode() for key, value in renamed.items()}
    return replace(found, headers=headers, body=body)


# -- requests ----------------------------------------------------------------------------------


def _request(recorded: Any, story: Story) -> RawRequest:
    """Return a recorded request with our identifiers and our signatures."""
    sent = {name: value.encode("utf-8") for name, value in recorded["headers"]}
    body = wire._bytes(recorded["body"])
    target = story.ours(recorded["path"].encode("utf-8"))
    if "signature-input" not in sent:
        lines = [(name.encode(), story.ours(value)) for name, value in sent.items()]
        return RawRequest(recorded["method"], target, tuple(lines), story.ours(body), "127.0.0.1")
    headers, made = _signed(sent, body, story)
    lines = [(name.encode("latin-1"), value) for name, value in headers.items()]
    return RawRequest(recorded["method"], target, tuple(lines), made, "127.0.0.1")


def _signed(sent: dict[str, bytes], body: bytes, story: Story) -> tuple[dict[str, bytes], bytes]:
    theirs = structured.decode(httpsig.decode(sent, body or None))
    assert isinstance(theirs, Message)
    kept = only_committed(theirs)
    name = "+".join(sorted(kept.commitments))
    bundle = any(one.get("bundle") == b"true" for one in kept.commitments.values())
    if name not in story.signed:
        fits = verify(theirs)
        own = Message.make(story.own(kept).raw_items())
        signed = own if fits else _altered(own)
        signers = [one.text("committer") for one in kept.commitments.values() if one.get("committer")]
        for address in signers:
            key = wallet(f"client {address}")
            signed = commit(signed, key, bundle=bundle)
            story.learn(address, key.address)
        if not signers:
            signed = commit(signed, None, type="unsigned", bundle=bundle)
        story.signed[name] = signed if fits else own.with_commitments(signed.commitments)
        if fits:
            story.learn_message(kept, signed)
    form = http_form(story.signed[name], bundle=bundle)
    headers = {name: story.ours(value) for name, value in sent.items() if name not in _RESENT} | dict(form.headers)
    types = {
        part for text in (sent.get("ao-types"), form.headers.get("ao-types")) if text for part in text.split(b", ")
    }
    if types:
        headers["ao-types"] = b", ".join(sorted(types))
    return headers, form.body or b""


def _altered(own: Message) -> Message:
    """Return a message that somebody might have signed instead."""
    plain = {key for key, one in own.raw_items().items() if isinstance(one, bytes)}
    return own | {min(plain - {"device", "type", "target"}): b"something else"}


def _asked(at: TestNode, raw: RawRequest) -> wire._Reply:
    try:
        ingress = read(raw, at.rules)
    except HyperpyError as error:
        made = write_error(error, wants_of(raw))
    else:
        made = write(at.node.handle(ingress), ingress.wants)
    return wire._Reply(made.status, {name.decode("latin-1"): value for name, value in made.headers}, made.body)


# -- comparing ---------------------------------------------------------------------------------


def _compare(story: Story, got: wire._Reply, shown: wire._Reply, traced: wire._Reply) -> list[str]:
    if shown.malformed or shown.status >= 500:
        return [] if got.status < 500 else [f"status {got.status}: {brief(got.body)}"]
    if got.status != shown.status:
        return [f"status {got.status} is not {shown.status}: {brief(got.body)}"]
    if shown.status >= 400 and shown.page:
        return []
    problems = _traced(got, traced)
    if shown.page:
        return problems + _headers(story, got, shown, wire._PAGE)
    refused = shown.status >= 400 and got.headers.get("content-type", b"").startswith(b"text/plain")
    ignored = wire._TRANSPORT | (wire._ERROR if refused else frozenset())
    if shown.codec == b"json@1.0":
        problems += _headers(story, got, shown, ignored | {"ao-types"})
        return problems + _messages(story, wire._json(got), wire._json(shown), traced)
    if b"boundary=" in shown.headers.get("content-type", b""):
        return problems + _messages(story, wire._decoded(got), wire._decoded(shown))
    problems += _headers(story, got, shown, ignored)
    body = story.ours(shown.body)
    if got.body == body or (refused and got.body.startswith(body)):
        return problems
    if body.startswith(b"{"):
        return problems + story.compare("body", wire._json(got), wire._json(shown))
    return [*problems, f"body: {brief(got.body)} is not {brief(body)}"]


def _traced(got: wire._Reply, traced: wire._Reply) -> list[str]:
    """Compare what is S's side: whether the node signs a hashpath."""
    if traced.malformed or traced.status >= 400 or traced.page or bool(got.tag) == bool(traced.tag):
        return []
    return [f"tag: {got.tag} where S has {traced.tag}"]


def _headers(story: Story, got: wire._Reply, shown: wire._Reply, ignored: frozenset[str]) -> list[str]:
    ours, theirs = (_as_message(reply, ignored) for reply in (got, shown))
    return story.compare("headers", ours, theirs)


def _as_message(reply: wire._Reply, ignored: frozenset[str]) -> Message:
    """Return headers as a message; links are links."""
    items: dict[str, Any] = {}
    for name, value in reply.headers.items():
        if name in ignored:
            continue
        if name.endswith("+link"):
            items[name] = Link(value.decode())
        elif name == "ao-types":
            items[name] = b", ".join(sorted(value.split(b", ")))
        else:
            items[name] = value
    return Message.make(items)


def _messages(story: Story, got: Message, shown: Message, traced: wire._Reply | None = None) -> list[str]:
    ours, theirs = normal(got), normal(shown)
    either = [theirs, wire._json(traced)] if traced is not None and traced.codec == b"json@1.0" else [theirs]
    signers = [_signers(story.own(one), story) for one in either]
    problems = [] if _signers(ours, story) in signers else [f"signed by {_signers(ours, story)} and not {signers}"]
    return problems + story.compare("", ours.with_commitments({}), theirs.with_commitments({}))


def _signers(message: Message, story: Story) -> set[Any]:
    """Return who signed, but for the node: it signs replies that nobody else has signed."""
    return {one.get("committer") for one in message.commitments.values()} - {None, story.node.encode()}
