"""`nnenv verify --eval --report FILE`: the page of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnenv.adapters.files import refusing_writes, write_atomically
from nnenv.spec.lockfile import Lockfile
from nnenv.verify.page import page
from nnenv.verify.report import Report


def place_of(report: Report) -> str:
    """The target, and that its processor was emulated if it was: times say nothing of it then."""
    return f"{report.target} (emulated)" if report.emulated else report.target


def write_page(path: Path, lockfile: Lockfile, reports: Sequence[Report]) -> None:
    """Write the page; NnenvError `not-writable` or as `write_atomically` does where that is not possible."""
    rows = [(place_of(report), one) for report in reports for one in report.evaluations or ()]
    targets = {report.target for report in reports}
    drifts = [
        (f"{target} {one.model}: {step.step}", step.drift)
        for one in lockfile.derivations
        for target in one.targets
        if target in targets
        for step in one.steps
    ]
    project = lockfile.manifest.get("project", {})
    name = project.get("name", "") if isinstance(project, dict) else ""
    with refusing_writes(path):
        write_atomically(path, page(f"{name}: quality and cost", rows, drifts).encode())
