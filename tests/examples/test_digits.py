"""The digits example: its files belong together, it reads digits, and its cases tell it from a broken one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from nnenv.formats.onnx_model import TensorInfo, read_onnx
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.verify.cases import Case, CaseFiles, CaseKind, bind, parse_case_toml, write_case_toml
from nnenv.verify.compare import OutputVerdict, compare
from nnenv.verify.tensors import write_tensor
from nnenv.verify.vacuity import assess, probe_inputs

Array = NDArray[Any]

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
CASES = tuple(sorted(path.name for path in (DIGITS / "tests/digits").glob("test_data_set_*")))
LAYERS = ("conv1", "conv2", "dense1", "dense2")


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    """train.py as a module; the settings of BLAS that it makes end with these tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
            patch.setenv(name, "1")
        spec = importlib.util.spec_from_file_location("digits_train", DIGITS / "train.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`script` of the example, run to its end."""
    return subprocess.run(
        [sys.executable, "-B", str(DIGITS / script), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def answers(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime says on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def case(name: str) -> Case:
    """The recorded case `name`."""
    folder = DIGITS / "tests/digits" / name
    return bind(
        CaseFiles(name=name, files={path.name: path.read_bytes() for path in folder.iterdir()}), ["image"], ["logits"]
    )


def verdict(model: bytes, name: str) -> OutputVerdict:
    """What verification, with its own limit, says of onnxruntime's answer to one case."""
    one = case(name)
    (found,) = compare(one.expected, answers(model, one.inputs))
    return found


def held_out() -> tuple[Array, Array]:
    """The committed held-out images and labels."""
    with np.load(DIGITS / "data/held_out.npz") as arrays:
        return arrays["images"], arrays["labels"]


def test_the_manifest_parses_and_names_the_targets() -> None:
    """model.toml is valid, and its paths lead to the files that are there."""
    manifest = parse_manifest((DIGITS / "model.toml").read_bytes())
    assert (manifest.project.name, manifest.project.version) == ("digits", "1.0.0")
    assert [(target.name, target.platform, target.os) for target in manifest.targets] == [
        ("cpu", "linux/amd64", "debian:12"),
        ("cpu-arm64", "linux/arm64", "debian:12"),
        ("cpu-debian13", "linux/amd64", "debian:13"),
        ("cpu-float16", "linux/amd64", "debian:12"),
        ("cpu-int8", "linux/amd64", "debian:12"),
    ]
    (model,) = manifest.models
    assert (DIGITS / model.source.removeprefix("file:")).is_file()
    assert [(DIGITS / test.data / "case.toml").is_file() for test in model.tests] == [True]
    assert manifest.requires.packages == ("numpy", "onnxruntime>=1.20")


def test_the_model_is_what_the_readme_says() -> None:
    """A small self-contained file of opset 17 with one input, one output and a free batch."""
    path = DIGITS / "model.onnx"
    with path.open("rb") as stream:
        facts = read_onnx(stream, "model.onnx")
    assert facts.ir_version <= 9
    assert facts.opsets == (("ai.onnx", 17),)
    assert facts.inputs == (TensorInfo(name="image", dtype="float32", shape=("batch", 1, 8, 8)),)
    assert facts.outputs == (TensorInfo(name="logits", dtype="float32", shape=("batch", 10)),)
    onnx.checker.check_model(path.read_bytes(), full_check=True)
    assert path.stat().st_size < 1_000_000


def test_the_cases_are_bound_to_this_model() -> None:
    """case.toml names the sha256 of model.onnx, vouches for the outputs, and is spelled as nnenv writes it."""
    text = (DIGITS / "tests/digits/case.toml").read_text(encoding="utf-8")
    settings = parse_case_toml(text, "case.toml")
    assert settings.model_sha256 == hashlib.sha256((DIGITS / "model.onnx").read_bytes()).hexdigest()
    assert settings.kind is CaseKind.GOLDEN
    assert settings.provenance
    assert write_case_toml(settings) == text


def test_the_network_reads_held_out_digits() -> None:
    """At least 97 of 100 images that training never saw are read right."""
    images, labels = held_out()
    logits = answers((DIGITS / "model.onnx").read_bytes(), {"image": images})["logits"]
    assert (logits.argmax(axis=1) == labels).mean() >= 0.97


def test_the_readme_shows_what_the_evaluation_prints() -> None:
    """The table in the README is the output of the command above it, whole."""
    shown = run_script("evaluate.py")
    assert shown.returncode == 0, shown.stderr
    command = "```console\n$ python examples/digits/evaluate.py\n"
    assert f"{command}{shown.stdout}```\n" in (DIGITS / "README.md").read_text(encoding="utf-8")


def test_the_cases_are_one_image_and_two_batches() -> None:
    """Three cases, of 1, 4 and 16 images: batching is tested too."""
    assert [len(case(name).inputs["image"]) for name in CASES] == [1, 4, 16]


@pytest.mark.parametrize("name", CASES)
def test_a_case_passes_with_room_to_spare(name: str) -> None:
    """onnxruntime agrees with the recorded logits ten times better than the limit asks."""
    found = verdict((DIGITS / "model.onnx").read_bytes(), name)
    assert found.passed, found.reason
    assert found.normalised_error is not None
    assert found.normalised_error < found.limit / 10
    assert not found.relaxed


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_not_vacuous(name: str) -> None:
    """Other images give other logits, so the case can tell a right model from a wrong one."""
    model = (DIGITS / "model.onnx").read_bytes()
    one = case(name)
    first, second = probe_inputs(one.inputs)
    found = assess(answers(model, one.inputs), answers(model, first), answers(model, second))
    assert not found.vacuous, found.reason


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", CASES)
def test_a_flipped_sign_fails(layer: str, name: str) -> None:
    """One weight of a layer, its largest, with the wrong sign: every case refuses the model and says by how much."""
    model = onnx.load(DIGITS / "model.onnx")
    (tensor,) = (one for one in model.graph.initializer if one.name == f"{layer}.weight")
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[np.abs(weights).argmax()] *= -1
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    found = verdict(model.SerializeToString(), name)
    assert not found.passed
    assert found.normalised_error is not None
    assert found.normalised_error > found.limit


def test_the_committed_cases_and_data_are_what_train_writes(train: ModuleType) -> None:
    """From model.onnx and the seed alone, train.py gives the committed held-out images and case files again."""
    training, kept = train.split(train.digits(), train.SEED)
    with np.load(DIGITS / "data/calibration.npz") as calibration:
        assert np.array_equal(calibration["images"], training.images[: train.CALIBRATION])
    images, labels = held_out()
    assert np.array_equal(kept.images, images)
    assert np.array_equal(kept.labels, labels)
    written = train.case_files((DIGITS / "model.onnx").read_bytes(), kept)
    root = DIGITS / "tests/digits"
    committed = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert written == committed


def test_tensor_files_are_spelled_as_nnenv_writes_them() -> None:
    """The onnx package and nnenv's writer give the same bytes, names included."""
    one = case("test_data_set_1")
    folder = DIGITS / "tests/digits/test_data_set_1"
    assert (folder / "input_0.pb").read_bytes() == write_tensor("image", one.inputs["image"])
    assert (folder / "output_0.pb").read_bytes() == write_tensor("logits", one.expected["logits"])


def test_the_split_keeps_every_example_once_and_every_class_in_proportion(train: ModuleType) -> None:
    """No image is on both sides, none is lost, and a fifth of each digit is held out."""
    labels = train.digits().labels
    numbered = train.Examples(images=np.arange(len(labels)), labels=labels)
    training, kept = train.split(numbered, train.SEED)
    assert sorted([*training.images, *kept.images]) == list(range(len(labels)))
    assert np.array_equal(np.bincount(kept.labels), np.rint(np.bincount(labels) * train.HELD_OUT))


def test_the_gradients_are_the_slopes_of_the_loss(train: ModuleType) -> None:
    """Every parameter's gradient agrees with central differences in float64."""
    random = np.random.default_rng(1)
    weights = {name: 0.2 * random.standard_normal(shape) for name, shape in train.SHAPES.items()}
    kept = train.digits().at(np.arange(6))
    examples = train.Examples(images=kept.images.astype(np.float64), labels=kept.labels)
    _, gradients = train.loss_and_gradients(weights, examples)
    for name, gradient in gradients.items():
        assert gradient.shape == weights[name].shape
        for index in (np.abs(gradient).argmax(), *random.integers(0, gradient.size, 4)):
            losses = []
            for step in (1e-6, -1e-6):
                moved = weights[name].copy()
                moved.flat[index] += step
                losses.append(train.loss_and_gradients(weights | {name: moved}, examples)[0])
            slope = (losses[0] - losses[1]) / 2e-6
            assert slope == pytest.approx(gradient.flat[index], rel=1e-5, abs=1e-8), (name, index)


def test_training_learns_and_gives_equal_weights_twice(train: ModuleType) -> None:
    """One pass over 200 images lowers their loss, and a second such run ends with the same weights, bit for bit."""
    examples = train.digits().at(np.arange(200))
    first, second = (train.train(examples, epochs=1, seed=7) for _ in range(2))
    other = train.train(examples, epochs=1, seed=8)
    assert {name: value.tobytes() for name, value in first.items()} == {
        name: value.tobytes() for name, value in second.items()
    }
    assert all(value.dtype == np.float32 for value in first.values())
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])
    # train() draws its first weights from this generator before anything else.
    start = train.initial_weights(np.random.Generator(np.random.PCG64([7, 1])))
    assert train.loss_and_gradients(first, examples)[0] < train.loss_and_gradients(start, examples)[0]


def test_two_runs_write_the_same_files(tmp_path: Path) -> None:
    """Hash seed, time zone and the caller's number of BLAS threads do not reach a byte of what train.py writes."""
    trees = []
    for number, environment in enumerate(
        ({"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "OPENBLAS_NUM_THREADS": "2"})
    ):
        output = tmp_path / str(number)
        done = run_script("train.py", "--epochs", "1", "--images", "200", "--output", str(output), **environment)
        assert done.returncode == 0, done.stderr
        files = (path for path in output.rglob("*") if path.is_file())
        trees.append({path.relative_to(output).as_posix(): path.read_bytes() for path in files})
    assert trees[0] == trees[1]
    assert sorted(trees[0]) == [
        "data/calibration.npz",
        "data/held_out.npz",
        "model.onnx",
        "tests/digits/case.toml",
        *(f"tests/digits/test_data_set_{number}/{name}_0.pb" for number in range(3) for name in ("input", "output")),
    ]


def test_a_wrong_export_is_not_recorded(train: ModuleType) -> None:
    """A graph that computes something else than the second implementation ends the script before it writes."""
    model = onnx.load(DIGITS / "model.onnx")
    model.graph.node[1].op_type = "Sigmoid"
    images, labels = held_out()
    with pytest.raises(SystemExit, match="more than 1e-05; nothing was written"):
        train.cross_checked(model.SerializeToString(), train.Examples(images=images, labels=labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate.py", "--model", "absent.onnx"), "error: absent.onnx cannot be read"),
        (("evaluate.py", "--model", str(DIGITS / "model.toml")), "is not the digits network"),
        (("evaluate.py", "--data", str(DIGITS / "model.onnx")), "holds no held-out images"),
        (("train.py", "--epochs", "0"), "'0' is not a positive whole number"),
    ],
)
def test_wrong_arguments_get_an_error_not_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    """Both scripts name what is wrong in words."""
    done = run_script(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
