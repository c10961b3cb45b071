"""An image from its locked files: layers made or remembered, documents, and the comparison with what is expected."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.formats.oci import (
    ConfigLayer,
    Execution,
    ManifestLayer,
    canonical_json,
    document_digest,
    image_config,
    image_manifest,
)
from nnenv.image.accelerator import CAPABILITIES_LABEL, runtime_environment
from nnenv.image.archive import ImageDocuments
from nnenv.image.layers import Layer, read_layer
from nnenv.image.plan import RECIPE, LayerKind, LayerPlan, plan_layers
from nnenv.image.tree import collisions, disagree
from nnenv.resolve import compat
from nnenv.spec.lockfile import GpuLock, ImageLock, Lockfile, TargetLock
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.building import ENVIRONMENT, SELF_TEST, image_reference
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.layering import BYTECODE, LayerMaker
from nnenv.workflows.session import Session


def assembled(
    session: Session, lockfile: Lockfile, target: TargetLock, *, accept_new_image: bool = False
) -> tuple[LayerMaker, ImageDocuments]:
    """The target's image from the store, fetching what is missing; no engine is touched.

    Raises NnenvError `image-mismatch`, naming the layer, if it is not the image that the lock expects.
    """
    if target.image is not None and target.image.recipe != RECIPE and not accept_new_image:
        raise _other_recipe(target, target.image)
    fetch_locked(session, lockfile.artifacts_of(target), target.os)
    maker = LayerMaker(session, lockfile, target)
    plans = plan_layers(lockfile, target)
    task = session.progress.start(f"build {target.name}", sum(map(_work, plans)) or None)
    try:
        layers = maker.layers(lambda plan: task.advance(_work(plan)))
    finally:
        task.finish()
    _refuse_collisions(session, maker, layers)
    documents = _documents(maker, layers)
    if target.image is not None and not accept_new_image:
        _insist_on_expected(target, target.image, documents)
    return maker, documents


def _work(plan: LayerPlan) -> int:
    """Bytes of artifacts that go into a layer, for the progress bar."""
    return 0 if plan.kind in (LayerKind.OS_STATE, *BYTECODE) else sum(artifact.size for artifact in plan.artifacts)


def read_blob(session: Session) -> Callable[[Layer], Iterator[bytes]]:
    """How outputs read a layer's bytes: from the store, verified."""
    return lambda layer: read_layer(layer, session.store)


def _documents(maker: LayerMaker, layers: tuple[Layer, ...]) -> ImageDocuments:
    lockfile, target = maker.lockfile, maker.target
    architecture = target.platform.removeprefix("linux/")
    config = image_config(
        architecture=architecture,
        created=target.moment,
        layers=[ConfigLayer(diff_id=layer.diff_id, title=layer.title) for layer in layers],
        execution=_execution(maker),
    )
    manifest = image_manifest(
        config_digest=document_digest(config),
        config_size=len(config),
        layers=[
            ManifestLayer(media_type=layer.media_type, digest=layer.digest, size=layer.size, title=layer.title)
            for layer in layers
        ],
    )
    return ImageDocuments(
        config=config,
        manifest=manifest,
        layers=layers,
        architecture=architecture,
        reference=image_reference(lockfile, target),
    )


def _execution(maker: LayerMaker) -> Execution:
    lockfile, target = maker.lockfile, maker.target
    image, project = _section(lockfile, "image"), _section(lockfile, "project")
    entrypoint = tuple(cast("list[str]", image.get("entrypoint", [])))
    command = tuple(cast("list[str]", image.get("command", [])))
    labels = {
        "io.nnenv.lock": hashlib.sha256(maker.lock_copy()).hexdigest(),
        "io.nnenv.recipe": str(RECIPE),
        "io.nnenv.target": target.name,
        "org.opencontainers.image.title": str(project["name"]),
        "org.opencontainers.image.version": str(project["version"]),
    }
    environment = dict(ENVIRONMENT)
    if target.gpu is not None:
        environment |= _gpu_environment(target.gpu)
        labels[CAPABILITIES_LABEL] = ",".join(capability for capability, _ in target.gpu.capabilities)
    if project.get("description"):
        labels["org.opencontainers.image.description"] = str(project["description"])
    return Execution(
        entrypoint=entrypoint,
        command=command or (() if entrypoint else SELF_TEST),
        environment={**environment, **cast("dict[str, str]", image.get("env", {}))},
        user=str(image.get("user", "65532:65532")),
        working_directory=str(image.get("workdir", "/")),
        labels={**labels, **cast("dict[str, str]", image.get("labels", {}))},
    )


def _gpu_environment(gpu: GpuLock) -> dict[str, str]:
    """What the image tells the container runtime: the driver's floor as the CUDA release that it brings."""
    capabilities = [compat.driver_capability(soname) for soname in gpu.driver_sonames]
    return runtime_environment(
        cuda=(compat.newest_cuda(gpu.driver) or "") if gpu.driver else "",
        capabilities=[capability for capability in capabilities if capability],
    )


def _section(lockfile: Lockfile, name: str) -> Mapping[str, object]:
    value = lockfile.manifest.get(name, {})
    return value if isinstance(value, Mapping) else {}


def _refuse_collisions(session: Session, maker: LayerMaker, layers: Sequence[Layer]) -> None:
    """No path of two layers may have two meanings; the answer is remembered per set of layers."""
    key = hashlib.sha256(canonical_json([layer.diff_id for layer in layers])).hexdigest()
    if session.store.load("collision-free", key) is not None:
        return
    errors = collisions(maker.trees()) if disagree(maker.meanings()) else ()
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    session.store.save("collision-free", key, b"")


def _insist_on_expected(target: TargetLock, expected: ImageLock, documents: ImageDocuments) -> None:
    if documents.manifest_digest == expected.manifest:
        return
    because = []
    for number, layer in enumerate(documents.layers):
        before = expected.layers[number] if number < len(expected.layers) else None
        if before is None or before.digest != layer.digest:
            was = f"expected {before.digest}" if before else "expected no such layer"
            because.append(f"layer {number} ({layer.title}): {was}, built {layer.digest}")
    if len(expected.layers) > len(documents.layers):
        because.append(f"expected {len(expected.layers)} layers, built {len(documents.layers)}")
    raise NnenvError(
        "image-mismatch",
        f"target {target.name} does not build to the image that {LOCK_NAME} expects",
        where=f"targets.{target.name}",
        because=because or [f"config: expected {expected.config}, built {documents.config_digest}"],
        fix=[
            "report this: the same lock must give the same image everywhere",
            "`nnenv build --accept-new-image` notes the new digest in the lock",
        ],
    )


def _other_recipe(target: TargetLock, image: ImageLock) -> NnenvError:
    return NnenvError(
        "image-mismatch",
        f"target {target.name} was built by image recipe {image.recipe}; this nnenv knows recipe {RECIPE}",
        where=f"targets.{target.name}",
        fix=["use the nnenv that wrote the lock", "or accept other bytes with `nnenv build --accept-new-image`"],
    )
