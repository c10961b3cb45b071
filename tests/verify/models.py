"""Small ONNX models, made from a seed, for the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nnenv.verify import harness

VERIFY = Path(harness.__file__).parent


def random_convnet(seed: int = 1) -> onnx.ModelProto:
    """Two convolutions, pooling and a linear layer with seeded weights: `image` [1,3,8,8] -> `logits` [1,10]."""
    generator = np.random.Generator(np.random.PCG64(seed))

    def weights(name: str, *shape: int) -> TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((scale * generator.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["logits"], transB=1),
    ]
    tensors = [weights("w1", 8, 3, 3, 3), weights("w2", 8, 8, 3, 3), weights("w3", 10, 128)]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])]
    return model(nodes, inputs, outputs, tensors)


def model(nodes: list, inputs: list, outputs: list, tensors: list | None = None) -> onnx.ModelProto:
    """A checked model at opset 17."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors or [])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def image(seed: int = 2) -> np.ndarray:
    """An input for `random_convnet`."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((1, 3, 8, 8)).astype(np.float32)


def install_harness(directory: Path) -> Path:
    """The harness as it lies in an image, apart from the rest of nnenv; the path of `harness.py`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in harness.FILES:
        shutil.copyfile(VERIFY / name, directory / name)
    return directory / "harness.py"
