"""`nnenv lock`: from model.toml to model.lock.

For each target: the Debian closure of the interpreter fixes Python and glibc, these fix the wheels, the wheels' shared
libraries fix what else the OS must bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from nnenv.adapters.files import compare_and_swap
from nnenv.adapters.python_index import PythonIndexes
from nnenv.errors import NnenvError
from nnenv.formats.debian_version import upstream
from nnenv.resolve.debian import Closure, close
from nnenv.resolve.debian_catalog import DebianCatalog, DebRecord
from nnenv.resolve.debian_facts import DebianRelease, debian_facts, debian_release
from nnenv.resolve.debian_soname import package_for_soname
from nnenv.resolve.python import ChosenWheel, PythonPolicy, resolve_wheels
from nnenv.resolve.python_target import PythonTarget
from nnenv.resolve.sonames import demanded_sonames, providers_of
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lock_toml import read_lock, write_lock
from nnenv.spec.lockfile import (
    LOCK_NAME,
    Lockfile,
    ReleaseLock,
    TargetLock,
    artifact_order,
    digests_used,
)
from nnenv.spec.manifest import Manifest, TargetSpec, meaning
from nnenv.workflows.facts import wheel_facts
from nnenv.workflows.fetching import fetch_artifacts
from nnenv.workflows.inputs import Inputs, check_cases, keep_inputs, read_inputs
from nnenv.workflows.session import Session

MACHINES: Mapping[str, str] = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
BUILD_ARCHITECTURE = "amd64"
"""Where bytecode is made when a target's own interpreter cannot run on the build machine."""
RUNTIME = ("numpy", "onnxruntime")
"""What the standard inference test needs inside an image that holds ONNX models."""


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """What the user asked of `nnenv lock`."""

    upgrade: bool = False
    """Forget every pin."""
    upgrade_names: frozenset[str] = frozenset()
    """Forget the pins of these packages."""
    check: bool = False
    """Only say whether the lock is up to date; change nothing."""
    dry_run: bool = False
    exclude_newer: str = ""
    """RFC 3339 UTC; wins over the manifest's."""


@dataclass(frozen=True, kw_only=True)
class LockOutcome:
    """What `nnenv lock` did."""

    lockfile: Lockfile
    previous: Lockfile | None
    changed: bool
    """Whether the new bytes differ from the file's old ones."""


@dataclass(slots=True)
class _Draft:
    """The lock while it is being made."""

    artifacts: dict[Sha256, Artifact] = field(default_factory=dict)
    releases: dict[tuple[str, str], ReleaseLock] = field(default_factory=dict)
    targets: list[TargetLock] = field(default_factory=list)

    def add(self, artifacts: Iterable[Artifact]) -> tuple[Sha256, ...]:
        """Their digests, in order; each artifact is kept once."""
        kept = tuple(artifacts)
        for artifact in kept:
            self.artifacts.setdefault(artifact.sha256, artifact)
        return tuple(artifact.sha256 for artifact in kept)


def lock_project(session: Session, options: LockOptions) -> LockOutcome:
    """Make or confirm model.lock; NnenvError with the reason if no lock exists that meets the manifest.

    A lock that still fits is confirmed without network. With `check`, NnenvError `lock-stale` if it does not fit.
    """
    manifest = session.manifest()
    old_bytes = session.lock_bytes()
    old = _readable(old_bytes, options)
    inputs = read_inputs(session, manifest)
    reasons = stale_reasons(manifest, inputs, old)
    if options.check and reasons:
        raise stale(reasons)
    wants_change = options.upgrade or options.upgrade_names or options.exclude_newer
    if old is not None and not reasons and not wants_change:
        return LockOutcome(lockfile=old, previous=old, changed=False)
    new = _resolved(session, manifest, inputs, old, options)
    data = write_lock(new)
    if data != old_bytes and not options.dry_run:
        compare_and_swap(session.project / LOCK_NAME, data, old_bytes)
    return LockOutcome(lockfile=new, previous=old, changed=data != old_bytes)


def stale_reasons(manifest: Manifest, inputs: Inputs, lockfile: Lockfile | None) -> list[str]:
    """Why the lock does not fit the manifest and the project's files; empty if it fits."""
    if lockfile is None:
        return [f"there is no {LOCK_NAME}"]
    reasons = []
    wanted = meaning(manifest)
    for key in sorted({*wanted, *lockfile.manifest}):
        if wanted.get(key) != lockfile.manifest.get(key):
            reasons.append(f"[{key}] of model.toml has changed")
    if tuple(inputs.models) != lockfile.models:
        changed = {model.name for model in {*inputs.models} ^ {*lockfile.models}}
        reasons.append(f"model or test files have changed: {', '.join(sorted(changed))}")
    if tuple(inputs.files) != lockfile.files:
        reasons.append("files of [image.files] have changed")
    return reasons


def stale(reasons: Sequence[str]) -> NnenvError:
    """The refusal of a lock that does not fit."""
    return NnenvError(
        "lock-missing" if reasons[0].startswith("there is no") else "lock-stale",
        f"{LOCK_NAME} does not match model.toml",
        where=LOCK_NAME,
        because=reasons,
        fix=["run `nnenv lock`"],
    )


def _readable(data: bytes | None, options: LockOptions) -> Lockfile | None:
    """The old lock; one that was edited or merged is only a source of no pins, unless it must be checked."""
    if data is None:
        return None
    try:
        return read_lock(data)
    except NnenvError as error:
        if options.check or error.code == "lock-version":
            raise
        return None


def _resolved(
    session: Session, manifest: Manifest, inputs: Inputs, old: Lockfile | None, options: LockOptions
) -> Lockfile:
    check_cases(session, manifest, inputs)
    keep_inputs(session, inputs)
    draft = _Draft()
    with session.python_indexes(manifest) as indexes:
        for spec in sorted(manifest.targets, key=lambda target: target.name):
            task = session.progress.start(f"lock {spec.name}")
            _lock_target(session, manifest, spec, indexes, old, options, draft)
            task.finish()
    used = digests_used(draft.targets, inputs.models, inputs.files)
    artifacts = {**inputs.artifacts, **draft.artifacts}
    new = Lockfile(
        manifest=meaning(manifest),
        releases=tuple(draft.releases[key] for key in sorted(draft.releases)),
        artifacts=tuple(sorted((artifacts[digest] for digest in used), key=artifact_order)),
        models=tuple(inputs.models),
        targets=tuple(draft.targets),
        files=tuple(inputs.files),
        notices=(),
    )
    return _keeping_what_stayed(new, old)


def _keeping_what_stayed(new: Lockfile, old: Lockfile | None) -> Lockfile:
    """`new`, but targets whose files are all the same keep their moment, and their expected image if it still holds."""
    if old is None:
        return new
    targets = []
    for target in new.targets:
        before = old.target(target.name)
        if before is not None and replace(target, moment=before.moment) == replace(before, image=None):
            kept = replace(target, moment=before.moment)
            same = _image_part(new, kept) == _image_part(old, before)
            targets.append(replace(kept, image=before.image if same else None))
        else:
            targets.append(target)
    return replace(new, targets=tuple(targets))


def _image_part(lockfile: Lockfile, target: TargetLock) -> bytes:
    others = tuple(t for t in lockfile.targets if t.name != target.name)
    return write_lock(replace(lockfile, targets=(*others, target)).for_image(target.name))


def _lock_target(
    session: Session,
    manifest: Manifest,
    spec: TargetSpec,
    indexes: PythonIndexes,
    old: Lockfile | None,
    options: LockOptions,
    draft: _Draft,
) -> None:
    release = debian_release(spec.os.removeprefix("debian:"))
    architecture = spec.platform.removeprefix("linux/")
    archive = session.debian_archive(release.number, architecture)
    archive.not_before(_release_dates(old, architecture))
    pins = _Pins.of(old, spec.name, options)
    roots = _system_roots(manifest, spec, release)
    base = _close(roots, archive, pins)
    python = _python_target(manifest, spec, base)
    wheels = resolve_wheels(
        _python_roots(manifest, spec), indexes, python, _policy(session, manifest, options), pins=pins.wheels
    )
    artifacts = [_wheel_artifact(wheel) for wheel in wheels]
    fetch_artifacts(session, artifacts, indexes, spec.os)
    demands = demanded_sonames({a.name: wheel_facts(session.store, a) for a in artifacts}, python.machine)
    sonames = providers_of(demands, lambda soname: package_for_soname(soname, archive), target=spec.name)
    closure = _close([*roots, *sorted({package for _, package in sonames})], archive, pins)
    moments = [_keep_releases(archive, architecture, draft), *(wheel.record.upload_time for wheel in wheels)]
    draft.targets.append(
        TargetLock(
            name=spec.name,
            platform=spec.platform,
            os=spec.os,
            python=python.python,
            moment=max(moments),
            glibc=python.glibc,
            wheels=draft.add(artifacts),
            debs=draft.add(_deb_artifacts(closure)),
            tools=_tools(session, release, python, architecture, pins, draft),
            models=tuple(sorted(spec.models or (model.name for model in manifest.models))),
            sonames=sonames,
            omitted=tuple(f"{o.package}: {o.dependency} ({o.reason})" for o in closure.omitted),
        )
    )


@dataclass(frozen=True, kw_only=True)
class _Pins:
    """Versions of the old lock that are preferred."""

    wheels: Mapping[str, str]
    debs: Mapping[str, str]
    tools: Mapping[str, str]

    @classmethod
    def of(cls, old: Lockfile | None, target: str, options: LockOptions) -> _Pins:
        """The pins of `target`; a target that is new to the lock borrows those of the others (the same versions
        everywhere is what a user expects)."""
        if old is None or options.upgrade:
            return cls(wheels={}, debs={}, tools={})
        before = old.target(target)
        sources = [before] if before else list(old.targets)

        def versions(artifacts: Iterable[Artifact]) -> dict[str, str]:
            return {a.name: a.version for a in artifacts if a.name not in options.upgrade_names}

        return cls(
            wheels={n: v for source in sources for n, v in versions(old.wheels_of(source)).items()},
            debs=versions(old.debs_of(before)) if before else {},
            tools=versions(old.tools_of(before)) if before else {},
        )


def _close(roots: Sequence[str], archive: DebianCatalog, pins: _Pins) -> Closure:
    return close(roots, archive, locked=pins.debs, omit=debian_facts().omit)


def _system_roots(manifest: Manifest, spec: TargetSpec, release: DebianRelease) -> list[str]:
    shell = release.shell_roots if manifest.image.shell else ()
    return sorted({*release.roots, *shell, *manifest.requires.system, *spec.requires.system})


def _python_roots(manifest: Manifest, spec: TargetSpec) -> list[str]:
    holds_models = bool(spec.models or manifest.models)
    return [*manifest.requires.packages, *spec.requires.packages, *(RUNTIME if holds_models else ())]


def _python_target(manifest: Manifest, spec: TargetSpec, closure: Closure) -> PythonTarget:
    from packaging.specifiers import SpecifierSet

    versions = {record.name: upstream(record.version) for record in closure.packages}
    release = debian_release(spec.os.removeprefix("debian:"))
    python = versions[f"python{release.python}-minimal"]
    for text, where in ((manifest.requires.python, "requires.python"), (spec.python, f"targets.{spec.name}.python")):
        if text and not SpecifierSet(text).contains(python, prereleases=True):
            raise NnenvError(
                "python-unsatisfiable",
                f"target {spec.name}: {spec.os} offers Python {python}, and {text} is required",
                where=where,
                fix=["choose another `os` for the target, or change the requirement"],
            )
    return PythonTarget(
        name=spec.name,
        python=python,
        machine=MACHINES[spec.platform],
        glibc=".".join(versions["libc6"].split(".")[:2]),
    )


def _policy(session: Session, manifest: Manifest, options: LockOptions) -> PythonPolicy:
    return PythonPolicy(
        constraints=manifest.policy.constraints,
        overrides=manifest.policy.overrides,
        exclude_newer=options.exclude_newer or _exclude_newer(session, manifest),
        prereleases=frozenset(manifest.policy.allow_prereleases),
    )


def _exclude_newer(session: Session, manifest: Manifest) -> str:
    """The earlier of `exclude-newer` and midnight (UTC) before now less `minimum-age`; "" without either."""
    moments = [manifest.policy.exclude_newer] if manifest.policy.exclude_newer else []
    if manifest.policy.minimum_age:
        number, unit = manifest.policy.minimum_age.split()
        age = timedelta(**{unit.rstrip("s") + "s": int(number)})
        midnight = (session.now - age).replace(hour=0, minute=0, second=0, microsecond=0)
        moments.append(midnight.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return min(moments, default="")


def _wheel_artifact(wheel: ChosenWheel) -> Artifact:
    record = wheel.record
    assert record.size is not None
    return Artifact(
        kind=Kind.WHEEL,
        name=record.project,
        version=wheel.version,
        filename=record.filename,
        sha256=Sha256(record.sha256),
        size=record.size,
        origin=record.origin,
        requires=wheel.requires,
        requires_python=wheel.requires_python,
    )


def _deb_artifacts(closure: Closure) -> list[Artifact]:
    return [_deb_artifact(record) for record in closure.packages]


def _deb_artifact(record: DebRecord) -> Artifact:
    relations = (("Pre-Depends", record.pre_depends), ("Depends", record.depends), ("Provides", record.provides))
    return Artifact(
        kind=Kind.DEB,
        name=record.name,
        version=record.version,
        filename=record.path.rsplit("/", 1)[-1],
        sha256=record.sha256,
        size=record.size,
        origin=f"debian:{record.suite}:{record.path}",
        architecture=record.architecture,
        requires=tuple(f"{name}: {value}" for name, value in relations if value),
    )


def _tools(
    session: Session, release: DebianRelease, python: PythonTarget, architecture: str, pins: _Pins, draft: _Draft
) -> tuple[Sha256, ...]:
    """The interpreter for the build machine, of the target's version, when the target has another CPU."""
    if architecture == BUILD_ARCHITECTURE:
        return ()
    archive = session.debian_archive(release.number, BUILD_ARCHITECTURE)
    name = f"python{release.python}-minimal"
    closure = close([name], archive, locked=pins.tools, omit=debian_facts().omit)
    found = next(upstream(record.version) for record in closure.packages if record.name == name)
    if found != python.python:
        raise NnenvError(
            "debian-unsatisfiable",
            f"target {python.name}: Debian offers Python {python.python} for {architecture} but {found} for the"
            f" {BUILD_ARCHITECTURE} machine that compiles its bytecode",
            where=f"targets.{python.name}",
            fix=["lock again when the archive has caught up on both architectures"],
        )
    _keep_releases(archive, BUILD_ARCHITECTURE, draft)
    return draft.add(_deb_artifacts(closure))


def _keep_releases(archive: DebianCatalog, architecture: str, draft: _Draft) -> str:
    """Note the Release files in the lock; the newest of their dates."""
    for facts in archive.releases():
        draft.releases[(architecture, facts.suite)] = ReleaseLock(
            suite=facts.suite, architecture=architecture, date=facts.date, sha256=facts.sha256
        )
    return max(facts.date for facts in archive.releases())


def _release_dates(old: Lockfile | None, architecture: str) -> dict[str, str]:
    """Suite -> date of the Release file that the old lock saw: an older one now is a rollback."""
    return {r.suite: r.date for r in old.releases if r.architecture == architecture} if old else {}
