"""`nnenv build`: from model.lock to an image, bit for bit; nothing is resolved here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from nnenv.adapters.files import compare_and_swap, stream_atomically
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
from nnenv.image.archive import ImageDocuments, hybrid_tar
from nnenv.image.layers import Layer, read_layer
from nnenv.image.plan import RECIPE, plan_layers
from nnenv.image.tree import collisions
from nnenv.spec.artifact import Artifact
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import LOCK_NAME, ImageLock, LayerLock, Lockfile, TargetLock
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.inputs import read_inputs
from nnenv.workflows.layering import SHARE, LayerMaker
from nnenv.workflows.locking import stale, stale_reasons
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.docker_engine import DockerEngine

ENVIRONMENT: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "LANG": "C.UTF-8",
    "PATH": "/opt/nnenv/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Of every image, under what model.toml adds: hubs stay offline, because everything needed is inside."""

SELF_TEST: Final = ("/opt/nnenv/bin/python3", f"/{SHARE}/harness.py")
"""The image's default command: the standard inference test."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where an image goes."""

    kind: str
    """`docker`, `oci` (one tar) or `dir` (an OCI layout)."""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Output:
        """`docker`, `oci:FILE` or `dir:PATH`; NnenvError `usage` for anything else."""
        kind, _, path = text.partition(":")
        if (kind == "docker" and not path) or (kind in {"oci", "dir"} and path):
            return cls(kind=kind, path=path)
        raise NnenvError(
            "usage",
            f"--output {text!r} is not understood",
            fix=["use docker, oci:FILE or dir:PATH"],
            exit_code=2,
        )


@dataclass(frozen=True, kw_only=True)
class Built:
    """One target's image."""

    target: str
    documents: ImageDocuments
    expected: bool
    """Whether the lock already held this image's digest; False after a first build."""
    delivered: tuple[str, ...] = ()
    """Where it went, one line each."""


def checked_lock(session: Session, *, frozen: bool) -> Lockfile:
    """The lock, which must fit model.toml unless `frozen`; NnenvError `lock-stale`, `lock-missing`, `lock-edited`."""
    lockfile = session.lockfile()
    if not frozen:
        manifest = session.manifest()
        reasons = stale_reasons(manifest, read_inputs(session, manifest), lockfile)
        if reasons:
            raise stale(reasons)
    return lockfile


def chosen_targets(lockfile: Lockfile, names: Sequence[str]) -> tuple[TargetLock, ...]:
    """The targets of those names, all without names; NnenvError `target-unknown`."""
    known = [target.name for target in lockfile.targets]
    for name in names:
        if name not in known:
            raise NnenvError(
                "target-unknown",
                f"{LOCK_NAME} has no target {name}",
                because=[f"it has {', '.join(known)}"],
                fix=["name one of these, or add it to model.toml and run `nnenv lock`"],
            )
    return tuple(target for target in lockfile.targets if not names or target.name in names)


def build_targets(
    session: Session,
    names: Sequence[str],
    outputs: Sequence[Output],
    *,
    frozen: bool = False,
    accept_new_image: bool = False,
) -> list[Built]:
    """Build, deliver, and note in the lock what was built for the first time."""
    built = []
    for target in chosen_targets(checked_lock(session, frozen=frozen), names):
        lockfile = session.lockfile()
        _check_output_count(outputs, names, lockfile)
        _, documents = assemble(session, lockfile, target, accept_new_image=accept_new_image)
        expected = target.image is not None and target.image.manifest == documents.manifest_digest
        if not expected:
            _remember(session, lockfile, target, documents)
        delivered = [_deliver(session, documents, output) for output in outputs or _default_outputs()]
        built.append(
            Built(target=target.name, documents=documents, expected=expected, delivered=tuple(filter(None, delivered)))
        )
    return built


def assemble(
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
    task = session.progress.start(f"build {target.name}", sum(a.size for p in plans for a in p.artifacts) or None)
    try:
        layers = maker.layers(lambda plan: task.advance(sum(artifact.size for artifact in plan.artifacts)))
    finally:
        task.finish()
    _refuse_collisions(session, maker, layers)
    documents = _documents(lockfile, target, layers)
    if target.image is not None and not accept_new_image:
        _insist_on_expected(target, target.image, documents)
    return maker, documents


def read_blob(session: Session) -> Callable[[Layer], Iterator[bytes]]:
    """How outputs read a layer's bytes: from the store, verified."""
    return lambda layer: read_layer(layer, session.store)


def _documents(lockfile: Lockfile, target: TargetLock, layers: tuple[Layer, ...]) -> ImageDocuments:
    architecture = target.platform.removeprefix("linux/")
    config = image_config(
        architecture=architecture,
        created=target.moment,
        layers=[ConfigLayer(diff_id=layer.diff_id, title=layer.title) for layer in layers],
        execution=_execution(lockfile, target),
    )
    manifest = image_manifest(
        config_digest=document_digest(config),
        config_size=len(config),
        layers=[
            ManifestLayer(media_type=layer.media_type, digest=layer.digest, size=layer.size, title=layer.title)
            for layer in layers
        ],
    )
    project = _section(lockfile, "project")
    return ImageDocuments(
        config=config,
        manifest=manifest,
        layers=layers,
        architecture=architecture,
        reference=f"{project['name']}:{project['version']}-{target.name}".replace("+", "_"),
    )


def _execution(lockfile: Lockfile, target: TargetLock) -> Execution:
    image, project = _section(lockfile, "image"), _section(lockfile, "project")
    entrypoint = tuple(cast("list[str]", image.get("entrypoint", [])))
    command = tuple(cast("list[str]", image.get("command", [])))
    labels = {
        "io.nnenv.lock": hashlib.sha256(write_lock(lockfile.for_image(target.name))).hexdigest(),
        "io.nnenv.recipe": str(RECIPE),
        "io.nnenv.target": target.name,
        "org.opencontainers.image.title": str(project["name"]),
        "org.opencontainers.image.version": str(project["version"]),
    }
    if project.get("description"):
        labels["org.opencontainers.image.description"] = str(project["description"])
    return Execution(
        entrypoint=entrypoint,
        command=command or (() if entrypoint else SELF_TEST),
        environment={**ENVIRONMENT, **cast("dict[str, str]", image.get("env", {}))},
        user=str(image.get("user", "65532:65532")),
        working_directory=str(image.get("workdir", "/")),
        labels={**labels, **cast("dict[str, str]", image.get("labels", {}))},
    )


def _section(lockfile: Lockfile, name: str) -> Mapping[str, object]:
    value = lockfile.manifest.get(name, {})
    return value if isinstance(value, Mapping) else {}


def _refuse_collisions(session: Session, maker: LayerMaker, layers: Sequence[Layer]) -> None:
    """No path of two layers may have two meanings; the answer is remembered per set of layers."""
    key = hashlib.sha256(canonical_json([layer.diff_id for layer in layers])).hexdigest()
    if session.store.load("collision-free", key) is not None:
        return
    errors = collisions(maker.trees())
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


def _remember(session: Session, lockfile: Lockfile, target: TargetLock, documents: ImageDocuments) -> None:
    image = ImageLock(
        recipe=RECIPE,
        manifest=documents.manifest_digest,
        config=documents.config_digest,
        layers=tuple(
            LayerLock(title=layer.title, diff_id=layer.diff_id, digest=layer.digest, size=layer.size)
            for layer in documents.layers
        ),
    )
    old = session.lock_bytes()
    compare_and_swap(session.project / LOCK_NAME, write_lock(lockfile.with_image(target.name, image)), old)


def _check_output_count(outputs: Sequence[Output], names: Sequence[str], lockfile: Lockfile) -> None:
    several = len(names or lockfile.targets) > 1
    if several and any(output.path for output in outputs):
        raise NnenvError(
            "usage",
            "one output file cannot hold the images of several targets",
            fix=["name one target with --target"],
            exit_code=2,
        )


def _default_outputs() -> tuple[Output, ...]:
    """The Docker engine when one answers, else nothing: the image stays in the store."""
    from nnenv.adapters.docker_engine import connect

    try:
        connect()
    except NnenvError:
        return ()
    return (Output(kind="docker"),)


def _deliver(session: Session, documents: ImageDocuments, output: Output) -> str:
    blobs = read_blob(session)
    match output.kind:
        case "docker":
            return load_into(session, documents)[1]
        case "oci":
            stream_atomically(Path(output.path), hybrid_tar(documents, blobs))
            return f"{output.path} (one tar: OCI layout and docker load)"
        case _:
            from nnenv.adapters.oci_directory import write_oci_directory

            write_oci_directory(Path(output.path), documents, blobs)
            return f"{output.path} (OCI layout)"


def load_into(session: Session, documents: ImageDocuments) -> tuple[DockerEngine, str]:
    """(the engine, a line on what was sent) with the image loaded."""
    from nnenv.adapters.docker_engine import connect
    from nnenv.adapters.progress import readable_bytes

    engine = connect()
    task = session.progress.start(f"load {documents.reference}", sum(layer.size for layer in documents.layers))
    try:
        _, sent = engine.load(documents, read_blob(session), advance=task.advance)
    finally:
        task.finish()
    how = f"{readable_bytes(sent)} sent" if sent else "already there"
    return engine, f"Docker engine: {documents.reference} ({how})"


def fetch_targets(session: Session, names: Sequence[str], *, frozen: bool) -> tuple[Artifact, ...]:
    """Bring everything the targets need into the store, and read what was there already; the artifacts, each once.

    Raises StoreCorrupt for a damaged entry, which is in quarantine then: a repeat fetches it.
    """
    lockfile = checked_lock(session, frozen=frozen)
    wanted: dict[str, Artifact] = {}
    for target in chosen_targets(lockfile, names):
        artifacts = lockfile.artifacts_of(target)
        fetch_locked(session, artifacts, target.os)
        for artifact in artifacts:
            session.store.path(artifact.sha256)
        wanted.update({artifact.sha256: artifact for artifact in artifacts})
    return tuple(wanted.values())
