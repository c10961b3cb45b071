"""Model files from elsewhere: found once when they are locked, fetched by digest ever after, from any of their places.

Whatever a place says, the bytes are those of the locked sha256, or they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from nnenv.errors import NnenvError
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.manifest import Manifest, ModelSpec
from nnenv.spec.model_source import (
    FileSource,
    GitSource,
    HubSource,
    KaggleSource,
    ModelSource,
    OciSource,
    TorchHubSource,
    WebSource,
    WheelSource,
    ZooSource,
)
from nnenv.workflows.model_places import (
    Got,
    download,
    from_archive,
    from_kaggle,
    from_registry,
    from_torch_hub,
    insist_same,
    manifest_now,
    torch_repository,
)
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.python_index import PythonIndexes

Answer = TypeVar("Answer")

_NEXT_PLACE: Final = frozenset(
    {"model-unreachable", "index-unreachable", "offline", "digest-mismatch", "archive-refused"}
)
"""Refusals of one place that another may make good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """A model file in the store, and what its place said of it."""

    artifact: Artifact
    revision: str
    """What the place's name came to: a commit, or the version of a wheel; empty for an address."""
    licence: str


def find_model(session: Session, spec: ModelSpec, manifest: Manifest) -> FoundModel:
    """The model's file, fetched from the first of its places that gives it.

    Raises NnenvError `model-unreachable` if none does, `digest-mismatch` if what came is not what model.toml declares.
    """
    with _asking(session, manifest) as asking:
        return _first(spec.name, spec.places, lambda place: asking.found(spec, place))


def fetch_model(session: Session, artifact: Artifact, manifest: Manifest | None) -> None:
    """Bring a locked model file into the store, from the first of its places that has these very bytes.

    Raises NnenvError `model-unreachable`, or what the last place said; `manifest` names the places.
    """
    spec = next((model for model in manifest.models if model.name == artifact.name), None) if manifest else None
    if manifest is None or spec is None:
        raise NnenvError(
            "model-unreachable",
            f"the store does not hold {artifact.filename}, and no model.toml says where it is",
            where=artifact.filename,
            because=[f"locked is sha256 {artifact.sha256}; addresses are in model.toml alone"],
            fix=["run it where model.toml is, or fetch into the store there (`nnenv fetch`)"],
        )
    with _asking(session, manifest) as asking:
        _first(spec.name, spec.places, lambda place: asking.bring(place, artifact))


def name_now(session: Session, spec: ModelSpec, manifest: Manifest) -> str:
    """What the name of the model's first place that answers comes to now: commit, version or `sha256:` digest.

    Empty for a place whose name does not move, or that only its bytes could tell. Nothing is fetched. Raises NnenvError
    `model-unreachable`, `index-unreachable` or `offline`.
    """
    with _asking(session, manifest) as asking:
        return _first(spec.name, spec.places, asking.now)


def _first(name: str, places: Sequence[ModelSource], attempt: Callable[[ModelSource], Answer]) -> Answer:
    """What the first place gives that gives anything."""
    refusals: list[NnenvError] = []
    for place in places:
        try:
            return attempt(place)
        except NnenvError as error:
            if error.code not in _NEXT_PLACE:
                raise
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    raise NnenvError(
        refusals[-1].code if len({error.code for error in refusals}) == 1 else "model-unreachable",
        f"none of the {len(places)} places of model {name} gives its file",
        where=f"models.{name}.sources",
        because=[f"{error.what}: {'; '.join(error.because)}" if error.because else error.what for error in refusals],
        fix=["correct or add a place in model.toml"],
    )


@contextmanager
def _asking(session: Session, manifest: Manifest) -> Iterator[_Asking]:
    with session.python_indexes(manifest) as indexes:
        yield _Asking(session, indexes)


class _Asking:
    """Asks places; one for a command."""

    def __init__(self, session: Session, indexes: PythonIndexes) -> None:
        self._session = session
        self._indexes = indexes

    def found(self, spec: ModelSpec, place: ModelSource) -> FoundModel:
        """What a place has now, in the store."""
        match place:
            case WebSource():
                sha256, size = self._download([place.url], spec.sha256, None, place.filename)
                return self._model(spec, place.filename, sha256, size, place.identity)
            case HubSource():
                hub = self._session.model_hub()
                file = hub.find(place)
                self._insist(spec, file.sha256, place)
                sha256, size = self._from_hub(place, file.commit, file.sha256 or spec.sha256, file.size)
                origin = f"hf:{place.repository}@{file.commit}:{place.path}"
                return self._model(spec, place.filename, sha256, size, origin, file.commit, file.licence)
            case WheelSource():
                sha256, size, version = self._from_wheel(place, place.specifier)
                origin = f"pypi:{place.distribution}=={version}/{place.path}"
                return self._model(spec, place.filename, sha256, size, origin, version)
            case GitSource():
                sha256, size, commit = self._from_git(place, place.revision)
                return self._model(spec, place.filename, sha256, size, place.at(commit), commit)
            case OciSource():
                return self._got(spec, from_registry(self._session, place, place.reference, spec.sha256))
            case TorchHubSource():
                return self._got(spec, from_torch_hub(self._session, place, place.revision, spec.sha256))
            case KaggleSource():
                return self._got(spec, from_kaggle(self._session, place))
            case ZooSource():
                return self._got(spec, from_archive(self._session, place))
            case FileSource():
                raise AssertionError("files of the project are read by `inputs`")

    def now(self, place: ModelSource) -> str:
        """See `name_now`."""
        match place:
            case HubSource():
                return self._session.model_hub().find(place).commit
            case WheelSource():
                return self._versions(place, place.specifier)[0][1]
            case GitSource():
                return self._commit_now(place)
            case OciSource():
                return manifest_now(self._session, place)
            case TorchHubSource():
                return self._commit_now(torch_repository(self._session, place, place.revision))
            case _:
                return ""

    def bring(self, place: ModelSource, artifact: Artifact) -> None:
        """Fetch the locked bytes from a place; for one whose names move, from what the lock says it came to."""
        expected, size = artifact.sha256, artifact.size
        match place:
            case WebSource():
                self._download([place.url], expected, size, artifact.filename)
            case HubSource():
                commit = _locked(artifact.origin, f"hf:{place.repository}@", f":{place.path}")
                if commit is None:
                    commit = self._session.model_hub().find(place).commit
                self._from_hub(place, commit, expected, size)
            case WheelSource():
                version = _locked(artifact.origin, f"pypi:{place.distribution}==", f"/{place.path}")
                got, _, _ = self._from_wheel(place, f"=={version}" if version else place.specifier)
                insist_same(got, expected, place.identity)
            case GitSource():
                before, behind = place.at("@").split("@@")
                commit = _locked(artifact.origin, f"{before}@", behind) or place.revision
                got, _, _ = self._from_git(place, commit)
                insist_same(got, expected, place.identity)
            case OciSource():
                before, behind = place.at("@").split("@@")
                reference = _locked(artifact.origin, f"{before}@", behind) or place.reference
                insist_same(from_registry(self._session, place, reference, expected).sha256, expected, place.shown)
            case TorchHubSource():
                before, behind = place.at("@").split("@@")
                commit = _locked(artifact.origin, f"{before}@", behind) or place.revision
                insist_same(from_torch_hub(self._session, place, commit, expected).sha256, expected, place.identity)
            case KaggleSource():
                insist_same(from_kaggle(self._session, place, artifact.origin).sha256, expected, place.identity)
            case ZooSource():
                insist_same(from_archive(self._session, place, artifact.origin).sha256, expected, place.identity)
            case FileSource():
                raise NnenvError("model-unreachable", f"{place.path} is a file of the project")

    def _got(self, spec: ModelSpec, got: Got) -> FoundModel:
        return self._model(spec, got.filename, got.sha256, got.size, got.origin, got.revision, got.licence)

    def _model(
        self,
        spec: ModelSpec,
        filename: str,
        sha256: Sha256,
        size: int,
        origin: str,
        revision: str = "",
        licence: str = "",
    ) -> FoundModel:
        self._insist(spec, sha256, origin)
        artifact = Artifact(
            kind=Kind.MODEL,
            name=spec.name,
            version=spec.version,
            filename=filename,
            sha256=sha256,
            size=size,
            origin=origin,
        )
        return FoundModel(artifact=artifact, revision=revision, licence=licence)

    @staticmethod
    def _insist(spec: ModelSpec, sha256: Sha256 | None, place: ModelSource | str) -> None:
        if spec.sha256 and sha256 is not None:
            insist_same(sha256, spec.sha256, place if isinstance(place, str) else place.identity)

    def _from_hub(self, place: HubSource, commit: str, expected: Sha256 | None, size: int | None) -> tuple[Sha256, int]:
        from nnenv.adapters.http import host_of

        hub = self._session.model_hub()
        url = hub.address(place, commit)
        token = hub.token()
        if token:
            self._session.http.credentials[host_of(url)] = f"Bearer {token}"
        return self._download([url], expected, size, place.filename)

    def _download(
        self, urls: Sequence[str], expected: Sha256 | None, size: int | None, filename: str
    ) -> tuple[Sha256, int]:
        return download(self._session, urls, expected, size, filename)

    def _commit_now(self, place: GitSource) -> str:
        from nnenv.adapters.git_files import commit_now
        from nnenv.adapters.http import certificates

        session = self._session
        if session.offline:
            what = f"--offline forbids to ask {place.shown}"
            raise NnenvError("offline", what, where=place.shown, fix=["run the command once without --offline"])
        with session.store.scratch() as scratch:
            return commit_now(place, scratch, session.environment, certificates(session.environment))

    def _from_git(self, place: GitSource, revision: str) -> tuple[Sha256, int, str]:
        """(sha256, size, commit)."""
        from nnenv.adapters.git_files import git_file
        from nnenv.adapters.http import certificates

        session = self._session
        if session.offline:
            what = f"--offline forbids to fetch {place.shown}"
            raise NnenvError("offline", what, where=place.shown, fix=["run the command once without --offline"])
        task = session.progress.start(f"fetch {place.filename}")
        try:
            with (
                session.store.scratch() as scratch,
                git_file(place, revision, scratch, session.environment, certificates(session.environment)) as file,
                session.store.writer() as writer,
            ):
                with file.content() as stream:
                    while chunk := stream.read(1 << 20):
                        writer.write(chunk)
                        task.advance(len(chunk))
                sha256, size = writer.commit()
                return sha256, size, file.commit
        finally:
            task.finish()

    def _from_wheel(self, place: WheelSource, specifier: str) -> tuple[Sha256, int, str]:
        """(sha256, size, version) of a member of the newest wheel in range that holds it, checked by its RECORD."""
        from nnenv.formats.wheel import check_digest, hasher, read_wheel
        from nnenv.formats.zip_gate import inflate

        project = self._indexes.project(place.distribution)
        newest, version = self._versions(place, specifier)[0]
        # A model is the same on every platform: of one version the first file by name, one for any platform before.
        records = [one for one in project.wheels_of(newest) if not one.yanked or specifier.startswith("==")]
        if not records:
            raise _no_member(place, f"{place.distribution} {version} is yanked")
        record = min(records, key=lambda one: (not one.filename.endswith("-none-any.whl"), one.filename))
        wheel = self._indexes.identify(record)
        sha256 = Sha256(wheel.sha256)
        if not self._session.store.contains(sha256):
            artifact = Artifact(
                kind=Kind.WHEEL, name=wheel.project, version=wheel.version, filename=wheel.filename, sha256=sha256,
                size=wheel.size or 0, origin=wheel.origin,
            )  # fmt: skip
            self._download(self._indexes.locate(artifact), sha256, wheel.size, wheel.filename)
        with self._session.store.open(sha256) as stream:
            contents = read_wheel(stream, wheel.filename)
            member = next((one for one in contents.members if one.name == place.path), None)
            if member is None:
                raise _no_member(place, f"{wheel.filename} has no such member")
            row = contents.record[member.name]
            digest = hasher(row)
            with self._session.store.writer() as writer:
                for chunk in inflate(stream, member, wheel.filename):
                    if digest:
                        digest.update(chunk)
                    writer.write(chunk)
                check_digest(wheel.filename, member.name, row, digest)
                found, size = writer.commit()
        return found, size, version

    def _versions(self, place: WheelSource, specifier: str) -> list[tuple[str, str]]:
        """(as the index spells it, normalised) of the versions in range, newest first; at least one."""
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        wanted = SpecifierSet(specifier)
        project = self._indexes.project(place.distribution)
        versions = [(text, str(Version(text))) for text in project.versions if wanted.contains(Version(text))]
        if not versions:
            because = "no configured index knows the name" if not project.known else "no version is in the range"
            raise _no_member(place, because)
        return versions


def _locked(origin: str, before: str, behind: str) -> str | None:
    """What a locked origin says between two known parts; None if it is not of that form."""
    if origin.startswith(before) and origin.endswith(behind):
        return origin[len(before) : len(origin) - len(behind)]
    return None


def _no_member(place: WheelSource, because: str) -> NnenvError:
    return NnenvError(
        "model-unreachable",
        f"{place.identity} cannot be had",
        where=place.identity,
        because=[because],
        fix=["check distribution, version and path in model.toml, and pip's index configuration"],
    )
