"""Vacuous cases are found: the onnx wheel's light models answer a constant, a random conv net does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nnenv.verify.compare import compare
from nnenv.verify.tensors import read_tensor
from nnenv.verify.vacuity import Vacuity, assess, probe_inputs

from .models import image, model, random_convnet

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
F32 = np.float32


def assessed(made: bytes, inputs: dict[str, np.ndarray]) -> tuple[Vacuity, dict[str, np.ndarray]]:
    """The vacuity of a case of the model `made`, and the case's outputs."""
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    runs = [dict(zip(names, session.run(names, one), strict=True)) for one in (inputs, *probe_inputs(inputs))]
    return assess(*runs), runs[0]


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_the_light_models_of_the_onnx_wheel_are_vacuous(name: str) -> None:
    """They pass their expected outputs, and still prove nothing: every weight and every answer is a constant."""
    made = (LIGHT / f"light_{name}.onnx").read_bytes()
    graph = onnx.load_from_string(made).graph
    port = next(one for one in graph.input if one.name not in {tensor.name for tensor in graph.initializer})
    shape = [dimension.dim_value or 1 for dimension in port.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    values = (np.arange(size, dtype=F32) / size).reshape(shape)
    vacuity, outputs = assessed(made, {port.name: values})
    _, expected = read_tensor((LIGHT / f"light_{name}_output_0.pb").read_bytes())
    (verdict,) = compare({graph.output[0].name: expected}, outputs)
    assert verdict.passed
    assert vacuity.vacuous
    assert vacuity.reason


@pytest.mark.parametrize("seed", range(5))
def test_a_random_conv_net_is_not_vacuous(seed: int) -> None:
    """Seeded weights make outputs that depend on the input."""
    vacuity, _ = assessed(random_convnet(seed).SerializeToString(), {"image": image()})
    assert not vacuity.vacuous
    assert vacuity.sensitivity > 0.1
    assert vacuity.distinct_values == 10


def test_a_classifier_of_integer_tokens_is_not_vacuous() -> None:
    """Inputs without floats are permuted, and an integer answer counts."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [8, 4], np.random.default_rng(3).standard_normal(32))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ArgMax", ["rows"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [6])]
    outputs = [helper.make_tensor_value_info("best", TensorProto.INT64, [6])]
    made = model(nodes, inputs, outputs, [table]).SerializeToString()
    vacuity, _ = assessed(made, {"ids": np.array([0, 1, 2, 3, 7, 5])})
    assert not vacuity.vacuous


def test_probes_are_the_same_every_time_and_differ_from_each_other() -> None:
    """Seeded, independent of the order of the names, never the case's own input."""
    inputs = {"b": image(), "a": np.arange(8), "c": np.array([True, False])}
    first, second = probe_inputs(inputs)
    again, _ = probe_inputs(dict(reversed(inputs.items())))
    assert list(first) == list(inputs)
    for name, values in inputs.items():
        assert first[name].tobytes() == again[name].tobytes()
        assert first[name].tobytes() != values.tobytes()
        assert first[name].dtype == second[name].dtype == values.dtype
        assert first[name].shape == second[name].shape == values.shape
    assert first["b"].tobytes() != second["b"].tobytes()


def test_the_seeded_stream_is_what_it_was() -> None:
    """A numpy that draws other numbers would change verdicts; it must be noticed here."""
    first, second = probe_inputs({"x": np.array([0.0, 1.0])})
    assert first["x"].tolist() == pytest.approx([0.727373562336395, 0.97769570472484])
    assert second["x"].tolist() == pytest.approx([0.5584433054560106, 0.41239208055383625])


def test_float_probes_keep_scale_and_stay_finite() -> None:
    """Mean and spread are the case's; a constant gets a spread; masks at the end of the range do not overflow."""
    wide = np.random.default_rng(1).normal(50, 10, 10_000).astype(F32)
    mask = np.full(1000, np.finfo(F32).min, F32)
    largest = np.array([-1, 1]) * np.finfo(np.float64).max
    inputs = {"wide": wide, "zeros": np.zeros(1000, F32), "mask": mask, "largest": largest, "nan": mask[:1] * np.nan}
    for probe in probe_inputs(inputs):
        assert probe["wide"].mean() == pytest.approx(50, rel=0.02)
        assert probe["wide"].std() == pytest.approx(10, rel=0.05)
        assert probe["zeros"].std() == pytest.approx(1, rel=0.1)
        assert all(np.isfinite(array).all() for array in probe.values())


def test_integers_bools_and_strings_stay_among_the_values_seen() -> None:
    """A permutation keeps every index inside its vocabulary; two different values are always swapped."""
    inputs = {
        "ids": np.array([[5, 900], [7, 7]]),
        "pair": np.array([0, 1]),
        "texts": np.array(["x", "y"], dtype=object),
        "same": np.array([4, 4]),
    }
    for probe in probe_inputs(inputs):
        for name, values in inputs.items():
            assert sorted(probe[name].ravel().tolist()) == sorted(values.ravel().tolist())
        assert probe["pair"].tolist() == [1, 0]
        assert probe["texts"].tolist() == ["y", "x"]
        assert probe["same"].tolist() == [4, 4]


def out(*values: float) -> dict[str, np.ndarray]:
    """Outputs of one run: a float32 tensor `y`."""
    return {"y": np.array(values, F32)}


@pytest.mark.parametrize(
    ("runs", "vacuous"),
    [
        ((out(1, 2), out(2, 1), out(1, 3)), False),
        ((out(1, 2), out(1, 2), out(1, 2)), True),
        ((out(1, 2), out(1, 2.0005), out(1, 2)), True),
        ((out(1, 1), out(2, 2), out(3, 3)), True),
        ((out(1), out(2), out(3)), False),
        ((out(1), out(1), out(1)), True),
        ((out(0, 0), out(0, 0), out(0, 0)), True),
        ((out(np.nan, np.nan), out(np.nan, np.nan), out(1, 2)), True),
        ((out(1, 2), out(1, 2, 3), out(1, 2)), False),
        ((out(), out(), out()), True),
        (({}, {}, {}), True),
    ],
)
def test_the_rule(runs: tuple[dict[str, np.ndarray], ...], vacuous: bool) -> None:
    """Sensitivity below 1e-3 or a single value is vacuous; one number is judged over the runs."""
    vacuity = assess(*runs)
    assert vacuity.vacuous is vacuous
    assert bool(vacuity.reason) is vacuous


def test_one_telling_output_is_enough() -> None:
    """A case is vacuous only if all its outputs are; integers and strings count."""
    constant = np.zeros(3, F32)
    for telling in (np.array([1, 2]), np.array(["a", "b"], dtype=object), np.array([1.0, 2.0], F32)):
        case, probe = {"c": constant, "t": telling}, {"c": constant, "t": telling[::-1]}
        assert not assess(case, probe, case).vacuous
