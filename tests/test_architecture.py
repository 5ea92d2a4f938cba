"""The layers: a file imports only lower rows, or its own folder (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "encoding", "message"),
    ("codecs", "keys", "keys_ans104", "config", "inference"),
    ("commitments", "path", "attest", "verdicts"),
    ("hashpath", "store", "attester", "attested", "confidential"),
    ("sdk", "trail", "cache", "capabilities", "slot_rules", "schedule_rules", "fault_proof", "lua"),
    ("actors", "registry", "dispatch", "watchdog", "metrics", "flights", "privacy", "receipt", "verify"),
    ("resolver", "context", "normalise", "recorder", "reply", "results", "http.wire", "http.client"),
    (
        "settings",
        "storage",
        "maintenance",
        "retention",
        "housekeeping",
        "timers",
        "jobs",
        "slots",
        "accounts",
        "audit",
        "attestation",
        "attestation_batch",
        "attestation_budget",
        "attestation_code",
        "attestation_key",
        "node",
    ),
    ("http.server", "client", "testing", "demo", "bench", "cli", "__main__"),
)
"""Row by row, what a module may import: rows above it in this table, and its own row."""

DEVICES = 4
"""Bundled devices import up to this row."""


def row_of(module: str) -> int | None:
    """Return the row of a module below ``hyperpy`` (``codecs.json``, ``node``), None if unknown."""
    for number, names in enumerate(ROWS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    return 6 if module.startswith("http") else None


def imports(file: Path) -> set[str]:
    """Return the hyperpy modules a file imports when it runs (not under TYPE_CHECKING)."""
    tree = ast.parse(file.read_text("utf-8"))
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped.update(inner for part in node.body for inner in ast.walk(part))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.removeprefix("hyperpy.") for name in found if name.startswith("hyperpy.")}


def faults(file: Path, own: str, top: int) -> list[str]:
    """Return the upward imports of one file."""
    bad = []
    for name in sorted(imports(file)):
        row = row_of(name)
        if row is not None and row > top and name.partition(".")[0] != own.partition(".")[0]:
            bad.append(f"{own} (row {top}) imports {name} (row {row})")
    return bad


def test_imports_point_downwards() -> None:
    bad: list[str] = []
    for file in sorted((ROOT / "hyperpy").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT / "hyperpy").with_suffix("").parts).removesuffix(".__init__")
        if module in ("__init__", "devices"):
            continue
        row = row_of(module)
        assert row is not None, f"{module} has no row: add it to ROWS and to docs/architecture.md"
        bad += faults(file, module, row)
    assert not bad, "\n".join(bad)


def test_devices_stay_low_and_apart() -> None:
    bad: list[str] = []
    for file in sorted((ROOT / "devices").rglob("*.py")):
        own = f"devices.{file.stem}"
        bad += faults(file, own, DEVICES)
        bad += [f"{own} imports {name}" for name in imports(file) if name.startswith("devices.") and name != own]
    assert not bad, "\n".join(bad)


def test_a_planted_upward_import_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "encoding.py"
    planted.write_text("from hyperpy.node import Node\n", "utf-8")
    assert faults(planted, "encoding", 0) == [
        "encoding (row 0) imports node (row 7)",
        "encoding (row 0) imports node.Node (row 7)",
    ]


@pytest.mark.parametrize("file", sorted((ROOT / "hyperpy").rglob("*.py")), ids=lambda f: f.stem)
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 500, "split it: past 500 lines nobody reads it in one sitting"
