"""process@1.0: a process's state, computed slot by slot from its schedule (devices/01-process).

``definition`` says which process a message means and swaps roles; ``schedule`` reads assignments and
checks that each follows the one before; ``line`` computes them one after another; ``worker`` is the one
actor per process that does so; ``device`` has the keys.
"""

from .device import Process

__all__ = ["Process"]
