"""Encoders of the library ``tokenizers``, built from a model file's fields (section 10).

Two kinds are known: byte-level BPE (GPT-2 and its heirs), whose merges are listed, and SentencePiece's BPE (Llama 2,
Mistral), whose merges follow from the scores of its pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpy.errors import CodecError

BYTE_LEVEL, PIECES = "gpt2", "llama"
"""Kinds of tokenizers, as GGUF's ``tokenizer.ggml.model`` names them."""

NORMAL, SPECIAL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens, as GGUF numbers them."""

SPACE = "\u2581"
"""What stands for a blank in a piece of SentencePiece."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {"llama-bpe": _WORDS % r"\p{N}{1,3}", "qwen2": _WORDS % r"\p{N}"}
"""Pre-tokenizers that split by a pattern, as the models' own ``tokenizer.json`` has it."""

PRE = ("smollm", "gpt-2", *WORDS)
"""Pre-tokenizers of byte-level BPE that are known here."""

LONGEST = 256
"""Most characters of a piece that merges are sought for."""


def check(fields: Mapping[str, Any]) -> None:
    """Compare a tokenizer's fields with what is known here.

    Raises:
        CodecError: they name another kind, or contradict each other.
    """
    kind, pre = fields.get("model"), fields.get("pre")
    if kind != PIECES and (kind != BYTE_LEVEL or pre not in PRE):
        raise CodecError(
            f"the tokenizer '{str(kind)[:40]}/{str(pre)[:40]}' is not known",
            hint=f"Known are SentencePiece's BPE ('{PIECES}') and byte-level BPE: {', '.join(PRE)}.",
        )
    tokens, types = fields.get("tokens"), fields.get("token_type")
    if not strings(tokens) or not isinstance(types, list) or len(types) != len(tokens or ()):
        raise CodecError("the tokenizer's tokens and their types do not fit each other")
    if kind == BYTE_LEVEL and not strings(fields.get("merges")):
        raise CodecError("the tokenizer has no merges")
    scores = fields.get("scores")
    if kind == PIECES and not (
        isinstance(scores, list) and len(scores) == len(types) and all(isinstance(score, float) for score in scores)
    ):
        raise CodecError("the tokenizer's pieces have no scores")


def strings(value: Any) -> bool:
    """Return whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def encoder(fields: Mapping[str, Any], ids: Mapping[str, int]) -> Any:
    """Return the encoder; the library is imported here.

    Raises:
        CodecError: the merges do not fit the tokens.
    """
    try:
        return _pieces(fields, ids) if fields["model"] == PIECES else _byte_level(fields, ids)
    except CodecError:
        raise
    except Exception as error:  # the library raises bare exceptions
        raise CodecError(f"the tokenizer's merges do not fit its tokens: {error}") from None


def _byte_level(fields: Mapping[str, Any], ids: Mapping[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    pre, merges = fields["pre"], [tuple(pair.split(" ")) for pair in fields["merges"]]
    if any(len(pair) != 2 for pair in merges):
        raise CodecError("a merge of the tokenizer is not two tokens")
    made = Tokenizer(BPE(vocab=dict(ids), merges=merges, ignore_merges=pre == "llama-bpe"))
    level = ByteLevel(add_prefix_space=False, use_regex=pre not in WORDS)
    if pre == "smollm":
        made.pre_tokenizer = Sequence([Digits(individual_digits=True), level])
    elif pre in WORDS:
        made.pre_tokenizer = Sequence([Split(Regex(WORDS[pre]), "isolated"), level])
    else:
        made.pre_tokenizer = level
    if pre == "qwen2":
        made.normalizer = NFC()
    return made


def _pieces(fields: Mapping[str, Any], ids: Mapping[str, int]) -> Any:
    """Build SentencePiece's BPE: two neighbours become the piece with the best score; unknown text becomes bytes."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Prepend, Replace, Sequence

    if any(f"<0x{byte:02X}>" not in ids for byte in range(256)):
        raise CodecError("the tokenizer lacks pieces for single bytes")
    unknown = fields.get("unknown_token_id")
    named = fields["tokens"][unknown] if isinstance(unknown, int) and 0 <= unknown < len(ids) else None
    model = BPE(vocab=dict(ids), merges=merges_of(fields, ids), byte_fallback=True, unk_token=named)
    made = Tokenizer(model)
    steps = [Replace(" ", SPACE)]
    made.normalizer = Sequence(steps if fields.get("add_space_prefix") is False else [Prepend(SPACE), *steps])
    return made


def merges_of(fields: Mapping[str, Any], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every pair of pieces that together are a normal piece, the best score first, then the lower id."""
    scores, types = fields["scores"], fields["token_type"]
    ranked = sorted((-scores[number], number, text) for text, number in ids.items() if types[number] == NORMAL)
    made: list[tuple[str, str]] = []
    for _, _, text in ranked:
        if 2 <= len(text) <= LONGEST:
            cuts = ((text[:at], text[at:]) for at in range(1, len(text)))
            found = [(left, right) for left, right in cuts if left in ids and right in ids]
            made += sorted(found, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return made
