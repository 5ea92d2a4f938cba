"""fault@1.0: judges proofs that a node signed a false result (docs/fault-proofs.md).

``judge`` makes the disputed step again and decides, ``values`` decides about language models' computations,
``verdict`` is what comes of it; ``device`` has the keys.
"""

from .device import Fault

__all__ = ["Fault"]
