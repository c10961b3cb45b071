"""The image before it exists: which layers, in which order, from which locked artifacts.

Order is stability first, because engines cache by chain (reference/hermetic.md, 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.lockfile import Lockfile, ModelLock, TargetLock

RECIPE: Final = 2
"""Version of the rules that turn a lock into bytes: changes whenever any byte of any image would."""

OWN_LAYER: Final = 8 << 20
"""Bytes from which a wheel gets a layer of its own (design, section 6)."""

LAYER_BUDGET: Final = 60
"""Layers at most by default; Docker refuses somewhere above 111 (reference/hermetic.md, 3.2)."""

_OTHER_LAYERS: Final = 8
"""Layers that are neither a large wheel nor a model."""

_FEW_MODELS: Final = 4
"""Up to so many models leave the wheels' layers as they are."""

MODELS_PREFIX: Final = "opt/nnenv/models"

SHARE: Final = "opt/nnenv/share/nnenv"
"""Where the image keeps the harness, its cases and the lock."""


class LayerKind(StrEnum):
    """What a layer is made of, which decides the procedure that makes it."""

    OS = "os"
    OS_STATE = "os-state"
    INTERPRETER_BYTECODE = "interpreter-bytecode"
    WHEELS = "wheels"
    WHEEL_BYTECODE = "wheel-bytecode"
    MODEL = "model"
    FILES = "files"
    NNENV = "nnenv"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """One layer to make."""

    kind: LayerKind
    title: str
    """Names the layer in the manifest's annotations and in messages."""
    artifacts: tuple[Artifact, ...] = ()
    """What goes in, in order."""
    paths: tuple[str, ...] = ()
    """Of a model: where each of its files lies in the image, without the leading slash."""


def plan_layers(lockfile: Lockfile, target: TargetLock) -> tuple[LayerPlan, ...]:
    """The target's layers, bottom to top; a function of the lock alone."""
    debs, wheels = lockfile.debs_of(target), lockfile.wheels_of(target)
    layers = [
        LayerPlan(kind=LayerKind.OS, title=f"os {target.os}", artifacts=debs),
        LayerPlan(kind=LayerKind.OS_STATE, title="os state", artifacts=debs),
        LayerPlan(kind=LayerKind.INTERPRETER_BYTECODE, title=f"python {target.python} bytecode", artifacts=debs),
        *_wheel_layers(wheels, len(lockfile.models_of(target))),
    ]
    if wheels:
        layers.append(LayerPlan(kind=LayerKind.WHEEL_BYTECODE, title="wheels bytecode", artifacts=wheels))
    for model in lockfile.models_of(target):
        layers.append(
            LayerPlan(
                kind=LayerKind.MODEL,
                title=f"model {model.name} {model.version}",
                artifacts=(lockfile.by_digest[model.file], *(lockfile.by_digest[digest] for _, digest in model.files)),
                paths=tuple(model_files(lockfile, model)),
            )
        )
    if lockfile.files:
        layers.append(LayerPlan(kind=LayerKind.FILES, title="files"))
    layers.append(LayerPlan(kind=LayerKind.NNENV, title="nnenv"))
    return tuple(layers)


def _wheel_layers(wheels: tuple[Artifact, ...], models: int) -> list[LayerPlan]:
    """Large wheels one each, as long as the budget lasts, then the rest together."""
    room = max(0, LAYER_BUDGET - _OTHER_LAYERS - max(models, _FEW_MODELS))
    by_size = sorted((wheel for wheel in wheels if wheel.size >= OWN_LAYER), key=lambda w: (-w.size, w.name))
    alone = sorted(by_size[:room], key=lambda wheel: wheel.name)
    rest = tuple(wheel for wheel in wheels if wheel not in alone)
    layers = [
        LayerPlan(kind=LayerKind.WHEELS, title=f"{wheel.name} {wheel.version}", artifacts=(wheel,)) for wheel in alone
    ]
    if rest:
        layers.append(LayerPlan(kind=LayerKind.WHEELS, title="other wheels", artifacts=rest))
    return layers


def model_path(name: str, artifact: Artifact) -> str:
    """Where a model's file lies in the image, without the leading slash."""
    return f"{MODELS_PREFIX}/{name}/{artifact.filename}"


def model_files(lockfile: Lockfile, model: ModelLock) -> dict[str, Sha256]:
    """Path in the image, without the leading slash -> digest of each of the model's files, the main one first."""
    main = model_path(model.name, lockfile.by_digest[model.file])
    return {main: model.file, **{f"{MODELS_PREFIX}/{model.name}/{path}": digest for path, digest in model.files}}


def site_packages(python: str) -> str:
    """Where wheels of `python` (full version) lie in the image, without the leading slash."""
    return f"opt/nnenv/lib/python{'.'.join(python.split('.')[:2])}/site-packages"


def bytecode_path(source: str, python: str) -> str:
    """Where the interpreter looks for the bytecode of `source` (PEP 3147)."""
    folder, _, name = source.rpartition("/")
    tag = "cpython-" + "".join(python.split(".")[:2])
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


def wants_bytecode(path: str) -> bool:
    """Whether a file gets bytecode in advance: sources, except test suites, which nobody imports in production
    (reference/hermetic.md, 3.4)."""
    return path.endswith(".py") and "/tests/" not in path and "/test/" not in path


LayerKey = tuple[str, tuple[Sha256, ...], str]
"""What decides a layer's bytes besides the recipe: kind, artifacts, and anything else as text."""
