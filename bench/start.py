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
from bench.timing import Contestant, ContestantFailed, Sample, must

PYTHON: Final = "python -c pass"
SLOW_ROUNDS: Final = 3
"""Turns of commands that take a second."""
SMALL: Final = (8, 40)
"""Wheels and Debian packages of a lock for a small model."""

Words = Sequence[str | Path]


def suite(run: Run) -> Iterator[Table]:
    """Two tables: the commands of nnenv against a bare Python, and beside the peers' commands."""
    rounds = run.rounds_or(25, 5)
    large = locked_project(run, wheels=WHEELS, debs=DEBS, targets=1)
    small = locked_project(run, wheels=SMALL[0], debs=SMALL[1], targets=1)
    racers = [
        _command(run, PYTHON, lambda: ([run.nnenv() / "bin" / "python", "-c", "pass"], run.scratch)),
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
        uv = _Place(run, lambda: lockers.uv_lock(run, index, wanted))
        poetry = _Place(run, lambda: lockers.poetry(run, index, wanted))
        pdm = _Place(run, lambda: lockers.pdm(run, index, wanted))
        racers = [
            _command(run, PYTHON, lambda: ([run.nnenv() / "bin" / "python", "-c", "pass"], run.scratch)),
            _peer("uv --version", uv, ("--version",)),
            _peer("uv lock", uv, ("lock", "--no-config", "--default-index", index.url)),
            _peer("uv lock --check", uv, ("lock", "--check", "--no-config", "--default-index", index.url)),
            _peer("poetry --version", poetry, ("--version",), rounds=SLOW_ROUNDS),
            _peer("poetry check --lock", poetry, ("check", "--lock"), rounds=SLOW_ROUNDS),
            _peer("pdm --version", pdm, ("--version",), rounds=SLOW_ROUNDS),
            _peer("pdm lock --check", pdm, ("lock", "--check"), rounds=SLOW_ROUNDS),
        ]
        found = run.race(racers, rounds=rounds)[""]
    yield comparison("Start-up of the peers, each with the lock of the large list", found, against=PYTHON, unit="ms")


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


class _Place:
    """A folder that a peer has locked; made when it is first wanted, so that a failure is that peer's."""

    def __init__(self, run: Run, make: Callable[[], Callable[[Path], Locker]]) -> None:
        self.run, self.make = run, make
        self.folder = run.folder("peer")
        self.locker: Locker | None = None
        self.environment: dict[str, str] = {}

    def command(self, words: Sequence[str]) -> Sample:
        """Run the peer's program there, measured; locks first if that is not done."""
        if self.locker is None:
            locker = self.make()(self.folder)
            for name, content in locker.inputs.items():
                (self.folder / name).write_text(content)
            self.environment = self.run.environment(HOME=str(self.folder / "home"), **locker.environment)
            must(locker.command, cwd=self.folder, environment=self.environment)
            self.locker = locker
        program = self.locker.command[0]
        return Sample(cost=must([program, *words], cwd=self.folder, environment=self.environment).cost)


def _peer(name: str, place: _Place, words: Sequence[str], rounds: int | None = None) -> Contestant:
    return Contestant(name=name, turn=lambda: {"": place.command(words)}, rounds=rounds)
