"""HTTP to messages and back, without sockets: the one import for whoever carries requests."""

from __future__ import annotations

from hyperpy.http.egress import (
    answer_at_edge,
    refusal,
    without_body_type,
    without_cors,
    write,
    write_error,
)
from hyperpy.http.form import ANS104, DEFAULT_RULES, Ingress, RawReply, RawRequest, Rules, Wants, codec_of
from hyperpy.http.ingress import read

__all__ = [
    "ANS104",
    "DEFAULT_RULES",
    "Ingress",
    "RawReply",
    "RawRequest",
    "Rules",
    "Wants",
    "answer_at_edge",
    "codec_of",
    "read",
    "refusal",
    "without_body_type",
    "without_cors",
    "write",
    "write_error",
]
