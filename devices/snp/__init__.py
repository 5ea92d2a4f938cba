"""snp@1.0: SEV-SNP reports in the reference's form, with its holes closed (tee-attestation 6, devices part 06).

``report`` reads a report's message and says what it must show; ``device`` has the keys.
"""

from .device import Snp

__all__ = ["Snp"]
