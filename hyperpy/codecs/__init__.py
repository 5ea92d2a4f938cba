"""Codecs: bytes and TABM (typed-annotated binary maps) to messages and back."""
