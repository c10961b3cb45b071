"""What locking costs against how much there is to lock: packages, and targets; time and memory, with plots."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench import lockers
from bench.lock import ours
from bench.lockers import COLD, TARGETS, WARM, Locker, contestant
from bench.plot import Line, Plot
from bench.projects import packages
from bench.replay import Replay, replay
from bench.run import Run
from bench.tables import MEGA, Table, figures_of, number, ratio
from bench.timing import Contestant, ContestantFailed, Sample, Series, must

LISTS: Final = ("1", "10", "100", "400")
COUNTS: Final = (1, 2, 4, 8)
"""Of targets."""
UV_COMPILE: Final = "uv pip compile"
UV_LOCK: Final = "uv lock"
NNENV: Final = "nnenv"
WHOLE: Final = 'name = "small"\nversion = "1"\n\n[requires]\npackages = ["onnxruntime", "pillow"]\n'
PLATFORMS: Final = (
    ("linux/amd64", "debian:12"),
    ("linux/arm64", "debian:12"),
    ("linux/amd64", "debian:13"),
    ("linux/arm64", "debian:13"),
)


def suite(run: Run) -> Iterator[Table | Plot]:
    """Packages, targets, and the whole of `nnenv lock`."""
    with replay(run) as index:
        yield from _packages(run, index)
        yield from _targets(run, index)
        yield from _whole(run, index)


def _packages(run: Run, index: Replay) -> Iterator[Table | Plot]:
    lists = LISTS[:3] if run.quick else LISTS
    makers: dict[str, Callable[[Sequence[str]], Callable[[Path], Locker]]] = {
        NNENV: lambda wanted: lockers.nnenv(run, index, wanted, TARGETS[:1]),
        UV_COMPILE: lambda wanted: lockers.uv_compile(run, index, wanted),
        UV_LOCK: lambda wanted: lockers.uv_lock(run, index, wanted),
    }
    racers = [
        contestant(run, index, f"{name} {size}", _when_needed(maker, packages(size)))
        for size in lists
        for name, maker in makers.items()
    ]
    found = run.race(racers, scenarios=(COLD, WARM), rounds=run.rounds_or(3))
    names = [(f"list of {size}", [f"{name} {size}" for name in makers]) for size in lists]
    yield _table("Lock against packages, one target", "packages", list(makers), names, found)
    yield _plot("lock-packages", "Lock against packages", "packages locked", list(makers), names, found, _note)


def _targets(run: Run, index: Replay) -> Iterator[Table | Plot]:
    wanted = packages("100" if run.quick else "large")
    counts = COUNTS[:2] if run.quick else COUNTS
    racers = [
        racer
        for count in counts
        for racer in (
            ours(run, index, f"{NNENV} {count}", wanted, TARGETS[:count]),
            Contestant(name=f"{UV_COMPILE} {count}", turn=_uv_each(run, index, wanted, count)),
        )
    ]
    found = run.race(racers, scenarios=(COLD, WARM), rounds=run.rounds_or(3))
    names = [(f"{count} targets", [f"{NNENV} {count}", f"{UV_COMPILE} {count}"]) for count in counts]
    programs = [NNENV, UV_COMPILE]
    yield _table(
        "Lock of the large list against targets", "packages", programs, names, found,
        "uv pip compile is run once a target, with one cache; packages: those of the first target.",
    )  # fmt: skip
    positions = iter(count for count in counts)
    by_row = {row: float(next(positions)) for row, _ in names}
    yield _plot(
        "lock-targets",
        "Lock of the large list against targets",
        "targets",
        programs,
        names,
        found,
        lambda _: None,
        by_row,
    )


def _when_needed(
    maker: Callable[[Sequence[str]], Callable[[Path], Locker]], wanted: Sequence[str]
) -> Callable[[Path], Locker]:
    """A maker that installs its program only in its turn, where a failure is that contestant's."""

    def make(folder: Path) -> Locker:
        return maker(wanted)(folder)

    return make


def _uv_each(run: Run, index: Replay, wanted: Sequence[str], count: int) -> Callable[[], Mapping[str, Sample]]:
    """uv, once a target."""

    def once() -> dict[str, Sample]:
        folder = run.folder("uv")
        try:
            return lockers.several(
                run, folder, [lockers.uv_for(run, index, wanted, folder, t) for t in TARGETS[:count]]
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return lambda: index.undisturbed(once)


def _whole(run: Run, index: Replay) -> Iterator[Table | Plot]:
    """The whole of `nnenv lock` for a small project, Debian's part included, from a warm store without network."""
    counts = COUNTS[:2] if run.quick else COUNTS
    folder = run.folder("whole")
    store = folder / "store"
    command = run.nnenv() / "bin" / "nnenv"
    # Where Debian is comes from the machine's own configuration of apt, the wheels from the replay.
    environment = run.environment(NNENV_INDEX_URL=index.url, NNENV_STORE=str(store))
    projects = {count: _small_project(folder / f"{count}", count) for count in counts}
    try:
        must([command, "lock"], cwd=projects[counts[-1]], environment=environment)
    except ContestantFailed as reason:
        run.say(f"the whole lock is left out: {reason}")
        return
    locked = tomllib.loads((projects[counts[-1]] / "model.lock").read_text("utf-8"))

    def turn(count: int) -> Mapping[str, Sample]:
        project = projects[count]
        (project / "model.lock").unlink(missing_ok=True)
        finished = must([command, "lock", "--offline"], cwd=project, environment=environment)
        lock = tomllib.loads((project / "model.lock").read_text("utf-8"))
        if lock["artifact"] != locked["artifact"] and count == counts[-1]:
            raise ContestantFailed("two locks of one project differ")
        return {"": Sample(cost=finished.cost, note=str(len(lock["artifact"])))}

    racers = [Contestant(name=f"{NNENV} {count}", turn=partial(turn, count)) for count in counts]
    found = run.race(racers, rounds=run.rounds_or(3))
    names = [(f"{count} targets", [f"{NNENV} {count}"]) for count in counts]
    yield _table(
        "The whole of `nnenv lock` against targets", "files", [NNENV], names, found,
        "onnxruntime and pillow on Debian 12 and 13, x86-64 and arm64; signed Debian indexes, wheels and their facts"
        " are in the store, and no network is asked; files: different wheels and Debian packages in the lock.",
    )  # fmt: skip


def _small_project(folder: Path, targets: int) -> Path:
    folder.mkdir(parents=True)
    chosen = [PLATFORMS[number % len(PLATFORMS)] for number in range(targets)]
    tables = [f'\n[targets.t{n}]\nplatform = "{platform}"\nos = "{os}"\n' for n, (platform, os) in enumerate(chosen)]
    (folder / "model.toml").write_text(f"[project]\n{WHOLE}{''.join(tables)}")
    return folder


Rows = Sequence[tuple[str, Sequence[str]]]
"""Heading of a row, and the names of its series, one a program."""


def _table(
    title: str, noted: str, programs: Sequence[str], rows: Rows, found: Mapping[str, Sequence[Series]], note: str = ""
) -> Table:
    """One row a size; for each program and scenario the median, with the ratio to the first row, and the peak."""
    scenarios = list(found)
    series = {(scenario, one.name): one for scenario in scenarios for one in found[scenario]}
    columns = ["", noted]
    for program in programs:
        columns += [*(f"{program} {scenario} s".replace("  ", " ") for scenario in scenarios), f"{program} MB"]
    cells = []
    for heading, names in rows:
        row = [heading, _first_note([series[scenarios[0], name] for name in names])]
        for at, name in enumerate(names):
            for scenario in scenarios:
                row.append(_against(series[scenario, name], series[scenario, rows[0][1][at]]))
            row.append(_peak([series[scenario, name] for scenario in scenarios]))
        cells.append(tuple(row))
    notes = ["In brackets: against the first row.", "MB: peak resident memory."]
    return Table(
        title=title,
        columns=tuple(columns),
        rows=tuple(cells),
        notes=(*notes, *([note] if note else [])),
        figures=tuple({"scenario": s, **figures_of(one)} for s in scenarios for one in found[s]),
    )


def _first_note(series: Sequence[Series]) -> str:
    return next((one.note for one in series if one.note), "?")


def _against(one: Series, first: Series) -> str:
    if not one.samples:
        return one.absent
    if one is first or not first.samples:
        return number(one.median)
    return f"{number(one.median)} ({ratio(one.median / first.median)})"


def _peak(series: Sequence[Series]) -> str:
    peaks = [one.peak for one in series if one.samples]
    return number(max(peaks) / MEGA) if peaks else "-"


def _note(series: Series) -> float | None:
    return float(series.note.split(",")[0]) if series.note else None


def _plot(
    slug: str,
    title: str,
    x: str,
    programs: Sequence[str],
    rows: Rows,
    found: Mapping[str, Sequence[Series]],
    place: Callable[[Series], float | None],
    by_row: Mapping[str, float] | None = None,
) -> Plot:
    """A line for each program and scenario; `place` says where a series stands, else `by_row` where its row does."""
    lines = []
    for at, program in enumerate(programs):
        for dash, (scenario, all_of_it) in enumerate(found.items()):
            series = {one.name: one for one in all_of_it if one.samples}
            points = []
            for heading, names in rows:
                one = series.get(names[at])
                across = (place(one) or (by_row or {}).get(heading)) if one else None
                if one and across:
                    points.append((across, one.median))
            lines.append(Line(name=f"{program}, {scenario}", points=tuple(points), colour=at, dash=dash))
    return Plot(slug=slug, title=title, x=x, y="seconds", lines=tuple(lines))
