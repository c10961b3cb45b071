"""What suite `gpu` measures, one step a process, with the nnenv of the interpreter that runs it.

    python bench/gpu_trial.py layers STORE PROJECT CORES    the layers of the wheels, made anew
    python bench/gpu_trial.py floor STORE PROJECT CORES     the same wheels inflated, both forms digested by sha256

Each prints one JSON object; `seconds` is the time of the step without Python's own start.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.formats.wheel import read_wheel
from nnenv.formats.zip_gate import ZipMember, inflate
from nnenv.image.plan import LayerKind, LayerPlan, plan_layers
from nnenv.spec.artifact import Artifact
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session

Job = TypeVar("Job")


def main(words: Sequence[str]) -> dict[str, object]:
    """Do the step; what there is to say of it."""
    step, root, project, cores = words
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    # Hashing the wheels first is not what is measured: whoever fetched them did it, and the store noted that.
    store = Store(Path(root), trust_stamps=True)
    session = Session(
        project=Path(project), store=store, progress=SilentProgress(), environment=os.environ, home=Path.home()
    )
    lock = session.lockfile()
    maker = LayerMaker(session, lock, lock.targets[0])
    plans = [plan for plan in plan_layers(lock, lock.targets[0]) if plan.kind is LayerKind.WHEELS]
    maker.elves()  # what the linker's cache needs is no part of the conversion
    for kind in ("layer", "layer-paths"):
        shutil.rmtree(Path(root) / "derived" / kind, ignore_errors=True)
    begun = time.perf_counter()
    size = _layers(maker, plans, int(cores)) if step == "layers" else _floor(store, plans, int(cores))
    return {"seconds": time.perf_counter() - begun, "size": size}


def _layers(maker: LayerMaker, plans: Sequence[LayerPlan], cores: int) -> int:
    """Bytes of the tars."""
    ordered = sorted(plans, key=lambda plan: -sum(artifact.size for artifact in plan.artifacts))
    return _together(lambda plan: maker.layer(plan).diff_size, ordered, cores)


def _floor(store: Store, plans: Sequence[LayerPlan], cores: int) -> int:
    """Bytes inflated."""
    members = []
    for plan in plans:
        for wheel in plan.artifacts:
            with store.open(wheel.sha256) as stream:
                contents = read_wheel(stream, wheel.filename)
            members += [(wheel, member) for member in contents.members]
    members.sort(key=lambda job: -job[1].size)
    return _together(lambda job: _digested(store, *job), members, cores)


def _digested(store: Store, wheel: Artifact, member: ZipMember) -> int:
    """Both forms of one member digested, as a layer's blob and its tar are."""
    raw, blob, size = hashlib.sha256(), hashlib.sha256(), 0
    with store.open(wheel.sha256) as stream:
        for chunk in inflate(stream, member, wheel.filename):
            raw.update(chunk)
            size += len(chunk)
        stream.seek(member.data_offset)
        left = member.compressed_size
        while left:
            data = stream.read(min(left, 1 << 20))
            blob.update(data)
            left -= len(data)
    return size


def _together(work: Callable[[Job], int], jobs: Sequence[Job], cores: int) -> int:
    with ThreadPoolExecutor(cores) as pool:
        return sum(pool.map(work, jobs))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
