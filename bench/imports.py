"""Suite `import`: how long a fresh process in the image takes to import what models need, with and without bytecode.

Without means `-X pycache_prefix` into a folder that is not there: the same image and files, and no bytecode is found.
Each measurement is the first process of a new container with a read-only root, so nothing can be kept from the last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.container import Docker, engine_environment, insist
from bench.image_project import PYTHON, manifest, settle, without_engine
from bench.run import Run
from bench.tables import Table, number, ratio
from bench.timing import Contestant, ContestantFailed, Cost, Sample, Series, Turn, Unavailable, must

IMAGE: Final = "nnenv-bench-import:1-cpu"
PACKAGES: Final = {
    "numpy": "numpy",
    "onnxruntime": "numpy, onnxruntime",
    "scikit-learn": "numpy, scipy, sklearn.linear_model",
}
"""Package -> what is imported."""
AIM: Final = 2.5
"""Times faster with bytecode, at least."""
Runner = Callable[[Sequence[str]], tuple[str, Cost]]
"""Runs a command in the image: what it said, and what it took."""
_IN_SANDBOX: Final = Path(__file__).with_name("in_sandbox.py")


def program(modules: str) -> str:
    """A program that prints the seconds that its imports took, and whether numpy came with its bytecode."""
    return (
        "import time\nbegun = time.perf_counter()\n"
        f"import {modules}\n"
        "print(time.perf_counter() - begun, numpy.__spec__.cached)\n"
    )


def suite(run: Run) -> Iterator[Table]:
    """Seconds of import, inside and as a whole container run."""
    wanted = ["numpy"] if run.quick else list(PACKAGES)
    folder = run.folder("import")
    project, store = folder / "project", folder / "store"
    project.mkdir()
    (project / "model.toml").write_text(manifest("import", packages=wanted, system=[]))
    nnenv = run.nnenv()
    try:
        for word in ("lock", "build"):
            without_engine([nnenv / "bin" / "nnenv", word, "-C", project, "--store", store], project)
        yield from _runners(run, nnenv, project, store, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runners(run: Run, nnenv: Path, project: Path, store: Path, wanted: Sequence[str]) -> Iterator[Table]:
    rounds = run.rounds_or(7)
    try:
        docker = Docker.find()
    except Unavailable as reason:
        run.say(f"no measurement in an engine: {reason}")
    else:
        with docker.clean():
            insist([nnenv / "bin" / "nnenv", "build", "--output", "docker", "-C", project, "--store", store])
            where = "container (`docker run --rm --network none --read-only`)"
            yield _table(where, run, wanted, rounds, lambda argv: _in_docker(docker, argv))
    python = nnenv / "bin" / "python"
    yield _table("sandbox of nnenv", run, wanted, rounds, lambda argv: _in_sandbox(python, project, store, argv))


def _table(where: str, run: Run, wanted: Sequence[str], rounds: int, runner: Runner) -> Table:
    contestants = [
        Contestant(name=name(package, bytecode=bytecode), turn=_turn(runner, package, bytecode=bytecode))
        for package in wanted
        for bytecode in (True, False)
    ]
    found = run.race(contestants, scenarios=("import", "run"), rounds=rounds)
    inside = {one.name: one for one in found["import"]}
    whole = {one.name: one for one in found["run"]}
    return table(where, wanted, inside, whole)


def name(package: str, *, bytecode: bool) -> str:
    """A contestant's name."""
    return f"{package} {'with' if bytecode else 'without'} bytecode"


def table(where: str, wanted: Sequence[str], inside: Mapping[str, Series], whole: Mapping[str, Series]) -> Table:
    """One row a package: with, without, how many times faster, and the aim."""
    rows = []
    for package in wanted:
        with_it, without = (inside[name(package, bytecode=bytecode)] for bytecode in (True, False))
        if not with_it.samples or not without.samples:
            rows.append((PACKAGES[package], *[""] * 5, with_it.absent or without.absent))
            continue
        faster = without.median / with_it.median
        rows.append(
            (
                PACKAGES[package],
                number(with_it.median),
                number(without.median),
                ratio(faster),
                number(whole[with_it.name].median),
                number(whole[without.name].median),
                f">= {AIM:g}x: " + ("meets" if faster >= AIM else f"missed by {ratio(AIM / faster)}"),
            )
        )
    columns = ("imports", "with s", "without s", "faster", "whole run with s", "whole run without s", "aim")
    return Table(title=f"Cold import in the {where}", columns=columns, rows=tuple(rows))


def _turn(runner: Runner, package: str, *, bytecode: bool) -> Turn:
    def turn() -> Mapping[str, Sample]:
        options = [] if bytecode else ["-X", "pycache_prefix=/nonexistent"]
        settle()
        said, cost = runner([PYTHON, *options, "-c", program(PACKAGES[package])])
        seconds, _, cached = said.strip().partition(" ")
        if cached.startswith("/nonexistent") == bytecode:
            raise ContestantFailed(f"numpy's bytecode was looked for at {cached}")
        return {"import": Sample(cost=replace(cost, wall=float(seconds))), "run": Sample(cost=cost)}

    return turn


def _in_docker(docker: Docker, argv: Sequence[str]) -> tuple[str, Cost]:
    isolated = ["run", "--rm", "--network", "none", "--read-only", "--entrypoint", argv[0]]
    command: list[str | Path] = [docker.command, *isolated, IMAGE, *argv[1:]]
    finished = must(command, cwd=Path("/"), environment=engine_environment())
    return finished.out, finished.cost


def _in_sandbox(python: Path, project: Path, store: Path, argv: Sequence[str]) -> tuple[str, Cost]:
    command: list[str | Path] = [python, _IN_SANDBOX, project, store, *argv]
    finished = must(command, cwd=project, environment=engine_environment())
    answer = json.loads(finished.out)
    if answer["exit_code"] != 0:
        raise ContestantFailed(answer["stderr"][-500:])
    return str(answer["stdout"]), replace(finished.cost, wall=float(answer["seconds"]))
