"""The load and import suites' pure parts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import imports, load
from bench.timing import Cost, Sample, Series


def _series(name: str, wall: float, note: str = "") -> Series:
    return Series(name=name, samples=(Sample(cost=Cost(wall=wall, cpu=0.0, peak=0), note=note),))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Docker engine: a:1 (512 B sent)", 512),
        ("Docker engine: a:1 (1.5 KiB sent)", 1536),
        ("Docker engine: a:1 (96.5 MiB sent)", 101187584),
        ("Docker engine: a:1 (2 GiB sent)", 2 << 30),
        ("Docker engine: a:1 (already there)", 0),
    ],
)
def test_sent_bytes(line: str, expected: int) -> None:
    """The number of bytes in the line that `nnenv build` reports."""
    assert load.sent_bytes([line]) == expected


def _steps(top: float, sent: int) -> dict[str, Series]:
    walls = {load.STORE: 0.5, load.WHOLE: 4.5, load.AGAIN: 0.5, load.TOP: top, load.MODEL: 2.5, load.TAR: 3.0}
    notes = {load.WHOLE: 200_000_000, load.TOP: sent, load.MODEL: 100_000_000, load.TAR: 200_000_000}
    return {step: _series(step, wall, str(notes.get(step, 0))) for step, wall in walls.items()}


def test_a_load_is_compared_with_the_whole_image() -> None:
    """The load's time is without that of the build; each of the three readings of the aim is said."""
    found = load.table(_steps(0.7, 1_000_000))
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows[load.WHOLE] == ("4.50", "4.00", "200", "1.00x", "1.00x", "1.00x")
    assert rows[load.TOP] == ("0.700", "0.200", "1.00", "0.16x", "0.05x", "0.01x")
    assert rows[load.TAR][:2] == ("3.00", "3.00")
    said = [note.rpartition(": ")[2] for note in found.notes[1:]]
    assert said[:2] == ["meets.", "meets."]
    assert said[2].startswith("missed by 1.")


def test_layers_of_others_in_the_engine_are_said() -> None:
    """If the first load did not have to send everything, the ratios flatter nobody in silence."""
    steps = _steps(0.7, 1_000_000)
    assert not any("others" in note for note in load.table(steps).notes)
    shared = {**steps, load.WHOLE: _series(load.WHOLE, 4.5, "150000000")}
    assert any("others" in note for note in load.table(shared).notes)


def test_a_load_that_failed_has_its_reason() -> None:
    """Without samples there are no figures, and no division."""
    found = load.table({step: Series(name=step, absent="failed, see below") for step in load.STEPS})
    assert all(row[-1] == "failed, see below" for row in found.rows)
    assert len(found.notes) == 1


def test_imports_are_compared_with_and_without() -> None:
    """How many times faster, against the aim."""
    inside = {
        name: _series(name, wall)
        for name, wall in (
            (imports.name("numpy", bytecode=True), 0.1),
            (imports.name("numpy", bytecode=False), 0.4),
            (imports.name("onnxruntime", bytecode=True), 0.4),
            (imports.name("onnxruntime", bytecode=False), 0.8),
        )
    }
    rows = imports.table("box", ["numpy", "onnxruntime"], inside, inside).rows
    assert rows[0][:4] == ("numpy", "0.100", "0.400", "4.0x")
    assert rows[0][-1] == ">= 2.5x: meets"
    assert rows[1][-1].startswith(">= 2.5x: missed by 1.2")


@pytest.mark.parametrize("options", [[], ["-X", "pycache_prefix=/nonexistent"]])
def test_the_import_program_says_where_bytecode_was_looked_for(options: list[str]) -> None:
    """So that the suite notices if the two contestants did the same."""
    done = subprocess.run(
        [sys.executable, *options, "-c", imports.program("numpy")], capture_output=True, text=True, check=True
    )
    seconds, _, cached = done.stdout.strip().partition(" ")
    assert float(seconds) > 0
    assert cached.startswith("/nonexistent") == bool(options)
