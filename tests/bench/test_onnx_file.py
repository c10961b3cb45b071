"""The bench's models are models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from bench.onnx_file import write_case, write_model
from nnenv.formats.onnx_model import read_onnx


def _tensor(path: Path) -> np.ndarray:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def test_a_runtime_answers_the_case(tmp_path: Path) -> None:
    """The model passes onnx's checker, and onnxruntime gives the outputs that the case expects."""
    write_model(tmp_path / "model.onnx", 2, seed=5)
    write_case(tmp_path / "case", 2, seed=5)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"x": _tensor(tmp_path / "case" / "input_0.pb")})
    expected = _tensor(tmp_path / "case" / "output_0.pb")
    assert np.abs(expected).max() > 0.5
    np.testing.assert_array_equal(found, expected)


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    """One seed gives one file, of the wanted size; another seed gives another."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_model(tmp_path / name, 1, seed=seed)
    first, second, third = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != third
    assert len(first) == len(third)
    assert 1_000_000 <= len(first) < 1_001_000


def test_a_sparse_model_takes_no_room(tmp_path: Path) -> None:
    """10 GB of weights that are a hole on the disk, and still a model that nnenv can lock."""
    path = tmp_path / "model.onnx"
    write_model(path, 10_000, seed=1, sparse=True)
    assert path.stat().st_size > 10_000_000_000
    assert path.stat().st_blocks * 512 < 1_000_000
    with path.open("rb") as stream:
        facts = read_onnx(stream, "model.onnx")
    assert [(i.name, i.shape) for i in facts.inputs] == [("x", (1, 1000))]
    assert [(o.name, o.shape) for o in facts.outputs] == [("y", (1, 2_500_000))]
