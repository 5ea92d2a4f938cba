"""The command line. Each verb's file parses arguments and prints; the work is done elsewhere."""

from hyperpy.cli.app import main

__all__ = ["main"]
