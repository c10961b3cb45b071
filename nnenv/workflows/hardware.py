"""What a lock asks of wheels about hardware: outlines from the index, facts from what is known or from the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnenv.adapters.python_index import PythonIndexes
from nnenv.errors import NnenvError
from nnenv.resolve.hardware import CpuRules, CudaRules, GpuTarget
from nnenv.resolve.hardware_result import Findings, contradictions, gpu_lock
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


def choose_wheels(
    requirements: Sequence[str],
    knowledge: WheelKnowledge,
    spec: TargetSpec,
    python: PythonTarget,
    policy: PythonPolicy,
    pins: Mapping[str, str],
) -> HardwareChoice:
    """The wheels that meet `requirements` on the target's hardware.

    The whole choice is looked at again from the facts of all its libraries; what contradicts it, or is missing from
    it, sends the search back. Raises NnenvError with the code of the rule that leaves nothing to choose.
    """
    variants = variants_of(requirements, spec)
    target = gpu_target(spec, python)
    findings = Findings()
    for _ in range(_MOST_SEARCHES):
        wheels = _searched(requirements, knowledge, target, variants, findings, python, policy, pins)
        artifacts = [artifact_of(wheel.record) for wheel in wheels]
        if target is None:
            # A CPU target's wheels are small, and whoever locks it builds it: they are fetched at once.
            fetch_artifacts(knowledge.session, artifacts, knowledge.indexes, knowledge.os)
        facts = facts_of(knowledge.session, knowledge.indexes, artifacts, knowledge.os, python.machine)
        more = contradictions(wheels, facts, python, target)
        if not more.beyond(findings):
            gpu = None if target is None else gpu_lock(target, {w.record.project: w.version for w in wheels}, facts)
            return HardwareChoice(wheels=wheels, facts=facts, gpu=gpu)
        findings = findings.with_more(more)
    raise NnenvError(
        "python-unsatisfiable",
        f"target {spec.name}: the libraries of the wheels contradict {_MOST_SEARCHES} choices one after the other",
        where=f"targets.{spec.name}",
        because=sorted(objection.why for objection in findings.refused.values())[:12],
        fix=["pin the framework to a version that is known to work on such a machine"],
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


def _searched(
    requirements: Sequence[str],
    knowledge: WheelKnowledge,
    target: GpuTarget | None,
    variants: Variants,
    findings: Findings,
    python: PythonTarget,
    policy: PythonPolicy,
    pins: Mapping[str, str],
) -> tuple[ChosenWheel, ...]:
    """One search; components of the toolkit of different releases only where no one release will do."""
    if target is None:
        rules: WheelRules = CpuRules(variants, findings.refused)
        return resolve_wheels(requirements, knowledge.indexes, python, policy, pins=pins, rules=rules)
    rules = CudaRules(target, variants, knowledge, refused=findings.refused, missing=findings.missing)
    try:
        return resolve_wheels(requirements, knowledge.indexes, python, policy, pins=pins, rules=rules)
    except NnenvError as error:
        loose = CudaRules(
            target, variants, knowledge, refused=findings.refused, missing=findings.missing, coherent=False
        )
        try:
            return resolve_wheels(requirements, knowledge.indexes, python, policy, pins=pins, rules=loose)
        except NnenvError:
            raise error from None


_MOST_SEARCHES = 8
"""Searches for one target; the second usually confirms the first."""
