"""Suite `image-scaling`: time and memory of build and verify, by size of the model and by number of wheels."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.image_project import manifest, without_engine
from bench.memory import Measured, Skipped, measured, model_sizes
from bench.plot import Line, Plot
from bench.projects import packages
from bench.run import Run
from bench.tables import MEGA, Table, number
from bench.timing import ContestantFailed

WHEELS: Final = (1, 10, 50, 100)
QUICK_WHEELS: Final = (1, 10)
UNCHANGED: Final = "build, nothing changed"


def suite(run: Run) -> Iterator[Table | Plot]:
    """Cost against work, as tables and plots."""
    by_size = [one for one in model_sizes(run) if not isinstance(one, Skipped)]
    yield table("Build and verify by size of the model", "model MB", by_size)
    yield from plots("model", "size of the model, MB", by_size)
    by_wheels = list(_by_wheels(run))
    yield table("Build and verify by number of wheels", "wheels", by_wheels)
    yield from plots("wheels", "number of wheels", by_wheels)


def table(title: str, unit: str, found: Sequence[Measured]) -> Table:
    """One row a size: seconds and MB of each command."""
    steps = list(dict.fromkeys(one.step for one in found))
    known = {(one.step, one.size): one for one in found}
    rows = []
    for size in dict.fromkeys(one.size for one in found):
        cells = []
        for step in steps:
            one = known.get((step, size))
            cells += [number(one.cost.wall), number(one.cost.peak / MEGA)] if one else ["", ""]
        rows.append((f"{size:,}".replace(",", " "), *cells))
    columns = [unit, *(f"{step}, {what}" for step in steps for what in ("s", "MB"))]
    note = "MB are nnenv's own peak, without its children."
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), notes=(note,), left=0)


def plots(slug: str, axis: str, found: Sequence[Measured]) -> Iterator[Plot]:
    """Seconds and memory against work, one line a command."""
    steps = list(dict.fromkeys(one.step for one in found))
    seconds = [Line(name=s, points=tuple((o.size, o.cost.wall) for o in found if o.step == s)) for s in steps]
    memory = [Line(name=s, points=tuple((o.size, o.cost.peak / MEGA) for o in found if o.step == s)) for s in steps]
    title = f"Lock, build, verify against the {axis.partition(',')[0]}"
    yield Plot(slug=f"image-{slug}-seconds", title=title, x=axis, y="seconds", lines=tuple(seconds))
    yield Plot(
        slug=f"image-{slug}-memory", title=f"{title}: memory", x=axis, y="peak memory of nnenv, MB", lines=tuple(memory)
    )


def _by_wheels(run: Run) -> Iterator[Measured]:
    names = packages("wheels")
    for count in QUICK_WHEELS if run.quick else WHEELS:
        run.say(f"{count} wheels")
        folder = run.folder("wheels")
        project, store = folder / "project", folder / "store"
        project.mkdir()
        try:
            # The base is built first: what is measured is what the wheels add.
            for wanted, last in ((names[:0], "build"), (names[:count], "fetch")):
                (project / "model.toml").write_text(manifest("wheels", packages=wanted, system=[]))
                for word in ("lock", last):
                    without_engine([run.nnenv() / "bin" / "nnenv", word, "-C", project, "--store", store], project)
            _insist_on_number(project, count)
            yield measured(run, project, store, "build", count)
            yield replace(measured(run, project, store, "build", count), step=UNCHANGED)
            # Without a framework and a model there is nothing to load or run.
            yield measured(run, project, store, "verify", count, status="closed")
        except ContestantFailed as reason:
            run.fail(f"image-scaling, {count} wheels: {reason}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _insist_on_number(project: Path, count: int) -> None:
    """The list's packages ask for no others: then the number of wheels is the number of names."""
    lock = tomllib.loads((project / "model.lock").read_text())
    found = sum(artifact["kind"] == "wheel" for artifact in lock["artifact"])
    if found != count:
        raise ContestantFailed(f"{found} wheels were locked")
