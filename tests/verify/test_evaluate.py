"""From cases to a request, through the real harness, to verdicts: what must pass passes, every fault is found."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnenv.errors import NnenvError
from nnenv.spec.artifact import Sha256
from nnenv.verify.cases import Case, CaseFiles, CaseKind, CaseSettings, bind
from nnenv.verify.evaluate import (
    CaseUnderTest,
    Evaluation,
    ModelUnderTest,
    answer_of,
    evaluate,
    harness_digest,
    reference_check,
    requests_for,
    weak_evidence,
)
from nnenv.verify.harness import FILES
from nnenv.verify.ladder import Verdict
from nnenv.verify.load_report import LoadRequest
from nnenv.verify.protocols import Completed
from nnenv.verify.wire import Blobs, encode_array, pack, unpack

from .models import VERIFY, image, install_harness, random_convnet
from .test_harness import logits, saved

ZEROS = Sha256("0" * 64)


def verified(directory: Path, models: list[ModelUnderTest], load: LoadRequest | None = None) -> Evaluation:
    """The evaluation of a real run of the harness."""
    script = install_harness(directory / "harness")
    argv = [sys.executable, "-I", str(script), "serve-request"]
    request = requests_for(models, load=load)
    done = subprocess.run(argv, input=request, capture_output=True, cwd="/", env={}, timeout=120, check=False)
    completed = Completed(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr, seconds=0.0)
    return evaluate(models, answer_of(completed), load=load is not None)


def net(directory: Path, made: onnx.ModelProto, expected: np.ndarray | None = None, **settings: Any) -> ModelUnderTest:
    """`made` with one case: `image()` in, `expected` (default: what it answers) out."""
    path, sha256 = saved(directory, made)
    case = Case(
        name="set0", inputs={"image": image()}, expected={"logits": logits(made) if expected is None else expected}
    )
    under_test = CaseUnderTest(case=case, settings=CaseSettings(**settings))
    return ModelUnderTest(name="net", path=path, sha256=Sha256(sha256), cases=(under_test,))


def flipped(seed: int = 1) -> onnx.ModelProto:
    """The seeded net with the sign of its largest last weight flipped."""
    made = random_convnet(seed)
    weights = np.frombuffer(made.graph.initializer[2].raw_data, np.float32).copy()
    weights[np.abs(weights).argmax()] *= -1
    made.graph.initializer[2].raw_data = weights.tobytes()
    return made


def test_a_right_model_passes_with_real_evidence(tmp_path: Path) -> None:
    """Load and case pass; digests, numbers, providers and vacuity are in the report."""
    under_test = net(tmp_path, random_convnet())
    evaluation = verified(tmp_path, [under_test], load=LoadRequest())
    (report,) = evaluation.models
    (case,) = report.cases
    assert reference_check(evaluation.models).verdict is Verdict.PASSED
    assert weak_evidence(evaluation.models) == (False, False)
    assert (report.sha256, report.found_sha256, report.error) == (under_test.sha256, under_test.sha256, "")
    assert report.providers == ("CPUExecutionProvider",)
    assert (case.passed, case.reason, case.kind) == (True, "", CaseKind.GOLDEN)
    assert (case.output_sha256 == case.expected_sha256) is case.outputs[0].bit_exact
    assert not case.vacuity.vacuous
    assert evaluation.loaded is not None
    assert evaluation.loaded.imports == {"numpy": "ok", "onnxruntime": "ok"}
    assert evaluation.host.machine
    assert not evaluation.emulated


def test_one_flipped_sign_is_found_and_measured(tmp_path: Path) -> None:
    """The smallest fault of a weight fails the reference check, and the finding says by how much."""
    evaluation = verified(tmp_path, [net(tmp_path, flipped(), logits(random_convnet()))])
    check = reference_check(evaluation.models)
    assert check.verdict is Verdict.FAILED
    (finding,) = check.findings
    assert finding.where == "net/set0"
    assert "normalised error" in finding.because[0]


def test_a_wide_limit_lets_the_fault_through_and_is_flagged(tmp_path: Path) -> None:
    """The negative control of the gate: with the tolerance off, the same fault passes, marked relaxed."""
    under_test = net(tmp_path, flipped(), logits(random_convnet()), tolerance={"fp32": 0.99})
    (report,) = verified(tmp_path, [under_test]).models
    assert report.cases[0].passed
    assert report.cases[0].outputs[0].relaxed


def test_another_model_file_fails_before_any_number(tmp_path: Path) -> None:
    """The digest read inside the image must be the locked one."""
    under_test = replace(net(tmp_path, random_convnet()), sha256=ZEROS)
    evaluation = verified(tmp_path, [under_test])
    assert reference_check(evaluation.models).verdict is Verdict.FAILED
    assert "digest-mismatch" in evaluation.models[0].error
    assert not evaluation.models[0].cases[0].passed


def test_a_harness_that_runs_another_file_is_not_believed(tmp_path: Path) -> None:
    """Even if the harness ignored the expected digest, the one it reports is compared outside."""
    under_test = net(tmp_path, random_convnet())
    answers = [{"sha256": "1" * 64}, *[{"sha256": "1" * 64, "outputs": []}] * 3]
    evaluation = evaluate([under_test], pack({"schema": "nnenv.answer/1", "host": {}, "answers": answers}, []), load=0)
    assert "another file" in evaluation.models[0].error
    assert "another model file" in evaluation.models[0].cases[0].reason


def test_a_case_of_another_model_is_void(tmp_path: Path) -> None:
    """`model_sha256` in case.toml binds the expected outputs to one file."""
    (report,) = verified(tmp_path, [net(tmp_path, random_convnet(), model_sha256=ZEROS)]).models
    assert "recorded for another model file" in report.cases[0].reason
    (good,) = verified(tmp_path, [net(tmp_path, random_convnet(), model_sha256=report.sha256)]).models
    assert good.cases[0].passed


def test_a_constant_model_passes_but_is_vacuous(tmp_path: Path) -> None:
    """All weights zero: the case passes and proves nothing."""
    made = random_convnet()
    for tensor in made.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    evaluation = verified(tmp_path, [net(tmp_path, made)])
    assert reference_check(evaluation.models).verdict is Verdict.PASSED
    assert weak_evidence(evaluation.models) == (True, False)


def test_a_selftest_case_is_self_made(tmp_path: Path) -> None:
    """kind = selftest is carried into the evidence."""
    models = verified(tmp_path, [net(tmp_path, random_convnet(), kind=CaseKind.SELFTEST)]).models
    assert weak_evidence(models) == (False, True)


def test_every_model_needs_a_case() -> None:
    """One model without a case leaves the check not run; no model at all too."""
    bare = ModelUnderTest(name="bare", path="/m", sha256=ZEROS)
    answer = pack({"schema": "nnenv.answer/1", "host": {}, "answers": [{"sha256": ZEROS}]}, [])
    evaluation = evaluate([bare], answer, load=False)
    assert reference_check(evaluation.models).verdict is Verdict.NOT_RUN
    assert "bare" in reference_check(evaluation.models).note
    assert reference_check(()).verdict is Verdict.NOT_RUN


def test_a_model_that_rejects_the_probes_is_vacuous_with_the_reason(tmp_path: Path) -> None:
    """Where no probe can be run, nothing shows that the case tells anything."""
    under_test = net(tmp_path, random_convnet())
    blobs = Blobs()
    expected = under_test.cases[0].case.expected["logits"]
    good = {"sha256": under_test.sha256, "outputs": [{"name": "logits", **encode_array(expected, blobs)}]}
    error = {"error": {"kind": "run", "message": "index out of range"}}
    answers = [{"sha256": under_test.sha256}, good, error, error]
    answer = pack({"schema": "nnenv.answer/1", "host": {}, "answers": answers}, blobs.parts)
    (case,) = evaluate([under_test], answer, load=False).models[0].cases
    assert case.passed
    assert case.vacuity.vacuous
    assert "index out of range" in case.vacuity.reason


def test_the_request_holds_inputs_and_probes_but_never_what_is_expected(tmp_path: Path) -> None:
    """An image cannot answer with what it was never told; the request is the same every time."""
    under_test = net(tmp_path, random_convnet())
    request = requests_for([under_test])
    assert request == requests_for([under_test])
    header, body = unpack(request)
    assert [action["do"] for action in header["actions"]] == ["describe", "run", "run", "run"]
    assert len(body) == 3 * image().nbytes
    assert under_test.cases[0].case.expected["logits"].tobytes() not in request


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"Traceback (most recent call last)",
        pack({}, []),
        pack({"schema": "nnenv.answer/1", "error": {"kind": "request"}}, []),
        pack({"schema": "nnenv.answer/1", "host": {}, "answers": []}, []),
        pack({"schema": "nnenv.answer/1", "host": {}, "answers": [1, 2, 3, 4]}, []),
        pack({"schema": "nnenv.answer/1", "host": [], "answers": [{}] * 4}, []),
        pack({"schema": "nnenv.answer/1", "host": {}, "answers": [{}] * 4}, []),
        pack({"schema": "nnenv.answer/1", "host": {"isa": [1]}, "answers": [{"error": {}}] * 4}, []),
        pack({"schema": "nnenv.answer/1", "host": {}, "answers": [{"error": 1}] * 4}, []),
        pack({"schema": "nnenv.answer/1", "host": {}, "answers": [{"outputs": [{"name": "\ud800"}]}] * 4}, []),
    ],
)
def test_answers_without_the_right_form_are_refused(tmp_path: Path, answer: bytes) -> None:
    """Whatever an image prints, it is a pass, a failure, or verification-failed; never a traceback."""
    with pytest.raises(NnenvError) as caught:
        evaluate([net(tmp_path, random_convnet())], answer, load=False)
    assert caught.value.code == "verification-failed"


@pytest.mark.parametrize(
    ("exit_code", "limit", "says"), [(-11, "", "signal 11"), (137, "memory", "memory limit"), (1, "", "exit code 1")]
)
def test_a_run_that_ended_early_says_how(exit_code: int, limit: str, says: str) -> None:
    """Signals, limits and exit codes, with the last lines of stderr."""
    completed = Completed(exit_code=exit_code, stdout=b"", stderr=b"one\ntwo\n", seconds=1.0, limit_hit=limit)
    with pytest.raises(NnenvError, match=says) as caught:
        answer_of(completed)
    assert caught.value.because == ("one", "two")


def test_the_harness_digest_depends_on_every_file() -> None:
    """Another byte in any of the copied files is another harness."""
    files = {name: (VERIFY / name).read_bytes() for name in FILES}
    digests = {harness_digest(files)} | {harness_digest({**files, name: files[name] + b"\n"}) for name in FILES}
    assert len(digests) == 1 + len(FILES)


# --- the data onnx ships ---------------------------------------------------------------------------------------------

SHIPPED = Path(onnx.__file__).parent / "backend/test/data"


def shipped_models() -> list[ModelUnderTest]:
    """The models of onnx's backend tests (`simple`, `pytorch-*`) whose cases are tensors, bound to their ports."""
    found = []
    for path in sorted(SHIPPED.glob("*/*/model.onnx")):
        data = path.read_bytes()
        graph = onnx.load_from_string(data).graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [port.name for port in graph.input if port.name not in constants]
        cases = []
        for directory in sorted(path.parent.glob("test_data_set_*")):
            files = {file.name: file.read_bytes() for file in directory.iterdir()}
            try:
                case = bind(CaseFiles(name=directory.name, files=files), inputs, [port.name for port in graph.output])
            except NnenvError:
                continue
            cases.append(CaseUnderTest(case=case))
        sha256 = Sha256(hashlib.sha256(data).hexdigest())
        found.append(ModelUnderTest(name=path.parent.name, path=str(path), sha256=sha256, cases=tuple(cases)))
    return found


def test_onnx_shipped_cases_all_pass_where_the_runtime_can_run_them(tmp_path: Path) -> None:
    """onnx's own golden cases through our reader, binder, harness and gate: 100 pass, none fails."""
    models = [under_test for under_test in shipped_models() if under_test.cases]
    cases = [case for report in verified(tmp_path, models).models for case in report.cases]
    ran = [case for case in cases if case.output_sha256 is not None]
    assert [f"{case.model}: {case.reason}" for case in ran if not case.passed] == []
    assert len(ran) >= 95


@pytest.mark.parametrize(("limit", "option"), [("time", "--timeout"), ("memory", "--memory")])
def test_a_limit_that_was_hit_names_the_option_that_widens_it(limit: str, option: str) -> None:
    """A model that needs more than the default gets told how to have it."""
    with pytest.raises(NnenvError) as caught:
        answer_of(Completed(exit_code=-9, stdout=b"", stderr=b"", seconds=1.0, limit_hit=limit))
    assert option in caught.value.fix[0]
