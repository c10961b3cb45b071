"""What verification found, as values; `report_json` is what `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nnenv.spec.artifact import Sha256
from nnenv.verify.cases import CaseKind
from nnenv.verify.compare import TOLERANCE_POLICY, OutputVerdict, json_number, verdict_json
from nnenv.verify.ladder import Status, Verdict
from nnenv.verify.vacuity import Vacuity

REPORT_SCHEMA: Final = "nnenv.report/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing a check found wrong."""

    code: str
    """Stable, for programs: `soname-missing`, `import-failed`, `digest-mismatch`, …"""
    what: str
    """One sentence."""
    where: str = ""
    """Path in the image, distribution, model or case."""
    because: tuple[str, ...] = ()
    """The evidence, one line each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The outcome of one of the four checks, with what it found."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    note: str = ""
    """Why it was not run, or what was left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """The machine the image ran on, as seen from inside it."""

    machine: str
    """`x86_64`, `aarch64`."""
    cpu: str
    """Model name, or implementer and part number on ARM; empty if unknown."""
    isa: tuple[str, ...]
    """The CPU flags that decide which kernels a runtime picks, sorted."""
    kernel: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseReport:
    """One case, run and compared outside the image."""

    model: str
    name: str
    kind: CaseKind
    passed: bool
    reason: str
    """Why it failed, in one sentence; empty if it passed."""
    input_sha256: Sha256
    """`cases.tensors_digest` of the inputs."""
    expected_sha256: Sha256
    """… of the expected outputs."""
    output_sha256: Sha256 | None
    """… of what the model answered; None if it did not. Evidence, not a gate."""
    outputs: tuple[OutputVerdict, ...]
    vacuity: Vacuity
    load_milliseconds: float | None = None
    """Clock readings are in `--json`, never in the statement."""
    run_milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReport:
    """One model of the target."""

    name: str
    sha256: Sha256
    """As locked."""
    found_sha256: Sha256 | None
    """As read inside the image; None if the file could not be read or the harness did not say."""
    providers: tuple[str, ...]
    """Execution providers the session used, in order of preference."""
    error: str
    """Why it could not be loaded; empty if it could."""
    cases: tuple[CaseReport, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassReport:
    """One class of a classification report."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int
    """Samples with that label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """What a model costs where it ran."""

    size: int
    """Bytes of its files."""
    milliseconds: float
    """Least wall time of a run of the least batch."""
    cpu_milliseconds: float
    """Least processor time of such a run."""
    peak_mebibytes: float
    """Largest resident memory of the process, runtime included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """One measure of a model, taken inside the image."""

    model: str
    number: int
    """Which of the model's `eval` tables, from 0."""
    metric: str
    value: float
    samples: int
    baseline: float | None
    """What the model before adaptation, or the one locked before, measured when this one was locked."""
    failures: tuple[str, ...]
    """What it does not reach; empty if it passed."""
    notes: tuple[str, ...]
    cost: ModelCost
    classes: tuple[ClassReport, ...] = ()
    """Of a classification, by class."""

    @property
    def passed(self) -> bool:
        """Whether every gate was met."""
        return not self.failures


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything `nnenv verify` says of one target's image."""

    target: str
    status: Status
    checks: Mapping[str, Check]
    """`closure`, `load`, `reference`, `accelerator` -> outcome."""
    manifest_digest: Sha256
    """Of the image's OCI manifest."""
    config_digest: Sha256
    """Of the image's OCI config: Docker's image ID."""
    lock_sha256: Sha256
    """Of the part of model.lock that decides this image, which the image holds as opt/nnenv/share/nnenv/model.lock."""
    harness_sha256: Sha256
    """`evaluate.harness_digest` of the harness that ran."""
    runner: str
    """`docker` or `sandbox`; empty if nothing was run."""
    emulated: bool
    """True when another CPU architecture was emulated."""
    host: HostFacts | None
    """None if nothing was run."""
    runtime: Mapping[str, str]
    """Versions inside the image: `python`, `numpy`, `onnxruntime`, …"""
    models: tuple[ModelReport, ...]
    evaluations: tuple[EvaluationReport, ...] | None = None
    """Measures of quality and cost; None if none were asked for."""
    network: str = "none"
    policy: str = TOLERANCE_POLICY
    nnenv_version: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further facts of a workflow; bound by the statement too."""


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values, with clock readings under the keys `timings`."""
    return {
        "schema": REPORT_SCHEMA,
        "target": report.target,
        "status": report.status.label,
        "checks": {name: _check(check) for name, check in report.checks.items()},
        "image": {"manifest": report.manifest_digest, "config": report.config_digest},
        "lock_sha256": report.lock_sha256,
        "harness_sha256": report.harness_sha256,
        "policy": report.policy,
        "nnenv": report.nnenv_version,
        "run": {
            "runner": report.runner,
            "emulated": report.emulated,
            "network": report.network,
            "host": None if report.host is None else _host(report.host),
            "versions": dict(report.runtime),
        },
        "models": [_model(model) for model in report.models],
        **({} if report.evaluations is None else {"evaluations": [_evaluation(one) for one in report.evaluations]}),
        "extra": dict(report.extra),
    }


def _evaluation(one: EvaluationReport) -> dict[str, Any]:
    cost = one.cost
    return {
        "model": one.model,
        "number": one.number,
        "metric": one.metric,
        "value": one.value,
        "samples": one.samples,
        "baseline": one.baseline,
        "passed": one.passed,
        "failures": list(one.failures),
        "notes": list(one.notes),
        "size": cost.size,
        "timings": {
            "min_milliseconds": cost.milliseconds,
            "min_cpu_milliseconds": cost.cpu_milliseconds,
            "peak_mebibytes": cost.peak_mebibytes,
        },
        "classes": [
            {"label": row.label, "precision": row.precision, "recall": row.recall, "f1": row.f1, "support": row.support}
            for row in one.classes
        ],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "verdict": check.verdict.value,
        "note": check.note,
        "findings": [
            {"code": one.code, "what": one.what, "where": one.where, "because": list(one.because)}
            for one in check.findings
        ],
    }


def _host(host: HostFacts) -> dict[str, Any]:
    return {"machine": host.machine, "cpu": host.cpu, "isa": list(host.isa), "kernel": host.kernel}


def _model(model: ModelReport) -> dict[str, Any]:
    return {
        "name": model.name,
        "sha256": model.sha256,
        "found_sha256": model.found_sha256,
        "providers": list(model.providers),
        "error": model.error,
        "cases": [_case(case) for case in model.cases],
    }


def _case(case: CaseReport) -> dict[str, Any]:
    return {
        "name": f"{case.model}/{case.name}",
        "kind": case.kind.value,
        "passed": case.passed,
        "reason": case.reason,
        "input_sha256": case.input_sha256,
        "expected_sha256": case.expected_sha256,
        "output_sha256": case.output_sha256,
        "outputs": [verdict_json(output) for output in case.outputs],
        "vacuous": case.vacuity.vacuous,
        "vacuous_because": case.vacuity.reason,
        "sensitivity": json_number(case.vacuity.sensitivity),
        "distinct_values": case.vacuity.distinct_values,
        "timings": {"load_milliseconds": case.load_milliseconds, "run_milliseconds": case.run_milliseconds},
    }
