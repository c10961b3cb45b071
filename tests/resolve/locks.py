"""Small locks as values: what a test names is there, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.digest import Sha256
from nnenv.spec.lockfile import ImageLock, LayerLock, Lockfile, ModelLock, TargetLock, artifact_order


def digest(text: str) -> Sha256:
    """The sha256 of a text."""
    return Sha256(hashlib.sha256(text.encode()).hexdigest())


def wheel(name: str, version: str = "1.0", *requires: str, size: int = 1000, build: str = "") -> Artifact:
    """A wheel that asks for other wheels; `build` tells files of one version apart."""
    return Artifact(
        kind=Kind.WHEEL,
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256=digest(f"wheel {name} {version} {build}"),
        size=size,
        origin="python",
        requires=requires,
    )


def deb(name: str, version: str = "1", *fields: str, size: int = 100, architecture: str = "amd64") -> Artifact:
    """A Debian package with `Depends: ...` and other fields."""
    return Artifact(
        kind=Kind.DEB,
        name=name,
        version=version,
        filename=f"{name}_{version}_{architecture}.deb",
        sha256=digest(f"deb {name} {version} {architecture}"),
        size=size,
        origin=f"debian:bookworm:pool/{name}.deb",
        architecture=architecture,
        requires=fields,
    )


def model_file(name: str, version: str = "1", size: int = 5000) -> Artifact:
    """A model's file."""
    return Artifact(
        kind=Kind.MODEL,
        name=name,
        version=version,
        filename=f"{name}.onnx",
        sha256=digest(f"model {name} {version}"),
        size=size,
        origin=f"file:{name}.onnx",
    )


def target(
    name: str = "cpu", artifacts: Sequence[Artifact] = (), *, tools: Sequence[Artifact] = (), **more: object
) -> TargetLock:
    """A target of these artifacts."""
    base = TargetLock(
        name=name,
        platform="linux/amd64",
        os="debian:12",
        python="3.11.2",
        moment="2026-01-01T00:00:00Z",
        glibc="2.36",
        models=tuple(a.name for a in artifacts if a.kind is Kind.MODEL),
        wheels=tuple(a.sha256 for a in artifacts if a.kind is Kind.WHEEL),
        debs=tuple(a.sha256 for a in artifacts if a.kind is Kind.DEB),
        tools=tuple(a.sha256 for a in tools),
    )
    return replace(base, **more)  # type: ignore[arg-type]


def lock(
    artifacts: Sequence[Artifact], *targets: TargetLock, packages: Sequence[str] = (), **manifest: object
) -> Lockfile:
    """A lock of the targets, one called cpu if none is given, whose model.toml asks for `packages`."""
    models = [artifact for artifact in artifacts if artifact.kind is Kind.MODEL]
    meaning: Mapping[str, object] = {
        "project": {"name": "p", "version": "1"},
        "requires": {"packages": list(packages)},
        **manifest,
    }
    return Lockfile(
        manifest=meaning,
        releases=(),
        targets=targets or (target("cpu", artifacts),),
        models=tuple(ModelLock(name=m.name, version=m.version, format="onnx", file=m.sha256) for m in models),
        artifacts=tuple(sorted({a.sha256: a for a in artifacts}.values(), key=artifact_order)),
    )


def image(*layers: tuple[str, str, int]) -> ImageLock:
    """A built image of (title, content, size)."""
    locked = tuple(
        LayerLock(title=title, diff_id=digest(content), digest=digest(content), size=size)
        for title, content, size in layers
    )
    return ImageLock(recipe=1, manifest=digest(str(layers)), config=digest(f"config {layers}"), layers=locked)
