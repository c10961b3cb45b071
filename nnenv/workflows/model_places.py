"""Model files from registries, code hosts and archives: what a place is asked, and the one file out of its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nnenv.errors import NnenvError
from nnenv.formats.hubconf import ENTRY_FILE, HubError, digest_prefix, file_name, weights_address
from nnenv.formats.oci_artifact import ArtifactError, ArtifactLayer, Packing, choose_layers
from nnenv.formats.packed_model import NoMember, member_chunks, only_member, packing_of
from nnenv.spec.artifact import Sha256
from nnenv.spec.model_source import GitSource, KaggleSource, OciSource, TorchHubSource, WebSource, ZooSource
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.oci_registry import OciRegistry

_CODE_HOST: Final = "https://github.com"
"""Where torch.hub looks for repositories."""
_TEXT_LIMIT: Final = 1 << 20
"""Bytes of a module's text."""
_EXPIRED: Final = ": status 401"
"""How a refusal ends where a token has run out under a long transfer."""
_PACKED_AS: Final = re.compile(r"(?<=@)[0-9a-f]{64}(?=[:#]|\Z)")
"""The digest of an archive in an origin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Got:
    """A model file in the store, and what its place said of it."""

    sha256: Sha256
    size: int
    """Bytes."""
    filename: str
    origin: str
    revision: str
    """What the place's name came to."""
    licence: str = ""


def download(
    session: Session, urls: Sequence[str], expected: Sha256 | None, size: int | None, filename: str
) -> tuple[Sha256, int]:
    """(sha256, bytes) of the file at these addresses, in the store; without a digest the first one alone is asked.

    Raises NnenvError as `fetch_all` and `fetch_unknown`.
    """
    from nnenv.adapters.fetch import Download, fetch_all, fetch_unknown

    if expected is None:
        return fetch_unknown(urls[0], filename, session.store, session.http, session.progress)
    wanted = Download(sha256=expected, size=size, filename=filename, urls=urls)
    fetch_all([wanted], session.store, session.http, workers=1, progress=session.progress)
    return expected, session.store.path(expected).stat().st_size


def insist_same(found: Sha256, expected: Sha256, what: str) -> None:
    """Raise NnenvError `digest-mismatch` with both digests unless they are one."""
    if found != expected:
        raise NnenvError(
            "digest-mismatch",
            f"{what} is not the file that is wanted",
            where=what,
            because=[f"wanted {expected}", f"found  {found}"],
            fix=["correct sha256 or the source in model.toml, or lock again with `nnenv lock -P MODEL`"],
        )


def from_registry(session: Session, place: OciSource, reference: str, wanted: Sha256 | None) -> Got:
    """The source's file of the artifact that is at `reference` (tag, or `sha256:` and digest) in its registry.

    `wanted` is the file's digest, if it is known. Raises NnenvError `model-unreachable`, `digest-mismatch`,
    `archive-refused`, `offline`.
    """
    from nnenv.adapters.oci_registry import OciRegistry

    registry = OciRegistry(place, session.http, session.environment, session.home)
    found = registry.artifact(reference)
    got = Got(
        sha256=Sha256(""),
        size=0,
        filename=place.filename or place.repository.rpartition("/")[2],
        origin=place.at(f"sha256:{found.digest}"),
        revision=f"sha256:{found.digest}",
        licence=found.manifest.licence,
    )
    try:
        layers = choose_layers(found.manifest, place.path)
    except ArtifactError as error:
        raise _unreachable(place.shown, str(error)) from None
    because: list[str] = []
    for layer in layers:
        if layer.packing == "raw" and wanted is not None:
            insist_same(layer.digest, wanted, place.shown)
        try:
            _fetch_layer(session, registry, place.shown, reference, layer)
            if layer.packing == "raw":
                return replace(got, sha256=layer.digest, size=layer.size, filename=_base_name(layer.path, got.filename))
            path, sha256, size = _extracted(session, layer.digest, layer.packing, place.shown, place.path)
        except NoMember as error:
            because.append(f"layer {layer.digest[:12]}: {error}")
            if found.manifest.image and error.hidden:
                break
        else:
            return replace(got, sha256=sha256, size=size, filename=_base_name(path, got.filename))
    raise _unreachable(place.shown, *because[:10])


def from_kaggle(session: Session, place: KaggleSource, locked: str = "") -> Got:
    """The source's file out of the archive of its version; `locked` is an origin, which may name an archive that the
    store has. Raises NnenvError `model-unreachable`, `archive-refused`, `offline`."""
    from nnenv.adapters.kaggle_models import download_address

    url = download_address(place, session.http, session.environment)
    rights = "accept the model's terms on Kaggle, and set KAGGLE_USERNAME and KAGGLE_KEY"
    archive = _archive(session, url, f"{place.model.split('/')[1]}.tar.gz", place.identity, locked, rights)
    path, sha256, size = _from_archive(session, archive, place.identity, place.path)
    return Got(
        sha256=sha256,
        size=size,
        filename=_base_name(path, "model"),
        origin=place.packed(archive),
        revision=place.version,
    )


def from_archive(session: Session, place: ZooSource, locked: str = "") -> Got:
    """The one model in an archive at an address, or in the project. Raises as `from_kaggle`."""
    from nnenv.adapters.files import open_inside

    if isinstance(place.archive, WebSource):
        archive = _archive(session, place.archive.url, place.filename, place.identity, locked)
    else:
        with open_inside(session.project, place.archive.path) as stream:
            archive, _ = session.store.add(stream)
    path, sha256, size = _from_archive(session, archive, place.identity, "")
    return Got(
        sha256=sha256,
        size=size,
        filename=_base_name(path, "model.onnx"),
        origin=f"{place.identity}@{archive}",
        revision=f"sha256:{archive}",
    )


def from_torch_hub(session: Session, place: TorchHubSource, revision: str, wanted: Sha256 | None) -> Got:
    """The weights that the source's entry point loads at a revision, by the text of the repository's hubconf.py.

    Raises as `from_registry`, and `digest-mismatch` if the file is not the one that its name says (torch.hub's
    `name-SHA256PREFIX.ext`).
    """
    commit, url = _weights(session, place, revision)
    try:
        sha256, size = download(session, [url], wanted, None, file_name(url))
    except NnenvError as error:
        if error.code != "index-unreachable":
            raise
        raise _unreachable(place.identity, *error.because) from None
    prefix = digest_prefix(url)
    if not sha256.startswith(prefix):
        raise NnenvError(
            "digest-mismatch",
            f"{place.identity} is not the file that its name says",
            where=place.identity,
            because=[f"named {file_name(url)}, so wanted {prefix}...", f"found  {sha256}"],
            fix=["ask who publishes it; if those digits are no digest, name the file by https: and its sha256"],
        )
    return Got(
        sha256=sha256,
        size=size,
        filename=_base_name(file_name(url), "weights"),
        origin=place.at(commit),
        revision=commit,
    )


def torch_repository(session: Session, place: TorchHubSource, revision: str) -> GitSource:
    """The repository of an entry point, at the code host that NNENV_CODE_HOST names."""
    host = (session.environment.get("NNENV_CODE_HOST") or _CODE_HOST).rstrip("/")
    return GitSource(url=f"{host}/{place.repository}.git", revision=revision, path=ENTRY_FILE)


def manifest_now(session: Session, place: OciSource) -> str:
    """`sha256:` and the digest of the manifest that the source names now. Raises as `from_registry`."""
    from nnenv.adapters.oci_registry import OciRegistry

    registry = OciRegistry(place, session.http, session.environment, session.home)
    return f"sha256:{registry.artifact(place.reference).digest}"


def _weights(session: Session, place: TorchHubSource, revision: str) -> tuple[str, str]:
    """(commit, address) of the weights."""
    from nnenv.adapters.git_files import git_file
    from nnenv.adapters.http import certificates, host_of
    from nnenv.adapters.oci_registry import is_loopback

    if session.offline:
        what = f"--offline forbids to fetch {place.identity}"
        raise NnenvError("offline", what, where=place.identity, fix=["run the command once without --offline"])
    repository = torch_repository(session, place, revision)
    try:
        with (
            session.store.scratch() as scratch,
            git_file(repository, revision, scratch, session.environment, certificates(session.environment)) as file,
        ):
            url = weights_address(place.entrypoint, lambda path: file.text(path, _TEXT_LIMIT))
            commit = file.commit
    except HubError as error:
        raise _unreachable(place.identity, str(error)) from None
    except NnenvError as error:
        if error.code != "model-unreachable":
            raise
        raise _unreachable(place.identity, *(error.because or [error.what])) from None
    if not url.startswith("https://") and not is_loopback(host_of(url)):
        raise _unreachable(place.identity, f"its weights are at {host_of(url)} by plain http")
    return commit, url


def _fetch_layer(session: Session, registry: OciRegistry, shown: str, reference: str, layer: ArtifactLayer) -> None:
    """Bring a layer into the store."""
    for last in (False, True):
        try:
            download(session, [registry.address(layer.digest)], layer.digest, layer.size, shown)
        except NnenvError as error:
            if error.code != "index-unreachable":
                raise
            if not last and any(line.endswith(_EXPIRED) for line in error.because):
                registry.artifact(reference)
                continue
            raise _unreachable(shown, *error.because) from None
        return


def _archive(session: Session, url: str, filename: str, what: str, locked: str, rights: str = "") -> Sha256:
    """An archive in the store: that of a locked origin if it is there, else as the address gives it now. It may have
    been packed anew since; the file in it is what is locked."""
    known = _PACKED_AS.search(locked)
    if known and session.store.check(Sha256(known[0])):
        return Sha256(known[0])
    try:
        return download(session, [url], None, None, filename)[0]
    except NnenvError as error:
        if error.code != "index-unreachable":
            raise
        refused = any(line.endswith(("status 401", "status 403")) for line in error.because)
        raise _unreachable(what, *error.because, fix=rights if refused else "") from None


def _from_archive(session: Session, archive: Sha256, what: str, path: str) -> tuple[str, Sha256, int]:
    with session.store.open(archive) as stream:
        packing = packing_of(stream.read(2))
    try:
        return _extracted(session, archive, packing, what, path)
    except NoMember as error:
        raise _unreachable(what, str(error)) from None


def _extracted(session: Session, archive: Sha256, packing: Packing, what: str, path: str) -> tuple[str, Sha256, int]:
    """(path, sha256, size) of a file of an archive in the store, now in the store itself; raises NoMember."""
    if not path:
        with session.store.open(archive) as stream:
            path = only_member(stream, packing, what)
    with session.store.open(archive) as stream, session.store.writer() as writer:
        for chunk in member_chunks(stream, packing, what, path):
            writer.write(chunk)
        return path, *writer.commit()


def _base_name(path: str, otherwise: str) -> str:
    """The last part of a path that somebody else chose, if a file can be called so."""
    name = path.rpartition("/")[2]
    return name if name.isprintable() and name not in ("", ".", "..") and len(name.encode()) < 256 else otherwise


def _unreachable(what: str, *because: str, fix: str = "") -> NnenvError:
    return NnenvError(
        "model-unreachable",
        f"{what} cannot be had",
        where=what,
        because=because,
        fix=[*filter(None, [fix]), "correct the source in model.toml, or add another place under `sources`"],
    )
