"""Locking the large list (13 packages, about 171 with what they need) beside its peers: cold, warm, nothing to do.

All ask one index, which replays recordings from loopback; resolving only: no package is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import lockers
from bench.lockers import COLD, NOOP, WARM, Locker, contestant
from bench.projects import locked_project, packages
from bench.replay import Replay, replay
from bench.run import Run
from bench.tables import Aim, Table, comparison
from bench.timing import Contestant, Sample, must

UV: Final = "uv lock"
ONE: Final = "nnenv, one target"
THREE: Final = "nnenv, three targets"
NO_OP: Final = "nnenv lock"
WHEELS, DEBS = 171, 60
"""What the lock of the no-op holds: as many wheels as the list has, and the Debian packages of a small image."""

Maker = Callable[[Run, Replay, Sequence[str]], Callable[[Path], Locker]]

PEERS: Final[tuple[tuple[str, Maker, int | None], ...]] = (
    (UV, lockers.uv_lock, None),
    ("uv pip compile", lockers.uv_compile, None),
    ("pip lock", lockers.pip_lock, 2),
    ("pip-compile", lockers.pip_compile, 1),
    ("poetry lock", lockers.poetry, 1),
    ("pdm lock", lockers.pdm, 1),
)
"""Name, how to make it, turns at most: the slow ones have few."""
SLOW: Final = frozenset({"pip lock", "pip-compile", "poetry lock", "pdm lock"})
"""Left out of a quick run."""


def suite(run: Run) -> Iterator[Table]:
    """Three tables: cold, warm, no-op."""
    wanted = packages("large")
    rounds = run.rounds_or(5)
    with replay(run) as index:
        contestants = [
            ours(run, index, ONE, wanted, lockers.TARGETS[:1]),
            ours(run, index, THREE, wanted, lockers.TARGETS[:3]),
            _no_op(run),
            *(
                _peer(run, index, name, maker, wanted, turns)
                for name, maker, turns in PEERS
                if not (run.quick and name in SLOW)
            ),
        ]
        found = run.race(contestants, scenarios=(COLD, WARM, NOOP), rounds=rounds)
    aims = {
        COLD: {ONE: Aim(at_most=2, of=UV), THREE: Aim(at_most=1.3, of=ONE)},
        WARM: {ONE: Aim(at_most=4, of=UV), THREE: Aim(at_most=1.3, of=ONE)},
        NOOP: {},
    }
    titles = {
        COLD: "Lock of the large list, cold: nothing is cached",
        WARM: "Lock of the large list, warm: a full cache, no lock file",
        NOOP: "Lock of the large list, no-op: the lock file is there, and nothing has changed",
    }
    for scenario, series in found.items():
        here = [one for one in series if one.samples or one.absent not in {"", "-"}]
        yield comparison(
            titles[scenario],
            here,
            against=UV,
            aims=aims[scenario],
            noted="packages",
            notes=_NOTES if scenario == COLD else (),
        )


_NOTES: Final = (
    "packages: different names in the lock; uv lock, poetry and pdm lock for every platform, the others for Linux on"
    " x86-64 and Python 3.11; nnenv with three targets adds Linux on arm64, and Python 3.13.",
    "nnenv here is the Python part of `nnenv lock`: the same session, index client, caches and resolver.",
)


def ours(run: Run, index: Replay, name: str, wanted: Sequence[str], targets: Sequence[str]) -> Contestant:
    """The Python part of `nnenv lock` for some targets."""

    def make(folder: Path) -> Locker:
        return lockers.nnenv(run, index, wanted, targets)(folder)

    return contestant(run, index, name, make)


def _peer(run: Run, index: Replay, name: str, maker: Maker, wanted: Sequence[str], turns: int | None) -> Contestant:
    def make(folder: Path) -> Locker:
        return maker(run, index, wanted)(folder)

    return contestant(run, index, name, make, rounds=turns)


def _no_op(run: Run) -> Contestant:
    """The whole command on a locked project of the list's size."""
    ready: list[Path] = []

    def turn() -> dict[str, Sample]:
        command = run.nnenv() / "bin" / "nnenv"
        if not ready:
            ready.append(locked_project(run, wheels=WHEELS, debs=DEBS, targets=1))
            # The first confirms what the later ones only compare.
            _confirm(run, command, ready[0])
        return {NOOP: _confirm(run, command, ready[0])}

    return Contestant(name=NO_OP, turn=turn)


def _confirm(run: Run, command: Path, project: Path) -> Sample:
    words: list[str | Path] = [command, "lock", "--offline", "--store", project.parent / "store"]
    finished = must(words, cwd=project, environment=run.environment())
    return Sample(cost=finished.cost, note=str(WHEELS))
