"""Suite `facts`: what a wheel's libraries need and for which GPUs they have code, read from real wheels of CUDA.

Inflating the libraries is the least that reading them from a wheel can cost; the facts of a library whose bytes are
there uncompressed are measured apart. The wheels come from the configured index and go again afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.container import insist
from bench.run import Run
from bench.tables import MEGA, Aim, Table, comparison, number
from bench.timing import Contestant, Sample, Series, must

WHEELS: Final = (
    ("onnxruntime-gpu", "1.26.0"),
    ("nvidia-cudnn-cu12", "9.10.2.21"),
    ("nvidia-cublas-cu12", "12.9.1.4"),
)
QUICK_WHEELS: Final = (("nvidia-curand-cu12", "10.3.10.19"),)
SECONDS: Final = Aim(at_most=0.5, unit="s")
MEMORY: Final = Aim(at_most=100, unit="MB")
INFLATE: Final = "inflate"
_TRIAL: Final = Path(__file__).with_name("facts_trial.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """The largest library of a wheel, uncompressed, as it was measured."""

    name: str
    size: int
    """Bytes."""
    series: Series
    """Seconds of reading alone, and the peak of the whole process."""
    code: str


def suite(run: Run) -> Iterator[Table]:
    """Wheels from their bytes, then libraries that are inflated already."""
    folder = run.folder("facts")
    libraries = []
    try:
        for name, version in QUICK_WHEELS if run.quick else WHEELS:
            run.say(f"{name} {version}")
            store, path = folder / name, folder / f"{name}.so"
            fetched = _trial(run, "fetch", store, name, version)
            wheel = (store, str(fetched["filename"]), str(fetched["sha256"]))
            size = int(str(_trial(run, "inflate", *wheel)["size"]))
            yield _of_wheel(run, f"{name} {version}", size, wheel)
            extracted = _trial(run, "extract", *wheel, path)
            libraries.append(_of_library(run, extracted, path))
            path.unlink()
            shutil.rmtree(store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield table(libraries)


def table(libraries: list[Library]) -> Table:
    """One row a library: its own time and its process's peak, each with its aim."""
    rows = [
        (
            one.name,
            number(one.size / MEGA),
            number(one.series.median * 1000),
            number(one.series.most * 1000),
            number(one.series.peak / MEGA),
            f"{SECONDS.verdict(one.series.median)}; {MEMORY.verdict(one.series.peak / MEGA)}",
        )
        for one in libraries
    ]
    return Table(
        title="Facts of a library that is inflated already",
        columns=("library", "MB", "ms", "slowest", "peak MB", "aim"),
        rows=tuple(rows),
        notes=(
            "Time without Python's own start; the bytes are in the kernel's memory.",
            "The peak is that of the whole process.",
            *(f"{one.name}: {one.code}." for one in libraries),
        ),
        verdicts=True,
    )


def _of_wheel(run: Run, title: str, size: int, wheel: tuple[Path, str, str]) -> Table:
    contestants = [
        Contestant(name=INFLATE, turn=_turn(run, "inflate", *wheel)),
        Contestant(name="facts", turn=_turn(run, "facts", *wheel)),
        Contestant(name="facts that are shipped", turn=_turn(run, "known", *wheel)),
    ]
    return comparison(
        f"Facts of {title}, {number(size / MEGA)} MB of libraries",
        run.race(contestants, rounds=run.rounds_or(3))[""],
        against=INFLATE,
        aims={"facts": MEMORY},
        noted="result",
        notes=(
            "Inflating is done by one thread.",
            "Times are without Python's start; the peak is that of the whole process.",
        ),
    )


def _of_library(run: Run, extracted: Mapping[str, object], path: Path) -> Library:
    name = str(extracted["name"])
    (series,) = run.race([Contestant(name=name, turn=_turn(run, "library", path))], rounds=run.rounds_or(5))[""]
    return Library(name=name, size=int(str(extracted["size"])), series=series, code=series.note)


def _turn(run: Run, *words: str | Path) -> Callable[[], Mapping[str, Sample]]:
    def turn() -> Mapping[str, Sample]:
        finished = must(
            [run.nnenv() / "bin" / "python", _TRIAL, *words], cwd=run.scratch, environment=run.environment()
        )
        said = json.loads(finished.out)
        return {"": Sample(cost=replace(finished.cost, wall=said.pop("seconds")), note=_told(said))}

    return turn


def _told(said: Mapping[str, object]) -> str:
    """What a step found, as the table says it."""
    if "libraries" in said:
        return f"{said['libraries']} libraries"
    code = said.get("code")
    return ", ".join(map(str, code)) if isinstance(code, list) else ""


def _trial(run: Run, *words: str | Path) -> dict[str, object]:
    said: dict[str, object] = json.loads(insist([run.nnenv() / "bin" / "python", _TRIAL, *words]))
    return said
