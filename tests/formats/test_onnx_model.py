"""Static facts of ONNX files, compared with the onnx package; and files that are none."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import OnnxFacts, TensorInfo, read_onnx


def model(weights: int = 4) -> onnx.ModelProto:
    """y = x * w, where w is an initializer that is also listed as an input, as old exporters do."""
    free = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights, None])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [free, helper.make_tensor_value_info("w", TensorProto.FLOAT, [weights, 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", weights, 3]),
            helper.make_empty_tensor_value_info("z"),
        ],
        [numpy_helper.from_array(np.ones((weights, 1), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return made


def facts(data: bytes) -> OnnxFacts:
    """What we read."""
    return read_onnx(io.BytesIO(data), "model.onnx")


def test_facts() -> None:
    """Operator sets sorted, inputs without initializers, dynamic sizes by name or empty."""
    assert facts(model().SerializeToString()) == OnnxFacts(
        ir_version=8,
        opsets=(("ai.onnx", 17), ("ai.onnx.ml", 3)),
        inputs=(TensorInfo(name="x", dtype="float32", shape=("batch", 4, "")),),
        outputs=(
            TensorInfo(name="y", dtype="float16", shape=("batch", 4, 3)),
            TensorInfo(name="z", dtype="", shape=()),
        ),
        operators=(("ai.onnx", "Mul"),),
        weight_bytes=16,
    )


def test_every_element_type_has_numpys_name() -> None:
    """Our table agrees with the onnx package's."""
    for number in range(1, 17):
        info = helper.make_tensor_value_info("y", number, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [info])
        (output,) = facts(helper.make_model(graph).SerializeToString()).outputs
        if number not in {TensorProto.STRING, TensorProto.BFLOAT16}:
            assert np.dtype(output.dtype) == helper.tensor_dtype_to_np_dtype(number)


def test_weights_are_not_read() -> None:
    """Megabytes of weights cost no more reads than a few bytes: they are skipped."""

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counting.taken += len(data)
            return data

    read_onnx(Counting(model(4_000_000).SerializeToString()), "big.onnx")
    assert Counting.taken < 2000


@pytest.mark.parametrize(
    "data", [b"", b"hello, world", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" + bytes(60), b"\x3a\xff\xff\xff\xff\x7f"]
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    """Text, zeros, archives, lengths out of nowhere: a refusal with the file's name."""
    with pytest.raises(NnenvError) as caught:
        facts(data)
    assert caught.value.code == "model-invalid"
    assert caught.value.where == "model.onnx"
    assert caught.value.fix


def test_every_truncation_is_refused_or_is_a_shorter_model() -> None:
    """Wherever a file is cut: never a crash, and never the facts of the whole."""
    data = model().SerializeToString()
    whole = facts(data)
    for length in range(len(data)):
        try:
            assert facts(data[:length]) != whole
        except NnenvError as error:
            assert error.code == "model-invalid"


def test_every_flipped_byte_is_survived() -> None:
    """Damage gives other facts or a refusal, never a traceback."""
    data = bytearray(model().SerializeToString())
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            data[position] ^= flip
            try:
                facts(bytes(data))
            except NnenvError as error:
                assert error.code == "model-invalid"
            data[position] ^= flip
