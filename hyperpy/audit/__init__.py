"""Audit: what was recorded is collected, made again, compared and reported (docs/audit.md)."""
