"""Whole processes, measured for real; races, with turns that only pretend."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.timing import Contestant, ContestantFailed, Cost, Sample, Series, Turn, Unavailable, must, race, run_command

ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath)}


def python(program: str, folder: Path, limit: float = 60.0) -> Cost:
    """The cost of a Python program."""
    return must([sys.executable, "-I", "-S", "-c", program], cwd=folder, environment=ENVIRONMENT, limit=limit).cost


def sample(wall: float, note: str = "") -> Sample:
    """A measurement."""
    return Sample(cost=Cost(wall=wall, cpu=wall / 2, peak=1000), note=note)


def series(*walls: float, name: str = "one") -> Series:
    """A contestant's measurements."""
    return Series(name=name, samples=tuple(sample(wall) for wall in walls))


def test_a_command_is_measured(tmp_path: Path) -> None:
    """Exit code, both streams, time and memory of a real process are seen."""
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    finished = run_command([sys.executable, "-c", program], cwd=tmp_path, environment=ENVIRONMENT)
    assert (finished.code, finished.out, finished.err) == (3, "out\n", "err\n")
    assert finished.cost.cpu > 0
    assert finished.cost.wall > 0


def test_children_count(tmp_path: Path) -> None:
    """CPU time and peak memory are those of the descendants too."""
    work = "x = bytearray(150_000_000); sum(range(20_000_000))"
    idle = python("pass", tmp_path)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {work!r}], check=True)"
    parent = python(child, tmp_path)
    assert parent.peak > 150_000_000
    assert parent.cpu > 5 * idle.cpu


def test_the_peak_is_not_that_of_the_bench(tmp_path: Path) -> None:
    """A small command has a small peak, however large the process that measures it is."""
    ballast = bytearray(os.urandom(1 << 20)) * 200
    assert python("pass", tmp_path).peak < 100_000_000
    assert len(ballast) == 200 << 20


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    """Over its limit a command is killed with its children, and that is a failure."""
    program = "import subprocess, time; subprocess.Popen(['sleep', '30']); time.sleep(30)"
    begun = time.monotonic()
    with pytest.raises(ContestantFailed, match="was stopped after"):
        python(program, tmp_path, limit=0.5)
    assert time.monotonic() - begun < 20


def test_a_command_that_is_not_there_fails(tmp_path: Path) -> None:
    """A program that cannot be started is a contestant that failed, with the reason."""
    with pytest.raises(ContestantFailed, match="could not be started: No such file"):
        run_command([tmp_path / "nothing"], cwd=tmp_path, environment=ENVIRONMENT)


def test_a_wrong_exit_code_fails_with_what_was_said(tmp_path: Path) -> None:
    """`must` shows the last lines of a command that fails."""
    with pytest.raises(ContestantFailed, match=r"exited 1\n  it went wrong"):
        python("raise SystemExit('it went wrong')", tmp_path)


def test_statistics_of_a_series() -> None:
    """Median, least and most are of wall times; the peak is the largest; a note is shown once."""
    one = Series(name="a", samples=(sample(3.0, "7"), sample(1.0, "7"), sample(9.0, "8")))
    assert (one.median, one.least, one.most, one.cpu, one.peak, one.note) == (3.0, 1.0, 9.0, 1.5, 1000, "7, 8")


def test_rounds_are_interleaved_in_an_order_that_is_always_the_same() -> None:
    """Everybody has one turn a round; the order differs between rounds, and not between runs."""

    def orders() -> list[tuple[str, ...]]:
        turns: list[str] = []

        def turn(name: str) -> Turn:
            return lambda: (turns.append(name), {"": sample(1.0)})[1]

        names = ("a", "b", "c", "d")
        race([Contestant(name=n, turn=turn(n)) for n in names], scenarios=("",), rounds=6, failed=turns.append)
        return [tuple(turns[at : at + 4]) for at in range(0, len(turns), 4)]

    first = orders()
    assert len(first) == 6
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in first)
    assert len(set(first)) > 1
    assert first == orders()


def test_a_slow_contestant_has_fewer_turns() -> None:
    """`rounds` of a contestant limits its turns."""
    contestants = [
        Contestant(name="slow", turn=lambda: {"": sample(1.0)}, rounds=1),
        Contestant(name="fast", turn=lambda: {"": sample(1.0)}),
    ]
    found = race(contestants, scenarios=("",), rounds=3, failed=print)[""]
    assert [len(one.samples) for one in found] == [1, 3]


def test_who_fails_is_named_and_loses_its_figures() -> None:
    """A contestant that fails in its second turn has no row of figures, and the others go on."""
    seen: list[str] = []

    def turn() -> Mapping[str, Sample]:
        seen.append("turn")
        if len(seen) > 1:
            raise ContestantFailed("a wrong result")
        return {"": sample(1.0)}

    def missing() -> Mapping[str, Sample]:
        raise Unavailable("it is not here")

    failures: list[str] = []
    contestants = [
        Contestant(name="bad", turn=turn),
        Contestant(name="absent", turn=missing),
        Contestant(name="good", turn=lambda: {"": sample(2.0)}),
    ]
    bad, absent, good = race(contestants, scenarios=("",), rounds=3, failed=failures.append)[""]
    assert failures == ["bad: a wrong result"]
    assert (bad.samples, bad.absent) == ((), "failed, see below")
    assert (absent.samples, absent.absent) == ((), "not available: it is not here")
    assert len(good.samples) == 3
    assert len(seen) == 2
