"""The project's own files as locked artifacts: models, test cases, application files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from nnenv.adapters.files import open_beside, open_inside
from nnenv.errors import NnenvError
from nnenv.formats.model_file import RUNTIMES, ModelFacts, read_model
from nnenv.formats.onnx_model import OnnxFacts, check_external, read_onnx, unsafe_location
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lockfile import CaseLock, FileLock, Lockfile, ModelLock
from nnenv.spec.manifest import CaseSpec, Manifest, ModelSpec, meaning
from nnenv.workflows.confirming import Stamp, settled, stamp_of
from nnenv.workflows.session import Session

_CHUNK = 1 << 20
_FILES_LIMIT = 20_000
_ROLES = (Kind.MODEL, Kind.CASE, Kind.FILE)
"""What a file is that is several things at once: the first of these, since images place models by their names."""


@dataclass(slots=True)
class Inputs:
    """What the project folder contributes to the lock."""

    artifacts: dict[Sha256, Artifact] = field(default_factory=dict)
    models: list[ModelLock] = field(default_factory=list)
    files: list[FileLock] = field(default_factory=list)
    seen: dict[str, Stamp] = field(default_factory=dict)
    """Each file and folder that was looked at, by its path in the project."""
    notices: list[str] = field(default_factory=list)
    """What a person should know of the models' formats."""
    unknown: list[str] = field(default_factory=list)
    """Models from elsewhere that no lock knows as the manifest declares them now, and that were not asked for."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of models from elsewhere before anybody asks."""

    lockfile: Lockfile | None = None
    """A lock that names their files."""
    forgotten: frozenset[str] = frozenset()
    """Models that are to be asked for again."""
    ask: bool = False
    """Whether the others may be asked for."""


NOTHING_KNOWN: Final = Known()


def read_inputs(session: Session, manifest: Manifest, known: Known = NOTHING_KNOWN) -> Inputs:
    """Every file of the project that the manifest names, by digest; nothing of it is copied into the store yet.

    Models from elsewhere are what `known` says of them; if it says nothing, they are fetched, or noted as unknown.
    Raises NnenvError `path-escapes`, `model-invalid`, `case-invalid`, or `digest-mismatch` against a declared sha256.
    """
    inputs = Inputs()
    for model in manifest.models:
        locked = (
            _model(session, model, manifest, inputs)
            if model.path
            else _from_elsewhere(session, model, manifest, known, inputs)
        )
        if locked is not None:
            inputs.models.append(locked)
    for source, destination in manifest.image.files:
        inputs.files.extend(_application_files(session, source, destination, inputs))
    inputs.files.sort(key=lambda file: file.path)
    for first, second in pairwise(inputs.files):
        if first.path == second.path:
            raise NnenvError(
                "manifest-invalid",
                f"two files of the project would become /{first.path} in the image",
                where="image.files",
                because=[inputs.artifacts[file.sha256].origin.removeprefix("file:") for file in (first, second)],
                fix=["give one of them another destination"],
            )
    return inputs


def keep_inputs(session: Session, inputs: Inputs) -> None:
    """Copy the files into the store, verified against the digests just computed."""
    for artifact in inputs.artifacts.values():
        if artifact.origin.startswith("file:") and not session.store.contains(artifact.sha256):
            with open_inside(session.project, artifact.origin.removeprefix("file:")) as stream:
                session.store.add(stream, artifact.sha256, artifact.size)


def check_cases(session: Session, inputs: Inputs) -> None:
    """Bind every test case, which must be in the store by now, to its model; NnenvError `case-invalid` if one does
    not fit."""
    from nnenv.workflows.cases import bound_case

    for model in inputs.models:
        for case in model.cases:
            bound_case(session.store, inputs.artifacts, model, case)


def stored_facts(session: Session, artifact: Artifact, declared: str = "") -> ModelFacts:
    """The static facts of a model file of the store, of any format."""
    with session.store.open(artifact.sha256) as stream:
        return read_model(stream, artifact.filename, declared)


def _insist_on_data(facts: ModelFacts, sha256: Sha256, what: str, manifest: Manifest) -> None:
    """NnenvError `model-pickle` for a file whose loading runs code, unless the policy allows that very file."""
    if facts.imports is None or sha256 in manifest.policy.allow_pickle:
        return
    raise NnenvError(
        "model-pickle",
        f"{what} is or holds a pickle: loading it runs code",
        where=what,
        because=[f"it would import {', '.join(facts.imports)[:500] or 'nothing'}"],
        fix=[
            "export the model as ONNX, or its weights with safetensors",
            f'or allow this very file: [policy] allow-pickle = ["{sha256}"]',
        ],
    )


def _insist_on_runtime(spec: ModelSpec, facts: ModelFacts) -> None:
    """NnenvError `case-invalid` for tests of a model that nothing here can run."""
    if spec.tests and facts.format not in RUNTIMES:
        raise NnenvError(
            "case-invalid",
            f"model {spec.name} is of the format {facts.format}, which the standard inference test cannot run",
            where=f"models.{spec.name}.tests",
            because=[f"it runs {', '.join(sorted(RUNTIMES))}"],
            fix=["remove the tests, and test it with `nnenv run`", "or convert the model"],
        )


def stored_onnx_facts(session: Session, artifact: Artifact) -> OnnxFacts:
    """The static facts of a model file of the store."""
    with session.store.open(artifact.sha256) as stream:
        return read_onnx(stream, artifact.filename)


def _from_elsewhere(
    session: Session, spec: ModelSpec, manifest: Manifest, known: Known, inputs: Inputs
) -> ModelLock | None:
    """A model that is no file of the project; None if it is unknown and may not be asked for."""
    from nnenv.workflows.model_files import find_model

    locked = _recorded(spec, manifest, known)
    if locked is not None:
        assert known.lockfile is not None
        artifact = replace(known.lockfile.by_digest[locked.file], version=spec.version)
        inputs.artifacts[artifact.sha256] = artifact
        return replace(
            locked,
            version=spec.version,
            cases=tuple(_all_cases(session, spec, inputs)),
            data=_data(session, spec, inputs),
        )
    if not known.ask:
        inputs.unknown.append(spec.name)
        return None
    found = find_model(session, spec, manifest)
    inputs.artifacts[found.artifact.sha256] = found.artifact
    facts = stored_facts(session, found.artifact, spec.format)
    _insist_on_data(facts, found.artifact.sha256, found.artifact.filename, manifest)
    _insist_on_runtime(spec, facts)
    if facts.onnx and facts.onnx.external:
        raise NnenvError(
            "model-invalid",
            f"{found.artifact.filename} has weights in other files, which only a source `file:` can have",
            where=f"models.{spec.name}.source",
            because=[f"it names {', '.join(facts.onnx.files)[:300]}"],
            fix=["save it as one file, or keep the files in the project"],
        )
    return ModelLock(
        name=spec.name,
        version=spec.version,
        format=facts.format,
        file=found.artifact.sha256,
        revision=found.revision,
        licence=found.licence,
        opsets=_opsets(facts),
        needs=facts.needs,
        cases=tuple(_all_cases(session, spec, inputs)),
        data=_data(session, spec, inputs),
    )


def _recorded(spec: ModelSpec, manifest: Manifest, known: Known) -> ModelLock | None:
    """What the known lock says of a model whose sources the manifest still declares as they were then."""
    lock = known.lockfile
    if lock is None or spec.name in known.forgotten or spec.name not in {model.name for model in lock.models}:
        return None
    before, now = (_sources_in(echo, spec.name) for echo in (lock.manifest, meaning(manifest)))
    locked = lock.model(spec.name)
    return locked if before == now and spec.sha256 in (None, locked.file) else None


def _sources_in(echo: Mapping[str, object], name: str) -> tuple[object, object]:
    """What the meaning of a manifest says of where a model comes from."""
    models = echo.get("models", {})
    table = models.get(name, {}) if isinstance(models, Mapping) else {}
    return (table.get("source"), table.get("sources"))


def _all_cases(session: Session, spec: ModelSpec, inputs: Inputs) -> Iterator[CaseLock]:
    return (case for test in spec.tests for case in _cases(session, test, inputs))


def _opsets(facts: ModelFacts) -> tuple[str, ...]:
    return tuple(f"{domain}:{version}" for domain, version in facts.onnx.opsets) if facts.onnx else ()


def _model(session: Session, spec: ModelSpec, manifest: Manifest, inputs: Inputs) -> ModelLock:
    artifact = _artifact(session, spec.path, Kind.MODEL, spec.name, spec.version, inputs)
    if spec.sha256 and spec.sha256 != artifact.sha256:
        raise NnenvError(
            "digest-mismatch",
            f"{spec.path} is not the file that model.toml declares",
            where=f"models.{spec.name}.sha256",
            because=[f"declared {spec.sha256}", f"found    {artifact.sha256}"],
            fix=["restore the file, or correct sha256 in model.toml"],
        )
    with open_inside(session.project, spec.path) as stream:
        facts = read_model(stream, spec.path, spec.format)
    _insist_on_data(facts, artifact.sha256, spec.path, manifest)
    _insist_on_runtime(spec, facts)
    if facts.notice:
        inputs.notices.append(f"{spec.name}: {facts.notice}")
    return ModelLock(
        name=spec.name,
        version=spec.version,
        format=facts.format,
        file=artifact.sha256,
        files=tuple(_further_files(session, spec, facts.onnx, inputs)) if facts.onnx else (),
        needs=facts.needs,
        opsets=_opsets(facts),
        cases=tuple(_all_cases(session, spec, inputs)),
        data=_data(session, spec, inputs),
    )


def _further_files(session: Session, spec: ModelSpec, facts: OnnxFacts, inputs: Inputs) -> Iterator[tuple[str, Sha256]]:
    """(location, digest) of the files beside a model file that hold its weights, after every rule about them."""
    for location in facts.files:
        if unsafe_location(location):
            check_external(facts, {}, spec.path)
    folder = PurePosixPath(spec.path).parent
    found: list[tuple[str, Artifact]] = []
    for location in facts.files:
        path = (folder / location).as_posix()
        opening = partial(open_beside, session.project, spec.path, location)
        try:
            artifact = _artifact(session, path, Kind.MODEL, spec.name, spec.version, inputs, opening)
        except NnenvError as error:
            raise NnenvError(
                "model-invalid",
                f"{spec.path} has weights in another file, which cannot be taken",
                where=path,
                because=[f"location {location!r}: {text}" for text in error.because or [error.what]],
                fix=["put a plain file there, or save the model as one file"],
            ) from None
        found.append((location, artifact))
    check_external(facts, {location: artifact.size for location, artifact in found}, spec.path)
    for location, artifact in found:
        yield location, artifact.sha256


def _data(session: Session, spec: ModelSpec, inputs: Inputs) -> tuple[tuple[str, Sha256], ...]:
    """(path, digest) of each file that the model's adaptation and evaluation read."""
    return tuple((path, _artifact(session, path, Kind.CASE, path, "", inputs).sha256) for path in spec.data_paths)


def _cases(session: Session, test: CaseSpec, inputs: Inputs) -> Iterator[CaseLock]:
    """The cases below a test's `data`: an .npz file, a folder of them, one data set, or several `test_data_set_N`."""
    if test.data.endswith(".npz"):
        yield _npz_case(session, test.data, test, inputs)
        return
    names = _listing(session, test.data, inputs)
    settings = _settings(session, test.data, names, inputs)
    sets = sorted((name for name in names if name.startswith("test_data_set_")), key=_set_number)
    archives = sorted(name for name in names if name.endswith(".npz"))
    if not sets and not archives:
        yield _layout_case(session, test.data, names, test, settings, inputs)
    for name in sets:
        path = f"{test.data}/{name}"
        inner = _listing(session, path, inputs)
        own = _settings(session, path, inner, inputs) or settings
        yield _layout_case(session, path, inner, test, own, inputs)
    for name in archives:
        yield _npz_case(session, f"{test.data}/{name}", test, inputs, settings)


def _set_number(name: str) -> tuple[int, str]:
    digits = name.removeprefix("test_data_set_")
    return (int(digits) if digits.isdigit() else 1 << 62, name)


def _layout_case(
    session: Session, path: str, names: list[str], test: CaseSpec, settings: Sha256 | None, inputs: Inputs
) -> CaseLock:
    def tensors(role: str) -> tuple[Sha256, ...]:
        found = sorted(
            (name for name in names if name.startswith(f"{role}_") and name.endswith(".pb")), key=lambda n: (len(n), n)
        )
        return tuple(_artifact(session, f"{path}/{name}", Kind.CASE, path, "", inputs).sha256 for name in found)

    expected = tensors("output")
    if not expected:
        raise NnenvError(
            "case-invalid",
            f"{path} holds no test case",
            where=path,
            because=["expected input_0.pb, output_0.pb, ... or folders test_data_set_0, ... or .npz files"],
            fix=["correct `data` in model.toml, or make cases with `nnenv test record`"],
        )
    return CaseLock(name=path, inputs=tensors("input"), expected=expected, settings=settings, tolerance=test.tolerance)


def _npz_case(session: Session, path: str, test: CaseSpec, inputs: Inputs, settings: Sha256 | None = None) -> CaseLock:
    digest = _artifact(session, path, Kind.CASE, path, "", inputs).sha256
    return CaseLock(name=path, inputs=(digest,), expected=(digest,), settings=settings, tolerance=test.tolerance)


def _settings(session: Session, path: str, names: list[str], inputs: Inputs) -> Sha256 | None:
    if "case.toml" not in names:
        return None
    return _artifact(session, f"{path}/case.toml", Kind.CASE, path, "", inputs).sha256


def _listing(session: Session, path: str, inputs: Inputs) -> list[str]:
    folder = session.project / path
    if not folder.is_dir():
        raise NnenvError(
            "case-invalid",
            f"{path} is no folder of test cases",
            where=path,
            because=["it does not exist" if not folder.exists() else "it is not a directory"],
            fix=["correct `data` in model.toml, or make cases with `nnenv test record`"],
        )
    if not folder.resolve().is_relative_to(session.project.resolve()):
        raise NnenvError("path-escapes", f"{path} leads outside of the project", where=path, fix=["copy the files in"])
    inputs.seen[path] = stamp_of(folder.stat())
    return sorted(path.name for path in folder.iterdir())


def _application_files(session: Session, source: str, destination: str, inputs: Inputs) -> Iterator[FileLock]:
    base = session.project / source
    paths = sorted(_regular_files(session, base, inputs), key=Path.as_posix) if base.is_dir() else [base]
    if len(paths) > _FILES_LIMIT:
        raise NnenvError(
            "manifest-invalid",
            f"{source} holds more than {_FILES_LIMIT} files",
            where="image.files",
            fix=["name the folders that the image needs"],
        )
    for path in paths:
        relative = path.relative_to(session.project).as_posix()
        inside = PurePosixPath(destination, path.relative_to(base).as_posix()) if path != base else destination
        artifact = _artifact(session, relative, Kind.FILE, relative, "", inputs)
        yield FileLock(
            path=str(inside).lstrip("/"), sha256=artifact.sha256, executable=bool(path.stat().st_mode & 0o111)
        )


def _regular_files(session: Session, folder: Path, inputs: Inputs) -> Iterator[Path]:
    inputs.seen[folder.relative_to(session.project).as_posix()] = stamp_of(folder.stat())
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise NnenvError(
                "path-escapes",
                f"{path.relative_to(session.project)} is a symbolic link, which an image cannot lock",
                where="image.files",
                fix=["replace it by the file it leads to, or leave it out"],
            )
        if "__pycache__" in path.parts:
            continue
        if path.is_dir():
            inputs.seen[path.relative_to(session.project).as_posix()] = stamp_of(path.stat())
        else:
            yield path


def _artifact(
    session: Session,
    path: str,
    kind: Kind,
    name: str,
    version: str,
    inputs: Inputs,
    opening: Callable[[], BinaryIO] | None = None,
) -> Artifact:
    sha256, size, inputs.seen[path] = _digest(session, opening or partial(open_inside, session.project, path))
    artifact = Artifact(
        kind=kind,
        name=name,
        version=version,
        filename=PurePosixPath(path).name,
        sha256=sha256,
        size=size,
        origin=f"file:{path}",
    )
    known = inputs.artifacts.get(sha256)
    if known is None or (_ROLES.index(kind), artifact.origin) < (_ROLES.index(known.kind), known.origin):
        inputs.artifacts[sha256] = artifact
    return artifact


def _digest(session: Session, opening: Callable[[], BinaryIO]) -> tuple[Sha256, int, Stamp]:
    """(sha256, size, stamp) of a project file; a large model that did not change is known by its stamp."""
    with opening() as stream:
        facts = os.fstat(stream.fileno())
        stamp = stamp_of(facts)
        key = hashlib.sha256(":".join(map(str, stamp)).encode()).hexdigest()
        known = session.store.load("file-digest", key)
        if known is not None:
            return Sha256(known.decode()), facts.st_size, stamp
        digest = hashlib.sha256()
        size = 0
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        if settled(stamp, session.started_ns) and size == facts.st_size:
            session.store.save("file-digest", key, digest.hexdigest().encode())
        return Sha256(digest.hexdigest()), size, stamp
