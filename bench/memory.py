"""Suite `memory`: the peak of lock, build and verify, for models from 10 MB to 10 GB.

The image is onnxruntime and numpy; every size starts from the same store, where all but the model has been fetched and
nothing has been built. Models up to 1 GB run a test case; larger ones are no valid ONNX for any runtime (protobuf stops
at 2 GiB) and are files of zeros that take no room until they are stored.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.container import NO_ENGINE, engine_environment, insist
from bench.image_project import CASE, MODEL, manifest, settle, without_engine
from bench.onnx_file import write_case, write_model
from bench.run import Run
from bench.tables import MEGA, Aim, Table, number
from bench.timing import ContestantFailed, Cost, must

SIZES: Final = (10, 100, 1_000, 10_000)
QUICK_SIZES: Final = (10, 100)
"""MB."""
RUNNABLE: Final = 1_000
"""MB up to which a model is run."""
STEPS: Final = ("lock", "build", "verify")
AIM: Final = Aim(at_most=150, unit="MB")
_SPARE: Final = 8_000
"""MB of disk that stay free."""
_COPIES: Final = 3
"""Of a model on the disk: the file, the object in the store, the tree that the sandbox runs in."""
_OWN_PEAK: Final = Path(__file__).with_name("own_peak.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One command on a project of one size."""

    step: str
    size: int
    """MB of model, or number of wheels."""
    cost: Cost
    """`peak` is that of nnenv itself."""
    children: int
    """Bytes: the peak of the largest child."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A size that there is no room for, and why."""

    size: int
    reason: str


def suite(run: Run) -> Iterator[Table]:
    """Peak memory by command and size."""
    yield table(model_sizes(run))


def table(found: Sequence[Measured | Skipped]) -> Table:
    """One row a command and size."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        if isinstance(one, Skipped):
            rows.append((f"{one.size:,} MB".replace(",", " "), one.reason, *[""] * 5))
            continue
        peak = one.cost.peak / MEGA
        rows.append(
            (
                f"{one.size:,} MB".replace(",", " "),
                one.step,
                number(peak),
                number(one.children / MEGA),
                number(one.cost.wall),
                number(one.cost.cpu),
                AIM.verdict(peak),
            )
        )
    return Table(
        title="Peak memory by size of the model",
        columns=("model", "command", "nnenv MB", "largest child MB", "s", "CPU", "aim for nnenv"),
        rows=tuple(rows),
        left=2,
        notes=(
            "Children are the locked interpreter (bytecode), the check of signatures, and, in verify, the image's own"
            " process, which holds the model.",
            f"Models above {RUNNABLE} MB cannot be run: for them `verify` has to get as far as `closed`.",
        ),
    )


def model_sizes(run: Run) -> list[Measured | Skipped]:
    """Lock, build and verify of each size; measured once a run, whichever suites ask."""
    if run.scratch not in _MEASURED:
        _MEASURED[run.scratch] = list(_by_model(run))
    return _MEASURED[run.scratch]


_MEASURED: dict[Path, list[Measured | Skipped]] = {}


def no_room(size: int, free: int) -> str:
    """Why a model of `size` MB cannot be measured with `free` bytes of disk, or ""."""
    needed = size * _COPIES + _SPARE
    if free >= needed * MEGA:
        return ""
    return f"not measured: needs {needed / 1000:.0f} GB of free disk, there are {free / MEGA / 1000:.0f} GB"


def measured(run: Run, project: Path, store: Path, step: str, size: int, *, status: str = "verified") -> Measured:
    """One command on the project, its own peak apart; ContestantFailed if it fails.

    `status` is what verify has to reach.
    """
    report = run.folder("peak") / "peak.json"
    python = run.nnenv() / "bin" / "python"
    more = ["--runner", "sandbox", "--require", status] if step == "verify" else []
    settle()
    finished = must(
        [python, _OWN_PEAK, report, step, "-C", project, "--store", store, *more],
        cwd=project,
        environment=engine_environment(DOCKER_HOST=NO_ENGINE),
    )
    peaks = json.loads(report.read_text())
    cost = replace(finished.cost, peak=peaks["self"])
    return Measured(step=step, size=size, cost=cost, children=peaks["children"])


def _by_model(run: Run) -> Iterator[Measured | Skipped]:
    fetched = _fetched(run)
    for size in QUICK_SIZES if run.quick else SIZES:
        reason = no_room(size, shutil.disk_usage(run.scratch).free)
        if reason:
            yield Skipped(size=size, reason=reason)
            continue
        run.say(f"a model of {size} MB")
        folder = run.folder("memory")
        try:
            yield from _one_size(run, fetched, folder, size)
        except ContestantFailed as reason_failed:
            run.fail(f"memory, {size} MB: {reason_failed}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fetched(run: Run) -> Path:
    """A store with the files of the image without a model; none of its layers is made."""
    folder = run.folder("fetched")
    project, store = folder / "project", folder / "store"
    project.mkdir()
    (project / "model.toml").write_text(_manifest(""))
    for word in ("lock", "fetch"):
        without_engine([run.nnenv() / "bin" / "nnenv", word, "-C", project, "--store", store], project)
    return store


def _one_size(run: Run, fetched: Path, folder: Path, size: int) -> Iterator[Measured]:
    project, store = folder / "project", folder / "store"
    project.mkdir()
    insist(["cp", "-a", "--reflink=auto", fetched, store])
    runnable = size <= RUNNABLE
    write_model(project / "model.onnx", size, seed=size, sparse=not runnable)
    if runnable:
        write_case(project / "case", size, seed=size)
    (project / "model.toml").write_text(_manifest(MODEL + (CASE if runnable else "")))
    for step in STEPS:
        yield measured(run, project, store, step, size, status="verified" if runnable else "closed")


def _manifest(more: str) -> str:
    return manifest("memory", packages=["numpy", "onnxruntime"], system=[], more=more)
