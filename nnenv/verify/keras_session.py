"""Runs inside an image: one `.keras` model, opened by Keras with TensorFlow, in the shape of the harness' sessions.

Stand-alone: the Python standard library, numpy, keras and tensorflow. Runs on Python 3.9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_SETTINGS = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": "/tmp",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_DETERMINISTIC_OPS": "1",
}
"""What must hold before TensorFlow is imported: the CPU alone, and the same order of sums each time."""


class KerasSession:
    """A model, its ports by the names of their layers, and runs of it.

    `refused(kind, message)` makes the exception for what cannot be run.
    """

    def __init__(self, path: str, sha256: str, threads: int, refused: Any) -> None:
        started = time.perf_counter()
        os.environ.update(_SETTINGS)
        import keras
        import tensorflow

        if not tensorflow.executing_eagerly() or not _configured(tensorflow, threads):
            raise refused("runtime", "TensorFlow was configured before")
        self._keras = keras
        self._refused = refused
        self._model = keras.saving.load_model(path, compile=False, safe_mode=True)
        names = getattr(self._model, "output_names", None) or [self._model.layers[-1].name]
        self.inputs = [_port(tensor.name, tensor) for tensor in self._model.inputs]
        self.outputs = [_port(names[i], tensor) for i, tensor in enumerate(self._model.outputs)]
        self.facts: dict[str, Any] = {
            "model": path,
            "sha256": sha256,
            "providers": [f"keras {keras.__version__} on {keras.backend.backend()} {tensorflow.__version__}, CPU"],
            "load_milliseconds": round((time.perf_counter() - started) * 1000, 3),
        }

    def run(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Outputs by name, and milliseconds; raises what `refused` makes."""
        import numpy as np

        missing = [port["name"] for port in self.inputs if port["name"] not in inputs]
        if missing or len(inputs) != len(self.inputs):
            wanted = ", ".join(port["name"] for port in self.inputs)
            raise self._refused("run", f"the model wants {wanted}, and is given {', '.join(inputs)}")
        started = time.perf_counter()
        try:
            tensors = {name: self._keras.ops.convert_to_tensor(array) for name, array in inputs.items()}
            asked = self._keras.tree.map_structure(lambda tensor: tensors[tensor.name], self._model.input)
            values = self._keras.tree.flatten(self._model(asked, training=False))
        except Exception as error:
            raise self._refused("run", f"{type(error).__name__}: {error}") from error
        milliseconds = round((time.perf_counter() - started) * 1000, 3)
        names = [port["name"] for port in self.outputs]
        return {names[i]: np.asarray(value) for i, value in enumerate(values)}, milliseconds


def _configured(tensorflow: Any, threads: int) -> bool:
    """Whether TensorFlow takes so many threads; it does before it has run anything."""
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        found = tensorflow.config.threading.get_intra_op_parallelism_threads()
        return bool(found == threads)
    return True


def _port(name: str, tensor: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else "" for size in tensor.shape]
    return {"name": name, "type": f"tensor({tensor.dtype})", "shape": shape}
