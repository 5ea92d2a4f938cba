"""p4@1.0: payment for requests (devices part 10, payments).

``words`` says whose signatures on a request pay for it; ``device`` sets prices aside and charges them.
"""

from .device import P4

__all__ = ["P4"]
