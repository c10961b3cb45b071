"""The accelerator verdict: do the models run on the GPU, all of what matters, and give the right outputs there?

Two runs of every case: with TF32 off against the ordinary limits, where a wrong kernel shows, then with the provider's
own settings against the limit for TF32. And the placement of every node, because onnxruntime puts what a provider does
not take on the CPU without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nnenv.verify.compare import LIMITS
from nnenv.verify.evaluate import ModelUnderTest, evaluate, read_answers, requests_for
from nnenv.verify.ladder import Verdict
from nnenv.verify.report import Check, Finding, ModelReport
from nnenv.verify.wire import Blobs, encode_array, pack

CPU: Final = "CPUExecutionProvider"

ON_CPU_TOO: Final = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Gather", "Identity", "Range", "Reshape", "Shape",
     "Size", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)  # fmt: skip
"""Operators that may run on the CPU: onnxruntime puts the arithmetic of shapes there on purpose (microsoft/onnxruntime
pull 13590), which costs less than the copies."""

CPU_TIME: Final = 0.05
"""The largest part of the time of a model's nodes that the CPU may take."""

TF32_LIMIT: Final = 1e-2
"""Limit for float32 outputs with TF32, where a case states none; the widest seen of eight networks was 2.9e-2, by
emulation (reference/inference_test.md, 3.4 and 6.3)."""

TF32_OFF: Final[Mapping[str, Mapping[str, str]]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where the nodes of one model ran."""

    provider: str
    """The one that was asked for."""
    on_provider: int
    """Nodes that it took; a subgraph that it took whole counts as its nodes where they are known."""
    elsewhere: tuple[tuple[str, str, int], ...]
    """(other provider, operator, number of nodes), sorted."""
    cpu_time: float | None
    """Part of the time of all kernels that other providers took; None without a profile."""
    source: str
    """`assignment` or `profile`."""


def accelerated_requests(models: Sequence[ModelUnderTest], provider: str) -> tuple[bytes, bytes, bytes]:
    """Requests for the harness: with TF32 off, as in production, and for the placement."""
    precise = {"providers": [provider], "provider_options": TF32_OFF}
    production = {"providers": [provider]}
    return (
        requests_for(models, session=precise),
        requests_for(models, session=production),
        _placement_request(models, provider),
    )


def accelerator_check(models: Sequence[ModelUnderTest], answers: tuple[bytes, bytes, bytes], provider: str) -> Check:
    """The verdict on the answers to `accelerated_requests`."""
    precise = evaluate(models, answers[0], load=False).models
    production = evaluate([_with_tf32(model) for model in models], answers[1], load=False).models
    placements = [_placement(answer, provider) for answer in read_answers(answers[2], len(models))[0]]
    findings = [
        *_run_findings(precise, "with TF32 off"),
        *_run_findings(production, "with the provider's own settings"),
    ]
    for model, placement in zip(models, placements, strict=True):
        findings += _placement_findings(model.name, placement)
    nodes = sum(placement.on_provider for placement in placements if isinstance(placement, Placement))
    return Check(
        verdict=Verdict.FAILED if findings else Verdict.PASSED,
        findings=tuple(findings),
        note="" if findings else f"{nodes} nodes on {provider}, outputs right with and without TF32",
    )


def _with_tf32(model: ModelUnderTest) -> ModelUnderTest:
    """The model with the limits of TF32 for its cases' float32 outputs."""

    def relaxed(tolerance: Mapping[str, float]) -> dict[str, float]:
        limit = tolerance.get("tf32", max(TF32_LIMIT, tolerance.get("fp32", LIMITS["fp32"])))
        return {**tolerance, "fp32": limit}

    cases = (
        replace(case, settings=replace(case.settings, tolerance=relaxed(case.settings.tolerance)))
        for case in model.cases
    )
    return replace(model, cases=tuple(cases))


def _placement_request(models: Sequence[ModelUnderTest], provider: str) -> bytes:
    """Each model with its first case's inputs."""
    blobs = Blobs()
    actions: list[dict[str, object]] = []
    for model in models:
        inputs = {name: encode_array(array, blobs) for name, array in model.cases[0].case.inputs.items()}
        actions.append({"do": "place", "model": model.path, "providers": [provider], "inputs": inputs})
    return pack({"actions": actions}, blobs.parts)


def _placement(answer: Mapping[str, Any], provider: str) -> Placement | str:
    """Where the nodes ran, or why that is not known."""
    if "error" in answer:
        error = answer["error"]
        return f"{error.get('kind')}: {error.get('message')}" if isinstance(error, Mapping) else str(error)
    assigned, ran = answer.get("assigned"), answer.get("ran")
    if not isinstance(ran, list) or not (assigned is None or isinstance(assigned, list)):
        return "the harness did not say"
    try:
        nodes = [(str(p), str(op)) for p, op, _ in ran]
        if assigned is not None:
            nodes = [(str(p), str(op)) for p, _, op in assigned]
        times = [(str(p), int(duration)) for p, _, duration in ran]
    except (TypeError, ValueError):
        return "the harness' answer is not understood"
    total = sum(duration for _, duration in times)
    others = Counter((other, operator) for other, operator in nodes if other != provider)
    return Placement(
        provider=provider,
        on_provider=sum(1 for other, _ in nodes if other == provider),
        elsewhere=tuple((other, operator, number) for (other, operator), number in sorted(others.items())),
        cpu_time=sum(duration for other, duration in times if other != provider) / total if total else None,
        source="profile" if assigned is None else "assignment",
    )


def _placement_findings(model: str, placement: Placement | str) -> list[Finding]:
    """What is wrong with where a model ran."""
    if isinstance(placement, str):
        what = "it is not known where the model's nodes ran"
        return [Finding(code="placement-unknown", what=what, where=model, because=(placement,))]
    if not placement.on_provider:
        what = f"no node ran on {placement.provider}"
        return [Finding(code="not-on-accelerator", what=what, where=model, because=_shown(placement))]
    findings = []
    if any(operator not in ON_CPU_TOO for _, operator, _ in placement.elsewhere):
        what = f"nodes that matter ran beside {placement.provider}"
        findings.append(Finding(code="cpu-fallback", what=what, where=model, because=_shown(placement)))
    elif placement.elsewhere and (placement.cpu_time or 0.0) > CPU_TIME:
        what = f"{placement.cpu_time:.0%} of the time went beside {placement.provider}, allowed are {CPU_TIME:.0%}"
        findings.append(Finding(code="cpu-time", what=what, where=model, because=_shown(placement)))
    return findings


def _shown(placement: Placement) -> tuple[str, ...]:
    by = f"by onnxruntime's {placement.source}"
    return tuple(f"{number} x {operator} on {other}, {by}" for other, operator, number in placement.elsewhere[:12])


def _run_findings(models: Sequence[ModelReport], how: str) -> list[Finding]:
    findings = [
        Finding(code="model-failed", what=f"the model does not open {how}", where=model.name, because=(model.error,))
        for model in models
        if model.error
    ]
    for model in models:
        for case in model.cases if not model.error else ():
            if not case.passed:
                because = tuple(f"{output.name}: {output.reason}" for output in case.outputs if not output.passed)
                what = f"{case.reason} ({how})"
                findings.append(
                    Finding(code="case-failed", what=what, where=f"{model.name}/{case.name}", because=because)
                )
    return findings
