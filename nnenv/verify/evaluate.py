"""What to ask the harness, and what its answer means. Pure functions: the caller runs the harness in between.

The image only returns tensors; expected outputs never enter it with this request, and the comparison is made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from nnenv.errors import NnenvError
from nnenv.spec.artifact import Sha256, sha256_of
from nnenv.verify.cases import Case, CaseKind, CaseSettings, tensors_digest
from nnenv.verify.compare import compare
from nnenv.verify.harness import ANSWER_SCHEMA, FILES
from nnenv.verify.ladder import Verdict
from nnenv.verify.load_report import Loaded, LoadRequest
from nnenv.verify.protocols import Completed
from nnenv.verify.report import CaseReport, Check, Finding, HostFacts, ModelCost, ModelReport
from nnenv.verify.vacuity import Vacuity, assess, probe_inputs
from nnenv.verify.wire import Blobs, WireError, decode_array, encode_array, pack, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RUNS_PER_CASE: Final = 3
"""The case itself and two vacuity probes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseUnderTest:
    """A case bound to its model, with the settings that go with it."""

    case: Case
    settings: CaseSettings = field(default_factory=CaseSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUnderTest:
    """One model of the image."""

    name: str
    path: str
    """Absolute, inside the image."""
    sha256: Sha256
    """As locked."""
    format: str = "onnx"
    beside: Mapping[str, Sha256] = field(default_factory=dict)
    """Absolute path inside the image -> digest of each further file of the model."""
    cases: tuple[CaseUnderTest, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The harness' answer, understood and compared."""

    host: HostFacts
    emulated: bool
    """True if the host's CPU facts contradict its architecture; False if nothing does."""
    loaded: Loaded | None
    """None if no load was asked for."""
    models: tuple[ModelReport, ...]


def harness_digest(files: Mapping[str, bytes]) -> Sha256:
    """One sha256 over the harness as it is copied into the image: FILES in order, each after its length."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(len(files[name]).to_bytes(8, "big"))
        digest.update(files[name])
    return Sha256(digest.hexdigest())


def requests_for(
    models: Sequence[ModelUnderTest],
    *,
    load: LoadRequest | None = None,
    threads: int = 1,
    optimization: str = "all",
    session: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """The request for `harness.py serve-request`: the load, then each model opened and its cases run.

    `session` says more of how models are opened: `providers`, `provider_options`. Each case runs RUNS_PER_CASE times:
    as it is, and with the two inputs of the vacuity probe.
    """
    blobs = Blobs()
    actions: list[dict[str, object]] = []
    if load is not None:
        asked = {"imports": list(load.imports), "libraries": list(load.libraries), "cuda": list(load.cuda)}
        more = {"extension_modules": load.extension_modules, "provider": load.provider}
        actions.append({"do": "load", **asked, **more})
    for model in models:
        opened = {
            "model": model.path,
            "sha256": model.sha256,
            "format": model.format,
            "beside": dict(model.beside),
            "threads": threads,
            "optimization": optimization,
            **session,
        }
        actions.append({"do": "describe", **opened})
        for under_test in model.cases:
            inputs = under_test.case.inputs
            for tensors in (inputs, *probe_inputs(inputs)):
                encoded = {name: encode_array(array, blobs) for name, array in tensors.items()}
                actions.append({"do": "run", **opened, "inputs": encoded})
    return pack({"actions": actions}, blobs.parts)


_ROOM: Final[Mapping[str, str]] = {
    "memory": "give it more with `nnenv verify --memory GIB`, if the model needs it",
    "time": "give it more with `nnenv verify --timeout S`, if the model needs it",
}
"""Limit of a run -> how the user widens it."""


def answer_of(completed: Completed) -> bytes:
    """The harness' answer; NnenvError `verification-failed` if the run ended without one."""
    if completed.exit_code == 0 and not completed.limit_hit:
        return completed.stdout
    ended = f"it hit the {completed.limit_hit} limit" if completed.limit_hit else _ending(completed.exit_code)
    said = completed.stderr[-4000:].decode("utf-8", "replace").splitlines()[-8:]
    fix = _ROOM.get(completed.limit_hit)
    raise _unanswered(f"the harness inside the image gave no answer: {ended}", said, fix=[fix] if fix else [])


def evaluate(models: Sequence[ModelUnderTest], answer: bytes, *, load: bool) -> Evaluation:
    """The answer to `requests_for(models, load=…)`, compared with what the cases expect.

    `load` says whether the request asked for one. Nothing in the answer is believed beyond its tensors and versions:
    NnenvError `verification-failed` if it does not have the form of an answer to that request.
    """
    expected = load + sum(1 + RUNS_PER_CASE * len(model.cases) for model in models)
    answers, host, body = read_answers(answer, expected)
    following = iter(answers)
    loaded = _loaded(next(following)) if load else None
    return Evaluation(
        host=_host_facts(host),
        emulated=host.get("emulated") is True,
        loaded=loaded,
        models=tuple(_model_report(model, following, body) for model in models),
    )


def read_answers(answer: bytes, expected: int) -> tuple[list[dict[str, Any]], dict[str, Any], memoryview]:
    """(answers, facts of the host, the tensors' bytes) of the harness' answer to so many actions.

    NnenvError `verification-failed` if it is none.
    """
    try:
        header, body = unpack(answer)
    except WireError as error:
        raise _unanswered("the harness' answer is not understood", [str(error)]) from error
    if header.get("schema") != ANSWER_SCHEMA or "error" in header:
        raise _unanswered("the harness refused the request", [str(header.get("error", header.get("schema")))])
    answers = _objects(header.get("answers"))
    if len(answers) != expected:
        raise _unanswered(f"the harness gave {len(answers)} answers to {expected} questions", [])
    return answers, _object(header.get("host")), body


def run_request(
    path: str, sha256: Sha256, inputs: Sequence[Mapping[str, Array]], *, optimization: str = "all", kind: str = "onnx"
) -> bytes:
    """The request that one model of format `kind`, at `path` in the image, be run on each input, with one thread."""
    blobs = Blobs()
    opened = {"model": path, "sha256": sha256, "format": kind, "threads": 1, "optimization": optimization}
    actions = [
        {"do": "run", **opened, "inputs": {name: encode_array(array, blobs) for name, array in case.items()}}
        for case in inputs
    ]
    return pack({"actions": actions}, blobs.parts)


_RUNS: Final = 30
_WARM_UPS: Final = 3
"""Runs that a latency is the fastest of, after others that do not count (reference/inference_test.md, 6.7)."""


def measuring_request(
    path: str, sha256: Sha256, sample: Mapping[str, Array], inputs: Sequence[Mapping[str, Array]], *, kind: str = "onnx"
) -> bytes:
    """As `run_request`, after an action that measures what one run of `sample` costs."""
    blobs = Blobs()
    opened = {"model": path, "sha256": sha256, "format": kind, "threads": 1, "optimization": "all"}

    def action(do: str, case: Mapping[str, Array], **more: object) -> dict[str, object]:
        return {
            "do": do,
            **opened,
            **more,
            "inputs": {name: encode_array(array, blobs) for name, array in case.items()},
        }

    actions = [action("measure", sample, runs=_RUNS, warm_ups=_WARM_UPS), *(action("run", case) for case in inputs)]
    return pack({"actions": actions}, blobs.parts)


def measured(answer: bytes, count: int, size: int) -> ModelCost:
    """What a run cost, of the answer to `measuring_request` with `count` inputs; `size` is the model's, in bytes.

    NnenvError `verification-failed` if it is no such answer.
    """
    first = read_answers(answer, count + 1)[0][0]
    if "error" in first:
        raise _unanswered("the model could not be measured", [_error(first)])
    numbers = [first.get(key) for key in ("min_milliseconds", "min_cpu_milliseconds", "peak_mebibytes")]
    if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
        raise _unanswered("the harness' answer is not understood", ["a measure is no number"])
    wall, cpu, peak = (float(number) for number in numbers if number is not None)
    return ModelCost(size=size, milliseconds=wall, cpu_milliseconds=cpu, peak_mebibytes=peak)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a model answered to `run_request`."""

    outputs: tuple[Mapping[str, Array], ...]
    """Of each input, by output."""
    host: HostFacts
    error: str = ""
    """Why one of the runs failed; the outputs are none then."""


def ran(answer: bytes, count: int, *, skip: int = 0) -> Ran:
    """The answer to `run_request` of so many inputs, or to a request whose first `skip` actions are no runs.

    NnenvError `verification-failed` if it is none.
    """
    answers, host, body = read_answers(answer, count)
    answers = answers[skip:]
    error = next((_error(one) for one in answers if "error" in one), "")
    outputs = () if error else tuple(_outputs(one, body) for one in answers)
    return Ran(outputs=outputs, host=_host_facts(host), error=error)


def reference_check(models: Sequence[ModelReport]) -> Check:
    """Passed if every model has cases and all of them passed; not run if a model has none and nothing failed."""
    findings = [finding for model in models for finding in _model_findings(model)]
    if findings:
        return Check(verdict=Verdict.FAILED, findings=tuple(findings))
    without = [model.name for model in models if not model.cases]
    if not models or without:
        note = f"no case for {', '.join(without)}" if without else "the target has no model"
        return Check(verdict=Verdict.NOT_RUN, note=note)
    return Check(verdict=Verdict.PASSED)


def weak_evidence(models: Sequence[ModelReport]) -> tuple[bool, bool]:
    """(vacuous, self_made) for `ladder.status`.

    The first is true if all cases of some model are vacuous; the second if some model has cases that tell something,
    and all of those are self-made.
    """
    telling = [[case for case in model.cases if not case.vacuity.vacuous] for model in models]
    vacuous = any(not cases for cases in telling)
    self_made = any(cases and all(case.kind is CaseKind.SELFTEST for case in cases) for cases in telling)
    return vacuous, self_made


def _model_findings(model: ModelReport) -> list[Finding]:
    findings = []
    if model.error:
        findings.append(Finding(code="model-failed", what=model.error, where=model.name))
    for case in model.cases:
        if not case.passed:
            because = tuple(f"{output.name}: {output.reason}" for output in case.outputs if not output.passed)
            where = f"{model.name}/{case.name}"
            findings.append(Finding(code="case-failed", what=case.reason, where=where, because=because))
    return findings


def _model_report(model: ModelUnderTest, answers: Iterator[dict[str, Any]], body: memoryview) -> ModelReport:
    described = next(answers)
    found = _digest(described.get("sha256"))
    error = _error(described)
    if not error and found != model.sha256:
        error = f"the image has another file: sha256 {found}, locked is {model.sha256}"
    cases = tuple(
        _case_report(model, under_test, [next(answers) for _ in range(RUNS_PER_CASE)], body)
        for under_test in model.cases
    )
    return ModelReport(
        name=model.name,
        sha256=model.sha256,
        found_sha256=found,
        providers=tuple(_texts(described.get("providers", []))),
        error=error,
        cases=cases,
    )


def _case_report(
    model: ModelUnderTest, under_test: CaseUnderTest, answers: Sequence[dict[str, Any]], body: memoryview
) -> CaseReport:
    case, settings = under_test.case, under_test.settings
    outputs, *probes = (_outputs(answer, body) for answer in answers)
    reason = _refused(model, settings, answers[0])
    verdicts = compare(case.expected, outputs, limits=settings.tolerance, axes=settings.axes) if outputs else ()
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not reason and (failed or not verdicts):
        reason = f"{len(failed)} of {len(verdicts)} outputs differ from what is expected"
    return CaseReport(
        model=model.name,
        name=case.name,
        kind=settings.kind,
        passed=not reason,
        reason=reason,
        input_sha256=tensors_digest(case.inputs),
        expected_sha256=tensors_digest(case.expected),
        output_sha256=tensors_digest(outputs) if outputs else None,
        outputs=verdicts,
        vacuity=_vacuity(outputs, probes, [_error(answer) for answer in answers[1:]]),
        load_milliseconds=_milliseconds(answers[0].get("load_milliseconds")),
        run_milliseconds=_milliseconds(answers[0].get("run_milliseconds")),
    )


def _refused(model: ModelUnderTest, settings: CaseSettings, answer: dict[str, Any]) -> str:
    """Why the case cannot count, whatever its numbers; empty if it can."""
    if settings.model_sha256 not in (None, model.sha256):
        return f"the case was recorded for another model file (sha256 {settings.model_sha256})"
    error = _error(answer)
    if not error and answer.get("sha256") != model.sha256:
        return f"it ran another model file: sha256 {answer.get('sha256')}, locked is {model.sha256}"
    return error


def _vacuity(outputs: Mapping[str, Array], probes: Sequence[Mapping[str, Array]], errors: Sequence[str]) -> Vacuity:
    """What the probes say; a probe that the model rejected is left out, and without any the case proves nothing."""
    ran = [probe for probe in probes if probe]
    if outputs and ran:
        return assess(outputs, ran[0], ran[-1])
    why = "the case itself did not run" if not outputs else f"no probe could be run: {errors[0]}"
    return Vacuity(vacuous=True, reason=why, sensitivity=0.0, distinct_values=0)


# --- reading the answer ----------------------------------------------------------------------------------------------


def _unanswered(what: str, because: Sequence[str], fix: Sequence[str] = ()) -> NnenvError:
    return NnenvError("verification-failed", what, where="harness", because=because, fix=fix)


def _ending(exit_code: int) -> str:
    return f"it ended with signal {-exit_code}" if exit_code < 0 else f"it ended with exit code {exit_code}"


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unanswered("the harness' answer is not understood", [f"{str(value)[:80]} is no object"])
    return value


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _unanswered("the harness' answer is not understood", ["answers is no list"])
    return [_object(item) for item in value]


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _unanswered("the harness' answer is not understood", [f"{str(value)[:80]} is no list of texts"])
    return value


def _text_map(value: object) -> dict[str, str]:
    found = _object(value)
    if not all(isinstance(item, str) for item in found.values()):
        raise _unanswered("the harness' answer is not understood", [f"{str(value)[:80]} holds more than texts"])
    return found


def _milliseconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _digest(value: object) -> Sha256 | None:
    try:
        return sha256_of(str(value))
    except ValueError:
        return None


def _error(answer: Mapping[str, Any]) -> str:
    if "error" not in answer:
        return ""
    error = _object(answer["error"])
    return f"{error.get('kind')}: {error.get('message')}"


def _outputs(answer: Mapping[str, Any], body: memoryview) -> dict[str, Array]:
    """The tensors of one run, empty if it failed."""
    if "error" in answer:
        return {}
    try:
        outputs = {str(one.get("name")): decode_array(one, body) for one in _objects(answer.get("outputs"))}
        "".join(outputs).encode()
    except (WireError, UnicodeEncodeError) as error:
        raise _unanswered("a tensor in the harness' answer is not understood", [str(error)]) from error
    return outputs


def _host_facts(host: Mapping[str, Any]) -> HostFacts:
    return HostFacts(
        machine=str(host.get("machine", "")),
        cpu=str(host.get("cpu", "")),
        isa=tuple(sorted(_texts(host.get("isa", [])))),
        kernel=str(host.get("kernel", "")),
    )


def _loaded(answer: Mapping[str, Any]) -> Loaded:
    if "error" in answer:
        return Loaded(error=_error(answer))
    return Loaded(
        python=str(answer.get("python", "")),
        machine=str(answer.get("machine", "")),
        versions=_text_map(answer.get("versions", {})),
        imports=_text_map(answer.get("imports", {})),
        libraries=_text_map(answer.get("libraries", {})),
        cuda=_text_map(answer.get("cuda", {})),
        provider=str(answer.get("provider", "")),
        providers=tuple(_texts(answer.get("providers", []))),
    )
