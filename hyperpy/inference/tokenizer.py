"""Text to ids and back, from the fields of a model file (section 10).

Special tokens come from the chat template only. What a user writes is encoded as plain text, whatever it looks
like, so nobody can close a turn or open another one by typing ``<|im_end|>``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from hyperpy.errors import Busy, CodecError, ParameterError, SizeError
from hyperpy.inference import bpe
from hyperpy.inference.chat import check_turns, render

MAX_TEXT = 1 << 19
"""Most bytes of a text that is encoded: the library takes some 300 bytes of memory for each token."""
_LARGE = 1 << 14
"""Bytes of a text from which on only one is encoded at a time."""
_PATIENCE_S = 10.0
_SHRINKS = 4
"""How many times shorter NFC makes a text at most (UAX 15: 3 in UTF-8), where a tokenizer normalizes."""

_FIELDS = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "eot_token_id")
_PIECES = ("scores", "unknown_token_id", "add_space_prefix")

_LESS = "Send a shorter text."
_one_large = threading.Lock()

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_DISARM = "\ufdd0"
"""A code point that is no character: it marks a user's text while a template is filled in."""


def fields_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tokenizer needs of a GGUF file's metadata, ready to be kept as JSON."""
    names = (*_FIELDS, *_PIECES) if metadata.get("tokenizer.ggml.model") == bpe.PIECES else _FIELDS
    made = {name: metadata.get(f"tokenizer.ggml.{name}") for name in names}
    made["chat_template"] = metadata.get("tokenizer.chat_template")
    return made


class Tokenizer:
    """The BPE of one model.

    Raises:
        CodecError: the fields contradict each other, or name a kind of tokenizer that is not known here.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)
        bpe.check(fields)
        types = fields["token_type"]
        self.tokens: list[str] = list(fields["tokens"])
        self.ids = {text: number for number, text in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise CodecError("the tokenizer has a token twice")
        special = [
            text for text, kind in zip(self.tokens, types, strict=True) if kind in (bpe.SPECIAL, bpe.USER_DEFINED)
        ]
        self.special = {text: self.ids[text] for text in special if len(text) > 1}
        self._pieces = fields["model"] == bpe.PIECES
        longest = "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)"
        self._split, self._starts = re.compile(f"({longest})"), re.compile(f"(?=(?:{longest}))(.)", re.DOTALL)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the fields as sorted JSON: the tokenizer's part of a receipt."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def stops(self) -> frozenset[int]:
        """Return the ids that end an answer."""
        named = [self.fields.get(name) for name in ("eos_token_id", "eot_token_id")]
        known = [self.special.get(text) for text in ("<|im_end|>", "<|endoftext|>", "<|eot_id|>")]
        return frozenset(n for n in (*named, *known) if isinstance(n, int) and 0 <= n < len(self.tokens))

    @cached_property
    def _bpe(self) -> Any:
        """Return the encoder, built when a text is first encoded."""
        return bpe.encoder(self.fields, self.ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; nothing in it is a special token.

        Raises:
            SizeError: the text has more than 512 KiB.
            ParameterError: the text holds lone surrogates.
            Busy: other large texts are being encoded; that is no result.
        """
        size = _bytes_in(text)
        if size > MAX_TEXT:
            raise SizeError(f"a text of {size} bytes is not encoded, only one of {MAX_TEXT}", hint=_LESS)
        if size < _LARGE:
            return list(self._bpe.encode(text, add_special_tokens=False).ids) if text else []
        if not _one_large.acquire(timeout=_PATIENCE_S):
            raise Busy("other long texts are being read")
        try:
            return list(self._bpe.encode(text, add_special_tokens=False).ids)
        finally:
            _one_large.release()

    def check_fits(self, texts: Iterable[str], count: int) -> None:
        """Compare the length of texts with what so many tokens can stand for, before anything is encoded.

        Raises:
            SizeError: they cannot be so few tokens.
            ParameterError: a text holds lone surrogates.
        """
        most = count * self.longest * (_SHRINKS if self.fields["pre"] == "qwen2" else 1)
        size = sum(map(_bytes_in, texts))
        if size > most:
            raise SizeError(f"{size} bytes of prompt are more than a context of {count} tokens can hold", hint=_LESS)

    @cached_property
    def longest(self) -> int:
        """Return how many bytes the longest token stands for."""
        return max(len(self.bytes_of(ident)) for ident in range(len(self.tokens)))

    def encode_rendered(self, text: str) -> list[int]:
        """Return the ids of a filled-in template: special tokens where the template wrote them."""
        ids: list[int] = []
        for number, part in enumerate(self._split.split(text)):
            ids += [self.special[part]] if number % 2 else self.encode(part.replace(_DISARM, ""))
        return ids

    def chat(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation (turns with ``role`` and ``content``), ending where the answer begins.

        Raises:
            ParameterError: a turn has an unknown role, or text that cannot be told from the template's.
            CodecError: the model has no template, or it fails.
        """
        checked = [{"role": turn["role"], "content": self._disarm(turn["content"])} for turn in check_turns(turns)]
        named = {name: self._named(f"{name}_id") for name in ("bos_token", "eos_token")}
        return self.encode_rendered(render(self.fields.get("chat_template"), checked, named))

    def _named(self, field: str) -> str:
        number = self.fields.get(field)
        return self.tokens[number] if isinstance(number, int) and 0 <= number < len(self.tokens) else ""

    def _disarm(self, text: str) -> str:
        """Mark a user's text inside its outer blanks and behind every place where a special token could begin."""
        if _DISARM in text:
            raise ParameterError("the text holds U+FDD0, which is no character", name="content")
        core = text.strip()
        if not core:
            return text
        at = text.index(core)
        safe = self._starts.sub(lambda found: found[1] + _DISARM, core)
        return f"{text[:at]}{_DISARM}{safe}{_DISARM}{text[at + len(core) :]}"

    def bytes_of(self, ident: int) -> bytes:
        """Return the bytes that a token stands for; special tokens stand for their own text."""
        if not 0 <= ident < len(self.tokens):
            raise ParameterError(f"there is no token {ident}", name="ids")
        text = self.tokens[ident]
        if text in self.special:
            return text.encode()
        if self._pieces:
            byte = _BYTE.fullmatch(text)
            return bytes([int(byte[1], 16)]) if byte else text.replace(bpe.SPACE, " ").encode()
        return bytes(_BYTES[c] for c in text) if all(c in _BYTES for c in text) else text.encode()

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")


class Stream:
    """Text of tokens as they come; a character whose bytes are not all there yet waits for the rest."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> str:
        """Return the text that is complete now."""
        data = self._held + data
        wait = next((n for n in (1, 2, 3) if len(data) >= n and _length(data[-n]) > n), 0)
        self._held = data[len(data) - wait :]
        return data[: len(data) - wait].decode("utf-8", "replace")

    def end(self) -> str:
        """Return what was never completed, as U+FFFD."""
        held, self._held = self._held, b""
        return held.decode("utf-8", "replace")


def _bytes_in(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ParameterError("the text holds half of a surrogate pair", name="text") from None


def _length(lead: int) -> int:
    """Return how many bytes a UTF-8 character has that begins with this byte; 0 if none does."""
    return (
        1 if lead < 0x80 else 0 if lead < 0xC2 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4 if lead < 0xF5 else 0
    )


def byte_table() -> dict[str, int]:
    """Return GPT-2's table of printable stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = byte_table()
