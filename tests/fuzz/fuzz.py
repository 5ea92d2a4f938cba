"""Coverage-guided fuzzing of the parsers with atheris, by hand (docs/fuzzing.md).

    pip install 'hyperpy[fuzz]'
    python tests/fuzz/fuzz.py json --seconds 60
    python tests/fuzz/fuzz.py all --seconds 600 --slice 30     # each target for 30 s, in turns

Findings do not stop a run: each is kept once, with its input, in ``--findings``. What an earlier
slice found interesting is kept in ``--corpus`` and is where the next begins. One line of
figures per slice is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["hyperpy", "http_sf"]):
    from tests.fuzz import corpus, targets

MAX_INPUT = 16_384


def main() -> None:
    """Fuzz one target in this process, or all of them in one process each, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=[*targets.TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="how long in all")
    parser.add_argument("--slice", type=int, default=30, help="with 'all': seconds a target has at a time")
    parser.add_argument("--corpus", type=Path, default=Path("/tmp/hyperpy-fuzz/corpus"))
    parser.add_argument("--findings", type=Path, default=Path("/tmp/hyperpy-fuzz/findings"))
    asked = parser.parse_args()
    if asked.target == "all":
        _turns(asked.seconds, asked.slice, ["--corpus", str(asked.corpus), "--findings", str(asked.findings)])
    else:
        _one(asked.target, asked.seconds, asked.corpus / asked.target, asked.findings / asked.target)


def _turns(seconds: int, part: int, rest: list[str]) -> None:
    end = time.monotonic() + seconds
    while True:
        for name in targets.TARGETS:
            left = min(part, int(end - time.monotonic()))
            if left < 2:
                return
            subprocess.run([sys.executable, __file__, name, "--seconds", str(left), *rest], check=False)


def _one(name: str, seconds: int, corpus_folder: Path, findings: Path) -> None:
    for folder in (corpus_folder, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in corpus.seeds(name):
        (corpus_folder / hashlib.sha256(seed).hexdigest()[:32]).write_bytes(seed)
    count, slowest, largest, new = 0, 0.0, 0, 0
    target = targets.TARGETS[name]
    started = time.monotonic()
    end = started + seconds

    def run(data: bytes) -> None:
        nonlocal count, slowest, largest, new
        count += 1
        finding, took = targets.examine(target, data)
        if took > slowest:
            slowest, largest = took, len(data)
        if finding is not None and not (findings / finding.name).exists():
            new += 1
            (findings / finding.name).write_bytes(data)
            (findings / (finding.name + ".txt")).write_text(finding.detail, "utf-8", "backslashreplace")
            print(f"FINDING {name} {finding.name}", flush=True)
        if time.monotonic() > end:
            took_all = time.monotonic() - started
            print(
                f"SLICE target={name} seconds={took_all:.1f} executions={count} slowest_ms={slowest * 1000:.1f} "
                f"slowest_bytes={largest} findings={new}",
                flush=True,
            )
            os._exit(0)  # libFuzzer takes any other way out for a crash

    options = ["-verbosity=0", f"-max_len={MAX_INPUT}", "-timeout=60", "-rss_limit_mb=2048", "-len_control=20"]
    atheris.Setup([sys.argv[0], *options, str(corpus_folder)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
