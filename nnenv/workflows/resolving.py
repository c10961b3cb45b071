"""Make a new lock: for each target the Debian closure of the interpreter fixes Python and glibc, these fix the wheels,
the wheels' shared libraries fix what else the OS must bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from nnenv.adapters.python_index import PythonIndexes
from nnenv.errors import NnenvError
from nnenv.formats.debian_version import upstream
from nnenv.resolve.debian import Closure, close
from nnenv.resolve.debian_catalog import DebianCatalog, DebRecord
from nnenv.resolve.debian_facts import DebianRelease, debian_facts, debian_release
from nnenv.resolve.debian_soname import package_for_soname
from nnenv.resolve.hardware_result import from_the_system
from nnenv.resolve.model_runtime import ModelNeeds, runtime_objection
from nnenv.resolve.python import ChosenWheel, PythonPolicy
from nnenv.resolve.python_target import PythonTarget, runtimes
from nnenv.resolve.sonames import demanded_sonames, providers_of
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import Lockfile, ModelLock, ReleaseLock, TargetLock, artifact_order, digests_used
from nnenv.spec.manifest import ImageSpec, Manifest, Requires, TargetSpec, meaning
from nnenv.workflows.adapting import Adaptation, adapted, needs_of
from nnenv.workflows.fetching import fetch_models
from nnenv.workflows.hardware import HardwareChoice, WheelKnowledge, artifact_of, choose_wheels
from nnenv.workflows.inputs import Inputs, check_cases, keep_inputs, stored_onnx_facts
from nnenv.workflows.rederiving import share_derived
from nnenv.workflows.session import Session

MACHINES: Mapping[str, str] = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
BUILD_ARCHITECTURE = "amd64"
"""Where bytecode is made when a target's own interpreter cannot run on the build machine."""


@dataclass(slots=True)
class _Draft:
    """The lock while it is being made."""

    artifacts: dict[Sha256, Artifact] = field(default_factory=dict)
    releases: dict[tuple[str, str], ReleaseLock] = field(default_factory=dict)
    targets: list[TargetLock] = field(default_factory=list)
    notices: dict[str, list[str]] = field(default_factory=dict)
    """Sentence -> targets that it is about."""

    def add(self, artifacts: Iterable[Artifact]) -> tuple[Sha256, ...]:
        """Their digests, in order; each artifact is kept once."""
        kept = tuple(artifacts)
        for artifact in kept:
            self.artifacts.setdefault(artifact.sha256, artifact)
        return tuple(artifact.sha256 for artifact in kept)


def resolved(
    session: Session,
    manifest: Manifest,
    inputs: Inputs,
    old: Lockfile | None,
    pins: Lockfile | None,
    forgotten: frozenset[str],
    exclude_newer: str,
) -> Lockfile:
    """A lock that meets the manifest.

    Versions of `pins` are kept where they still fit, except of the packages in `forgotten`. Release files older than
    those of `old` are refused. `exclude_newer` (RFC 3339 UTC or "") wins over the manifest's.
    Raises NnenvError with the reason when a target has no solution.
    """
    keep_inputs(session, inputs)
    fetch_models(session, inputs.artifacts.values(), manifest)
    check_cases(session, inputs)
    draft = _Draft()
    with session.python_indexes(manifest) as indexes:
        newest = exclude_newer or _exclude_newer(session, manifest)
        policy = _policy(manifest, newest)
        for spec in sorted(manifest.targets, key=lambda target: target.name):
            task = session.progress.start(f"lock {spec.name}")
            locking = _TargetLocking(
                session=session,
                manifest=manifest,
                inputs=inputs,
                spec=spec,
                indexes=indexes,
                policy=policy,
                pins=_Pins.of(pins, spec.name, forgotten),
                old=old,
                draft=draft,
            )
            try:
                draft.targets.append(locking.lock())
            finally:
                task.finish()
        toolchains = _Toolchains(session, manifest, indexes, policy, pins, forgotten, old, draft)
        adaptation = adapted(session, manifest, inputs, draft.targets, draft.artifacts, old, forgotten, toolchains.lock)
    artifacts = {**inputs.artifacts, **adaptation.artifacts, **draft.artifacts}
    share_derived(session, adaptation.artifacts.values())
    _insist_on_loading(manifest, draft.targets, inputs, adaptation, session, artifacts)
    used = digests_used(
        (*draft.targets, *adaptation.toolchains),
        inputs.models,
        inputs.files,
        adaptation.derivations,
        adaptation.evaluations,
    )
    new = Lockfile(
        manifest=meaning(manifest),
        releases=tuple(draft.releases[key] for key in sorted(draft.releases)),
        artifacts=tuple(sorted((artifacts[digest] for digest in used), key=artifact_order)),
        models=tuple(inputs.models),
        targets=tuple(draft.targets),
        toolchains=adaptation.toolchains,
        derivations=adaptation.derivations,
        evaluations=adaptation.evaluations,
        files=tuple(inputs.files),
        notices=(
            *_notices(manifest, newest),
            *adaptation.notices,
            *inputs.notices,
            *(f"{', '.join(targets)}: {sentence}" for sentence, targets in draft.notices.items()),
        ),
    )
    return _keeping_what_stayed(new, old)


@dataclass(frozen=True)
class _Toolchains:
    """Locks what adaptation runs in, as targets are locked."""

    session: Session
    manifest: Manifest
    indexes: PythonIndexes
    policy: PythonPolicy
    pins: Lockfile | None
    forgotten: frozenset[str]
    old: Lockfile | None
    draft: _Draft

    def lock(self, name: str, requirements: Sequence[str], system: str) -> TargetLock:
        """The toolchain of that name; its artifacts are in the draft."""
        spec = TargetSpec(name=name, platform=f"linux/{BUILD_ARCHITECTURE}", os=system)
        manifest = replace(
            self.manifest,
            models=(),
            requires=Requires(packages=tuple(requirements)),
            targets=(spec,),
            image=ImageSpec(),
        )
        task = self.session.progress.start(f"lock {name}")
        try:
            return _TargetLocking(
                session=self.session,
                manifest=manifest,
                inputs=Inputs(),
                spec=spec,
                indexes=self.indexes,
                policy=self.policy,
                pins=_Pins.of(self.pins, name, self.forgotten),
                old=self.old,
                draft=self.draft,
            ).lock()
        finally:
            task.finish()


def _insist_on_loading(
    manifest: Manifest,
    targets: Iterable[TargetLock],
    inputs: Inputs,
    adaptation: Adaptation,
    session: Session,
    artifacts: Mapping[Sha256, Artifact],
) -> None:
    """NnenvError `opset-unsupported` if an adapted model cannot be loaded by the runtime that its target has."""
    models = {model.name: model for model in inputs.models}
    for derivation in adaptation.derivations:
        facts = stored_onnx_facts(session, artifacts[derivation.file])
        needs = needs_of(models[derivation.model], facts)
        for target in targets:
            if target.name not in derivation.targets:
                continue
            for wheel in (artifacts[digest] for digest in target.wheels):
                objection = runtime_objection(wheel.name, wheel.version, [needs])
                if objection:
                    raise NnenvError(
                        "opset-unsupported",
                        f"the adapted model {derivation.model} cannot be loaded on target {target.name}",
                        where=manifest.position("models", derivation.model, "adapt"),
                        because=[f"{wheel.name} {wheel.version} {objection.why}", *objection.evidence],
                        fix=['add a step "convert-opset" at the end, or allow a newer onnxruntime'],
                    )


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


@dataclass(frozen=True, kw_only=True)
class _TargetLocking:
    """The locking of one target: what it may read, and the draft it adds to."""

    session: Session
    manifest: Manifest
    inputs: Inputs
    spec: TargetSpec
    indexes: PythonIndexes
    policy: PythonPolicy
    pins: _Pins
    old: Lockfile | None
    draft: _Draft

    def lock(self) -> TargetLock:
        """The locked target; its artifacts and Release files are in the draft."""
        spec = self.spec
        release = debian_release(spec.os.removeprefix("debian:"))
        architecture = spec.platform.removeprefix("linux/")
        archive = self.session.debian_archive(release.number, architecture)
        archive.not_before(_release_dates(self.old, architecture))
        roots = _system_roots(self.manifest, spec, release)
        python = _python_target(self.manifest, spec, self._close(roots, archive))
        choice = self._choose(python)
        for sentence in choice.notices:
            self.draft.notices.setdefault(sentence, []).append(spec.name)
        artifacts = [_wheel_artifact(wheel) for wheel in choice.wheels]
        sonames = self._sonames(choice, python, archive)
        closure = self._close([*roots, *sorted({package for _, package in sonames})], archive)
        moments = [self._keep_releases(archive, architecture), *(wheel.record.upload_time for wheel in choice.wheels)]
        return TargetLock(
            name=spec.name,
            platform=spec.platform,
            os=spec.os,
            python=python.python,
            moment=max(moments),
            glibc=python.glibc,
            wheels=self.draft.add(artifacts),
            debs=self.draft.add(map(_deb_artifact, closure.packages)),
            tools=self._tools(release, python, architecture),
            models=tuple(sorted(spec.models or (model.name for model in self.manifest.models))),
            sonames=sonames,
            omitted=tuple(f"{o.package}: {o.dependency} ({o.reason})" for o in closure.omitted),
            gpu=choice.gpu,
        )

    def _choose(self, python: PythonTarget) -> HardwareChoice:
        """The wheels, with all that the target's hardware makes of them; facts of all of them are known then."""
        return choose_wheels(
            _python_roots(self.manifest, self.spec, self.inputs.models),
            WheelKnowledge(session=self.session, indexes=self.indexes, os=self.spec.os, machine=python.machine),
            self.spec,
            python,
            self.policy,
            self.pins.wheels,
            self._place,
            self._models(),
        )

    def _models(self) -> list[ModelNeeds]:
        """What the target's models need of the runtime that loads them."""
        wanted = set(self.spec.models or (model.name for model in self.manifest.models))
        needs = []
        for model in self.inputs.models:
            if model.name in wanted and model.format == "onnx" and not self._is_adapted(model.name):
                facts = stored_onnx_facts(self.session, self.inputs.artifacts[model.file])
                needs.append(ModelNeeds(name=model.name, opsets=facts.opsets, ir=facts.ir_version))
        return needs

    def _is_adapted(self, model: str) -> bool:
        """Whether the target gets another file than the model's own, which is known only later."""
        spec = next(spec for spec in self.manifest.models if spec.name == model)
        return bool(spec.adapted_for(self.spec.name))

    def _place(self, requirement: str) -> str:
        """Where it stands in model.toml; "" for what nnenv itself asks for."""
        where = self.manifest.where
        own = ("targets", self.spec.name, "requires", "packages", requirement)
        return next((self.manifest.position(*path) for path in (own, ("requires", *own[3:])) if path in where), "")

    def _close(self, roots: Sequence[str], archive: DebianCatalog) -> Closure:
        return close(roots, archive, locked=self.pins.debs, omit=debian_facts().omit)

    def _sonames(
        self, choice: HardwareChoice, python: PythonTarget, archive: DebianCatalog
    ) -> tuple[tuple[str, str], ...]:
        """(soname, OS package) of every library that the wheels need from outside, and not from the driver."""
        demands = demanded_sonames(choice.facts, python.machine)
        demands = from_the_system(demands, self.spec.has_accelerator)
        return providers_of(demands, lambda soname: package_for_soname(soname, archive), target=self.spec.name)

    def _tools(self, release: DebianRelease, python: PythonTarget, architecture: str) -> tuple[Sha256, ...]:
        """The interpreter for the build machine, of the target's version, when the target has another CPU."""
        if architecture == BUILD_ARCHITECTURE:
            return ()
        archive = self.session.debian_archive(release.number, BUILD_ARCHITECTURE)
        archive.not_before(_release_dates(self.old, BUILD_ARCHITECTURE))
        name = f"python{release.python}-minimal"
        closure = close([name], archive, locked=self.pins.tools, omit=debian_facts().omit)
        found = next(upstream(record.version) for record in closure.packages if record.name == name)
        if found != python.python:
            raise NnenvError(
                "debian-unsatisfiable",
                f"target {python.name}: Debian offers Python {python.python} for {architecture} but {found} for the"
                f" {BUILD_ARCHITECTURE} machine that compiles its bytecode",
                where=f"targets.{python.name}",
                fix=["lock again when the archive has caught up on both architectures"],
            )
        self._keep_releases(archive, BUILD_ARCHITECTURE)
        return self.draft.add(map(_deb_artifact, closure.packages))

    def _keep_releases(self, archive: DebianCatalog, architecture: str) -> str:
        """Note the Release files in the lock; the newest of their dates."""
        for facts in archive.releases():
            self.draft.releases[(architecture, facts.suite)] = ReleaseLock(
                suite=facts.suite, architecture=architecture, date=facts.date, sha256=facts.sha256
            )
        return max(facts.date for facts in archive.releases())


@dataclass(frozen=True, kw_only=True)
class _Pins:
    """Versions of the old lock that are preferred."""

    wheels: Mapping[str, str]
    debs: Mapping[str, str]
    tools: Mapping[str, str]

    @classmethod
    def of(cls, old: Lockfile | None, target: str, forgotten: frozenset[str]) -> _Pins:
        """The pins of `target`; a target that is new to the lock borrows those of the others (the same versions
        everywhere is what a user expects)."""
        if old is None:
            return cls(wheels={}, debs={}, tools={})
        before = next((one for one in (*old.targets, *old.toolchains) if one.name == target), None)
        sources = [before] if before else list(old.targets)

        def versions(artifacts: Iterable[Artifact]) -> dict[str, str]:
            return {a.name: a.version for a in artifacts if a.name not in forgotten}

        return cls(
            wheels={n: v for source in sources for n, v in versions(old.wheels_of(source)).items()},
            debs=versions(old.debs_of(before)) if before else {},
            tools=versions(old.tools_of(before)) if before else {},
        )


def _system_roots(manifest: Manifest, spec: TargetSpec, release: DebianRelease) -> list[str]:
    shell = release.shell_roots if manifest.image.shell else ()
    return sorted({*release.roots, *shell, *manifest.requires.system, *spec.requires.system})


def _python_roots(manifest: Manifest, spec: TargetSpec, models: Sequence[ModelLock]) -> list[str]:
    held = [model for model in models if not spec.models or model.name in spec.models]
    asked = [*manifest.requires.packages, *spec.requires.packages]
    return [
        *asked,
        *runtimes(asked, [model.format for model in held]),
        *(need for model in held for need in model.needs),
    ]


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
        libstdcxx=versions.get("libstdc++6", ""),
    )


def _notices(manifest: Manifest, newest: str) -> tuple[str, ...]:
    """What the manifest alone does not say about the choice."""
    if newest == manifest.policy.exclude_newer:
        return ()
    return (f"wheels uploaded after {newest} were not considered",)


def _policy(manifest: Manifest, exclude_newer: str) -> PythonPolicy:
    return PythonPolicy(
        constraints=manifest.policy.constraints,
        overrides=manifest.policy.overrides,
        exclude_newer=exclude_newer,
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
    return artifact_of(wheel.record, wheel.requires, wheel.requires_python)


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


def _release_dates(old: Lockfile | None, architecture: str) -> dict[str, str]:
    """Suite -> date of the Release file that the old lock saw: an older one now is a rollback."""
    return {r.suite: r.date for r in old.releases if r.architecture == architecture} if old else {}
