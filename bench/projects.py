"""Lists of packages and locked projects that suites work on."""

from __future__ import annotations

from pathlib import Path

from bench.run import Run
from bench.timing import must

DATA = Path(__file__).with_name("data")


def packages(name: str) -> list[str]:
    """The requirements in `bench/data/packages-NAME.txt`."""
    return (DATA / f"packages-{name}.txt").read_text("utf-8").split()


def locked_project(run: Run, *, wheels: int, debs: int, targets: int) -> Path:
    """A folder with model.toml and a model.lock that fits it, of that size; nothing of it exists anywhere."""
    folder = run.folder("locked")
    script = folder / "make" / "locked_project.py"
    script.parent.mkdir()
    script.write_bytes((run.root / "bench" / "locked_project.py").read_bytes())
    project = folder / "project"
    python = run.nnenv() / "bin" / "python"
    sizes = [str(wheels), str(debs), str(targets)]
    must([python, script, project, *sizes], cwd=folder, environment=run.environment())
    return project
