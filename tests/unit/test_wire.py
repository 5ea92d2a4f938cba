"""Wire: HTTP requests to messages, messages to HTTP replies (ao-core 10, design 5, http-clients.md 0)."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest

from hyperpy import commitments
from hyperpy.codecs import canonical, signature
from hyperpy.errors import Busy, CodecError, HyperpyError, InvalidSignature, KeyNotFound, ParameterError
from hyperpy.http.client import decode_reply, request_form
from hyperpy.http.egress import http_message
from hyperpy.http.wire import Ingress, RawReply, RawRequest, Rules, Wants, answer_at_edge, read, write, write_error
from hyperpy.keys import RsaKey
from hyperpy.message import Atom, Message


@cache
def key() -> RsaKey:
    return RsaKey.generate(2048)


def ask(method: str = "GET", target: str = "/a", body: bytes = b"", **headers: str) -> Ingress:
    lines = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return read(RawRequest(method, target.encode(), lines, body, "192.0.2.7"))


def header(reply: RawReply, name: str) -> bytes | None:
    return dict(reply.headers).get(name.encode())


# -- requests ------------------------------------------------------------------------------------


def test_small_get_has_what_every_request_has() -> None:
    made = ask(target="/~calculator@1.0/add?a=1", host="node:8734", connection="close", content_length="0")
    assert dict(made.message.raw_items()) == {
        "host": b"node",
        "connection": b"close",
        "method": b"GET",
        "path": b"/~calculator@1.0/add?a=1",
        "accept": b"*/*",
        "accept-bundle": False,
    }


@pytest.mark.parametrize(
    ("host", "kept"), [("h:1", b"h"), ("h", b"h"), ("[::1]:80", b"[::1]"), ("[::1]", b"[::1]"), ("h:", b"h")]
)
def test_host_has_no_port_unless_asked(host: str, kept: bytes) -> None:
    raw = RawRequest("GET", b"/a", ((b"host", host.encode()),))
    assert read(raw).message["host"] == kept
    assert read(raw, Rules(host_with_port=True)).message["host"] == host.encode()


@pytest.mark.parametrize(
    "name", ["authorization", "cookie", "set-cookie", "secret", "!", "!sign", "priv-key", "private"]
)
def test_credentials_never_enter_message_or_origin(name: str) -> None:
    raw = RawRequest("GET", b"/a?x=1", ((name.encode(), b"hunter2"), (b"b", b"c")), b"", "192.0.2.7")
    made = read(raw)
    assert made.private[name] == b"hunter2"
    assert made.private["peer"] == "192.0.2.7"
    assert name not in made.message
    assert not made.message.private
    assert b"hunter2" not in made.origin
    assert b"192.0.2.7" not in made.origin
    assert b"hunter2" not in repr(made.message).encode()


@pytest.mark.parametrize(
    "query", ["secret=hunter2&x=1", "x=1&%73ecret=hunter2", "x=1&%2573ecret=hunter2", "x=1&0.secret=hunter2"]
)
def test_credentials_are_taken_out_of_the_query(query: str) -> None:
    made = ask(target="/a?" + query)
    assert made.message["path"] == b"/a?x=1"
    assert b"hunter2" not in made.origin
    assert b"hunter2" in made.private.values()


@pytest.mark.parametrize(
    "target", ["/~x@1.0&secret=hunter2/a", "/a&priv-x=hunter2", "/a%26secret=hunter2", "/a&secret+integer=1", "/a&!=1"]
)
def test_credentials_inside_the_path_are_refused(target: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ask(target=target)
    assert "hunter2" not in caught.value.diagnostics()


@pytest.mark.parametrize("target", ["/~meta@1.0/info/priv_wallet", "/secret", "/a&b=secret", "/a?b=x!", "/a%20b"])
def test_harmless_words_stay(target: str) -> None:
    assert ask(target=target).message["path"] == target.encode()


def test_body_keys_are_ordinary_except_private_ones() -> None:
    made = ask(
        "POST",
        "/a",
        b'{"secret":"s","cookie":"c","private":"p","n":{"priv":{"hashpath":"x"}}}',
        codec_device="json@1.0",
    )
    assert (made.message["secret"], made.message["cookie"]) == (b"s", b"c")
    assert "private" not in made.message
    inner = made.message["n"]
    assert isinstance(inner, Message)
    assert not made.message.private
    assert inner.hashpath is None


@pytest.mark.parametrize("name", ["x-real-ip", "x-forwarded-for", "forwarded", "ao-peer-port"])
def test_addresses_are_private(name: str) -> None:
    made = read(RawRequest("GET", b"/a", ((name.encode(), b"198.51.100.9"),)))
    assert name not in made.message
    assert b"198.51.100.9" not in made.origin
    assert made.private[name] == b"198.51.100.9"


def test_values_are_trimmed_and_joined() -> None:
    made = read(RawRequest("GET", b"/a", ((b"a", b"1 "), (b"a", b"\t2"), (b"b", b" x y  "))))
    assert (made.message["a"], made.message["b"]) == (b"1, 2", b"x y")


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"\0", b"a\x7f"])
def test_control_characters_in_headers_are_refused(value: bytes) -> None:
    with pytest.raises(CodecError):
        read(RawRequest("GET", b"/a", ((b"a", value),)))


def test_a_path_header_wins_and_brings_the_query_along() -> None:
    made = ask(target="/ignored?q=1", path="/b")
    assert made.message["path"] == b"/b"
    assert made.message["q"] == b"1"


def test_the_query_says_what_the_reply_is_unless_a_message_does() -> None:
    assert ask(target="/a?require-codec=json@1.0", accept="text/plain").wants.codec == "json@1.0"
    assert ask(target="/a?accept=application/json", accept="*/*").wants.accept == "application/json"
    posted = ask("POST", "/a?accept-bundle=false", b'{"accept-bundle":"true"}', content_type="application/json")
    assert posted.wants.bundle is True


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"codec_device": "json@1.0"}, 1),
        ({"content_type": "application/json"}, 1),
        ({"content_type": "application/json; charset=utf-8"}, 1),
        ({"codec_device": "httpsig@1.0", "content_type": "application/json"}, None),
        ({"content_type": "text/plain"}, None),
    ],
)
def test_request_codec(headers: dict[str, str], expected: Any) -> None:
    assert ask("POST", "/a", b'{"n":1}', **headers).message.get("n") == expected


def test_flat_bodies_are_read() -> None:
    assert ask("POST", "/a", b"alpha/beta: hello\n", codec_device="flat@1.0").message["alpha"] == Message(
        {"beta": "hello"}
    )


def test_a_get_may_name_the_type_of_no_body() -> None:
    assert ask("GET", "/a", content_type="application/json").message["path"] == b"/a"


@pytest.mark.parametrize("body", [b"", b"{bad", b"[1,2]", b'"text"', b"\xff"])
def test_bodies_that_are_no_json_object_are_refused(body: bytes) -> None:
    with pytest.raises(HyperpyError) as caught:
        ask("POST", "/a", body, codec_device="json@1.0")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "headers", [{"codec_device": "nope@1.0"}, {"require_codec": "nope@1.0"}, {"accept": "nope@9.9"}]
)
def test_unknown_codecs_are_refused_before_anything_runs(headers: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match=r"nope@"):
        ask("POST", "/a", b"x", **headers)


def test_content_digest_is_compared() -> None:
    right = signature.digest_header(b"hello").decode()
    assert ask("POST", "/a", b"hello", content_digest=right).message["body"] == b"hello"
    with pytest.raises(CodecError, match="content-digest"):
        ask("POST", "/a", b"hellO", content_digest=right)


def test_an_empty_body_of_an_unsigned_request_is_no_key() -> None:
    assert "body" not in ask("POST", "/a", b"", content_type="text/plain").message


def test_origin_is_canonical_and_keeps_what_was_sent() -> None:
    found = canonical.decode(ask("POST", "/a?b=1", b"body", host="h:1").origin)
    assert found["method"] == b"POST"
    assert found["target"] == b"/a?b=1"
    assert found["headers"] == ((b"host", b"h:1"),)
    assert found["body"] == b"body"


def test_reading_a_small_get_is_fast() -> None:
    raw = RawRequest(
        "GET", b"/~calculator@1.0&a=1/add&b=2", ((b"host", b"h:1"), (b"accept", b"*/*"), (b"user-agent", b"curl/8"))
    )
    read(raw)
    started = time.perf_counter()
    for _ in range(300):
        read(raw)
    assert (time.perf_counter() - started) / 300 < 500e-6


# -- signed requests -----------------------------------------------------------------------------


def signed_request(changes: dict[bytes, bytes] | None = None, instead: bytes | None = None, **keys: Any) -> RawRequest:
    message = commitments.commit(Message({"path": "/~message@1.0/set", "method": "POST", **keys}), key())
    target, method, headers, sent = request_form(message)
    lines = tuple((name, (changes or {}).get(name, value)) for name, value in headers)
    return RawRequest(method, target, lines, sent if instead is None else instead)


def test_a_signed_request_keeps_only_what_is_signed() -> None:
    raw = signed_request(a="1", n=5, body="text")
    made = read(RawRequest(raw.method, raw.target, (*raw.headers, (b"host", b"h"), (b"extra", b"x")), raw.body))
    assert commitments.committers(made.message) == (key().address,)
    assert (made.message["a"], made.message["n"], made.message["body"]) == (b"1", 5, b"text")
    assert "extra" not in made.message
    assert made.message["host"] == b"h"
    assert "host" not in made.message.committed_keys()


@pytest.mark.parametrize("changes", [{b"a": b"2"}, {b"ao-types": b'n="float"'}])
def test_a_changed_signed_request_is_refused(changes: dict[bytes, bytes]) -> None:
    with pytest.raises(HyperpyError) as caught:
        read(signed_request(changes, a="1", n=5))
    assert caught.value.status == 400


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(InvalidSignature):
        read(signed_request(instead=b"other", body="text"))
    with pytest.raises(InvalidSignature):
        read(signed_request(instead=b"", data="text"))


def test_a_body_that_is_not_signed_is_dropped() -> None:
    assert "body" not in read(signed_request(instead=b"other", a="1")).message


def test_a_signature_must_not_cover_a_credential() -> None:
    message = commitments.commit(Message({"path": "/a", "method": "GET", "authorization": "Basic x"}), key())
    headers = [(b"authorization", b"Basic x"), (b"path", b"/a"), (b"method", b"GET")]
    form = commitments.http_form(message)
    headers += [(n.encode(), v) for n, v in form.headers.items() if n.startswith("signature")]
    with pytest.raises(InvalidSignature) as caught:
        read(RawRequest("GET", b"/a", tuple(headers)))
    assert "Basic x" not in caught.value.diagnostics()


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"x", b"\x00\xff\r\n", b"y" * 100_000, b" "])
@pytest.mark.parametrize("bundle", [False, True])
def test_a_bare_text_is_written_like_any_message(body: bytes, bundle: bool) -> None:
    for status in (200, 404, 17):
        message = Message({"ao-result": "body", "body": body, "status": status})
        reply = write(message, Wants(bundle=bundle))
        headers, text = http_message(message, bundle=bundle)
        assert reply.headers[: len(headers)] == headers
        assert all(name.startswith(b"access-control-") for name, _ in reply.headers[len(headers) :])
        assert reply.body == text == body
        assert reply.status == (200 if status == 17 else status)


@pytest.mark.parametrize(
    "items",
    [
        {"ao-result": Atom("body"), "body": "x", "status": 200},
        {"ao-result": "data", "body": "x", "status": 200},
        {"ao-result": "body", "body": "", "status": 200},
        {"ao-result": "body", "body": 1, "status": 200},
        {"ao-result": "body", "body": "x", "status": "200"},
        {"ao-result": "body", "body": "x", "status": True},
    ],
)
def test_what_is_nearly_a_bare_text_is_written_in_full(items: dict[str, Any]) -> None:
    message = Message(items)
    headers, text = http_message(message, bundle=False)
    reply = write(message, Wants())
    assert reply.headers[: len(headers)] == headers
    assert reply.body == text


def both_ways(message: Message, wants: Wants | None = None) -> Message:
    reply = write(message, wants or Wants())
    for name, value in reply.headers:
        assert b"\r" not in value
        assert b"\n" not in value
        assert b"\0" not in value
        assert name == name.lower()
    assert len(reply.headers) <= 90
    return decode_reply(reply.status, reply.headers, reply.body)


@pytest.mark.parametrize(
    "items",
    [
        {"a": "1", "n": 5, "f": 1.5, "t": True, "w": Atom("word")},
        {"a": "line\r\nx: y", "b": "ok"},
        {"a": "x\ny", "body": "plain"},
        {"a": "\0", "data": "plain\n"},
        {"a": " leading", "b": "trailing "},
        {"Upper": "1", "two words": "2", "ü": "3"},
        {"content-length": "17", "transfer-encoding": "chunked", "connection": "upgrade"},
        {f"k{n}": str(n) for n in range(200)},
        {"long": "x" * 5000, "b": "1"},
        {"n" * 100: "1"},
        {"A" * 43: "1", "b": "2"},
        {"a/b": "1", 'q"': "2", "c%41": "3"},
        {"e": "", "body": ""},
    ],
    ids=lambda items: next(iter(items))[:12],
)
@pytest.mark.parametrize("bundle", [False, True])
def test_every_message_survives_http(items: dict[str, Any], bundle: bool) -> None:
    message = Message({**items, "status": 200})
    again = both_ways(message, Wants(bundle=bundle))
    expected = {k: v for k, v in message.raw_items().items() if v != b"" or k != "body"}
    assert {k: v for k, v in again.raw_items().items() if v != b"" or k != "body"} == expected
    if not any("%" in name for name in items):
        signed = commitments.commit(message, key(), tag="x/y")
        back = both_ways(signed, Wants(bundle=bundle))
        assert commitments.committers(back) == (key().address,)
        assert back.hashpath == "x/y"


def test_nested_messages_are_linked_or_inline() -> None:
    child = Message({"b": 2})
    signed = commitments.commit(Message({"n": child, "status": 200}), key())
    assert header(write(signed, Wants()), "n+link") == commitments.unsigned_id(child).encode()
    assert both_ways(signed, Wants(bundle=True))["n"] == child


def test_labels_and_order_of_signatures() -> None:
    reply = write(commitments.commit(Message({"a": "1", "status": 200}), key(), tag="t"), Wants())
    inputs = header(reply, "signature-input") or b""
    first = inputs.split(b"=")[0]
    assert b"_" not in first
    assert first.startswith(b"comm-")
    assert (header(reply, "signature") or b"").startswith(first + b"=")
    assert b"rsa-pss-sha512" in inputs.split(b", comm-")[0]
    assert inputs.count(b";alg=") == 2


@pytest.mark.parametrize(
    ("wants", "codec"),
    [
        (Wants(), None),
        (Wants(accept="application/json"), b"json@1.0"),
        (Wants(codec="json@1.0"), b"json@1.0"),
        (Wants(codec="httpsig@1.0", accept="application/json"), None),
        (Wants(accept="application/ans104"), b"ans104@1.0"),
        (Wants(accept="text/html,application/json"), None),
        (Wants(codec="flat@1.0"), b"flat@1.0"),
    ],
)
def test_reply_codec(wants: Wants, codec: bytes | None) -> None:
    assert header(write(Message({"a": "1", "status": 200}), wants), "codec-device") == codec


def test_a_content_type_keeps_the_message_form() -> None:
    reply = write(Message({"content-type": "text/css", "body": "b", "status": 200}), Wants(accept="application/json"))
    assert header(reply, "content-type") == b"text/css"


def test_json_has_scalars_as_headers() -> None:
    reply = write(Message({"a": "x", "n": 5, "body": "b", "bad": "x\ny", "status": 201}), Wants(codec="json@1.0"))
    assert reply.status == 201
    assert (header(reply, "a"), header(reply, "n"), header(reply, "status")) == (b"x", b"5", b"201")
    assert header(reply, "body") is None
    assert header(reply, "bad") is None


def test_what_json_cannot_hold_is_an_error_that_says_so() -> None:
    reply = write(Message({"body": b"\xff", "status": 200}), Wants(codec="json@1.0"))
    assert reply.status == 400
    assert b"UTF-8" in reply.body


def test_cors_unless_the_message_says_otherwise() -> None:
    reply = write(Message({"status": 200, "access-control-allow-origin": "https://x"}), Wants(allow_headers=b"a, b"))
    assert [value for name, value in reply.headers if name == b"access-control-allow-origin"] == [b"https://x"]
    assert header(reply, "access-control-allow-headers") == b"a, b"


# -- errors --------------------------------------------------------------------------------------


def test_errors_are_text_with_the_next_step() -> None:
    reply = write_error(KeyNotFound("no key 'x'"), Wants())
    assert reply.status == 404
    assert reply.body.decode().splitlines() == ["no key 'x'", KeyNotFound.advice]
    assert header(reply, "content-type") == b"text/plain; charset=utf-8"


def test_missing_keys_in_json_are_the_references() -> None:
    reply = write_error(KeyNotFound("no key 'x'"), Wants(accept="application/json"))
    assert decode_reply(404, reply.headers, reply.body) == Message(
        {"ao-result": "body", "body": Atom("not_found"), "status": 404}
    )
    assert header(reply, "hint") == KeyNotFound.advice.encode()


def test_html_only_for_browsers_and_escaped() -> None:
    reply = write_error(CodecError("<script>"), Wants(accept="text/html,*/*"))
    assert header(reply, "content-type") == b"text/html; charset=utf-8"
    assert b"<script>" not in reply.body
    assert b"&lt;script&gt;" in reply.body


def test_busy_says_when_to_come_back() -> None:
    assert header(write_error(Busy("full"), Wants()), "retry-after") == b"1"


def test_no_error_text_breaks_a_header() -> None:
    reply = write_error(CodecError("a\r\nb", hint="c\r\nd: e\0"), Wants(codec="json@1.0"))
    assert all(b"\n" not in value and b"\r" not in value and b"\0" not in value for _, value in reply.headers)


def test_edge_answers() -> None:
    options = answer_at_edge(RawRequest("OPTIONS", b"/x"), "/info")
    assert options is not None
    assert (options.status, header(options, "access-control-allow-headers")) == (204, b"*")
    root = answer_at_edge(RawRequest("GET", b"/"), "/info")
    assert root is not None
    assert (root.status, header(root, "location")) == (307, b"/info")
    assert answer_at_edge(RawRequest("POST", b"/"), "/info") is None
    assert answer_at_edge(RawRequest("GET", b"/?a=1"), "/info") is None
