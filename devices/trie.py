"""trie@1.0: a large map kept as a radix-256 trie of nested messages.

A node's keys are edge labels. What stands under a label is a value or, if it is a message, the next
node; so a value that is itself a message stands in a node of its own, under ``node-value``, as does
the value of a key that other keys begin with. The root alone carries ``device``. A change makes new
IDs only for the nodes from the root to the leaf.
"""

from __future__ import annotations

from hyperpy import device, key
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import KeyNotFound, ParameterError, SizeError
from hyperpy.message import UNDEFINED, UNSET, Atom, Message, Value, as_text
from hyperpy.sdk import Context, default

HERE = "node-value"
_ROOT_ONLY = frozenset({"device", "hashpath", "commitments"})
_NOT_SET = _ROOT_ONLY | {"path", "set-mode", "cache-control"}
_DEPTH = 48
"""Nodes on a path. Stores keep at most 64 levels, and the trie lies in a message itself."""
_NO_LABEL = frozenset(
    {b"node-value", b"device", b"hashpath", b"commitments", b"path", b"ao-types", b"ao-ids", b"content-digest"}
    | {b"unsigned_id"}
)


@device("trie@1.0", excludes=("id", "commit", "verify", "committers", "committed", "commitments", "index"))
class Trie:
    """Answers every key with the value stored under it; ``get`` reaches keys of any name."""

    @default
    def value(self, key: str, base: Message) -> Value:
        """Return the value stored under the key."""
        return _get(base, key)

    @key
    def get(self, base: Message, request: Message) -> Value:
        """Return the value stored under the request's ``key``."""
        if "key" not in request:
            raise ParameterError("get: parameter 'key' (text) is missing", name="key")
        return _get(base, request.text("key"))

    @key
    def keys(self, base: Message) -> tuple[bytes, ...]:
        """List all keys, sorted by their bytes."""
        found: list[bytes] = []
        waiting: list[tuple[bytes, Message]] = [(b"", base)]
        while waiting:
            prefix, node = waiting.pop()
            if HERE in node:
                found.append(prefix)
            for label in _own(node, root=node is base):
                item = node[label]
                if isinstance(item, Message):
                    waiting.append((prefix + key_bytes(label), item))
                else:
                    found.append(prefix + key_bytes(label))
        return tuple(sorted(found))

    @key
    def set(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the trie with the request's keys stored; a message is merged into one that is there."""
        root = base
        for name in request.ordered():
            item = request.raw(name)
            if name in _NOT_SET or item is None or (type(item) is Atom and item == UNDEFINED):
                continue
            if type(item) is Atom and item == UNSET:
                root = _removed(root, key_bytes(name))
                continue
            if isinstance(item, Message) and request.get("set-mode") != b"explicit":
                item = _merged(root, name, item, ctx)
            root = _stored(root, key_bytes(name), item)
        return root

    @key
    def remove(self, base: Message, request: Message) -> Message:
        """Return the trie without ``item``, or without each of ``items``."""
        items = request.get("items", request.get("item"))
        if items is None:
            raise ParameterError("remove: parameter 'item' or 'items' is missing", name="item")
        root = base
        for name in items if isinstance(items, tuple) else (items,):
            root = _removed(root, key_bytes(as_text(name, "item")))
        return root


def _labels(node: Message, *, root: bool) -> dict[int, str]:
    """Return the edges by first byte, remembered: a node has at most one for each byte."""
    name = "trie root" if root else "trie node"
    found: dict[int, str] | None = node.memo.get(name)
    if found is None:
        found = node.memo[name] = {key_bytes(label)[0]: label for label in reversed(_own(node, root=root))}
    return found


def _own(node: Message, *, root: bool) -> list[str]:
    return [label for label in node if label and label != HERE and not (root and label in _ROOT_ONLY)]


def _edge(node: Message, rest: bytes, *, root: bool) -> str | None:
    """Return the label to follow for ``rest``: the one that is it, else the one with its first byte."""
    label = key_text(rest)
    if label in node and label != HERE and not (root and label in _ROOT_ONLY):
        return label
    return _labels(node, root=root).get(rest[0])


def _get(base: Message, name: str) -> Value:
    rest = key_bytes(name)
    node, root = base, True
    while rest:
        label = _edge(node, rest, root=root)
        if label is None or not rest.startswith(key_bytes(label)):
            raise _missing(name)
        rest = rest[len(key_bytes(label)) :]
        found = node[label]
        if not isinstance(found, Message):
            if rest:
                raise _missing(name)
            return found
        node, root = found, False
    if HERE not in node:
        raise _missing(name)
    return node[HERE]


def _missing(name: str) -> KeyNotFound:
    return KeyNotFound(f"the trie has no key '{name[:100]}'")


def _stored(node: Message, rest: bytes, item: Value, depth: int = 0) -> Message:
    """Return the node with ``item`` stored under ``rest``."""
    if depth > _DEPTH:
        raise SizeError(f"more than {_DEPTH} keys of the trie begin with one another")
    if not rest:
        return node | {HERE: item}
    label = _edge(node, rest, root=depth == 0)
    if label is None:
        return node | _branch(rest, item, depth)
    own = key_bytes(label)
    old = node[label]
    shared = own[: _common(own, rest)]
    if shared == own:
        if rest == own and not isinstance(old, Message) and not isinstance(item, Message):
            return node | {label: item}
        child = old if isinstance(old, Message) else Message.make({HERE: old})
        return node | {label: _stored(child, rest[len(own) :], item, depth + 1)}
    kept = Message.make(_branch(own[len(shared) :], old, depth + 1, node=isinstance(old, Message)))
    below = _stored(kept, rest[len(shared) :], item, depth + 1)
    return node.without(label) | _branch(shared, below, depth, node=True)


def _common(left: bytes, right: bytes) -> int:
    """Return how many first bytes two texts have in common."""
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at
    return min(len(left), len(right))


def _branch(label: bytes, item: Value, depth: int = 0, *, node: bool = False) -> dict[str, Value]:
    """Return the edge to a value or a node. A label with a meaning of its own in messages is cut in two."""
    if depth > _DEPTH:
        raise SizeError("the key cannot be stored in a trie", hint="Use a key without '+link' and 'priv' in it.")
    at = _cut(label)
    if at:
        return {key_text(label[:at]): Message.make(_branch(label[at:], item, depth + 1, node=node))}
    if isinstance(item, Message) and not node:
        item = Message.make({HERE: item})
    return {key_text(label): item}


def _cut(label: bytes) -> int:
    """Return where a label must be cut so that its first part is an ordinary key; 0 for nowhere."""
    head = label
    while head.endswith(b"+link"):
        head = head[:-5]
    if head in _NO_LABEL or head.startswith(b"priv"):
        return 1
    return 0 if head == label else max(1, len(head))


def _removed(node: Message, rest: bytes, *, root: bool = True) -> Message:
    """Return the node without the value under ``rest``; a node left with one edge joins its parent's."""
    if not rest:
        return node.without(HERE) if HERE in node else node
    label = _edge(node, rest, root=root)
    if label is None or not rest.startswith(key_bytes(label)):
        return node
    own = key_bytes(label)
    old = node[label]
    if not isinstance(old, Message):
        return node.without(label) if rest == own else node
    child = _removed(old, rest[len(own) :], root=False)
    if child is old:
        return node
    if not len(child):
        return node.without(label)
    if len(child) > 1:
        return node | {label: child}
    only = child.ordered()[0]
    below = child[only]
    if only == HERE:
        return node.without(label) | _branch(own, below)
    return node.without(label) | _branch(own + key_bytes(only), below, node=isinstance(below, Message))


def _merged(root: Message, name: str, item: Message, ctx: Context) -> Value:
    """Return a message to be stored, merged into the one that is there."""
    try:
        old = _get(root, name)
    except KeyNotFound:
        return item
    return ctx.resolve(old, item | {"path": b"set"}) if isinstance(old, Message) else item
