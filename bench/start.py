"""What starting costs: a version, a lock with nothing to do, a check; beside a bare Python and the peers.

Every command is a console script as pip installs it, with bytecode in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import lockers
from bench.lock import DEBS, WHEELS
from bench.lockers import Locker
from bench.projects import locked_project, packages
from bench.replay import replay
from bench.run import Run
from bench.tables import Aim, Table, comparison
from bench.timing import Contestant, ContestantFailed, Sample, Unavailable, must

PYTHON: Final = "python -c pass"
SMALL: Final = (8, 40)
"""Wheels and Debian packages of a lock for a small model."""

Words = Sequence[str | Path]


def suite(run: Run) -> Iterator[Table]:
    """Two tables: the commands of nnenv against a bare Python, and beside the peers' commands."""
    rounds = run.rounds_or(25, 5)
    large = locked_project(run, wheels=WHEELS, debs=DEBS, targets=1)
    small = locked_project(run, wheels=SMALL[0], debs=SMALL[1], targets=1)
    bare = Path("python")
    racers = [
        _command(run, PYTHON, lambda: ([run.nnenv() / "bin" / bare, "-c", "pass"], run.scratch)),
        _command(run, "nnenv --version", lambda: ([_nnenv(run), "--version"], run.scratch), said="nnenv "),
        *(
            _command(run, f"nnenv {' '.join(words)}, {size}", _on(run, project, words))
            for size, project in (("small", small), ("large", large))
            for words in (("lock",), ("lock", "--check"))
        ),
    ]
    found = run.race(racers, rounds=rounds)[""]
    aims = {one.name: Aim(at_most=7, of=PYTHON) for one in found if one.name.startswith("nnenv lock")}
    yield comparison(
        "Start-up of nnenv",
        found,
        against=PYTHON,
        aims={**aims, "nnenv --version": Aim(at_most=2.5, of=PYTHON)},
        unit="ms",
        notes=(
            f"lock and lock --check with nothing to do; small: {SMALL[0]} wheels and {SMALL[1]} Debian packages,"
            f" large: {WHEELS} and {DEBS}.",
        ),
    )
    if not run.quick:
        yield from _peers(run, rounds)


def _peers(run: Run, rounds: int) -> Iterator[Table]:
    with replay(run) as index:
        wanted = packages("large")
        places = {
            name: _locked(run, maker(run, index, wanted))
            for name, maker in (("uv", lockers.uv_lock), ("poetry", lockers.poetry), ("pdm", lockers.pdm))
            if _there(run, name)
        }
        racers = [
            _command(run, PYTHON, lambda: ([run.nnenv() / "bin" / "python", "-c", "pass"], run.scratch)),
            _peer(run, "uv --version", "uv", places, ("--version",)),
            _peer(run, "uv lock", "uv", places, ("lock", "--no-config", "--default-index", index.url)),
            _peer(
                run, "uv lock --check", "uv", places, ("lock", "--check", "--no-config", "--default-index", index.url)
            ),
            _peer(run, "poetry --version", "poetry", places, ("--version",), rounds=3),
            _peer(run, "poetry check --lock", "poetry", places, ("check", "--lock"), rounds=3),
            _peer(run, "pdm --version", "pdm", places, ("--version",), rounds=3),
            _peer(run, "pdm lock --check", "pdm", places, ("lock", "--check"), rounds=3),
        ]
        found = run.race(racers, rounds=rounds)[""]
    yield comparison("Start-up of the peers, each with the lock of the large list", found, against=PYTHON, unit="ms")


def _there(run: Run, name: str) -> bool:
    try:
        run.peer(name)
    except Unavailable as reason:
        run.say(f"{name}: {reason}")
        return False
    return True


def _nnenv(run: Run) -> Path:
    return run.nnenv() / "bin" / "nnenv"


def _on(run: Run, project: Path, words: Sequence[str]) -> Callable[[], tuple[Words, Path]]:
    return lambda: ([_nnenv(run), *words, "--offline", "--store", project.parent / "store"], project)


def _command(run: Run, name: str, what: Callable[[], tuple[Words, Path]], *, said: str = "") -> Contestant:
    """A contestant that runs one command, once before it counts; `what` makes (command, folder) when it is needed."""
    warm: list[bool] = []

    def turn() -> dict[str, Sample]:
        words, folder = what()
        if not warm:
            must(words, cwd=folder, environment=run.environment())
            warm.append(True)
        finished = must(words, cwd=folder, environment=run.environment())
        if said not in finished.out:
            raise ContestantFailed(f"it said {finished.out[:80]!r}")
        return {"": Sample(cost=finished.cost)}

    return Contestant(name=name, turn=turn)


def _locked(run: Run, make: Callable[[Path], Locker]) -> tuple[Path, dict[str, str]]:
    """A folder that a peer has locked, and the environment it did so in."""
    folder = run.folder("peer")
    locker = make(folder)
    for name, content in locker.inputs.items():
        (folder / name).write_text(content)
    environment = run.environment(HOME=str(folder / "home"), **locker.environment)
    must(locker.command, cwd=folder, environment=environment)
    return folder, environment


def _peer(
    run: Run,
    name: str,
    program: str,
    places: dict[str, tuple[Path, dict[str, str]]],
    words: Sequence[str],
    rounds: int | None = None,
) -> Contestant:
    def turn() -> dict[str, Sample]:
        command = run.peer(program) / "bin" / program
        folder, environment = places[program]
        return {"": Sample(cost=must([command, *words], cwd=folder, environment=environment).cost)}

    return Contestant(name=name, turn=turn, rounds=rounds)
