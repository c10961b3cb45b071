"""What a lock asks of wheels about hardware: outlines from the index, facts from what is known or from the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from nnenv.adapters.python_index import PythonIndexes
from nnenv.errors import NnenvError
from nnenv.resolve.hardware import CpuRules, CudaRules, GpuTarget, allowed_majors
from nnenv.resolve.hardware_explain import Place, explained, with_other_runtimes, with_other_targets
from nnenv.resolve.hardware_result import Findings, contradictions, gpu_lock, notices
from nnenv.resolve.model_runtime import ModelNeeds
from nnenv.resolve.path_collisions import path_collisions
from nnenv.resolve.python import ChosenWheel, PythonPolicy, resolve_wheels
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.resolve.python_requirement import read_requirement
from nnenv.resolve.python_target import PythonTarget
from nnenv.resolve.variants import Variants, colliding
from nnenv.resolve.wheel_probes import probes_of
from nnenv.resolve.wheel_rules import WheelRules
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.elf import ElfFacts
from nnenv.spec.gpu import WheelOutline
from nnenv.spec.lockfile import GpuLock
from nnenv.spec.manifest import TargetSpec
from nnenv.workflows.facts import known_wheel_facts, wheel_facts
from nnenv.workflows.fetching import fetch_artifacts
from nnenv.workflows.session import Session


@dataclass(frozen=True, kw_only=True)
class WheelKnowledge:
    """Answers about wheels for one target; satisfies `resolve.hardware.Knowledge`."""

    session: Session
    indexes: PythonIndexes
    os: str
    machine: str

    def outline(self, wheel: WheelRecord) -> WheelOutline:
        return self.indexes.outline(wheel, probes_of(wheel.project))

    def libraries(self, wheel: WheelRecord) -> Sequence[ElfFacts]:
        artifact = artifact_of(self.indexes.identify(wheel))
        return facts_of(self.session, self.indexes, [artifact], self.os, self.machine)[artifact.name]


def facts_of(
    session: Session, indexes: PythonIndexes, wheels: Iterable[Artifact], os: str, machine: str
) -> Mapping[str, Sequence[ElfFacts]]:
    """Distribution -> facts of its libraries for `machine`; only wheels that nobody knows anything of are fetched."""
    chosen = list(wheels)
    known = {wheel.name: known_wheel_facts(session.store, wheel) for wheel in chosen}
    unknown = [wheel for wheel in chosen if known[wheel.name] is None]
    fetch_artifacts(session, unknown, indexes, os)
    found = {wheel.name: known[wheel.name] or wheel_facts(session.store, wheel) for wheel in chosen}
    return {name: [fact for fact in facts if fact.machine == machine] for name, facts in found.items()}


def artifact_of(record: WheelRecord, requires: tuple[str, ...] = (), requires_python: str = "") -> Artifact:
    """The wheel as the lock names it; its record states sha256 and size."""
    assert record.size is not None
    assert record.sha256
    return Artifact(
        kind=Kind.WHEEL,
        name=record.project,
        version=normal_version(record.version),
        filename=record.filename,
        sha256=Sha256(record.sha256),
        size=record.size,
        origin=record.origin,
        requires=requires,
        requires_python=requires_python,
    )


def normal_version(text: str) -> str:
    """A version in its normal spelling (PEP 440)."""
    from packaging.version import Version

    return str(Version(text))


@dataclass(frozen=True, kw_only=True)
class HardwareChoice:
    """The wheels of a target, and what is known of their libraries."""

    wheels: tuple[ChosenWheel, ...]
    facts: Mapping[str, Sequence[ElfFacts]]
    """Distribution -> facts of its libraries for the target's machine."""
    gpu: GpuLock | None
    """What is derived for a target with an accelerator."""
    notices: tuple[str, ...]
    """What whoever locks it should know, a sentence each."""


def choose_wheels(
    requirements: Sequence[str],
    knowledge: WheelKnowledge,
    spec: TargetSpec,
    python: PythonTarget,
    policy: PythonPolicy,
    pins: Mapping[str, str],
    place: Place,
    models: Sequence[ModelNeeds] = (),
) -> HardwareChoice:
    """The wheels that meet `requirements` on the target's hardware.

    The whole choice is looked at again from the facts of all its libraries; what contradicts it, or is missing from
    it, sends the search back. Raises NnenvError with the code of the rule that leaves nothing to choose; `place` says
    where in model.toml a requirement stands.
    """
    search = _Search(
        knowledge=knowledge,
        variants=variants_of(requirements, spec),
        python=python,
        policy=policy,
        pins=pins,
        models=models,
    )
    target = gpu_target(spec, python)
    if target is not None:
        search.insist_on_a_major(requirements, target)
    for _ in range(_MOST_SEARCHES):
        wheels = search.cpu(requirements, place) if target is None else search.cuda(requirements, target, place)
        artifacts = [artifact_of(wheel.record) for wheel in wheels]
        if target is None:
            # A CPU target's wheels are small, and whoever locks it builds it: they are fetched at once.
            fetch_artifacts(knowledge.session, artifacts, knowledge.indexes, knowledge.os)
        facts = facts_of(knowledge.session, knowledge.indexes, artifacts, knowledge.os, python.machine)
        more = contradictions(wheels, facts, python, target)
        if not more.beyond(search.findings):
            _insist_on_own_paths(wheels, knowledge, spec)
            gpu = None if target is None else gpu_lock(target, {w.record.project: w.version for w in wheels}, facts)
            return HardwareChoice(wheels=wheels, facts=facts, gpu=gpu, notices=notices(wheels, target))
        search = replace(search, findings=search.findings.with_more(more))
    raise NnenvError(
        "python-unsatisfiable",
        f"target {spec.name}: the libraries of the wheels contradict {_MOST_SEARCHES} choices one after the other",
        where=f"targets.{spec.name}",
        because=sorted(objection.why for objection in search.findings.refused.values())[:12],
        fix=["pin the framework to a version that is known to work on such a machine"],
    )


def _insist_on_own_paths(wheels: Sequence[ChosenWheel], knowledge: WheelKnowledge, spec: TargetSpec) -> None:
    """Raises NnenvError where two wheels own one path with different bytes: `variant-collision` if they stand for one
    module, else `layer-collision`."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_OUTLINES_AT_ONCE, thread_name_prefix="outline") as pool:
        outlines = list(pool.map(knowledge.outline, (wheel.record for wheel in wheels)))
    chosen = {wheel.record.project: wheel for wheel in wheels}
    for found in path_collisions(dict(zip(chosen, outlines, strict=True))):
        one, other = (chosen[name] for name in found.distributions)
        more = f" and {len(found.paths) - 1} more" if len(found.paths) > 1 else ""
        raise NnenvError(
            "variant-collision" if colliding(found.distributions) else "layer-collision",
            f"target {spec.name}: {one.record.project} {one.version} and {other.record.project} {other.version} both"
            f" bring {found.paths[0]}{more}, with different bytes",
            where=f"targets.{spec.name}",
            because=[f"{wheel.record.project} is asked for by {', '.join(wheel.parents)}" for wheel in (one, other)],
            fix=[
                "ask for one of them alone",
                "hold both to versions that agree, by [policy] constraints",
            ],
        )


def variants_of(requirements: Sequence[str], spec: TargetSpec) -> Variants:
    """What names mean on the target; NnenvError `variant-collision` if it asks for two variants of one module."""
    named = [read_requirement(text).name for text in requirements]
    variants = Variants(named)
    accelerator = 0 if spec.has_accelerator else None
    for collision in colliding({variants.mapped(name, (), accelerator)[0] for name in named}):
        raise NnenvError(
            "variant-collision",
            f"target {spec.name}: {' and '.join(collision.distributions)} both bring the module {collision.imports}",
            where=f"targets.{spec.name}",
            because=["files of one would replace those of the other"],
            fix=[f"ask for one of them alone: {name}" for name in collision.distributions],
        )
    return variants


def gpu_target(spec: TargetSpec, python: PythonTarget) -> GpuTarget | None:
    """The target's accelerator, or None."""
    if not spec.has_accelerator:
        return None
    return GpuTarget(
        name=spec.name,
        machine=python.machine,
        cuda=spec.cuda,
        cudnn=spec.cudnn,
        capabilities=spec.compute_capability,
        driver=spec.driver.removeprefix(">="),
    )


@dataclass(frozen=True, kw_only=True)
class _Search:
    """All that a search for one target's wheels depends on, but what it asks for."""

    knowledge: WheelKnowledge
    variants: Variants
    python: PythonTarget
    policy: PythonPolicy
    pins: Mapping[str, str]
    models: Sequence[ModelNeeds]
    findings: Findings = field(default_factory=Findings)

    def cpu(self, requirements: Sequence[str], place: Place) -> tuple[ChosenWheel, ...]:
        """Wheels without CUDA."""
        try:
            return self._without_cuda(requirements)
        except NnenvError as error:
            if error.code != "opset-unsupported":
                raise
            loose = partial(self._without_cuda, max_rounds=_ROUNDS_TO_EXPLAIN)
            raise with_other_runtimes(error, requirements, loose, place) from None

    def _without_cuda(self, requirements: Sequence[str], max_rounds: int | None = None) -> tuple[ChosenWheel, ...]:
        rules = CpuRules(self.variants, self.findings.refused, self.models)
        return self._resolved(requirements, rules, max_rounds)

    def cuda(self, requirements: Sequence[str], target: GpuTarget, place: Place) -> tuple[ChosenWheel, ...]:
        """Wheels for an accelerator; the toolkit is of several releases only where no one release will do."""
        try:
            return self._with_cuda(requirements, target, coherent=True)
        except NnenvError:
            try:
                return self._with_cuda(requirements, target, coherent=False)
            except NnenvError as error:
                loose = partial(self._with_cuda, coherent=False, max_rounds=_ROUNDS_TO_EXPLAIN)
                raise explained(error, requirements, target, loose, place) from None

    def insist_on_a_major(self, requirements: Sequence[str], target: GpuTarget) -> None:
        """Raises NnenvError where the target's keys leave no CUDA major, with what would help."""
        try:
            allowed_majors(target)
        except NnenvError as error:
            loose = partial(self._with_cuda, coherent=False, max_rounds=_ROUNDS_TO_EXPLAIN)
            raise with_other_targets(error, requirements, target, loose) from None

    def _with_cuda(
        self, requirements: Sequence[str], target: GpuTarget, *, coherent: bool, max_rounds: int | None = None
    ) -> tuple[ChosenWheel, ...]:
        """Where a name means another build for each CUDA and the target leaves that open, all are tried in turn."""
        rules = CudaRules(
            target,
            self.variants,
            self.knowledge,
            refused=self.findings.refused,
            missing=self.findings.missing,
            coherent=coherent,
            models=self.models,
        )
        try:
            return self._resolved(requirements, rules, max_rounds)
        except NnenvError:
            if not rules.has_guessed:
                raise
            for major in rules.majors[1:]:
                older = replace(target, cuda=",".join(filter(None, (target.cuda, f"=={major}.*"))))
                with suppress(NnenvError):
                    return self._with_cuda(requirements, older, coherent=coherent, max_rounds=max_rounds)
            raise

    def _resolved(
        self, requirements: Sequence[str], rules: WheelRules, max_rounds: int | None = None
    ) -> tuple[ChosenWheel, ...]:
        return resolve_wheels(
            requirements,
            self.knowledge.indexes,
            self.python,
            self.policy,
            pins=self.pins,
            rules=rules,
            max_rounds=max_rounds,
        )


_ROUNDS_TO_EXPLAIN: Final = 500
"""Steps of each search that an explanation tries; what takes longer is no answer to give."""
_OUTLINES_AT_ONCE: Final = 8
"""File lists that are read together; an index is asked no more than that."""
_MOST_SEARCHES: Final = 8
"""Searches for one target; the second usually confirms the first."""
