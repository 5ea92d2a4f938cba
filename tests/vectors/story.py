"""What a retold story has learnt: which of our identifiers stands for which of the recording.

An identifier is a text of the recording that cannot be the same on another node: an address, an ID
of what is signed, a key, a hash over such things, a time. Where one is first seen beside ours, the
pair is learnt; every later place must hold the same pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from compare import brief

from hyperpy.commitments import content_id, signed_id
from hyperpy.message import Link, Message, same

_HASHES = frozenset({"hash-chain", "base-hashpath"})
"""Keys whose values are hashes over signatures; ours carry both, each generation one."""
_HASH_NAMES = frozenset(name.encode() for name in _HASHES)
_SALTED = frozenset({"signature", "keyid", "publickey", "id"})
_HASHPATH = re.compile(rb"[A-Za-z0-9_-]{43}(?:/[A-Za-z0-9_-]{43})?")
_TIME = re.compile(rb"1[0-9]{12}")


class Story:
    """Pairs of identifiers, theirs to ours.

    Args:
        pairs: those known from the start; the first is the node's address.
        load: returns the message of an ID from our node.
    """

    def __init__(self, pairs: Mapping[str, str], load: Callable[[str], Any]) -> None:
        self.pairs: dict[bytes, bytes] = {}
        self.signed: dict[str, Message] = {}
        self.only_ours: set[str] = set()
        self._load = load
        self._tables: list[tuple[re.Pattern[bytes], dict[bytes, bytes]]] = []
        self.node = next(iter(pairs.values()))
        for theirs, ours in pairs.items():
            self.learn(theirs, ours)

    def learn(self, theirs: str, ours: str) -> bool:
        """Note a pair; False if another was noted before."""
        left, right = theirs.encode(), ours.encode()
        self._tables.clear()
        return self.pairs.setdefault(left, right) == right

    def learn_message(self, theirs: Message, ours: Message) -> None:
        """Note the IDs, keys and signatures of a message that both signed."""
        self.learn(content_id(theirs), content_id(ours))
        self.learn(signed_id(theirs), signed_id(ours))
        self._learn_commitments(theirs, ours)

    def _learn_commitments(self, theirs: Message, ours: Message) -> list[str]:
        known = {one.get("committer"): (name, one) for name, one in ours.commitments.items()}
        problems = []
        for name, one in theirs.commitments.items():
            found = known.pop(self.own(one.get("committer")), None)
            if found is None:
                problems.append(f"no commitment by {one.get('committer')!r}")
                continue
            problems += self.compare(name, found[1], one)
            for field in ("keyid", "signature"):
                self.learn(one.text(field), found[1].text(field))
            self.learn(name, found[0])
        return problems + [f"a commitment by {committer!r} too many" for committer in known]

    def ours(self, text: bytes) -> bytes:
        """Return a text of the recording with what is known replaced."""
        return self._replaced(text, 0)

    def theirs(self, text: bytes) -> bytes:
        """Return a text of ours as the recording has it."""
        return self._replaced(text, 1)

    def _replaced(self, text: bytes, way: int) -> bytes:
        if not self._tables:
            back = {ours: theirs for theirs, ours in self.pairs.items()}
            for table in (self.pairs, back):
                names = sorted(table, key=len, reverse=True)
                self._tables.append((re.compile(b"|".join(map(re.escape, names))), dict(table)))
        pattern, table = self._tables[way]
        return pattern.sub(lambda found: table[found[0]], text)

    def own(self, item: Any, way: int = 0) -> Any:
        """Return a value with what is known replaced at every depth; ``way`` 1 turns ours into theirs."""
        if isinstance(item, bytes):
            return self._replaced(item, way)
        if isinstance(item, tuple):
            return tuple(self.own(one, way) for one in item)
        if isinstance(item, Link):
            return Link(self._replaced(item.id.encode(), way).decode())
        if isinstance(item, Message):
            made = Message.make({key: self.own(one, way) for key, one in item.raw_items().items()})
            named = {self._replaced(n.encode(), way).decode(): self.own(c, way) for n, c in item.commitments.items()}
            return made.with_commitments(named) if named else made
        return item

    # -- comparing ---------------------------------------------------------------------------------

    def compare(self, name: str, ours: Any, theirs: Any) -> list[str]:
        """Compare a value of ours with one of the recording; learn what may differ; return problems."""
        if isinstance(theirs, Message) and isinstance(ours, Message):
            return self._messages(name, ours, theirs)
        if isinstance(theirs, tuple) and isinstance(ours, tuple):
            return self._lists(name, ours, theirs)
        if isinstance(theirs, Link) and isinstance(ours, Link):
            return self._links(name, ours.id, theirs.id)
        mapped = self.own(theirs)
        if type(mapped) is type(ours) and (mapped == ours or self._may_differ(name, ours, theirs)):
            return []
        return [f"{name}: {brief(ours)} is not {brief(mapped)}"]

    def _lists(self, name: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> list[str]:
        if theirs and all(isinstance(one, Message) and set(one) == {"name", "value"} for one in (*ours, *theirs)):
            return self._messages(name, _tags(ours), _tags(theirs))
        if name.endswith("/committed") and _HASH_NAMES.intersection(theirs):
            ours, theirs = (tuple(one for one in items if one not in _HASH_NAMES) for items in (ours, theirs))
        if len(ours) != len(theirs):
            return [f"{name}: {brief(ours)} is not {brief(self.own(theirs))}"]
        pairs = enumerate(zip(ours, theirs, strict=True), 1)
        return [text for n, (left, right) in pairs for text in self.compare(f"{name}/{n}", left, right)]

    def _messages(self, name: str, ours: Message, theirs: Message) -> list[str]:
        mine, other = dict(ours.raw_items()), dict(theirs.raw_items())
        hashes = {key for key in other if key.lower() in _HASHES}
        if hashes:
            extra = [key for key in mine if key.lower() in _HASHES and key not in hashes]
            if len(extra) + len(hashes) != len(_HASHES):
                return [f"{name}: not both hash-chain and base-hashpath"]
            for key in extra:
                del mine[key]
        names = {self.ours(key.encode()).decode(): key for key in other}
        if set(mine) != set(names):
            return [f"{name}: keys {sorted(set(mine) ^ set(names))} are not in both"]
        problems = self._learn_commitments(theirs, ours)
        for key in mine:
            problems += self.compare(f"{name}/{key}", mine[key], other[names[key]])
        return problems

    def _may_differ(self, name: str, ours: Any, theirs: Any) -> bool:
        """Say whether two values differ for a reason, and the same way as before."""
        key = name.rpartition("/")[2].lower()
        if isinstance(theirs, int):
            return key == "timestamp" and theirs > 10**12 and ours > 10**12 and self.learn(str(theirs), str(ours))
        if not isinstance(theirs, bytes):
            return False
        if key == "timestamp":
            return bool(_TIME.fullmatch(theirs) and _TIME.fullmatch(ours)) and self.learn(
                theirs.decode(), ours.decode()
            )
        if key == "type":
            return theirs.lower() == ours.lower() == b"assignment"
        if key in _HASHES:
            return self._hashes(ours, theirs)
        return key in _SALTED and self.learn(theirs.decode(), ours.decode())

    def _hashes(self, ours: bytes, theirs: bytes) -> bool:
        if not (_HASHPATH.fullmatch(ours) and _HASHPATH.fullmatch(theirs)):
            return False
        pairs = list(zip(theirs.split(b"/"), ours.split(b"/"), strict=False))
        return theirs.count(b"/") == ours.count(b"/") and all(self.learn(a.decode(), b.decode()) for a, b in pairs)

    def _links(self, name: str, ours: str, theirs: str) -> list[str]:
        """Compare what is linked: ours, told with their identifiers, must have their ID."""
        if self.ours(theirs.encode()) == ours.encode():
            return []
        found = self._whole(Link(ours))
        if name.endswith("/processes+link"):
            found = tuple(one for one in found if one.decode() not in self.only_ours)
        known = content_id(self.own(found, 1)) == theirs or _is_salted(found) or self._is_commitment(name, found)
        if known and self.learn(theirs, ours):
            return []
        return [f"{name}: {ours} ({brief(found)}) is not {theirs}"]

    def _is_commitment(self, name: str, found: Any) -> bool:
        """Say whether it is the commitment of that ID on a message both know.

        The two generations hold ``committed`` differently, so that IDs of commitments differ.
        """
        known = (one.commitments.get(name.rpartition("/")[2]) for one in self.signed.values())
        return any(one is not None and same(one, found) for one in known)

    def _whole(self, item: Any) -> Any:
        """Return a value with every link in it loaded."""
        if isinstance(item, Link):
            return self._whole(self._load(item.id))
        if isinstance(item, tuple):
            return tuple(self._whole(one) for one in item)
        if isinstance(item, Message):
            made = Message.make({key: self._whole(one) for key, one in item.raw_items().items()})
            return made.with_commitments(item.commitments) if item.commitments else made
        return item


def _is_salted(item: Any) -> bool:
    """Say whether a value holds signatures of a node, so that its ID differs on each."""
    if isinstance(item, Message):
        return bool(item.commitments) or any(_is_salted(one) for one in item.raw_items().values())
    return isinstance(item, tuple) and any(_is_salted(one) for one in item)


def _tags(items: tuple[Any, ...]) -> Message:
    return Message.make({one.text("name"): one["value"] for one in items})
