"""query@1.0: finds stored messages by key and value, or as GraphQL asks for them.

``device`` has the keys, ``graphql`` reads queries and picks out the fields they name, ``transactions``
says what those fields are of a stored message.
"""

from .device import Query

__all__ = ["Query"]
