"""`model.lock`: canonical bytes <-> `Lockfile`.

The file carries a checksum over its own text, and is refused unless writing what was read gives the same bytes:
an edited, merged or torn lock is found before anything trusts it.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

from nnenv.errors import NnenvError
from nnenv.spec import canonical_toml
from nnenv.spec.artifact import Artifact, Kind, Sha256, sha256_of
from nnenv.spec.lockfile import (
    LOCK_VERSION,
    CaseLock,
    DerivationLock,
    EvaluationLock,
    FileLock,
    GpuLock,
    ImageLock,
    LayerLock,
    Lockfile,
    ModelLock,
    ReleaseLock,
    StepLock,
    TargetLock,
    artifact_order,
    digests_used,
)
from nnenv.spec.names import LOCK_NAME

SIZE_LIMIT: Final = 64 << 20
"""Bytes; a lock of 10,000 artifacts is under 10 MB."""

_LONGEST_VERSION: Final = 9
"""Digits; `int` refuses thousands of them with an error of its own."""

_INTRODUCTION: Final = "# model.lock, written by `nnenv lock`: commit it, do not edit it."
_REWRITE: Final = ("restore it from version control, or run `nnenv lock` to write it anew",)

T = TypeVar("T")


def write_lock(lockfile: Lockfile) -> bytes:
    """The canonical bytes of `lockfile`."""
    body = "\n".join(_body(lockfile)).rstrip("\n") + "\n"
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{_INTRODUCTION}\nlock-version = {LOCK_VERSION}\nchecksum = "{checksum}"\n{body}'.encode()


def read_lock(data: bytes, where: str = LOCK_NAME) -> Lockfile:
    """The lock in `data`; NnenvError `lock-edited` or `lock-version` if it is not exactly what nnenv writes."""
    if len(data) > SIZE_LIMIT:
        raise _edited(where, f"it is {len(data)} bytes long, more than {SIZE_LIMIT}")
    lines = data.split(b"\n", 3)
    if len(lines) != 4 or lines[0] != _INTRODUCTION.encode():
        raise _edited(where, "its first lines are not nnenv's", line=1)
    version = lines[1].removeprefix(b"lock-version = ")
    if not version.isdigit() or len(version) > _LONGEST_VERSION:
        raise _edited(where, "it states no lock-version", line=2)
    if int(version) > LOCK_VERSION:
        raise NnenvError(
            "lock-version",
            f"{where} has format {int(version)}; this nnenv reads up to {LOCK_VERSION}",
            where=f"{where}:2",
            fix=["install a newer nnenv"],
        )
    stated = lines[2].removeprefix(b'checksum = "').removesuffix(b'"')
    if hashlib.sha256(lines[3]).hexdigest().encode() != stated:
        raise _edited(where, "its text does not match its checksum", line=3)
    try:
        lockfile = _lockfile(tomllib.loads(lines[3].decode()))
        is_canonical = write_lock(lockfile) == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _edited(where, f"it cannot be understood: {error}") from None
    if not is_canonical:
        raise _edited(where, "it is not in canonical form")
    return lockfile


def _edited(where: str, because: str, *, line: int | None = None) -> NnenvError:
    return NnenvError(
        "lock-edited",
        f"{where} is not what nnenv wrote",
        where=where if line is None else f"{where}:{line}",
        because=[because],
        fix=_REWRITE,
    )


# Writing


def _body(lockfile: Lockfile) -> Iterator[str]:
    if lockfile.notices:
        yield from canonical_toml.table((), {"notices": lockfile.notices})
    else:
        yield ""
    yield from canonical_toml.table(("manifest",), lockfile.manifest)
    groups: tuple[tuple[str, Sequence[Mapping[str, object]]], ...] = (
        ("release", [_release_values(release) for release in lockfile.releases]),
        ("target", [_target_values(target, lockfile) for target in lockfile.targets]),
        ("toolchain", [_target_values(toolchain, lockfile) for toolchain in lockfile.toolchains]),
        ("model", [_model_values(model) for model in lockfile.models]),
        ("derivation", [_derivation_values(derivation) for derivation in lockfile.derivations]),
        ("evaluation", [_evaluation_values(evaluation) for evaluation in lockfile.evaluations]),
        ("file", [_file_values(file) for file in lockfile.files]),
        ("artifact", [_artifact_values(artifact) for artifact in sorted(lockfile.artifacts, key=artifact_order)]),
    )
    for name, items in groups:
        for item in items:
            yield from canonical_toml.table((name,), item, header=f"[[{name}]]")


def _present(**values: object) -> dict[str, object]:
    """The given keys, `_` as `-`, without None, empty strings and empty sequences."""
    return {
        key.replace("_", "-"): value for key, value in values.items() if value is not None and value not in ("", (), [])
    }


def _release_values(release: ReleaseLock) -> dict[str, object]:
    return _present(suite=release.suite, architecture=release.architecture, date=release.date, sha256=release.sha256)


def _target_values(target: TargetLock, lockfile: Lockfile) -> dict[str, object]:
    def references(digests: Sequence[Sha256]) -> list[list[str]]:
        """[digest, label] pairs: the label is for people, and is checked when read."""
        return [[digest, _label(lockfile.by_digest[digest])] for digest in digests]

    image = target.image
    return _present(
        name=target.name,
        platform=target.platform,
        os=target.os,
        python=target.python,
        moment=target.moment,
        glibc=target.glibc,
        models=target.models,
        wheels=references(target.wheels),
        debs=references(target.debs),
        tools=references(target.tools),
        sonames=[list(pair) for pair in target.sonames],
        omitted=target.omitted,
        gpu=None if target.gpu is None else _gpu_values(target.gpu),
        image=None
        if image is None
        else {
            "recipe": image.recipe,
            "manifest": image.manifest,
            "config": image.config,
            "layers": [
                {"title": layer.title, "diff-id": layer.diff_id, "digest": layer.digest, "size": layer.size}
                for layer in image.layers
            ],
        },
    )


def _gpu_values(gpu: GpuLock) -> dict[str, object]:
    return _present(
        cuda=gpu.cuda,
        cudnn=gpu.cudnn,
        driver=gpu.driver,
        driver_reason=gpu.driver_reason,
        capabilities=[list(pair) for pair in gpu.capabilities],
        lazy=[list(pair) for pair in gpu.lazy],
        driver_sonames=gpu.driver_sonames,
    )


def _label(artifact: Artifact) -> str:
    return f"{artifact.name} {artifact.version}"


def _model_values(model: ModelLock) -> dict[str, object]:
    return _present(
        name=model.name,
        version=model.version,
        format=model.format,
        file=model.file,
        revision=model.revision,
        licence=model.licence,
        opsets=model.opsets,
        needs=model.needs,
        files=[list(pair) for pair in model.files],
        data=[list(pair) for pair in model.data],
        cases=_cases_values(model.cases),
    )


def _cases_values(cases: Sequence[CaseLock]) -> list[dict[str, object]]:
    return [
        _present(
            name=case.name,
            inputs=case.inputs,
            expected=case.expected,
            settings=case.settings,
            tolerance=case.tolerance,
            against=case.against,
        )
        for case in cases
    ]


def _derivation_values(one: DerivationLock) -> dict[str, object]:
    return _present(
        model=one.model,
        targets=one.targets,
        parent=one.parent,
        file=one.file,
        toolchain=one.toolchain,
        host=one.host,
        opsets=one.opsets,
        steps=[
            {"step": step.step, "key": step.key, "output": step.output, "size": step.size, "drift": step.drift}
            for step in one.steps
        ],
        cases=_cases_values(one.cases),
    )


def _evaluation_values(one: EvaluationLock) -> dict[str, object]:
    return _present(
        model=one.model,
        number=one.number,
        file=one.file,
        value=one.value,
        baseline=one.baseline,
        baseline_file=one.baseline_file,
        labels=one.labels,
    )


def _file_values(file: FileLock) -> dict[str, object]:
    return {"path": file.path, "sha256": file.sha256, "executable": file.executable}


def _artifact_values(artifact: Artifact) -> dict[str, object]:
    return _present(
        kind=str(artifact.kind),
        name=artifact.name,
        version=artifact.version,
        filename=artifact.filename,
        sha256=artifact.sha256,
        size=artifact.size,
        origin=artifact.origin,
        architecture=artifact.architecture,
        requires_python=artifact.requires_python,
        requires=artifact.requires,
    )


# Reading


class _Reader:
    """Typed access to one table; ValueError names the key when the value is missing or of another type."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{place} is not a table")
        self.values: dict[str, object] = values
        self.place = place

    def text(self, key: str, default: str | None = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{self.place}.{key} is not a string")
        return value

    def number(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{self.place}.{key} is not a whole number")
        return value

    def real(self, key: str) -> float:
        value = self.values.get(key)
        if not isinstance(value, float):
            raise ValueError(f"{self.place}.{key} is not a float")
        return value

    def digest(self, key: str) -> Sha256:
        return sha256_of(self.text(key, None))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{self.place}.{key} is not a list of strings")
        return tuple(value)

    def digests(self, key: str) -> tuple[Sha256, ...]:
        return tuple(sha256_of(text) for text in self.texts(key))

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise ValueError(f"{self.place}.{key} is not a list")
        for item in value:
            if not (isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)):
                raise ValueError(f"{self.place}.{key} holds something other than pairs of strings")
        return tuple((item[0], item[1]) for item in value)

    def tables(self, key: str) -> Iterator[_Reader]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise ValueError(f"{self.place}.{key} is not a list of tables")
        for index, item in enumerate(value):
            yield _Reader(item, f"{self.place}.{key}[{index}]")


def _lockfile(document: dict[str, object]) -> Lockfile:
    top = _Reader(document, "lock")
    artifacts = tuple(_artifact(item) for item in top.tables("artifact"))
    lockfile = Lockfile(
        manifest=_Reader(document.get("manifest", {}), "manifest").values,
        releases=tuple(_release(item) for item in top.tables("release")),
        artifacts=artifacts,
        models=tuple(_model(item) for item in top.tables("model")),
        targets=tuple(_target(item) for item in top.tables("target")),
        toolchains=tuple(_target(item) for item in top.tables("toolchain")),
        derivations=tuple(_derivation(item) for item in top.tables("derivation")),
        evaluations=tuple(_evaluation(item) for item in top.tables("evaluation")),
        files=tuple(_file(item) for item in top.tables("file")),
        notices=top.texts("notices"),
    )
    _check_references(lockfile)
    return lockfile


def _check_references(lockfile: Lockfile) -> None:
    """ValueError unless names are unique, every digest that is used names an artifact, and every model exists."""
    if len(lockfile.by_digest) != len(lockfile.artifacts):
        raise ValueError("two artifacts have one sha256")
    locked = (*lockfile.targets, *lockfile.toolchains)
    used = digests_used(locked, lockfile.models, lockfile.files, lockfile.derivations, lockfile.evaluations)
    if used != set(lockfile.by_digest):
        raise ValueError("artifacts and references do not match")
    models = {model.name for model in lockfile.models}
    if len(models) != len(lockfile.models) or len({t.name for t in lockfile.targets}) != len(lockfile.targets):
        raise ValueError("two targets or two models have one name")
    if any(name not in models for target in lockfile.targets for name in target.models):
        raise ValueError("a target names a model that the lock does not hold")
    named = {one.model for one in lockfile.derivations} | {one.model for one in lockfile.evaluations}
    if not named <= models:
        raise ValueError("a derivation or evaluation names a model that the lock does not hold")


def _release(item: _Reader) -> ReleaseLock:
    return ReleaseLock(
        suite=item.text("suite", None),
        architecture=item.text("architecture", None),
        date=item.text("date", None),
        sha256=item.digest("sha256"),
    )


def _file(item: _Reader) -> FileLock:
    executable = item.values.get("executable")
    if not isinstance(executable, bool):
        raise ValueError(f"{item.place}.executable is not a boolean")
    return FileLock(path=item.text("path", None), sha256=item.digest("sha256"), executable=executable)


def _artifact(item: _Reader) -> Artifact:
    filename = item.text("filename", None)
    if "/" in filename or "\0" in filename or filename in {"", ".", ".."}:
        raise ValueError(f"{item.place}.filename is not a base name")
    return Artifact(
        kind=Kind(item.text("kind", None)),
        name=item.text("name", None),
        version=item.text("version"),
        filename=filename,
        sha256=item.digest("sha256"),
        size=item.number("size"),
        origin=item.text("origin", None),
        architecture=item.text("architecture"),
        requires=item.texts("requires"),
        requires_python=item.text("requires-python"),
    )


def _model(item: _Reader) -> ModelLock:
    return ModelLock(
        name=item.text("name", None),
        version=item.text("version", None),
        format=item.text("format", None),
        file=item.digest("file"),
        revision=item.text("revision"),
        licence=item.text("licence"),
        opsets=item.texts("opsets"),
        needs=item.texts("needs"),
        cases=tuple(_case(case) for case in item.tables("cases")),
        files=_paths(item, "files"),
        data=_paths(item, "data"),
    )


def _paths(item: _Reader, key: str) -> tuple[tuple[str, Sha256], ...]:
    found = []
    for path, digest in item.pairs(key):
        if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path:
            raise ValueError(f"{item.place}.{key} holds a path that leaves its directory")
        found.append((path, sha256_of(digest)))
    return tuple(found)


def _derivation(item: _Reader) -> DerivationLock:
    return DerivationLock(
        model=item.text("model", None),
        targets=item.texts("targets"),
        parent=item.digest("parent"),
        file=item.digest("file"),
        toolchain=item.text("toolchain", None),
        host=item.text("host", None),
        opsets=item.texts("opsets"),
        steps=tuple(
            StepLock(
                step=step.text("step", None),
                key=step.digest("key"),
                output=step.digest("output"),
                size=step.number("size"),
                drift=step.real("drift"),
            )
            for step in item.tables("steps")
        ),
        cases=tuple(_case(case) for case in item.tables("cases")),
    )


def _evaluation(item: _Reader) -> EvaluationLock:
    return EvaluationLock(
        model=item.text("model", None),
        number=item.number("number"),
        file=item.digest("file"),
        value=item.real("value"),
        baseline=item.real("baseline") if "baseline" in item.values else None,
        baseline_file=item.text("baseline-file"),
        labels=item.digest("labels") if "labels" in item.values else None,
    )


def _case(item: _Reader) -> CaseLock:
    tolerance = item.values.get("tolerance")
    if tolerance is not None and not (isinstance(tolerance, float) and 0 <= tolerance < 1):
        raise ValueError(f"{item.place}.tolerance is not a number from 0 to below 1")
    return CaseLock(
        name=item.text("name", None),
        inputs=item.digests("inputs"),
        expected=item.digests("expected"),
        settings=item.digest("settings") if "settings" in item.values else None,
        tolerance=tolerance,
        against=item.digest("against") if "against" in item.values else None,
    )


def _target(item: _Reader) -> TargetLock:
    return TargetLock(
        name=item.text("name", None),
        platform=item.text("platform", None),
        os=item.text("os", None),
        python=item.text("python", None),
        moment=item.text("moment", None),
        glibc=item.text("glibc", None),
        models=item.texts("models"),
        wheels=_referenced(item, "wheels"),
        debs=_referenced(item, "debs"),
        tools=_referenced(item, "tools"),
        sonames=item.pairs("sonames"),
        omitted=item.texts("omitted"),
        gpu=_gpu(_Reader(item.values["gpu"], f"{item.place}.gpu")) if "gpu" in item.values else None,
        image=_image(_Reader(item.values["image"], f"{item.place}.image")) if "image" in item.values else None,
    )


def _gpu(item: _Reader) -> GpuLock:
    return GpuLock(
        cuda=item.text("cuda"),
        cudnn=item.text("cudnn"),
        driver=item.text("driver"),
        driver_reason=item.text("driver-reason"),
        capabilities=item.pairs("capabilities"),
        lazy=item.pairs("lazy"),
        driver_sonames=item.texts("driver-sonames"),
    )


def _referenced(item: _Reader, key: str) -> tuple[Sha256, ...]:
    return tuple(sha256_of(digest) for digest, _ in item.pairs(key))


def _image(item: _Reader) -> ImageLock:
    return ImageLock(
        recipe=item.number("recipe"),
        manifest=item.digest("manifest"),
        config=item.digest("config"),
        layers=tuple(
            LayerLock(
                title=layer.text("title", None),
                diff_id=layer.digest("diff-id"),
                digest=layer.digest("digest"),
                size=layer.number("size"),
            )
            for layer in item.tables("layers")
        ),
    )


def manifest_text(lockfile: Lockfile, *keys: str) -> str:
    """A string of the echoed manifest by key path, or "" where it is absent."""
    value: object = lockfile.manifest
    for part in keys:
        value = cast(Mapping[str, object], value).get(part, {}) if isinstance(value, Mapping) else {}
    return value if isinstance(value, str) else ""
