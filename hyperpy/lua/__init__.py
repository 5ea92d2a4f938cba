"""Lua 5.3 in child processes: an interpreter with limits, and a pool that lends it."""
