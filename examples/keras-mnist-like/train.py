"""Train the network, and write `model.keras`, its ONNX twin, cases and held-out data; needs Keras and scikit-learn.

    python train.py [FOLDER]

Weights are the same on one kind of processor and one version of TensorFlow, which adds in a fixed order here.
The ONNX file is written from the weights that Keras trained, layer by layer, by this script and nobody's converter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_DETERMINISTIC_OPS": "1", "CUDA_VISIBLE_DEVICES": "-1"}

import keras
import numpy as np
import onnx
import tensorflow
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

SEED = 20260101
HELD_OUT = 360
CASES = 2


def images() -> tuple[Any, Any]:
    """(images float32 [1797, 64] from 0 to 1, digits int64 [1797]) in a fixed random order."""
    bunch = load_digits()
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(bunch.target))
    return (bunch.data / 16).astype(np.float32)[order], bunch.target.astype(np.int64)[order]


def network() -> keras.Model:
    """Three dense layers; the last one gives logits."""
    image = keras.Input((64,), name="image")
    hidden = keras.layers.Dense(48, activation="relu", name="hidden")(image)
    hidden = keras.layers.Dense(24, activation="relu", name="narrow")(hidden)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(hidden), name="digits")


def twin(model: keras.Model) -> bytes:
    """The same function as an ONNX model, with the same names of input and output."""
    nodes, weights, value = [], [], "image"
    for layer in model.layers[1:]:
        for name, array in zip(("kernel", "bias"), layer.get_weights(), strict=True):
            weights.append(numpy_helper.from_array(array, f"{layer.name}.{name}"))
        is_last = layer.name == "logits"
        out = "logits" if is_last else f"{layer.name}.sum"
        nodes.append(helper.make_node("Gemm", [value, f"{layer.name}.kernel", f"{layer.name}.bias"], [out]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [layer.name]))
        value = layer.name
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def logits(model: keras.Model, batch: Any) -> Any:
    """What the weights answer, in float64 numpy: a second implementation for the cases."""
    value = batch.astype(np.float64)
    for layer in model.layers[1:]:
        kernel, bias = (array.astype(np.float64) for array in layer.get_weights())
        value = value @ kernel + bias
        value = value if layer.name == "logits" else np.maximum(value, 0)
    return value.astype(np.float32)


def main(folder: Path) -> None:
    """Train, and write everything into the folder."""
    keras.utils.set_random_seed(SEED)
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    inputs, labels = images()
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    model.fit(inputs[HELD_OUT:], labels[HELD_OUT:], batch_size=32, epochs=30, verbose=0)
    clean = network()  # a model that never trained carries no optimizer into the file
    clean.set_weights(model.get_weights())
    clean.save(folder / "model.keras")
    (folder / "model.onnx").write_bytes(twin(model))
    (folder / "data").mkdir(exist_ok=True)
    np.savez(folder / "data/held_out.npz", image=inputs[:HELD_OUT], labels=labels[:HELD_OUT])
    for number in range(CASES):
        case = folder / f"tests/digits/test_data_set_{number}"
        case.mkdir(parents=True, exist_ok=True)
        batch = inputs[number : number + 1 + 7 * number]
        for name, role, array in (("image", "input_0", batch), ("logits", "output_0", logits(model, batch))):
            (case / f"{role}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    right = logits(model, inputs[:HELD_OUT]).argmax(axis=1) == labels[:HELD_OUT]
    print(f"accuracy {right.mean():.4f} on {HELD_OUT} held-out images")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
