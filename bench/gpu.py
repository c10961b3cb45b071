"""Suite `gpu`: ONNX Runtime for CUDA 12: its wheels as layers and as an image, and locks of three targets beside one.

Inflating the wheels and digesting both forms is the least that layers can cost: an image names the digest of each
layer's blob and of its tar. The wheels (2 GB) come from the configured index and go again afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import gpu_image
from bench.run import Run
from bench.tables import Aim, Table, comparison
from bench.timing import Contestant, Sample, must

FLOOR: Final = "inflate and two sha256"
LAYERS: Final = "nnenv's layers"
ONE: Final = "cpu alone"
THREE: Final = "cpu, CUDA 12 and CUDA 13"
_TRIAL: Final = Path(__file__).with_name("gpu_trial.py")
_HEAD: Final = '[project]\nname = "g"\nversion = "1"\n[requires]\npackages = [{}]\n[policy]\nexclude-newer = "{}"\n'
DAY: Final = "2026-11-20T00:00:00Z"
CPU: Final = "[targets.cpu]\n"
CUDA12: Final = '[targets.gpu-cuda12]\ncuda = "12"\n'
CUDA13: Final = '[targets.gpu-cuda13]\ncuda = "13"\n'


def suite(run: Run) -> Iterator[Table]:
    """The conversion on one core and on all, then the locks."""
    folder = run.folder("gpu")
    try:
        store = folder / "store"
        yield from _locks(run, folder, store)
        wanted = '"nvidia-curand-cu12==10.3.10.19"' if run.quick else '"onnxruntime>=1.20"'
        project = _project(folder / "image", wanted, CUDA12)
        for words in (("lock",), ("fetch",)):
            _nnenv(run, store, project, *words)
        for cores in sorted({1, len(os.sched_getaffinity(0))}):
            run.say(f"layers, {cores} cores")
            contestants = [
                Contestant(name=name, turn=_turn(run, step, store, project, str(cores)))
                for name, step in ((FLOOR, "floor"), (LAYERS, "layers"))
            ]
            yield comparison(
                f"Wheels of a CUDA 12 image as layers, {cores} {'core' if cores == 1 else 'cores'}",
                run.race(contestants, rounds=run.rounds_or(3))[""],
                against=FLOOR,
                aims={LAYERS: Aim(at_most=1.5, of=FLOOR)},
                noted="bytes unpacked",
                notes=("Times are without Python's start; the wheels are in the store and in the kernel's memory.",),
            )
        packages = ["nvidia-curand-cu12==10.3.10.19"] if run.quick else ["onnxruntime>=1.20"]
        more = f'[policy]\nexclude-newer = "{DAY}"\n\n{CUDA12}'
        # A store of its own: in the other one the layers are made already.
        yield from gpu_image.tables(run, folder / "peers", folder / "cold", packages, more)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locks(run: Run, folder: Path, store: Path) -> Iterator[Table]:
    """Warm locks from nothing but the store: facts, pages and metadata are known."""
    wanted = '"numpy"' if run.quick else '"onnxruntime>=1.20", "transformers"'
    projects = {
        ONE: _project(folder / "one", wanted, CPU),
        THREE: _project(folder / "three", wanted, CPU + CUDA12 + CUDA13),
    }
    for project in projects.values():
        _nnenv(run, store, project, "lock")
    contestants = [Contestant(name=name, turn=_locking(run, store, project)) for name, project in projects.items()]
    run.say("locks")
    yield comparison(
        "Warm lock of ONNX Runtime and transformers",
        run.race(contestants, rounds=run.rounds_or(5))[""],
        against=ONE,
        aims={THREE: Aim(at_most=1.5, of=ONE)},
        noted="wheels",
        notes=("Index pages, metadata and facts are in the store; model.lock is not there before.",),
    )


def _project(folder: Path, wanted: str, targets: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_HEAD.format(wanted, DAY) + targets)
    return folder


def _nnenv(run: Run, store: Path, project: Path, *words: str) -> Sample:
    command = [run.nnenv() / "bin" / "nnenv", *words, "--store", store, "--json"]
    # With the user's own settings: the wheels come from the index that is configured.
    finished = must(command, cwd=project, environment=dict(os.environ))
    targets = json.loads(finished.out).get("targets", [])
    return Sample(cost=finished.cost, note=str(sum(len(one.get("wheels", ())) for one in targets)))


def _locking(run: Run, store: Path, project: Path) -> Callable[[], Mapping[str, Sample]]:
    def turn() -> Mapping[str, Sample]:
        (project / "model.lock").unlink(missing_ok=True)
        return {"": _nnenv(run, store, project, "lock")}

    return turn


def _turn(run: Run, *words: str | Path) -> Callable[[], Mapping[str, Sample]]:
    def turn() -> Mapping[str, Sample]:
        command = [run.nnenv() / "bin" / "python", _TRIAL, *words]
        finished = must(command, cwd=run.scratch, environment=run.environment())
        said = json.loads(finished.out)
        return {"": Sample(cost=replace(finished.cost, wall=said["seconds"]), note=f"{said['size'] / 1e9:.2f} GB")}

    return turn
