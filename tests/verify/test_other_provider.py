"""Placement for real, on a machine without a GPU: OpenVINO is a provider of ONNX Runtime that is not the CPU's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nnenv.verify.accelerator import accelerated_requests, accelerator_check
from nnenv.verify.cases import Case
from nnenv.verify.evaluate import CaseUnderTest, ModelUnderTest
from nnenv.verify.ladder import Verdict
from nnenv.verify.report import Check

from .models import install_harness

pytestmark = [pytest.mark.network, pytest.mark.slow]

PROVIDER = "OpenVINOExecutionProvider"
INPUT = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4) + np.eye(4, dtype=np.float32) * 3


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has onnxruntime-openvino, from the configured index."""
    folder = tmp_path_factory.mktemp("openvino") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = ["onnxruntime-openvino>=1.24", "numpy"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
    return folder / "bin" / "python"


def saved(path: Path, *nodes: onnx.NodeProto, expected: Any) -> ModelUnderTest:
    """A model of these nodes, from x to y, with a case."""
    shape = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])]
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(helper.make_graph(nodes, "g", shape, ends), opset_imports=opsets, ir_version=8)
    path.write_bytes(made.SerializeToString())
    return ModelUnderTest(
        name=path.stem,
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),  # type: ignore[arg-type]
        cases=(CaseUnderTest(case=Case(name="one", inputs={"x": INPUT}, expected={"y": expected})),),
    )


@pytest.fixture
def verdict(tmp_path: Path, python: Path) -> Callable[..., Check]:
    """Judges a model, run by the harness under that interpreter."""
    script = install_harness(tmp_path)

    def judged(model: ModelUnderTest, provider: str = PROVIDER) -> Check:
        def answer(request: bytes) -> bytes:
            argv = [python, "-I", script, "serve-request"]
            environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
            done = subprocess.run(argv, input=request, capture_output=True, env=environment, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
            return done.stdout

        precise, production, placement = map(answer, accelerated_requests([model], provider))
        return accelerator_check([model], (precise, production, placement), provider)

    return judged


def test_all_of_a_model_on_the_provider(tmp_path: Path, verdict: Callable[..., Check]) -> None:
    """MatMul and Relu are taken whole."""
    nodes = (helper.make_node("MatMul", ["x", "x"], ["a"]), helper.make_node("Relu", ["a"], ["y"]))
    check = verdict(saved(tmp_path / "whole.onnx", *nodes, expected=np.maximum(INPUT @ INPUT, 0)))
    assert check.verdict is Verdict.PASSED, check
    assert "2 nodes" in check.note


def test_a_node_that_falls_back(tmp_path: Path, verdict: Callable[..., Check]) -> None:
    """OpenVINO has no Inverse: onnxruntime runs it on the CPU without a word, and the outputs are right."""
    nodes = (
        helper.make_node("MatMul", ["x", "x"], ["a"]),
        helper.make_node("Inverse", ["a"], ["y"], domain="com.microsoft"),
    )
    check = verdict(saved(tmp_path / "part.onnx", *nodes, expected=np.linalg.inv(INPUT @ INPUT)))
    assert [finding.code for finding in check.findings] == ["cpu-fallback"]
    assert "1 x Inverse on CPUExecutionProvider" in check.findings[0].because[0]


def test_a_wrong_output(tmp_path: Path, verdict: Callable[..., Check]) -> None:
    """The comparison is the same as on the CPU."""
    nodes = (helper.make_node("Relu", ["x"], ["y"]),)
    check = verdict(saved(tmp_path / "wrong.onnx", *nodes, expected=np.maximum(INPUT, 0) * np.float32(1.05)))
    assert {finding.code for finding in check.findings} == {"case-failed"}


def test_a_provider_that_is_not_there(tmp_path: Path, verdict: Callable[..., Check]) -> None:
    """No session on the CPU in its place: nothing opens, or nothing ran where it was asked to."""
    nodes = (helper.make_node("Relu", ["x"], ["y"]),)
    check = verdict(saved(tmp_path / "none.onnx", *nodes, expected=np.maximum(INPUT, 0)), "CUDAExecutionProvider")
    assert check.verdict is Verdict.FAILED
    assert {finding.code for finding in check.findings} & {"model-failed", "not-on-accelerator"}
