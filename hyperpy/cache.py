"""Messages and results in a store (design 4).

A message is kept once, under its unsigned ID, as the canonical bytes of its items. Nested
messages and lists are messages of their own, and links in their parent, so ``GET /<child ID>``
answers. Signatures are kept beside it. Signed and combined IDs are aliases: each names the
content and the very commitments it stands for, so what is read through it never changes,
whoever signs later.

Three rules keep one client from changing what another one reads:

* what is read under a signed ID holds only keys that its signatures cover;
* an alias is made only for signatures that verify, except the combined ID of content and
  commitments, which is computed from both; a nested message whose signature does not verify is
  found through its parent alone;
* two messages can share an unsigned ID if a value smuggles a line of the signature base
  (ao-core 4.7 escapes nothing): the second one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import msgpack  # type: ignore[import-untyped]

from hyperpy import commitments
from hyperpy.codecs import canonical
from hyperpy.commitments.combined import MAX_SUMMED, combined_id, derivable, raw_id
from hyperpy.commitments.signing import with_commitments
from hyperpy.encoding import b64u, key_bytes, key_text, native, sha256
from hyperpy.errors import CodecError, Corrupt, HyperpyError, MessageError, MessageNotFound, SizeError
from hyperpy.message import Link, Message, Value, committed_list
from hyperpy.store import search
from hyperpy.store.base import Store
from hyperpy.store.batch import Batch
from hyperpy.store.recent import Recent

__all__ = ["Batch", "Cache", "CachedResult", "combined_id"]

MAX_DEPTH = 64
"""Nesting of what is stored (design 5)."""

_OWN_WORDS = frozenset({"ao-types", "ao-ids", "ao-body-key", "content-digest", "unsigned_id"})
_GENUINE, _CLAIMED = b"\x01", b"\x00"
_SHAPES, _SHAPE_KEYS, _SHAPE_TEXT = 1024, 32, 512
_KEPT = 2048
_KEPT_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class CachedResult:
    """The result of an earlier step: message ID, status word, its record, and whether it was a bare value."""

    result: str
    status: str
    record: bytes
    literal: bool


class Cache:
    """The messages and results of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[bytes, Value] = {}  # content read lately, by unsigned ID
        self._recent = Recent(store)
        self._all_plain = next(store.scan("ambiguous"), None) is None

    # -- writing ---------------------------------------------------------------------------

    def put(self, item: Value, batch: Batch) -> str:
        """Add a message, list or binary to a batch; return its unsigned ID.

        A signed message is reduced to what its signatures cover (ao-core 9.1). If it had more
        keys, the whole is kept too, under its combined ID; see :meth:`reference`.

        Raises:
            MessageError: the value cannot be kept (numbers and atoms alone, too deep).
        """
        batch.watch(self._store)
        if type(item) is Message and item.commitments:
            return self._put_signed(item, batch, 0)[0]
        self._put(item, batch, 0)
        return commitments.content_id(item)

    def reference(self, item: Message, batch: Batch) -> str:
        """Put a message and return the ID under which exactly this message is read again.

        That is the unsigned ID if there are no commitments, the signed ID if its signatures verify
        and cover every key, else the combined ID: the sum of the content's and all commitments' IDs.
        """
        batch.watch(self._store)
        if not item.commitments:
            self._put(item, batch, 0)
            return commitments.content_id(item)
        known = item.memo.get("reference")  # of what lies whole elsewhere and was put before
        if known is not None and self._rely(native(known), batch, partial(self._put_signed, item, batch, 0)):
            return cast(str, known)
        return self._put_signed(item, batch, 0)[1]

    def _put(self, item: Value, batch: Batch, depth: int) -> bytes:
        """Put something without looking at commitments; return its unsigned ID (32 bytes)."""
        kind = type(item)
        if kind is not Message and kind is not tuple and kind is not bytes:
            raise CodecError(f"a {kind.__name__} alone has no ID", hint="Put it under a key of a message.")
        name = commitments.content_key(item)
        smuggles = kind is Message and _may_smuggle(item)  # type: ignore[arg-type]
        if self._all_plain and not smuggles:
            self._put_plain(item, name, batch, depth)
            return name
        self._all_plain = False
        known = self._in("messages", name, batch)
        if known:
            if smuggles:
                self._refuse_collision(item, name, batch, depth)
            if smuggles or not self._has("ambiguous", name, batch):
                if not batch.has("messages", name):
                    batch.rely("messages", name, partial(self._put, item, batch, depth), self._store)
                return name
        if depth > MAX_DEPTH:
            raise SizeError(f"a message nested more than {MAX_DEPTH} deep cannot be kept")
        data = canonical.encode(self._shallow(item, batch, depth, name))
        batch.put("messages", name, data)
        if known:
            batch.put("ambiguous", name, b"\x00")
        elif smuggles:
            batch.put("ambiguous", name, b"\x01")
        return name

    def _put_plain(self, item: Value, name: bytes, batch: Batch, depth: int) -> None:
        """Put something that nothing else can share its ID with, while no stored message can either.

        Whether the store has it is not asked: writing it again costs less than looking.
        """
        if batch.has("messages", name):
            return
        if name in self._recent:
            batch.rely("messages", name, partial(self._put, item, batch, depth), self._store)
            return
        if depth > MAX_DEPTH:
            raise SizeError(f"a message nested more than {MAX_DEPTH} deep cannot be kept")
        batch.put("messages", name, canonical.encode(self._shallow(item, batch, depth, name)))
        batch.learn(self._recent, name, self._store)

    def _refuse_collision(self, item: Value, name: bytes, batch: Batch, depth: int) -> None:
        """Raise MessageError if another message with lines in its values has the same ID."""
        items = item.raw_items() if isinstance(item, Message) else {}
        if not any(_breaks_lines(key, child) for key, child in items.items()):
            return  # written with the codec's own words: the same message to everybody else
        known = batch.get("messages", name) or self._store.get("messages", name)
        if known != canonical.encode(self._shallow(item, batch, depth, name)):
            raise MessageError(
                "another message has the same ID, because a value holds a line of its encoding",
                hint="Remove the line break before the quotation mark, or put the value into the body.",
            )

    def _has(self, table: str, key: bytes, batch: Batch) -> bool:
        found = batch.get(table, key) or self._store.get(table, key)
        return found == b"\x01"

    def _shallow(self, item: Value, batch: Batch, depth: int, parent: bytes) -> Value:
        """Return the value with nested messages and lists put, and replaced by links."""
        if isinstance(item, Message):
            items = item.raw_items()
            for member in items.values():
                if type(member) is Message or type(member) is tuple:
                    return Message.make({key: self._link(child, batch, depth, parent) for key, child in items.items()})
            return Message.make(dict(items)) if item.commitments else item
        if isinstance(item, tuple):
            return tuple([self._link(child, batch, depth, parent) for child in item])
        return item

    def _link(self, child: Value, batch: Batch, depth: int, parent: bytes) -> Value:
        if type(child) is Message and child.commitments:
            _, reference = self._put_signed(child, batch, depth + 1)
            link = commitments.signed_id(child)
            raw = raw_id(link)
            if raw is not None:
                claim = partial(batch.put, "claims", parent + raw, native(reference))
                if not self._rely(raw, batch, claim, parent):
                    claim()
            return Link(link)
        if type(child) is Message or type(child) is tuple:
            return Link(b64u(self._put(child, batch, depth + 1)))
        return child

    def _put_signed(self, item: Message, batch: Batch, depth: int) -> tuple[str, str]:
        """Put a message and its commitments; return its unsigned ID and its reference."""
        covers = {name: frozenset(committed_list(fields)) for name, fields in item.commitments.items()}
        added = [name for name, fields in item.commitments.items() if not derivable(fields)]
        union: frozenset[str] = frozenset().union(*covers.values())
        reduced = _only(item, union)
        content = self._put(reduced, batch, depth)
        whole = content if len(reduced) == len(item) else self._put(item, batch, depth)
        if not added:
            return b64u(content), b64u(whole)
        pairs = []
        genuine = True
        for name, fields in item.commitments.items():
            part = content if covers[name] == union else self._put(_only(item, covers[name]), batch, depth)
            pairs.append((part, name))
            genuine &= self._put_commitment(item, name, fields, part, batch)
        signed = raw_id(commitments.signed_id(item)) if genuine and len(pairs) <= MAX_SUMMED else None
        combined = raw_id(combined_id(item) or "")
        self._put_alias(signed, content, pairs, batch)
        self._put_alias(combined, whole, pairs, batch)
        if genuine:
            for part, name in pairs if len(added) > 1 else ():
                own = [pair for pair in pairs if pair[0] == part and (pair[1] == name or pair[1] not in added)]
                if name in added:
                    self._put_alias(raw_id(name), part, own, batch)
        reference = signed if whole == content else None
        return b64u(content), b64u(reference or combined or whole)

    def _put_commitment(self, item: Message, name: str, fields: Message, content: bytes, batch: Batch) -> bool:
        """Keep one commitment beside its content; say whether it is genuine."""
        key = content + key_bytes(name)
        known = batch.get("commitments", key)
        if known is None:
            known = self._store.get("commitments", key)
            if known is not None:
                batch.rely("commitments", key, partial(_put_known, key, known, batch), self._store)
        if known is not None:
            return known[:1] == _GENUINE
        try:
            commitments.check(item, committers=(), ids=[name])
            mark = _GENUINE
        except HyperpyError:
            mark = _CLAIMED
        _put_known(key, mark + canonical.encode(Message.make(dict(fields.raw_items()))), batch)
        return mark == _GENUINE

    def _put_alias(self, alias: bytes | None, content: bytes, names: list[tuple[bytes, str]], batch: Batch) -> None:
        if alias is None or alias == content:
            return
        if batch.has("aliases", alias):
            return
        packed = msgpack.packb([content, [[owner, key_bytes(name)] for owner, name in names]], use_bin_type=True)
        put = partial(batch.put, "aliases", alias, packed)
        if self._store.get("aliases", alias) is None:
            put()
        else:
            batch.rely("aliases", alias, put, self._store)

    # -- reading ---------------------------------------------------------------------------

    def read(self, ref: str, batch: Batch | None = None, *, exact: bool = False) -> Value:
        """Return what an ID names: a message (nested ones as links), a list or a binary.

        Under a signed or combined ID: exactly those commitments. Under an unsigned ID: every
        commitment that was ever stored with this content; with ``exact``, as links and replay
        need it, none.

        Raises:
            MessageNotFound: it is not here.
            Corrupt: what is stored under the ID has another one.
        """
        name = raw_id(ref)
        if name is None:
            raise MessageNotFound(f"this node holds no message {ref[:100]}")
        item = self._content(name, batch)
        if item is not None:
            if exact or type(item) is not Message:
                return item
            return self._with_all(item, name, batch)
        alias = (batch.get("aliases", name) if batch is not None else None) or self._store.get("aliases", name)
        if alias is None:
            raise MessageNotFound(f"this node holds no message {ref}")
        content, pairs = msgpack.unpackb(alias, raw=False)
        item = self._content(content, batch)
        if type(item) is not Message:
            raise MessageNotFound(f"this node no longer holds the content of {ref}")
        return item.with_commitments({key_text(cid): self.commitment(owner + cid, batch) for owner, cid in pairs})

    def has(self, ref: str) -> bool:
        """Say whether an ID can be read."""
        name = raw_id(ref)
        return name is not None and self._holds(name, None)

    def _rely(self, name: bytes, batch: Batch, again: Callable[[], object], use: bytes = b"whole") -> bool:
        """Say whether an ID can be read; if so, have ``again`` called should that end before the batch is committed."""
        if batch.has("messages", name) or batch.has("aliases", name):
            return True
        for table in ("messages", "aliases"):
            if self._store.get(table, name) is not None:
                batch.rely(table, name, again, self._store, use)
                return True
        return False

    def _holds(self, name: bytes, batch: Batch | None) -> bool:
        return self._in("messages", name, batch) or self._in("aliases", name, batch)

    def _in(self, table: str, key: bytes, batch: Batch | None) -> bool:
        return (batch is not None and batch.has(table, key)) or self._store.get(table, key) is not None

    def _load(self, parent: bytes, ref: str, batch: Batch | None) -> Value:
        """Return what a link in a message names: exactly that, or what the parent came with."""
        try:
            return self.read(ref, batch, exact=True)
        except MessageNotFound:
            key = parent + (raw_id(ref) or b"")
            claim = (batch.get("claims", key) if batch is not None else None) or self._store.get("claims", key)
            if claim is None:
                raise
            return self.read(b64u(claim), batch, exact=True)

    def _content(self, name: bytes, batch: Batch | None) -> Value | None:
        if batch is not None:
            pending = batch.get("messages", name)
            if pending is not None:
                return self._decode(pending, name, lambda ref: self._load(name, ref, batch))
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        data = self._store.get("messages", name)
        if data is None:
            return None
        try:
            item = self._decode(data, name, lambda ref: self._load(name, ref, None))
        except Corrupt:
            self._recent.forget()  # whoever makes it again writes it, and everything in it, once more
            raise
        if len(data) <= _KEPT_BYTES and not (type(item) is Message and _may_smuggle(item)):
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[name] = item
        return item

    @staticmethod
    def _decode(data: bytes, name: bytes, loader: Callable[[str], Value]) -> Value:
        """Return stored content with links that load; check that it is what its ID promises."""
        try:
            item = canonical.decode(data)
            if type(item) is Message:
                item = Message.make({key: _linked(child, loader) for key, child in item.raw_items().items()})
            elif type(item) is tuple:
                item = tuple([_linked(child, loader) for child in item])
            got = commitments.content_key(item)
        except CodecError as error:
            raise Corrupt(f"a stored message was damaged: {error.message}", expected=b64u(name)) from None
        if got != name:
            raise Corrupt("a stored message was damaged", expected=b64u(name), got=b64u(got))
        return cast("Value", item)

    def _with_all(self, item: Message, name: bytes, batch: Batch | None) -> Message:
        """Return the message with every commitment stored beside it."""
        rows = dict(self._store.scan("commitments", name))
        if batch is not None:
            rows.update(batch.items("commitments", name))
        if not rows:
            return item
        return item.with_commitments({key_text(key[32:]): _fields(data) for key, data in rows.items()})

    def commitment(self, key: bytes, batch: Batch | None = None) -> Message:
        """Return a stored commitment's fields; the key is the content's ID (32 bytes) and the commitment's.

        Raises:
            Corrupt: it is gone or damaged.
        """
        data = batch.get("commitments", key) if batch is not None else None
        if data is None:
            data = self._store.get("commitments", key)
        if data is None:
            raise Corrupt(f"the commitment {key_text(key[32:])} is gone")
        return _fields(data)

    # -- results ---------------------------------------------------------------------------

    def result_key(self, base: Message, request: Message, implementation: str) -> bytes:
        """Return the key of a cached result (32 bytes).

        It covers everything the device can see: all keys of both messages, with the path and what
        no signature covers, their commitments, and the device's code. Not the IDs: they leave
        out keys and can be made to collide.
        """
        return sha256(_visible(base) + _visible(request) + key_bytes(implementation))

    def result(self, key: bytes, batch: Batch | None = None) -> CachedResult | None:
        """Return the result kept under a key of :meth:`result_key`; None if it or its message is gone."""
        data = (batch.get("results", key) if batch is not None else None) or self._store.get("results", key)
        if data is None:
            return None
        name, status, record, literal = msgpack.unpackb(data, raw=False)
        if not self._holds(name, batch):
            return None
        return CachedResult(b64u(name), status, record, literal)

    def put_result(
        self, key: bytes, item: Message, status: str, record: bytes, batch: Batch, *, literal: bool = False
    ) -> None:
        """Keep a step's result, which was put already, under a key of :meth:`result_key`."""
        name = native(self.reference(item, batch)) if item.commitments else commitments.content_key(item)
        batch.put("results", key, msgpack.packb([name, status, record, literal], use_bin_type=True))


def _put_known(key: bytes, row: bytes, batch: Batch) -> None:
    """Put the row of a commitment; if it is genuine, who searches will take its message into the index."""
    batch.put("commitments", key, row)
    if row[:1] == _GENUINE:
        batch.put(search.PENDING, key, b"\x01")


def _only(item: Message, names: frozenset[str]) -> Message:
    """Return the message with those keys only, and no commitments."""
    if names.issuperset(item.raw_items()):
        return with_commitments(item, {})
    return Message.make({key: child for key, child in item.raw_items().items() if key in names})


def _may_smuggle(item: Message) -> bool:
    """Say whether other items than these may have the same unsigned ID.

    A key or value can end a line of the signature base and begin another, and some keys are
    the codec's own words.
    """
    known: bool | None = item.memo.get("smuggles")
    if known is None:
        items = item.raw_items()
        shape = tuple(items)
        odd = _odd.get(shape)
        if odd is None:
            odd = _are_odd(shape)
        known = item.memo["smuggles"] = odd or _a_line_begins(items.values())
    return known


_odd: dict[tuple[str, ...], bool] = {}


def _are_odd(names: tuple[str, ...]) -> bool:
    """Say whether a key among these ends a line or is the codec's own word; remembered for common shapes."""
    odd = not _OWN_WORDS.isdisjoint(names) or any('"' in name or "\n" in name or "+link" in name for name in names)
    if len(names) <= _SHAPE_KEYS and sum(map(len, names)) <= _SHAPE_TEXT:
        if len(_odd) >= _SHAPES:
            _odd.clear()
        _odd[names] = odd
    return odd


def _a_line_begins(values: Iterable[Value]) -> bool:
    for child in values:  # noqa: SIM110 - half as dear as any() with a generator, and run for every message
        if type(child) is bytes and b'\n"' in child:
            return True
    return False


def _breaks_lines(key: str, child: Value) -> bool:
    return '"' in key or "\n" in key or (type(child) is bytes and b'\n"' in child)


def _linked(child: Value, loader: Callable[[str], Value]) -> Value:
    return Link(child.id, loader) if type(child) is Link else child


def _fields(data: bytes) -> Message:
    """Return the fields of a stored commitment."""
    try:
        found = canonical.decode(data[1:])
    except CodecError as error:
        raise Corrupt(f"a stored commitment was damaged: {error.message}") from None
    if type(found) is not Message:
        raise Corrupt("a stored commitment was damaged")
    return found


def _visible(item: Message) -> bytes:
    """Return 33 bytes that stand for all keys and commitments of a message.

    The unsigned ID is enough where nothing else can have it and nothing else is there.
    """
    known: bytes | None = item.memo.get("visible")
    if known is None:
        if item.commitments or _may_smuggle(item):
            known = b"w" + sha256(canonical.encode(Message.make({"items": _plain(item, 0)})))
        else:
            known = b"i" + commitments.content_key(item)
        item.memo["visible"] = known
    return known


def _plain(item: Value, depth: int) -> Value:
    """Return a value with each message as the list of its items and its commitments, at every depth."""
    if depth > MAX_DEPTH:
        raise SizeError(f"a message nested more than {MAX_DEPTH} deep cannot be kept")
    if type(item) is Message:
        items = Message.make({key: _plain(child, depth + 1) for key, child in item.raw_items().items()})
        if not item.commitments:
            return items
        signed = {name: _plain(fields, depth + 1) for name, fields in item.commitments.items()}
        return (items, Message.make(signed))
    if type(item) is tuple:
        return (b"list", *[_plain(child, depth + 1) for child in item])
    return item
