"""Verifies evidence of trusted execution environments: pure functions, no network, the clock an argument."""
