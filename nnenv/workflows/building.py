"""`nnenv build`: from model.lock to an image, bit for bit; nothing is resolved here.

Here: what a build that changes nothing needs, which is little. How an image is made: `assembling`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nnenv import __version__
from nnenv.adapters.files import compare_and_swap, stream_atomically
from nnenv.errors import NnenvError
from nnenv.image.plan import RECIPE, SHARE
from nnenv.spec.artifact import Artifact
from nnenv.spec.digest import Sha256
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import ImageLock, LayerLock, Lockfile, TargetLock
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.inputs import Known, read_inputs
from nnenv.workflows.locking import stale, stale_reasons
from nnenv.workflows.session import Session
from nnenv.workflows.targets import chosen_targets

if TYPE_CHECKING:
    from nnenv.adapters.docker_engine import DockerEngine
    from nnenv.image.archive import ImageDocuments
    from nnenv.workflows.layering import LayerMaker

ENVIRONMENT: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "LANG": "C.UTF-8",
    "PATH": "/opt/nnenv/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Of every image, under what model.toml adds: hubs stay offline, because everything needed is inside."""

_RECORD: Final = "image-2"
"""Kind of the store's records: files and bytes left out, then the objects of the layers."""

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
    reference: str
    """`name:tag`."""
    image: ImageLock
    """As the lock has it now."""
    expected: bool
    """Whether the lock already held this image's digest; False after a first build."""
    delivered: tuple[str, ...] = ()
    """Where it went, one line each."""
    left_out: tuple[int, int] = (0, 0)
    """(files, bytes) of CUDA's wheels that the image does without."""


def checked_lock(session: Session, *, frozen: bool) -> Lockfile:
    """The lock, which must fit model.toml unless `frozen`; NnenvError `lock-stale`, `lock-missing`, `lock-edited`."""
    lockfile = session.lockfile()
    if not frozen:
        manifest = session.manifest()
        reasons = stale_reasons(manifest, read_inputs(session, manifest, Known(lockfile=lockfile)), lockfile)
        if reasons:
            raise stale(reasons)
    session.remember_project()
    return lockfile


def build_targets(
    session: Session,
    names: Sequence[str],
    outputs: Sequence[Output],
    *,
    frozen: bool = False,
    accept_new_image: bool = False,
) -> list[Built]:
    """Build, deliver, and note in the lock what was built for the first time."""
    lockfile = checked_lock(session, frozen=frozen)
    targets = chosen_targets(lockfile, names)
    _check_output_count(outputs, targets)
    built = []
    for target in targets:
        making = _Making(session, lockfile, target, accept_new_image)
        expected = making.image == target.image
        if not expected:
            lockfile = _note(session, lockfile, target, making.image)
        delivered = [making.deliver(output) for output in outputs or _default_outputs()]
        built.append(
            Built(
                target=target.name,
                reference=image_reference(lockfile, target),
                image=making.image,
                expected=expected,
                delivered=tuple(delivered),
                left_out=making.left_out,
            )
        )
    return built


def assemble(
    session: Session, lockfile: Lockfile, target: TargetLock, *, accept_new_image: bool = False
) -> tuple[LayerMaker, ImageDocuments]:
    """The target's image from the store, fetching what is missing; no engine is touched.

    Raises NnenvError `image-mismatch`, naming the layer, if it is not the image that the lock expects.
    """
    from nnenv.workflows.assembling import assembled

    return assembled(session, lockfile, target, accept_new_image=accept_new_image)


def image_reference(lockfile: Lockfile, target: TargetLock) -> str:
    """What engines call the target's image, `name:tag`."""
    project = lockfile.manifest["project"]
    assert isinstance(project, Mapping)
    return f"{project['name']}:{project['version']}-{target.name}".replace("+", "_")


class _Making:
    """One target's image on its way: known from an earlier build, or assembled; documents are made when needed."""

    def __init__(self, session: Session, lockfile: Lockfile, target: TargetLock, accept_new_image: bool) -> None:
        self._session = session
        self._lockfile = lockfile
        self._target = target
        self._accept_new_image = accept_new_image
        self._documents: ImageDocuments | None = None
        self.left_out = (0, 0)
        self.image = self._known() or self._assembled_image()

    def deliver(self, output: Output) -> str:
        """Bring the image there; a line on what was done."""
        if output.kind == "docker":
            return self._load()
        from nnenv.workflows.assembling import read_blob

        match output.kind:
            case "oci":
                from nnenv.image.archive import hybrid_tar

                stream_atomically(Path(output.path), hybrid_tar(self._assembled(), read_blob(self._session)))
                return f"{output.path} (one tar: OCI layout and docker load)"
            case _:
                from nnenv.adapters.oci_directory import write_oci_directory

                write_oci_directory(Path(output.path), self._assembled(), read_blob(self._session))
                return f"{output.path} (OCI layout)"

    def _load(self) -> str:
        from nnenv.adapters.docker_socket import holds_image

        reference = image_reference(self._lockfile, self._target)
        if holds_image(f"sha256:{self.image.config}", reference):
            return _loaded(reference, 0)
        return load_into(self._session, self._assembled())[1]

    def _known(self) -> ImageLock | None:
        """The expected image, if an earlier build made it of the same things and the store still has all of it."""
        image = self._target.image
        if image is None or image.recipe != RECIPE or self._accept_new_image:
            return None
        store = self._session.store
        objects = store.load(_RECORD, self._key(image))
        if objects is None:
            return None
        counts, *names = objects.decode().split()
        if not all(store.contains(Sha256(name)) for name in names):
            return None
        files, _, size = counts.partition("/")
        self.left_out = int(files), int(size)
        fetch_locked(self._session, self._lockfile.artifacts_of(self._target), self._target.os)
        return image

    def _assembled_image(self) -> ImageLock:
        documents = self._assembled()
        image = _image_lock(documents)
        objects = {name: None for layer in documents.layers for name in layer.objects}
        files, size = self.left_out
        self._session.store.save(_RECORD, self._key(image), " ".join((f"{files}/{size}", *objects)).encode())
        return image

    def _assembled(self) -> ImageDocuments:
        if self._documents is None:
            maker, self._documents = assemble(
                self._session, self._lockfile, self._target, accept_new_image=self._accept_new_image
            )
            self.left_out = maker.left_out()
        return self._documents

    def _key(self, image: ImageLock) -> str:
        """A digest over everything that decides the image, and over the image itself."""
        digest = hashlib.sha256(f"{__version__}\n{RECIPE}\n{image.manifest}\n".encode())
        digest.update(write_lock(self._lockfile.for_image(self._target.name)))
        return digest.hexdigest()


def _image_lock(documents: ImageDocuments) -> ImageLock:
    return ImageLock(
        recipe=RECIPE,
        manifest=documents.manifest_digest,
        config=documents.config_digest,
        layers=tuple(
            LayerLock(title=layer.title, diff_id=layer.diff_id, digest=layer.digest, size=layer.size)
            for layer in documents.layers
        ),
    )


def _note(session: Session, lockfile: Lockfile, target: TargetLock, image: ImageLock) -> Lockfile:
    """The lock as it is on the disk, which expects `image` from now on; NnenvError `changed-meanwhile` if somebody
    has locked the target anew since `lockfile` was read."""
    old, current = session.lock_bytes(), session.lockfile()
    if current.target(target.name) is None or current.for_image(target.name) != lockfile.for_image(target.name):
        raise NnenvError(
            "changed-meanwhile",
            f"{LOCK_NAME} changed on disk while nnenv was working",
            where=f"targets.{target.name}",
            because=["the image belongs to the lock that was read; it is in the store, and nothing was noted"],
            fix=["run the command again"],
        )
    noted = current.with_image(target.name, image)
    compare_and_swap(session.project / LOCK_NAME, write_lock(noted), old)
    return noted


def _check_output_count(outputs: Sequence[Output], targets: Sequence[TargetLock]) -> None:
    if len(targets) > 1 and any(output.path for output in outputs):
        raise NnenvError(
            "usage",
            "one output file cannot hold the images of several targets",
            fix=["name one target with --target"],
            exit_code=2,
        )


def _default_outputs() -> tuple[Output, ...]:
    """The Docker engine when one answers, else nothing: the image stays in the store."""
    from nnenv.adapters.docker_socket import answers

    return (Output(kind="docker"),) if answers() else ()


def load_into(session: Session, documents: ImageDocuments) -> tuple[DockerEngine, str]:
    """(the engine, a line on what was sent) with the image loaded."""
    from nnenv.adapters.docker_engine import connect
    from nnenv.workflows.assembling import read_blob

    engine = connect()
    task = session.progress.start(f"load {documents.reference}", sum(layer.size for layer in documents.layers))
    try:
        _, sent = engine.load(documents, read_blob(session), advance=task.advance)
    finally:
        task.finish()
    return engine, _loaded(documents.reference, sent)


def _loaded(reference: str, sent: int) -> str:
    from nnenv.adapters.progress import readable_bytes

    how = f"{readable_bytes(sent)} sent" if sent else "already there"
    return f"Docker engine: {reference} ({how})"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What one target needs, all of it in the store."""

    target: str
    artifacts: tuple[Artifact, ...]
    missing_bytes: int
    """How much of it was not in the store before."""


def fetch_targets(session: Session, names: Sequence[str], *, frozen: bool) -> list[Fetched]:
    """Bring everything the targets need into the store, and read what was there already.

    Raises StoreCorrupt for a damaged entry, which is in quarantine then: a repeat fetches it.
    """
    lockfile = checked_lock(session, frozen=frozen)
    fetched = []
    for target in chosen_targets(lockfile, names):
        artifacts = lockfile.artifacts_of(target)
        missing = sum(one.size for one in artifacts if not session.store.contains(one.sha256))
        fetch_locked(session, artifacts, target.os)
        _read_again(session, target, artifacts)
        fetched.append(Fetched(target=target.name, artifacts=artifacts, missing_bytes=missing))
    return fetched


def _read_again(session: Session, target: TargetLock, artifacts: Sequence[Artifact]) -> None:
    """Hash what was in the store already; what was just fetched is known to be whole."""
    task = session.progress.start(f"check {target.name}", sum(artifact.size for artifact in artifacts))
    try:
        for artifact in artifacts:
            session.store.path(artifact.sha256)
            task.advance(artifact.size)
    finally:
        task.finish()
