"""What a change of the lock does to a target's image: which layers stay, and how much a host has to pull.

Where both locks know the layers of the built image, digests decide and sizes are exact. Else the plans of both sides
are compared by what goes into each layer, and sizes are estimated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nnenv.image.plan import LayerKind, LayerPlan, plan_layers
from nnenv.spec.artifact import Artifact
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import Lockfile, TargetLock

_GROWTH: Final[Mapping[LayerKind, float]] = {
    LayerKind.OS: 3.7,
    LayerKind.OS_STATE: 0.02,
    LayerKind.INTERPRETER_BYTECODE: 0.8,
    LayerKind.WHEELS: 1.01,
    LayerKind.WHEEL_BYTECODE: 0.27,
    LayerKind.MODEL: 1.0,
    LayerKind.FILES: 1.0,
}
"""Bytes of a layer for each byte of the files that go in, where no built image tells better: .debs and bytecode are
not compressed, wheels keep their compression (measured on examples/digits, target cpu, in November 2026)."""
_OWN_SIZE: Final = 100_000
"""Bytes of nnenv's own layer, where no built image tells better."""


class LayerMove(StrEnum):
    """What happens to a layer."""

    SHARED = "shared"
    """A host that has the old image has it."""
    REMADE = "re-made"
    """Its counterpart has other bytes."""
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChange:
    """One layer of the new image, or one that only the old one had."""

    title: str
    move: LayerMove
    size: int
    """Bytes of the blob."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDifference:
    """The old image of a target against the new one."""

    layers: tuple[LayerChange, ...]
    """The new image's layers, bottom to top, then those that are gone."""
    exact: bool
    """Whether both images are built and known to their locks; else sizes, and what is shared, are estimates."""
    pull: int
    """Bytes that a host with the old image needs where layers are kept by digest (containerd, Podman, CRI-O)."""
    pull_by_chain: int
    """The same where layers are shared from the bottom up only, as in the classic store of Docker."""

    def count(self, move: LayerMove) -> int:
        """How many layers."""
        return sum(layer.move is move for layer in self.layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    title: str
    identity: str
    """Equal for layers of equal bytes: their digest, or one of what goes in."""
    size: int


def image_difference(
    old: tuple[Lockfile, TargetLock] | None, new: tuple[Lockfile, TargetLock] | None
) -> ImageDifference:
    """What happens to the image from `old` to `new`; None for a target that the lock does not hold."""
    images = [side[1].image for side in (old, new) if side is not None]
    exact = all(image is not None for image in images)
    before = _layers(old, exact, other=new)
    after = _layers(new, exact, other=old)
    held = {layer.identity for layer in before}
    places = {_place(layer.title) for layer in before}
    changes = [LayerChange(title=layer.title, move=_move(layer, held, places), size=layer.size) for layer in after]
    replaced = {_place(layer.title) for layer in after}
    shared = {layer.identity for layer in after}
    changes += [
        LayerChange(title=layer.title, move=LayerMove.GONE, size=layer.size)
        for layer in before
        if layer.identity not in shared and _place(layer.title) not in replaced
    ]
    return ImageDifference(
        layers=tuple(changes),
        exact=exact,
        pull=sum({layer.identity: layer.size for layer in after if layer.identity not in held}.values()),
        pull_by_chain=sum(layer.size for layer in after[_common(before, after) :]),
    )


def _move(layer: _Layer, held: set[str], places: set[str]) -> LayerMove:
    if layer.identity in held:
        return LayerMove.SHARED
    return LayerMove.REMADE if _place(layer.title) in places else LayerMove.NEW


def _common(before: Sequence[_Layer], after: Sequence[_Layer]) -> int:
    """How many layers from the bottom up are the same."""
    count = 0
    while count < min(len(before), len(after)) and before[count].identity == after[count].identity:
        count += 1
    return count


def _place(title: str) -> str:
    """What a layer is for, without versions: `numpy`, `model digits`, `python bytecode`, `os`."""
    words = title.split(" ")
    if words[-1] in {"bytecode", "wheels", "state"}:
        return f"{words[0]} {words[-1]}"
    return " ".join(words[:-1]) or title


# The layers of one side


def _layers(
    side: tuple[Lockfile, TargetLock] | None, exact: bool, *, other: tuple[Lockfile, TargetLock] | None
) -> list[_Layer]:
    if side is None:
        return []
    lockfile, target = side
    if exact and target.image is not None:
        return [_Layer(title=layer.title, identity=layer.digest, size=layer.size) for layer in target.image.layers]
    known = {**_measured(other), **_measured(side)}
    return [
        _Layer(title=plan.title, identity=identity, size=known.get(identity) or _estimate(plan, lockfile))
        for plan in plan_layers(lockfile, target)
        for identity in (_identity(plan, lockfile, target),)
    ]


def _measured(side: tuple[Lockfile, TargetLock] | None) -> dict[str, int]:
    """What goes into a layer -> its size, of a built image whose layers are those of today's plan."""
    if side is None or side[1].image is None:
        return {}
    lockfile, target = side
    plans, layers = plan_layers(lockfile, target), side[1].image.layers
    if [plan.title for plan in plans] != [layer.title for layer in layers]:
        return {}
    return {_identity(plan, lockfile, target): layer.size for plan, layer in zip(plans, layers, strict=True)}


def _identity(plan: LayerPlan, lockfile: Lockfile, target: TargetLock) -> str:
    """A digest of what goes into a layer, as far as the lock tells: equal ones give equal layers."""
    parts = [plan.kind.value, target.python, *(artifact.sha256 for artifact in _going_in(plan, lockfile, target))]
    match plan.kind:
        case LayerKind.OS_STATE:
            image = lockfile.manifest.get("image")
            parts.append(str(image.get("user")) if isinstance(image, Mapping) else "")
        case LayerKind.MODEL:
            parts += plan.paths
        case LayerKind.FILES:
            parts += [f"{file.path} {file.sha256} {file.executable}" for file in lockfile.files]
        case LayerKind.NNENV:
            parts.append(hashlib.sha256(write_lock(lockfile.for_image(target.name))).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _going_in(plan: LayerPlan, lockfile: Lockfile, target: TargetLock) -> list[Artifact]:
    """The artifacts that a layer is made of; of the interpreter's bytecode the interpreter's own packages only."""
    if plan.kind is LayerKind.INTERPRETER_BYTECODE:
        minor = ".".join(target.python.split(".")[:2])
        return [deb for deb in plan.artifacts if f"python{minor}" in deb.name]
    return list(plan.artifacts)


def _estimate(plan: LayerPlan, lockfile: Lockfile) -> int:
    if plan.kind is LayerKind.NNENV:
        return _OWN_SIZE
    files = [lockfile.by_digest[file.sha256] for file in lockfile.files] if plan.kind is LayerKind.FILES else []
    return round(_GROWTH[plan.kind] * sum(artifact.size for artifact in (*plan.artifacts, *files)))
