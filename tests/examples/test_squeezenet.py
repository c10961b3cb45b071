"""The squeezenet example: the same bytes on any machine, and cases that tell the network from a broken one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from nnenv.formats.onnx_model import read_onnx
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.verify.cases import Case, CaseFiles, CaseKind, bind, parse_case_toml, write_case_toml
from nnenv.verify.compare import compare
from nnenv.verify.vacuity import assess, probe_inputs

Array = NDArray[Any]

EXAMPLE = Path(__file__).parents[2] / "examples" / "squeezenet"


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    """make.py as a module."""
    spec = importlib.util.spec_from_file_location("squeezenet_make", EXAMPLE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def run_make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, run to its end."""
    return subprocess.run(
        [sys.executable, "-B", str(EXAMPLE / "make.py"), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes for SqueezeNet."""
    folder = tmp_path_factory.mktemp("squeezenet")
    done = run_make("--output", str(folder), PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    return folder


def case(project: Path, name: str) -> Case:
    """One case of the project."""
    folder = project / "tests/squeezenet" / name
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return bind(CaseFiles(name=name, files=files), ["image"], ["logits"])


def answer(model: bytes, picture: Array) -> dict[str, Array]:
    """What onnxruntime says on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return {"logits": session.run(["logits"], {"image": picture})[0]}


def test_the_model_has_the_recorded_bytes(project: Path, make: ModuleType) -> None:
    """The digest is that of make.py, and of the README."""
    digest = hashlib.sha256((project / "model.onnx").read_bytes()).hexdigest()
    assert digest == make.DIGESTS["squeezenet"]
    assert digest in (EXAMPLE / "README.md").read_text("utf-8")


def test_kernels_of_another_processor_give_the_same_model(project: Path, tmp_path: Path) -> None:
    """Threads, hash seed and OpenBLAS's kernels for an old processor reach no byte of the model or of the manifest."""
    done = run_make(
        "--output", str(tmp_path), PYTHONHASHSEED="2", OPENBLAS_NUM_THREADS="1", OPENBLAS_CORETYPE="Nehalem"
    )
    assert "same bytes   yes" in done.stdout, done.stderr
    for name in ("model.onnx", "model.toml", "tests/squeezenet/case.toml"):
        assert (tmp_path / name).read_bytes() == (project / name).read_bytes(), name


def test_numbers_do_not_depend_on_the_platform(make: ModuleType) -> None:
    """The first ones are known, their mean and variance are right, and another name gives others."""
    found = make.normal("a", (4,)) * (4 * (2.0**32 - 1) / 12) ** 0.5 + 2 * 65535
    assert np.allclose(found, np.rint(found), atol=1e-6)
    many = make.normal("b", (1000, 100))
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01
    assert not np.array_equal(make.normal("b", (4,)), make.normal("c", (4,)))


def test_rounding_loses_the_last_bits(make: ModuleType) -> None:
    """To 1/256 of the power of two below the unit; noise far below that is gone."""
    values = np.array([0.7, -0.3, 1e-5])
    assert np.array_equal(make.rounded(values, 1.0), make.rounded(values * (1 + 1e-12), 1.0))
    assert np.abs(make.rounded(values, 1.0) - values).max() <= 1 / 256
    assert np.array_equal(make.rounded(values, values) * 2.0**30 % 1, np.zeros(3))


def test_the_committed_manifest_is_the_written_one(project: Path) -> None:
    """And it fits the model."""
    assert (EXAMPLE / "model.toml").read_bytes() == (project / "model.toml").read_bytes()
    manifest = parse_manifest((EXAMPLE / "model.toml").read_bytes())
    (model,) = manifest.models
    assert [test.data for test in model.tests] == ["tests/squeezenet"]
    with (project / model.path).open("rb") as stream:
        facts = read_onnx(stream, model.path)
    assert [(item.name, item.shape) for item in facts.inputs] == [("image", (1, 3, 224, 224))]
    assert [(item.name, item.shape) for item in facts.outputs] == [("logits", (1, 1000, 1, 1))]


def test_what_is_made_is_not_committed() -> None:
    """git ignores the model and its cases."""
    root = EXAMPLE.parents[1]
    rules = (root / ".gitignore").read_text().splitlines()
    assert {"/examples/squeezenet/model.onnx", "/examples/squeezenet/tests/"} <= set(rules)


def test_the_cases_pass_and_are_bound_to_the_model(project: Path) -> None:
    """onnxruntime is far inside of the limit, and case.toml is as nnenv writes it."""
    model = (project / "model.onnx").read_bytes()
    text = (project / "tests/squeezenet/case.toml").read_text()
    settings = parse_case_toml(text, "case.toml")
    assert (settings.kind, settings.model_sha256) == (CaseKind.GOLDEN, hashlib.sha256(model).hexdigest())
    assert write_case_toml(settings) == text
    for name in ("test_data_set_0", "test_data_set_1"):
        one = case(project, name)
        (verdict,) = compare(one.expected, answer(model, one.inputs["image"]))
        assert verdict.passed
        assert verdict.normalised_error is not None
        assert verdict.normalised_error < 1e-5


def test_the_cases_are_not_vacuous(project: Path) -> None:
    """Other pictures give other logits, as the probes of verification find."""
    model = (project / "model.onnx").read_bytes()
    one = case(project, "test_data_set_0")
    first, second = (answer(model, probe["image"]) for probe in probe_inputs(one.inputs))
    found = assess(answer(model, one.inputs["image"]), first, second)
    assert not found.vacuous, found.reason


def test_a_fault_in_any_layer_is_found(project: Path) -> None:
    """Two channels of one kernel change places: in the first, a middle and the last layer, each case sees it."""
    loaded = onnx.load(project / "model.onnx")
    kernels = sorted(tensor.name for tensor in loaded.graph.initializer if len(tensor.dims) == 4)
    for name in ("conv1_w_0", "fire5/expand3x3_w_0", "conv10_w_0"):
        assert name in kernels
        broken = onnx.ModelProto()
        broken.CopyFrom(loaded)
        (tensor,) = (tensor for tensor in broken.graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array[[0, 1]] = array[[1, 0]]
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        one = case(project, "test_data_set_0")
        (verdict,) = compare(one.expected, answer(broken.SerializeToString(), one.inputs["image"]))
        assert not verdict.passed, name


def test_a_wrong_export_is_not_recorded(project: Path, make: ModuleType) -> None:
    """A graph that computes something else than the forward pass ends the script before it writes."""
    model = onnx.load(project / "model.onnx")
    network = make.settled("squeezenet")
    model.graph.node[1].op_type = "Sigmoid"
    with pytest.raises(SystemExit, match="more than 5e-05; nothing was written"):
        make.cross_checked(network, model.SerializeToString())


def test_every_architecture_has_a_graph_without_unknown_operators(make: ModuleType) -> None:
    """Each one leads from image to logits by operators that are here; the README lists the same ones."""
    listed = re.findall(r"(?m)^\| `(\w+)` \|", (EXAMPLE / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(make.DIGESTS)
    for name in make.DIGESTS:
        network = make.architecture(name)
        assert {node.operator for node in network.nodes} <= set(make.OPERATORS)
        made = {"image", *network.constants, *network.shapes}
        for node in network.nodes:
            assert set(node.inputs) <= made, (name, node.output)
            made.add(node.output)
        assert "logits" in made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--architecture", "bvlc_alexnet"), "invalid choice"),
        (("--output", "/proc/none"), "cannot be written"),
    ],
)
def test_wrong_arguments_get_an_error_not_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    """The script names what is wrong in words."""
    done = run_make(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
