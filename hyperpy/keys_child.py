"""A process that signs for the node: RSA signatures do not let other threads of a Python process run.

Run by :mod:`hyperpy.keys_pool`, by path and alone: it imports nothing of hyperpy. Its key comes through
its standard input and nowhere else; it ends when that is closed.

    in:  4 bytes length, PKCS#8 key (DER)
    in:  0 (SHA-256) or 1 (SHA-512), salt length, digest        out: 2 bytes length, signature
"""

from __future__ import annotations

import signal
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_private_key


def main() -> None:
    """Sign digests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node ends it
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    size = int.from_bytes(source.read(4), "big")
    key = load_der_private_key(source.read(size), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    algorithms = (hashes.SHA256(), hashes.SHA512())
    while len(head := source.read(2)) == 2:
        algorithm = algorithms[head[0]]
        digest = source.read(algorithm.digest_size)
        if len(digest) != algorithm.digest_size:
            return
        made = key.sign(digest, padding.PSS(padding.MGF1(algorithm), head[1]), utils.Prehashed(algorithm))
        sink.write(len(made).to_bytes(2, "big") + made)
        sink.flush()


if __name__ == "__main__":
    main()
