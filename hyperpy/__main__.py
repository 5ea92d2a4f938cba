"""Runs the command line: ``python -m hyperpy``."""

from hyperpy.cli import main

main()
