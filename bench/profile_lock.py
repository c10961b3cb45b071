"""Where the time of a lock goes: the large list, resolved cold and warm by one sampled process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.lockers import TARGETS
from bench.projects import packages
from bench.replay import Replay, replay
from bench.run import Run
from bench.tables import Table, number
from bench.timing import must

ROWS: Final = 12
"""Of each table; the rest is one row."""


def suite(run: Run) -> Iterator[Table]:
    """CPU time by module and the dearest functions, cold and warm."""
    with replay(run) as index:
        folder = run.folder("profile")
        shutil.copytree(run.root / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__", "data"))
        _sampled(run, index, folder, "first")
        for name, store in (("cold", "second"), ("warm", "second")):
            found = _sampled(run, index, folder, store)
            yield modules_table(f"Where the time of a {name} lock goes (large list, one target)", found)
            yield functions_table(f"The dearest functions of a {name} lock", found)


def modules_table(title: str, found: Mapping[str, Any]) -> Table:
    """CPU seconds by module, of what `bench/sampled.py` reported."""
    return _table(
        title,
        "module",
        found["modules"],
        (
            f"{number(found['wall'])} s of wall time under the sampler; the main thread waited"
            f" {number(found['waited'])} s of it (for the network, the disk, or the interpreter's lock).",
        ),
    )


def functions_table(title: str, found: Mapping[str, Any]) -> Table:
    """CPU seconds by function, of the same."""
    return _table(title, "function", found["functions"], (), whole=sum(found["modules"].values()))


def _table(
    title: str, what: str, spent: Mapping[str, float], notes: tuple[str, ...], whole: float | None = None
) -> Table:
    total = whole if whole is not None else sum(spent.values())
    rows = [(name.rstrip(": "), number(value), f"{value / total:.0%}") for name, value in spent.items()]
    rest = total - sum(list(spent.values())[:ROWS])
    shown = [*rows[:ROWS], ("everything else", number(max(rest, 0)), f"{max(rest, 0) / total:.0%}")]
    return Table(title=title, columns=(what, "CPU s", "share"), rows=tuple(shown), notes=notes)


def _sampled(run: Run, index: Replay, folder: Path, store: str) -> Mapping[str, Any]:
    report = folder / "report.json"
    command: list[str | Path] = [
        run.nnenv() / "bin" / "python", folder / "bench" / "sampled.py", report, folder / "bench" / "resolve_only.py",
        "--index", index.url, "--store", folder / store, "--target", TARGETS[0], *packages("large"),
    ]  # fmt: skip
    must(command, cwd=folder, environment=run.environment())
    found: Mapping[str, Any] = json.loads(report.read_text())
    return found
