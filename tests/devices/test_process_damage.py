"""A process goes on although what was kept of it is damaged: the schedule is whole, so all of it is computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperpy import Message, device, key
from hyperpy.encoding import key_text, native
from hyperpy.errors import Corrupt
from hyperpy.message import Link
from hyperpy.store.lmdb import LmdbStore
from tests.devices.parts import Count, Place, place

LAST = 6


@device("nest@1.0")
class Nest:
    """Counts in a message inside the state; one part of it never changes."""

    computed = 0

    @key
    def compute(self, base: Message) -> Message:
        """Count one more."""
        Nest.computed += 1
        inner = base.get("inner", Message({"n": 0, "always": Message({"text": "balance is 000111222"})}))
        assert isinstance(inner, Message)
        always, count = inner["always"], inner["n"]
        assert isinstance(always, Message)
        assert isinstance(count, int)
        return base | {"inner": Message({"n": count + 1, "always": always}), "text": always["text"]}


def named(store: LmdbStore, process: str) -> list[bytes]:
    """Return the IDs of every kept state of a process."""
    prefix = native(process)
    rows = [ref for table in ("states", "heads") for one, ref in store.scan(table, prefix) if len(one) == 40]
    return [native(key_text(ref).split("\n")[0]) for ref in rows]


def spoil(store: LmdbStore, names: set[bytes]) -> int:
    """Change a byte of each message; return how many there were."""
    spoilt = []
    for name in names:
        data = store.get("messages", name)
        if data is not None:
            spoilt.append(("messages", name, data[:-1] + bytes([data[-1] ^ 1])))
    store.write(spoilt, durable=True)
    return len(spoilt)


def children(path: Path, process: str, *names: str) -> set[bytes]:
    """Return the IDs of what lies under a path of keys in every kept state."""
    store = LmdbStore(path)
    states = set(named(store, process))
    store.close()
    found: set[bytes] = set()
    with place(Nest, store=path) as here:
        for name in states:
            item = here.node.cache._content(name, None)
            for step in names:
                assert isinstance(item, Message)
                raw = item.raw(step)
                item = raw.load() if isinstance(raw, Link) else None
                if isinstance(raw, Link) and step == names[-1]:
                    found.add(native(raw.id))
                if item is None:
                    break
    return found


def told(here: Place, execution: str) -> str:
    """Spawn a process and have all its slots computed."""
    process = here.spawn(execution)
    for _ in range(LAST):
        here.send(process)
    for slot in range(LAST + 1):
        assert here.get(process, f"compute={slot}")["status"] == 200
    return process


def spoil_states(path: Path, process: str) -> int:
    store = LmdbStore(path)
    found = spoil(store, set(named(store, process)))
    store.close()
    return found


def spoil_rows(path: Path, process: str) -> int:
    """Damage the rows that name the states: cut short, or not even text."""
    store = LmdbStore(path)
    rows = [(table, one, ref) for table in ("states", "heads") for one, ref in store.scan(table, native(process))]
    rows = [(table, one, ref[:10] if at % 2 else b"\xff\n\n\n*") for at, (table, one, ref) in enumerate(rows)
            if len(one) == 40]  # fmt: skip
    store.write(rows, durable=True)
    store.close()
    return len(rows)


def spoil_parts(*names: str) -> Callable[[Path, str], int]:
    def damage(path: Path, process: str) -> int:
        parts = children(path, process, *names)
        store = LmdbStore(path)
        found = spoil(store, parts)
        store.close()
        return found

    return damage


@pytest.mark.parametrize("damage", [spoil_states, spoil_rows])
def test_damaged_states_are_computed_again(tmp_path: Path, damage: Callable[[Path, str], int]) -> None:
    with place(store=tmp_path) as here:
        process = told(here, "count@1.0")
        states = here.states(process, LAST)
    assert damage(tmp_path, process) > LAST
    with place(store=tmp_path) as here:
        before = Count.computed
        assert here.value(process, "compute=3/count") == 4
        assert Count.computed == before + 4, "the damaged states were passed over"
        assert here.value(process, "now/count") == LAST + 1
        assert here.states(process, LAST) == states
        here.send(process)
        assert here.value(process, "now/count") == LAST + 2
    with place(store=tmp_path) as here:  # and what was computed again was kept
        before = Count.computed
        assert [here.value(process, f"compute={slot}/count") for slot in range(LAST + 2)] == [*range(1, LAST + 3)]
        assert Count.computed == before


@pytest.mark.parametrize("names", [("inner",), ("inner", "always")])
def test_a_damaged_part_of_a_state_does_not_stop_the_process(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The state itself reads well: only the device that goes on from it meets the damage."""
    with place(Nest, store=tmp_path) as here:
        process = told(here, "nest@1.0")
    assert spoil_parts(*names)(tmp_path, process) == (1 if names[-1] == "always" else LAST + 1)
    with place(Nest, store=tmp_path) as here:
        assert here.get(process, "now/inner")["status"] in (200, 500)
        here.send(process)
        assert here.value(process, "now/inner/n") == LAST + 2
        assert here.value(process, "now/text") == b"balance is 000111222"
        if names[-1] == "always":  # shared by all states, so written again for all
            assert here.value(process, "compute=2/inner/always/text") == b"balance is 000111222"


def test_damaged_snapshots_are_passed_over(tmp_path: Path) -> None:
    with place(store=tmp_path) as here:
        process = told(here, "heap@1.0")
    assert spoil_parts("snapshot")(tmp_path, process) > 0
    with place(store=tmp_path) as here:
        here.send(process)
        assert here.value(process, "now/results/output/body") == str(LAST + 2).encode()
        assert here.value(process, "compute=2/results/output/body") == b"3"


def test_damage_elsewhere_is_told_and_costs_one_attempt(tmp_path: Path) -> None:
    """A damaged assignment cannot be computed again: that is said, at once and each time."""
    with place(store=tmp_path) as here:
        process = told(here, "count@1.0")
        here.send(process)
        here.send(process)
    store = LmdbStore(tmp_path)
    row = native(process) + (LAST + 1).to_bytes(8, "big")
    data = store.get("assignments", row)
    assert data is not None
    store.write([("assignments", row, data[: len(data) // 2])], durable=True)
    store.close()
    with place(store=tmp_path) as here:
        before = Count.computed
        for _ in range(2):
            reply = here.get(process, "now")
            assert (reply["status"], "damaged" in reply.text("body")) == (500, True)
            with pytest.raises(Corrupt):
                here.slots.read(process, LAST + 1)
        assert Count.computed - before <= LAST + 1
        assert here.value(process, f"compute={LAST - 1}/count") == LAST
