"""The memory and scaling suites' pure parts, and the program that tells peaks apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import image_scaling, memory
from bench.memory import Measured, Skipped, no_room
from bench.projects import packages
from bench.timing import Cost

ROOT = Path(__file__).parents[2]


def _measured(step: str, size: int, peak: int) -> Measured:
    return Measured(step=step, size=size, cost=Cost(wall=size / 10, cpu=1.0, peak=peak), children=2_000_000)


def test_a_size_needs_room_for_three_copies() -> None:
    """The file, the store's object and the sandbox's tree, and some spare; the reason says both figures."""
    assert no_room(10_000, 38_000_000_000) == ""
    assert no_room(10_000, 37_999_000_000) == "not measured: needs 38 GB of free disk, there are 38 GB"
    assert no_room(10, 1_000_000) == "not measured: needs 8 GB of free disk, there are 0 GB"


def test_peaks_are_held_against_the_aim() -> None:
    """nnenv's own peak counts, its child's does not; a size that was left out has its reason."""
    rows = memory.table([_measured("lock", 10, 140_000_000), _measured("build", 10, 300_000_000), Skipped(
        size=10_000, reason="no room"
    )]).rows  # fmt: skip
    assert rows[0] == ("10 MB", "lock", "140", "2.00", "1.00", "1.00", "<= 150 MB: meets")
    assert rows[1][-1] == "<= 150 MB: missed by 2.0x"
    assert rows[2][:2] == ("10 000 MB", "no room")


def test_scaling_has_a_row_a_size_and_a_line_a_command() -> None:
    """A command that was not measured at a size leaves its cells empty."""
    found = [
        _measured("build", 10, 50_000_000),
        _measured("verify", 10, 60_000_000),
        _measured("build", 100, 1_000_000),
    ]
    table = image_scaling.table("t", "MB", found)
    assert table.columns == ("MB", "build, s", "build, MB", "verify, s", "verify, MB")
    assert table.rows == (("10", "1.00", "50.0", "1.00", "60.0"), ("100", "10.0", "1.00", "", ""))
    seconds, peaks = image_scaling.plots("x", "size, MB", found)
    assert [(line.name, len(line.points)) for line in seconds.lines] == [("build", 2), ("verify", 1)]
    assert peaks.lines[0].points == ((10, 50.0), (100, 1.0))


def test_the_list_of_wheels_is_long_enough() -> None:
    """As many different names as the largest step wants."""
    names = packages("wheels")
    assert len(names) == len(set(names)) == max(image_scaling.WHEELS)


def test_peaks_of_self_and_children_are_apart(tmp_path: Path) -> None:
    """The program runs nnenv, keeps its exit code, and writes both peaks."""
    report = tmp_path / "peak.json"
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "own_peak.py", report, "build", "-C", tmp_path, "--store", tmp_path / "s"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    peaks = json.loads(report.read_text())
    assert peaks["self"] > 5_000_000
    assert peaks.keys() == {"self", "children"}
