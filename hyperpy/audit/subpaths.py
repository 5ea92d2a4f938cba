"""What a path put into a step: its sub-paths made again, and what ``~device&key=value`` put on the base.

A recorded request holds the results of its sub-paths in their place, and the deterministic ones leave no record of
their own. The path says what they were, so they are made again from it. Rules: ``sub-path`` where a value in the
request or base is not what its sub-path gives, ``base-link`` where the base is not the one before with what the path
puts on it. A sub-path that cannot be made again here counts as an attested input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hyperpy import commitments, normalise
from hyperpy.audit.scratch import Scratch
from hyperpy.audit.turns import ASKING, Turn, Way
from hyperpy.commitments.combined import raw_id
from hyperpy.context import Chain, Frame, Given
from hyperpy.encoding import is_id, key_text
from hyperpy.errors import HyperpyError
from hyperpy.message import As, Link, Message, Resolve, Value, as_text, list_to_map
from hyperpy.recorder import wrap
from hyperpy.trail import Oracle, Record
from hyperpy.verdicts import Finding

_MOST: Final = 64
"""Ways to answer one question twice that are tried."""

Made = tuple[list[Finding], int]
"""What differs, and how much could not be made again."""


class Told(NamedTuple):
    """A recorded step that a turn is compared with.

    Attributes:
        whole: compare all of the request and of a root's own message, too, and not sub-paths alone.
        until: monotonic seconds until which sub-paths are made again; 0: as long as one step may take.
    """

    record: Record
    base: Message
    request: Message
    parts: Sequence[Record]
    whole: bool = False
    until: float = 0.0


def compared(way: Way, number: int, told: Told, at: Scratch) -> Made:
    """Compare a recorded step with one turn of a path.

    Raises:
        HyperpyError: a value has no ID.
    """
    again = _Again(told.parts, at, told.until)
    turn = way.turns[number]
    found: list[Finding] = []
    unknown = 0
    first = number == 0 and ("/" not in told.record.hashpath_before or isinstance(way.root, Resolve))
    if first and isinstance(way.root, Resolve):
        differs, count = _root(way.root, turn, told, again)
        found, unknown = found + differs, unknown + count
    if first and not isinstance(way.root, Resolve):
        puts: Mapping[str, Value] = {**way.puts, **turn.puts}
        plain = told.whole
    else:
        puts, plain = turn.puts, True
    if told.record.key == "snapshot":
        puts = {}
    own = "asked" if first else "base-link"
    differs, count = _items("base", puts, told.base, again, rule=own, plain=plain)
    found, unknown = found + differs, unknown + count
    if isinstance(turn.request, Resolve):
        differs, count = _request(turn.request, told, again)
    else:
        differs, count = _items("request", turn.request, told.request, again, rule="asked", plain=told.whole)
    found, unknown = found + differs, unknown + count
    if told.whole:
        found += _more(way, turn, told, first=first)
    return found, unknown


def hashpaths_of(root: Resolve, parts: Sequence[Record], at: Scratch) -> frozenset[str]:
    """Return the hashpaths that what a sub-path gives may have; none if it cannot be made again."""
    again = _Again(parts, at)
    found: set[str] = set()
    for value in again.choices(root):
        if isinstance(value, Message) and value.hashpath:
            found.add(value.hashpath)
        elif value is not None and again.asked:  # an answer that was recorded has the hashpath of its record
            name = commitments.content_id(wrap(value))
            found.update(one.hashpath_after for one in parts if one.result == name)
    return frozenset(found)


def _items(role: str, wanted: Mapping[str, Value], got: Message, again: _Again, *, rule: str, plain: bool) -> Made:
    """Compare items that a path names with those of a recorded message."""
    found: list[Finding] = []
    unknown = 0
    for name, one in wanted.items():
        value = got.raw(name)
        if isinstance(one, Resolve):
            fits = again.fits(one, value)
            if fits is None:
                unknown += 1
            elif not fits:
                text = f"'{name}' of the {role} is not what its sub-path gives"
                found.append(Finding("sub-path", text, shown(again.once(one, ())[0]), shown(value)))
        elif plain and not isinstance(one, As) and not (value is None and name in ASKING) and not same(one, value):
            text = f"'{name}' of the {role} is not what the path puts there"
            found.append(Finding(rule, text, shown(one), shown(value)))
    return found, unknown


def _more(way: Way, turn: Turn, told: Told, *, first: bool) -> list[Finding]:
    """Return what a recorded request, or a root of the path's own, holds beyond what the path names."""
    pairs: list[tuple[str, set[str], Message]] = []
    if not isinstance(turn.request, Resolve):
        pairs.append(("request", set(turn.request), told.request))
    if first and way.root is None:
        pairs.append(("base", {*way.puts, *turn.puts}, told.base))
    return [
        Finding("asked", f"the {role} has a '{name}' that the path does not name", "", shown(item.raw(name)))
        for role, names, item in pairs
        for name in sorted(set(item.raw_items()) - names)
    ]


def _root(root: Resolve, turn: Turn, told: Told, again: _Again) -> Made:
    """Compare the base of the first step with what the sub-path that a path begins with gives."""
    names = set(told.base.raw_items()) - set(turn.puts)
    shape: Message | None = None
    for choice in again.choices(root):
        value = Message.make(list_to_map(choice)) if isinstance(choice, tuple) else choice
        if not isinstance(value, Message):
            return [], 1
        shape = value
        alike = set(value.raw_items()) - set(turn.puts) == names
        if alike and all(same(value.raw(name), told.base.raw(name)) for name in names):
            return [], 0
    if shape is None or again.unsure:
        return [], 1
    text = "the base is not what the sub-path gives that the path begins with"
    return [Finding("sub-path", text, shown(shape), told.record.base)], 0


def _request(asked: Resolve, told: Told, again: _Again) -> Made:
    """Compare a request that is what a sub-path gives."""
    shape: Value | None = None
    for choice in again.choices(asked):
        if choice is None:
            return [], 1
        shape = choice
        if isinstance(choice, tuple):
            choice = Message.make(list_to_map(choice))
        if not isinstance(choice, Message):
            choice = Message.make({"path": choice if isinstance(choice, bytes) else as_text(choice).encode()})
        if isinstance(choice.raw("path"), As):
            return [], 1
        if same(_bare(choice), _bare(told.request)):
            return [], 0
    if shape is None or again.unsure:
        return [], 1
    return [Finding("sub-path", "the request is not what its sub-path gives", shown(shape), told.record.request)], 0


def _bare(item: Message) -> Message:
    return Message.make(dict(item.raw_items()))


class _Again:
    """Makes sub-paths again, with the answers that a step's recorded parts gave."""

    def __init__(self, parts: Sequence[Record], at: Scratch, until: float = 0.0) -> None:
        self._until = until or at.deadline()
        answers = [Oracle(one.device, one.key, one.request, one.result, one.status) for one in parts]
        self._answers = [one for one, part in zip(answers, parts, strict=True) if not part.cached_from]
        self._at = at
        self.asked = False
        """Whether what was made last rests on recorded answers."""
        self.unsure = False
        """Whether there were more ways to choose among answers than were tried."""

    def fits(self, one: Resolve, told: Value | None) -> bool | None:
        """Say whether a value is what a sub-path gives; None if that cannot be told."""
        if told is None:
            return False
        loose = False
        for value in self.choices(one):
            if value is None:
                return None
            if same(value, told):
                return True
            loose = loose or ((self.asked or _by_content(one, self._at)) and _alike(value, told))
        return None if loose or self.unsure else False

    def choices(self, one: Resolve) -> Any:
        """Yield what a sub-path gives: more than one value where one question has several recorded answers."""
        self.unsure = False
        chosen: list[int] = []
        for _ in range(_MOST):
            value, sizes = self.once(one, chosen)
            yield value
            chosen += [0] * (len(sizes) - len(chosen))
            del chosen[len(sizes) :]
            while chosen and chosen[-1] + 1 >= sizes[len(chosen) - 1]:
                chosen.pop()
            if not chosen:
                return
            chosen[-1] += 1
        self.unsure = True

    def once(self, one: Resolve, chosen: Sequence[int]) -> tuple[Value | None, list[int]]:
        """Return what a sub-path gives, None if it cannot be made again; and where answers had to be chosen."""
        given = _Chosen(self._answers, chosen)
        chain = Chain(deadline=self._until, lookup=False, given=given, linked=True, may_sign=False)
        chain.strict = not self._answers
        resolver = self._at.resolver
        try:
            value = normalise.plain(resolver, one, Frame(resolver, chain, 0, None).nested())
        except HyperpyError:
            return None, given.sizes
        finally:
            self.asked = given.used > 0
        return value, given.sizes


class _Chosen(Given):
    """Recorded answers, in whatever order they are asked for; where a question has several, one is chosen."""

    def __init__(self, answers: Sequence[Oracle], chosen: Sequence[int]) -> None:
        super().__init__(answers)
        self._places = list(chosen)
        self.sizes: list[int] = []

    def next(self, device: str, key: str, request: Any) -> Oracle:
        wanted = request()
        asked = (device, key, wanted)
        found = list(dict.fromkeys(one for one in self._left if (one.device, one.key, one.request) == asked))
        if not found:
            self._refuse(f"the trail holds no recorded answer for {device}/{key}", "", f"{device}/{key}")
        self.used += 1
        if len(found) == 1:
            return found[0]
        at = self._places[len(self.sizes)] if len(self.sizes) < len(self._places) else 0
        self.sizes.append(len(found))
        return found[min(at, len(found) - 1)]


# -- comparing ----------------------------------------------------------------------------------


def same(one: Value | None, other: Value | None) -> bool:
    """Say whether two values are equal, whatever is held and whatever is linked; signatures count."""
    if one is None or other is None:
        return one is other
    return _named(one) == _named(other)


def _named(item: Value) -> str:
    return commitments.unsigned_id(Message.make({"a": item}))


def _alike(one: Value, other: Value) -> bool:
    """Say whether two messages differ at most in who signed them."""
    try:
        held = [item.load() if isinstance(item, Link) else item for item in (one, other)]
    except HyperpyError:
        return False
    return all(isinstance(item, Message) for item in held) and same(*(_bare(item) for item in held))  # type: ignore[arg-type]


def _by_content(item: Value, at: Scratch) -> bool:
    """Say whether a sub-path reads a message by its unsigned ID: who signed that may have become more since."""
    if isinstance(item, Resolve):
        return any(_by_content(one, at) for one in item.messages)
    if isinstance(item, As):
        return _by_content(item.message, at)
    if isinstance(item, Message):
        return any(_by_content(one, at) for one in item.raw_items().values())
    name = raw_id(key_text(item)) if isinstance(item, bytes) and is_id(item) else None
    return name is not None and at.store.get("messages", name) is not None


def shown(item: Value | None) -> str:
    """Return a value in few words, for a finding."""
    if item is None:
        return ""
    if isinstance(item, Link):
        return item.id
    if isinstance(item, Message):
        return commitments.content_id(item)
    return item.decode("utf-8", "replace")[:100] if isinstance(item, bytes) else repr(item)[:100]
