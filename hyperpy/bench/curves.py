"""Cost curves: over the store's size, the path's length and the message's size; drawn as PNG."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hyperpy import commitments, path
from hyperpy.bench.measure import cpu, machine
from hyperpy.bench.operations import frame, plain_node
from hyperpy.cache import Batch
from hyperpy.message import Message
from hyperpy.store.lmdb import LmdbStore

Points = list[tuple[int, float]]


def store_size(sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)) -> Points:
    """Return (messages stored, CPU us of one recorded set) as the store grows."""
    found: Points = []
    with tempfile.TemporaryDirectory(prefix="hyperpy-bench-") as folder, plain_node(LmdbStore(Path(folder))) as node:
        assert isinstance(node.store, LmdbStore)
        stored = 0
        for size in sizes:
            while stored < size:
                batch = Batch()
                for _ in range(min(1000, size - stored)):
                    node.cache.put(Message.make({"n": stored, "text": b"some text of a usual length"}), batch)
                    stored += 1
                batch.commit(node.store)
            node.store.flush()
            numbers = iter(range(size << 20, 1 << 60))

            def change(numbers: object = numbers) -> None:
                batch = Batch()
                request = Message.make({"path": b"set", "k": next(numbers)})  # type: ignore[call-overload]
                node.resolver.step(Message.make({"a": 1}), request, frame(node, batch))
                batch.commit(node.store)

            found.append((size, cpu(change, rounds=5, seconds=0.5, settle=node.store.flush)[0]))
    return found


def path_length(lengths: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)) -> Points:
    """Return (steps, CPU us) of paths from text, caches and trail off."""
    found: Points = []
    with plain_node() as node:
        for length in lengths:
            text = "/~message@1.0&a=1" + "".join(f"/set&k{n % 10}=value" for n in range(length))
            here = frame(node)

            def walk(text: str = text, here: object = here) -> None:
                node.resolver.many(path.parse(text), here)  # type: ignore[arg-type]

            found.append((length, cpu(walk, rounds=5, seconds=0.1)[0]))
    return found


def message_size(sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 32, 50, 100, 200)) -> Points:
    """Return (keys, CPU us of the unsigned ID) of fresh messages; above 32 keys the order is another."""
    found: Points = []
    for size in sizes:
        items = {f"key-{n}": n for n in range(size)}
        numbers = iter(range(1 << 60))

        def name(items: dict[str, int] = items, numbers: object = numbers) -> None:
            commitments.unsigned_id(Message.make({**items, "key-0": next(numbers)}))  # type: ignore[call-overload]

        found.append((size, cpu(name, rounds=5, seconds=0.1)[0]))
    return found


def draw(folder: Path) -> list[Path]:
    """Measure and draw all curves into a folder; return the files. Needs the extra ``bench``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, title, label, points in (
        ("store-size", "one recorded step, by messages in the store", "messages stored", store_size()),
        ("path-length", "a path from text, by steps", "steps", path_length()),
        ("message-size", "unsigned ID, by keys", "keys", message_size()),
    ):
        figure, axes = pyplot.subplots(figsize=(6, 3.6), dpi=120)
        axes.plot(*zip(*points, strict=True), marker="o")
        if name == "store-size":
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("CPU microseconds")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        figure.text(0.01, 0.01, machine(), fontsize=6, color="gray")
        figure.tight_layout()
        file = folder / f"{name}.png"
        figure.savefig(file, metadata={"Software": None})
        pyplot.close(figure)
        made.append(file)
    return made
