"""Measures what operations cost in CPU time. ``hyperpy bench`` prints the table."""
