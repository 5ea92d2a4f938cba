"""greenzone@1.0: nodes that attested each other and share a key per epoch (tee-attestation 8.3, devices part 06).

``epochs``     who belongs to a zone: a chain of messages that its keeper signs
``admission``  mutual attestation; nonces
``keys``       a key per epoch and purpose, sealed to members
``zone``       what this node holds of a zone
``terms``      the two Erlang terms of the reference
``reference``  joins and identities in the reference's form, off by default
``device``     the keys
"""

from .device import GreenZone

__all__ = ["GreenZone"]
