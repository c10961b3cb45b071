"""Whole processes, timed: wall, CPU and peak memory, in interleaved rounds.

Each contestant has one turn a round, in an order drawn anew with a fixed seed, so that what else the machine does
falls on all alike. A turn may have several scenarios (cold, then warm, then nothing to do).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
SEED = 3
"""Of the order of turns: any number, but always the same."""
LIMIT = 900.0
"""Seconds until a command counts as hanging."""
_LONG = 2.0
"""Seconds of a turn that whoever watches is told of every time."""


class ContestantFailed(Exception):
    """A contestant did not run, or gave a wrong result: the bench goes on, and exits 1 at its end."""


class Unavailable(Exception):
    """A contestant that this machine cannot have, with the reason: said in its row, and no failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one run of a command took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of user and system time, of the process and the descendants it waited for."""
    peak: int
    """Bytes: the largest resident set of any one process among them (wait4(2), ru_maxrss)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str
    cost: Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One measurement: its cost, and what was produced, to show that contestants did equal work."""

    cost: Cost
    note: str = ""


Turn = Callable[[], Mapping[str, Sample]]
"""One turn of a contestant: prepares, runs, checks; scenario -> sample. Raises ContestantFailed or Unavailable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """Somebody in the race."""

    name: str
    turn: Turn
    rounds: int | None = None
    """Turns at most, for the slow ones; None means as many as there are rounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """All samples of one contestant in one scenario; `absent` says why there are none."""

    name: str
    samples: tuple[Sample, ...] = ()
    absent: str = ""

    @property
    def median(self) -> float:
        """Seconds of wall time."""
        return statistics.median(sample.cost.wall for sample in self.samples)

    @property
    def least(self) -> float:
        """Seconds of the quickest turn."""
        return min(sample.cost.wall for sample in self.samples)

    @property
    def most(self) -> float:
        """Seconds of the slowest turn."""
        return max(sample.cost.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Median seconds of CPU time."""
        return statistics.median(sample.cost.cpu for sample in self.samples)

    @property
    def peak(self) -> int:
        """Bytes: the largest peak of all turns."""
        return max(sample.cost.peak for sample in self.samples)

    @property
    def note(self) -> str:
        """What was produced, each different answer once."""
        return ", ".join(dict.fromkeys(sample.note for sample in self.samples if sample.note))


def run_command(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    limit: float = LIMIT,
) -> Finished:
    """Run a whole process and measure it; ContestantFailed if it cannot be started or takes over `limit` seconds.

    The exit code is the caller's to judge. Output goes to files, so that no pipe slows the command.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(report.fileno()), str(limit), *words],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=[report.fileno()],
        )
        try:
            launcher.wait()
        except BaseException:
            launcher.terminate()
            launcher.wait()
            raise
        facts = json.loads(_text(report.fileno()) or '{"error": "the launcher died"}')
        if "error" in facts:
            raise ContestantFailed(f"{words[0]} could not be started: {facts['error']}")
        if facts["stopped"]:
            raise ContestantFailed(f"`{' '.join(words[:6])}` was stopped after {facts['wall']:.0f} s")
        cost = Cost(wall=facts["wall"], cpu=facts["cpu"], peak=facts["peak"])
        return Finished(code=facts["code"], out=_text(out.fileno()), err=_text(err.fileno()), cost=cost)


def must(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    limit: float = LIMIT,
) -> Finished:
    """The same; ContestantFailed with the last lines of what it said unless the exit code is 0."""
    finished = run_command(command, cwd=cwd, environment=environment, limit=limit)
    if finished.code != 0:
        said = [line[:200] for line in (finished.err.strip() or finished.out.strip()).splitlines()[-12:]]
        words = " ".join(str(word) for word in command[:8])
        raise ContestantFailed("\n  ".join([f"`{words}` exited {finished.code}", *said]))
    return finished


def race(
    contestants: Sequence[Contestant],
    *,
    scenarios: Sequence[str],
    rounds: int,
    failed: Callable[[str], None],
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Series]]:
    """Scenario -> one series a contestant, in the order given. A contestant that fails once is left out from then on,
    and `failed` hears why; one that is not available keeps the reason in its series."""
    taken: dict[tuple[str, str], list[Sample]] = {}
    gone: dict[str, str] = {}
    taken_long: dict[str, bool] = {}
    order = random.Random(SEED)
    for number in range(rounds):
        turns = [c for c in contestants if c.name not in gone and number < (rounds if c.rounds is None else c.rounds)]
        order.shuffle(turns)
        for contestant in turns:
            if number == 0 or taken_long.get(contestant.name, False):
                say(f"round {number + 1} of {rounds}: {contestant.name}")
            begun = time.monotonic()
            try:
                samples = contestant.turn()
                taken_long[contestant.name] = time.monotonic() - begun > _LONG
            except Unavailable as reason:
                gone[contestant.name] = f"not available: {reason}"
                continue
            except ContestantFailed as reason:
                gone[contestant.name] = "failed, see below"
                failed(f"{contestant.name}: {reason}")
                continue
            for scenario, sample in samples.items():
                taken.setdefault((scenario, contestant.name), []).append(sample)
    return {
        scenario: [_series(c.name, taken.get((scenario, c.name), []), gone.get(c.name, "")) for c in contestants]
        for scenario in scenarios
    }


def _series(name: str, samples: list[Sample], gone: str) -> Series:
    # Samples of a contestant that failed later are dropped: a wrong result makes its times worthless.
    if gone or not samples:
        return Series(name=name, absent=gone or "-")
    return Series(name=name, samples=tuple(samples))


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode("utf-8", "replace")
