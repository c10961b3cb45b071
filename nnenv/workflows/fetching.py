"""Bring locked files into the store, from wherever the user's configuration offers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from nnenv.adapters.files import open_inside
from nnenv.errors import NnenvError, SeveralErrors
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.manifest import Manifest
from nnenv.spec.model_source import MODEL_ORIGINS
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.python_index import PythonIndexes


def fetch_artifacts(session: Session, artifacts: Iterable[Artifact], indexes: PythonIndexes, os: str) -> None:
    """Afterwards the store holds every artifact, verified; what it already holds costs nothing.

    `os` is the target's, `debian:12`: it says which archive the .debs come from.
    Raises NnenvError naming the file, and keeps what was fetched before.
    """
    from nnenv.adapters.fetch import Download, fetch_all

    missing = [artifact for artifact in artifacts if not session.store.contains(artifact.sha256)]
    for artifact in missing:
        if artifact.origin.startswith("file:"):
            _from_project(session, artifact)
    models = [artifact for artifact in missing if artifact.origin.startswith(MODEL_ORIGINS)]
    if models:
        fetch_models(session, models, _manifest(session))
    derived = [artifact for artifact in missing if artifact.origin.startswith("derived:")]
    if derived:
        from nnenv.workflows.rederiving import bring_derived

        bring_derived(session, derived)
    downloads = [
        Download(
            sha256=artifact.sha256,
            size=artifact.size,
            filename=artifact.filename,
            urls=_addresses(session, artifact, indexes, os),
        )
        for artifact in missing
        if not artifact.origin.startswith(("file:", "derived:", *MODEL_ORIGINS))
    ]
    if not downloads:
        return
    try:
        fetch_all(downloads, session.store, session.http, workers=session.workers, progress=session.progress)
    except NnenvError as error:
        raise _with_way_out(error, {artifact.filename: artifact.name for artifact in missing}) from None


def fetch_models(session: Session, artifacts: Iterable[Artifact], manifest: Manifest | None) -> None:
    """Afterwards the store holds every model file from elsewhere among the artifacts. Raises as `fetch_model`."""
    from nnenv.workflows.model_files import fetch_model

    for artifact in artifacts:
        if artifact.origin.startswith(MODEL_ORIGINS) and not session.store.contains(artifact.sha256):
            fetch_model(session, artifact, manifest)


def fetch_locked(session: Session, artifacts: Iterable[Artifact], os: str) -> None:
    """`fetch_artifacts` for a command that resolves nothing: without anything missing it needs no index at all."""
    missing = [artifact for artifact in artifacts if not session.store.contains(artifact.sha256)]
    if missing:
        with session.python_indexes(_manifest(session)) as indexes:
            fetch_artifacts(session, missing, indexes, os)


def _manifest(session: Session) -> Manifest | None:
    """The manifest, for the indexes it binds names to; None if it cannot be read (--frozen without model.toml)."""
    try:
        return session.manifest()
    except NnenvError:
        return None


def _with_way_out(error: NnenvError, names: Mapping[str, str]) -> NnenvError:
    """The same refusals; where a source no longer has a locked file, with how to move to one that it has: archives
    drop a package's old version when they publish a new one."""
    if isinstance(error, SeveralErrors):
        return SeveralErrors([_with_way_out(inner, names) for inner in error.errors])
    name = names.get(error.where or "")
    if error.code != "index-unreachable" or name is None:
        return error
    return NnenvError(
        error.code,
        error.what,
        where=error.where,
        because=error.because,
        fix=[*error.fix, f"if the source has dropped this version: `nnenv lock -P {name}`"],
    )


def _from_project(session: Session, artifact: Artifact) -> None:
    path = artifact.origin.removeprefix("file:")
    try:
        with open_inside(session.project, path) as stream:
            session.store.add(stream, artifact.sha256, artifact.size)
    except NnenvError as error:
        if error.code != "digest-mismatch":
            raise
        raise NnenvError(
            "lock-stale",
            f"{path} has changed since it was locked",
            where=path,
            because=[*error.because],
            fix=["run `nnenv lock`, or restore the file"],
        ) from None


def _addresses(session: Session, artifact: Artifact, indexes: PythonIndexes, os: str) -> Callable[[], list[str]]:
    """The addresses, asked for only when the download begins."""
    if artifact.kind is Kind.WHEEL:
        return partial(_of_wheel, indexes, artifact)
    _, suite, path = artifact.origin.split(":", 2)
    archive = session.debian_archive(os.removeprefix("debian:"), "amd64")
    return lambda: list(archive.locate(path, suite))


def _of_wheel(indexes: PythonIndexes, artifact: Artifact) -> list[str]:
    urls = indexes.locate(artifact)
    if not urls:
        raise NnenvError(
            "index-unreachable",
            f"no configured index offers {artifact.filename} with the locked sha256",
            where=artifact.filename,
            because=[f"locked sha256 {artifact.sha256}"],
            fix=["check pip's index configuration, or lock again with `nnenv lock -P " + artifact.name + "`"],
        )
    return urls
