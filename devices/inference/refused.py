"""What requests ask for beside what is understood: let through where it changes no answer, else refused.

The names are those of OpenAI's interface and of servers that follow it (vLLM, SGLang, llama.cpp). A parameter that
nobody here knows is refused, too, wherever it can be told from HTTP's own headers, which are keys of the same message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from hyperpy.errors import ParameterError
from hyperpy.message import NULL, Message, Value, value

HARMLESS: Final = frozenset(
    ("user", "metadata", "parallel_tool_calls", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
"""What changes no answer, whatever it says."""
REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "min_tokens", "top_a", "mirostat"), (0,)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "typical_p", "tfs_z", "best_of"), (1,)),
    **dict.fromkeys(("xtc_probability", "dry_multiplier", "dynatemp_range", "truncate_prompt_tokens"), (0,)),
    "length_penalty": (1,),
    **dict.fromkeys(("early_stopping", "ignore_eos", "use_beam_search", "store", "logits_all"), (False,)),
    **dict.fromkeys(("include_stop_str_in_output", "continue_final_message", "return_token_ids"), (False,)),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "add_generation_prompt"), (True,)),
    "echo": (False, 0),
    "suffix": ("",),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    "service_tier": ("auto", "default"),
    "modalities": (("text",),),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    **dict.fromkeys(
        ("logit_bias", "logits_bias", "tools", "functions", "prediction", "audio", "web_search_options"), ()
    ),
    **dict.fromkeys(("bad_words", "stop_token_ids", "allowed_token_ids", "logits_processors", "prompt_logprobs"), ()),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"), ()),
    **dict.fromkeys(("grammar", "regex", "json_schema", "ebnf", "documents", "chat_template"), ()),
    **dict.fromkeys(("chat_template_kwargs", "thinking", "reasoning", "web_search_options"), ()),
}
"""What could change an answer and is not part of HPI-1, with the values that change nothing; nor does what is empty."""
_BESIDE: Final = frozenset(("response_format", "type", "path", "method"))
"""What is looked at elsewhere."""
_OF_THE_NODE: Final = frozenset(("accept-bundle", "attest", "body", "device", "method", "path", "slot", "status"))
"""Keys of a request whose values may be no text."""


def check(get: Callable[[str], Value | None]) -> None:
    """Refuse what is known and could change an answer; raise ParameterError."""
    for name, harmless in REFUSED.items():
        found = get(name)
        if found is None or _is_one_of(found, harmless) or (isinstance(found, (Message, tuple)) and not len(found)):
            continue
        raise ParameterError(f"'{name}' is not part of HPI-1 here", name=name, hint=f"Leave '{name}' out.")
    form = get("response_format")
    kind = form.get("type", b"") if isinstance(form, Message) else form
    if kind not in (None, b"text"):
        raise ParameterError("'response_format' can be text only", name="response_format")


def check_names(request: Mapping[str, Value], written: Iterable[str], understood: Iterable[str]) -> None:
    """Refuse names that nobody here knows.

    Args:
        request: a request's keys, HTTP's headers among them: a name with ``_``, or one whose value is no text, is none
            of these.
        written: names from a JSON text that holds parameters and nothing else.
        understood: what is read.

    Raises:
        ParameterError: there is one.
    """
    known = {*understood, *REFUSED, *HARMLESS, *_BESIDE}
    names = [name for name, found in request.items() if _is_no_header(name, found)]
    for name in sorted({*names, *written}):
        if name.replace("-", "_") not in known and name not in _OF_THE_NODE and request.get(name) != NULL:
            raise ParameterError(f"'{name[:80]}' is not known here", name=name[:80], hint="Leave it out.")


def _is_no_header(name: str, found: Value) -> bool:
    return name not in _OF_THE_NODE and ("_" in name or not ("-" in name or isinstance(found, bytes)))


def _is_one_of(found: Value, harmless: tuple[Any, ...]) -> bool:
    """Say whether a value is one of these, or its text, as queries have it."""
    texts = [str(one).lower().encode() for one in harmless if isinstance(one, (bool, int))]
    return found in [value(one) for one in harmless] or (isinstance(found, bytes) and found in texts)
