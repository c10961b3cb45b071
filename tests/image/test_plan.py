"""The plan of an image's layers: order, grouping, budget, and the places of things."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from nnenv.image.plan import (
    LAYER_BUDGET,
    OWN_LAYER,
    LayerKind,
    bytecode_path,
    model_path,
    plan_layers,
    site_packages,
    wants_bytecode,
)
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lockfile import FileLock, Lockfile, ModelLock, TargetLock


def artifact(kind: Kind, name: str, size: int = 1) -> Artifact:
    """A locked file."""
    return Artifact(
        kind=kind,
        name=name,
        version="1",
        filename=f"{name}.file",
        sha256=Sha256(hashlib.sha256(name.encode()).hexdigest()),
        size=size,
        origin="python",
    )


def lock(wheels: list[Artifact], models: int = 1, files: bool = False) -> tuple[Lockfile, TargetLock]:
    """A lock of one target."""
    deb = artifact(Kind.DEB, "libc6")
    made = [artifact(Kind.MODEL, f"model-{number}") for number in range(models)]
    target = TargetLock(
        name="cpu",
        platform="linux/amd64",
        os="debian:12",
        python="3.11.2",
        moment="2025-01-01T00:00:00Z",
        glibc="2.36",
        wheels=tuple(wheel.sha256 for wheel in wheels),
        debs=(deb.sha256,),
        models=tuple(model.name for model in made),
    )
    locked = tuple(ModelLock(name=m.name, version=m.version, format="onnx", file=m.sha256) for m in made)
    application = (FileLock(path="app/x", sha256=deb.sha256, executable=False),) if files else ()
    return Lockfile(
        manifest={},
        releases=(),
        artifacts=(deb, *wheels, *made),
        models=locked,
        targets=(target,),
        files=application,
    ), target


def test_order_is_stability_first() -> None:
    """OS, interpreter, large wheels by name, small ones together, bytecode, models, files, our own last."""
    wheels = [artifact(Kind.WHEEL, name, size) for name, size in (("aa", 1), ("bb", OWN_LAYER), ("cc", OWN_LAYER + 1))]
    layers = plan_layers(*lock(wheels, files=True))
    assert [layer.title for layer in layers] == [
        "os debian:12",
        "os state",
        "python 3.11.2 bytecode",
        "bb 1",
        "cc 1",
        "other wheels",
        "wheels bytecode",
        "model model-0 1",
        "files",
        "nnenv",
    ]
    assert [[a.name for a in layer.artifacts] for layer in layers if layer.kind is LayerKind.WHEELS] == [
        ["bb"],
        ["cc"],
        ["aa"],
    ]


def test_layers_that_would_be_empty_are_not_there() -> None:
    """No wheels, no models, no files."""
    kinds = [layer.kind for layer in plan_layers(*lock([], models=0))]
    assert kinds == [LayerKind.OS, LayerKind.OS_STATE, LayerKind.INTERPRETER_BYTECODE, LayerKind.NNENV]


@pytest.mark.parametrize(("wheels", "models"), [(200, 1), (200, 30), (10, 1), (60, 45)])
def test_the_budget_holds(wheels: int, models: int) -> None:
    """However many large wheels: the largest get layers of their own, and each wheel is in exactly one layer."""
    large = [artifact(Kind.WHEEL, f"w{number:03}", OWN_LAYER + number) for number in range(wheels)]
    layers = plan_layers(*lock(large, models=models, files=True))
    assert len(layers) <= LAYER_BUDGET
    placed = [a for layer in layers if layer.kind is LayerKind.WHEELS for a in layer.artifacts]
    assert sorted(a.name for a in placed) == [a.name for a in large]
    shared = {a.size for layer in layers if layer.title == "other wheels" for a in layer.artifacts}
    alone = {a.size for a in placed} - shared
    assert not shared or min(alone) > max(shared)


def test_the_plan_is_of_this_target_alone() -> None:
    """Another target, or an expected image, changes nothing."""
    lockfile, target = lock([artifact(Kind.WHEEL, "aa")])
    other = replace(lockfile, targets=(target, replace(target, name="zz", wheels=())))
    assert plan_layers(other, target) == plan_layers(lockfile, target)


def test_places() -> None:
    """Models by name, wheels in the virtual environment, bytecode beside its source (PEP 3147)."""
    assert model_path("digits", artifact(Kind.MODEL, "m")) == "opt/nnenv/models/digits/m.file"
    assert site_packages("3.13.5") == "opt/nnenv/lib/python3.13/site-packages"
    assert bytecode_path("usr/lib/python3.11/os.py", "3.11.2") == "usr/lib/python3.11/__pycache__/os.cpython-311.pyc"


def test_which_sources_get_bytecode() -> None:
    """Python sources, without test suites."""
    assert wants_bytecode("a/b.py")
    assert wants_bytecode("a/testing/b.py")
    assert not wants_bytecode("a/b.pyi")
    assert not wants_bytecode("a/tests/b.py")
    assert not wants_bytecode("a/test/b.py")


def test_models_of_equal_bytes_have_a_place_each() -> None:
    """Two models may share a file, which is one artifact; each is found under its own name."""
    lockfile, target = lock([])
    twin = replace(lockfile.models[0], name="twin")
    target = replace(target, models=(*target.models, "twin"))
    lockfile = replace(lockfile, models=(*lockfile.models, twin), targets=(target,))
    paths = [layer.paths[0] for layer in plan_layers(lockfile, target) if layer.kind is LayerKind.MODEL]
    assert paths == ["opt/nnenv/models/model-0/model-0.file", "opt/nnenv/models/twin/model-0.file"]
