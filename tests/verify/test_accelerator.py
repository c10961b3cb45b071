"""The accelerator verdict: what is said of where nodes ran, and of outputs, decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnenv.verify.accelerator import TF32_LIMIT, accelerated_requests, accelerator_check
from nnenv.verify.cases import Case, CaseSettings
from nnenv.verify.evaluate import CaseUnderTest, ModelUnderTest
from nnenv.verify.harness import ANSWER_SCHEMA
from nnenv.verify.ladder import Verdict
from nnenv.verify.report import Check
from nnenv.verify.wire import Blobs, encode_array, pack, unpack

GPU = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
SHA = "ab" * 32
EXPECTED = np.array([1.0, 2.0, 4.0], dtype=np.float32)


def model(**settings: Any) -> ModelUnderTest:
    """One model with one case."""
    case = Case(name="one", inputs={"x": np.ones(3, dtype=np.float32)}, expected={"y": EXPECTED})
    under_test = CaseUnderTest(case=case, settings=CaseSettings(**settings))
    return ModelUnderTest(name="m", path="/m.onnx", sha256=SHA, cases=(under_test,))  # type: ignore[arg-type]


def answered(answers: list[Any], parts: Any = ()) -> bytes:
    """The harness' answer."""
    return pack({"schema": ANSWER_SCHEMA, "host": {"isa": []}, "answers": answers}, list(parts))


def ran(error: float) -> bytes:
    """An answer whose outputs differ by `error`, as a part of the largest."""
    blobs = Blobs()
    told = {"sha256": SHA, "providers": [GPU, CPU]}
    outputs = [
        [{"name": "y", **encode_array(EXPECTED * np.float32(factor), blobs)}] for factor in (1 + error, 3.0, 5.0)
    ]
    return answered([told, *({**told, "outputs": one} for one in outputs)], blobs.parts)


def placed(assigned: list[list[str]] | None, kernels: list[list[Any]]) -> bytes:
    """An answer on the placement."""
    return answered([{"assigned": assigned, "ran": kernels}])


ALL_THERE = placed([[GPU, "", "Conv"], [GPU, "", "Relu"]], [[GPU, "Conv", 90], [GPU, "Relu", 10]])


def judged(
    precise: float = 0.0, production: float = 0.0, placement: bytes = ALL_THERE, tested: ModelUnderTest | None = None
) -> Check:
    """The verdict on such answers."""
    return accelerator_check([tested or model()], (ran(precise), ran(production), placement), GPU)


def codes(check: Check) -> list[str]:
    """What was found."""
    return [finding.code for finding in check.findings]


def test_everything_on_the_accelerator() -> None:
    """The verdict passes, and says how many nodes."""
    check = judged()
    assert (check.verdict, check.findings) == (Verdict.PASSED, ())
    assert "2 nodes" in check.note


def test_tf32_is_off_first_and_then_allowed() -> None:
    """A difference of one in a thousand is a wrong kernel without TF32, and may be TF32 with it."""
    assert codes(judged(precise=1e-3)) == ["case-failed"]
    assert codes(judged(production=1e-3)) == []
    assert codes(judged(production=TF32_LIMIT * 1.2)) == ["case-failed"]
    assert codes(judged(production=0.03, tested=model(tolerance={"tf32": 0.05}))) == []


def test_the_requests_say_how() -> None:
    """The provider alone, TF32 off in the first, and no mention of the CPU."""
    precise, production, placement = (unpack(one)[0]["actions"] for one in accelerated_requests([model()], GPU))
    assert {one["do"] for one in precise} == {"describe", "run"}
    assert all(one["provider_options"] == {GPU: {"use_tf32": "0"}} for one in precise)
    assert all("provider_options" not in one for one in production)
    assert [one["do"] for one in placement] == ["place"]
    assert all(one["providers"] == [GPU] for one in (*precise, *production, *placement))


@pytest.mark.parametrize(
    ("assigned", "kernels", "expected"),
    [
        ([[GPU, "", "Conv"], [CPU, "", "Shape"]], [[GPU, "Conv", 99], [CPU, "Shape", 1]], []),
        ([[GPU, "", "Conv"], [CPU, "", "Gather"]], [[GPU, "Conv", 50], [CPU, "Gather", 50]], ["cpu-time"]),
        ([[GPU, "", "Conv"], [CPU, "", "MatMul"]], [[GPU, "Conv", 99], [CPU, "MatMul", 1]], ["cpu-fallback"]),
        ([[CPU, "", "Conv"]], [[CPU, "Conv", 9]], ["not-on-accelerator"]),
        (None, [[GPU, "Conv", 99], [CPU, "Shape", 1]], []),
        (None, [[GPU, "Conv", 99], [CPU, "LSTM", 1]], ["cpu-fallback"]),
        (None, [], ["not-on-accelerator"]),
        (None, [["one"]], ["placement-unknown"]),
    ],
)
def test_where_nodes_may_run(assigned: list[list[str]] | None, kernels: list[list[Any]], expected: list[str]) -> None:
    """Arithmetic of shapes may be on the CPU, as long as it costs little; anything that computes may not."""
    assert codes(judged(placement=placed(assigned, kernels))) == expected


def test_a_harness_that_does_not_know() -> None:
    """An error is no pass."""
    check = judged(placement=answered([{"error": {"kind": "model-load", "message": "CUDA failure 100"}}]))
    assert codes(check) == ["placement-unknown"]
    assert "CUDA failure 100" in check.findings[0].because[0]
