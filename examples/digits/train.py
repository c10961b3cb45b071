"""Train the digits network, export it to ONNX and record its test cases.

Plain numpy, one thread, one seed: two runs on one machine write the same bytes. Another CPU or another BLAS rounds
differently, so retraining elsewhere gives a network that is as good but not the same file.

Needs numpy, scikit-learn (for the data) and onnx (for the export); onnxruntime, where there is one, cross-checks.
"""

from __future__ import annotations

import os

# Read once, when numpy loads its BLAS: with several threads the order of additions, so the last bits, may vary.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["VECLIB_MAXIMUM_THREADS"] = "1"

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]
"""Parameter name -> values; the names are those of the initializers in the ONNX file."""

SEED: Final = 20240901
EPOCHS: Final = 30
BATCH: Final = 32
LEARNING_RATE: Final = 1e-3
"""At the start; it falls linearly to zero."""
HELD_OUT: Final = 0.2
CALIBRATION: Final = 128
"""Training images whose ranges quantisation takes for those of all."""
"""Share of each class that training never sees."""
CASE_SIZES: Final = (1, 4, 16)
"""Images in test_data_set_0, 1, 2: one alone, and two batches, since batching is a place where runtimes differ."""
LARGEST_ERROR: Final = 1e-5
"""The two implementations must agree ten times better than the 1e-4 that verification allows."""

SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "conv1.weight": (16, 1, 3, 3),
    "conv1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),
    "conv2.bias": (32,),
    "dense1.weight": (512, 64),
    "dense1.bias": (64,),
    "dense2.weight": (64, 10),
    "dense2.bias": (10,),
}

PROVENANCE: Final = (
    "Logits of 21 held-out images, computed in float64 from the weights in the exported file "
    "by the numpy forward pass of train.py (reference_logits), then rounded to float32."
)


# Data


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Images with their digits."""

    images: Array
    """float32 [n, 1, 8, 8], from 0 (paper) to 1 (ink)."""
    labels: Array
    """int64 [n], 0 to 9."""

    def at(self, indices: Array) -> Examples:
        """The examples at `indices`, in that order."""
        return Examples(images=self.images[indices], labels=self.labels[indices])


def digits() -> Examples:
    """The 1797 handwritten digits that scikit-learn ships; their pixels count ink from 0 to 16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Examples(images=images, labels=bunch.target.astype(np.int64))


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Training and held-out examples: of every class the same share, both shuffled; a function of `seed`."""
    random = np.random.Generator(np.random.PCG64([seed, 0]))
    kept, held_out = [], []
    for digit in range(10):
        members = random.permutation(np.flatnonzero(examples.labels == digit))
        count = round(len(members) * HELD_OUT)
        held_out.append(members[:count])
        kept.append(members[count:])
    training = random.permutation(np.concatenate(kept))
    return examples.at(training), examples.at(random.permutation(np.concatenate(held_out)))


# Network: convolution, ReLU, convolution, ReLU, maximum of 2 x 2, dense, ReLU, dense


def initial_weights(random: np.random.Generator) -> Weights:
    """Float32 weights by He et al. 2015 (normal, variance 2 / inputs, for ReLU), centred; biases zero.

    Each unit's weights sum to zero. The inputs of a unit are never negative, so a sum far below zero would keep the
    unit off for every image, and training cannot wake it: without this rule more than half of dense1 is dead.
    """
    weights: Weights = {}
    for name, shape in SHAPES.items():
        axes = tuple(range(1, len(shape))) if len(shape) == 4 else 0
        inputs = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        drawn = (2 / inputs) ** 0.5 * random.standard_normal(shape)
        centred = drawn - drawn.mean(axis=axes, keepdims=True)
        weights[name] = (np.zeros(shape) if name.endswith(".bias") else centred).astype(np.float32)
    return weights


def patches(images: Array) -> Array:
    """Each pixel's 3 x 3 neighbourhood as a row, zeros beyond the edge: [n * h * w, c * 9] (im2col)."""
    n, c, h, w = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)


def patches_gradient(rows: Array, shape: tuple[int, ...]) -> Array:
    """The gradient at the images [n, c, h, w], given that at the rows of `patches`: each pixel is in nine rows."""
    n, c, h, w = shape
    windows = rows.reshape(n, h, w, c, 3, 3).transpose(0, 3, 1, 2, 4, 5)
    padded = np.zeros((n, c, h + 2, w + 2), rows.dtype)
    for dy in range(3):
        for dx in range(3):
            padded[:, :, dy : dy + h, dx : dx + w] += windows[..., dy, dx]
    return padded[:, :, 1:-1, 1:-1]


def as_pixels(images: Array) -> Array:
    """[n, c, h, w] as [n * h * w, c]: the rows of `patches`, with channels for columns."""
    return images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1])


def as_images(pixels: Array, shape: tuple[int, ...]) -> Array:
    """[n * h * w, c] as [n, c, h, w]; n, h and w are those of `shape`."""
    n, _, h, w = shape
    return pixels.reshape(n, h, w, -1).transpose(0, 3, 1, 2)


def blocks(images: Array) -> Array:
    """The 2 x 2 blocks of [n, c, h, w]: [n, c, h / 2, w / 2, 4]."""
    n, c, h, w = images.shape
    return images.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)


def blocks_gradient(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `blocks`."""
    n, c, h, w = shape
    return gradient.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(shape)


def loss_and_gradients(weights: Weights, examples: Examples) -> tuple[float, Weights]:
    """Mean cross-entropy of the examples and its gradient by every weight, in the weights' precision."""
    images, labels = examples.images, examples.labels
    kernels = {name: weights[f"{name}.weight"].reshape(SHAPES[f"{name}.weight"][0], -1) for name in ("conv1", "conv2")}

    rows1 = patches(images)
    maps1 = np.maximum(as_images(rows1 @ kernels["conv1"].T + weights["conv1.bias"], images.shape), 0)
    rows2 = patches(maps1)
    maps2 = np.maximum(as_images(rows2 @ kernels["conv2"].T + weights["conv2.bias"], maps1.shape), 0)
    of_block = blocks(maps2)
    largest = of_block.max(axis=-1)
    flat = largest.reshape(len(images), -1)
    hidden = np.maximum(flat @ weights["dense1.weight"] + weights["dense1.bias"], 0)
    logits = hidden @ weights["dense2.weight"] + weights["dense2.bias"]

    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    right = (np.arange(len(labels)), labels)
    loss = -float(log_probabilities[right].mean())

    at_logits = np.exp(log_probabilities)
    at_logits[right] -= 1
    at_logits /= len(labels)
    at_hidden = (at_logits @ weights["dense2.weight"].T) * (hidden > 0)
    at_largest = (at_hidden @ weights["dense1.weight"].T).reshape(largest.shape)
    # Where pixels of a block share the maximum, they share its gradient.
    winners = of_block == largest[..., None]
    at_blocks = winners * (at_largest / winners.sum(axis=-1, dtype=at_largest.dtype))[..., None]
    at_pixels2 = as_pixels(blocks_gradient(at_blocks, maps2.shape) * (maps2 > 0))
    at_maps1 = patches_gradient(at_pixels2 @ kernels["conv2"], maps1.shape)
    at_pixels1 = as_pixels(at_maps1 * (maps1 > 0))
    return loss, {
        "conv1.weight": (at_pixels1.T @ rows1).reshape(SHAPES["conv1.weight"]),
        "conv1.bias": at_pixels1.sum(axis=0),
        "conv2.weight": (at_pixels2.T @ rows2).reshape(SHAPES["conv2.weight"]),
        "conv2.bias": at_pixels2.sum(axis=0),
        "dense1.weight": flat.T @ at_hidden,
        "dense1.bias": at_hidden.sum(axis=0),
        "dense2.weight": hidden.T @ at_logits,
        "dense2.bias": at_logits.sum(axis=0),
    }


def train(examples: Examples, *, epochs: int, seed: int) -> Weights:
    """Weights after `epochs` passes of Adam (Kingma and Ba 2015, its default moments); a function of its arguments.

    Prints the mean loss of each pass to stderr.
    """
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    weights = initial_weights(random)
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    count = len(examples.labels)
    steps = epochs * -(-count // BATCH)
    step = 0
    for epoch in range(1, epochs + 1):
        order = random.permutation(count)
        losses = []
        for start in range(0, count, BATCH):
            loss, gradients = loss_and_gradients(weights, examples.at(order[start : start + BATCH]))
            losses.append(loss)
            rate = LEARNING_RATE * (1 - step / steps)
            step += 1
            for name, gradient in gradients.items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.999 * square[name] + 0.001 * gradient**2
                direction = (mean[name] / (1 - 0.9**step)) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
                weights[name] = weights[name] - rate * direction
        print(f"epoch {epoch:2} of {epochs}: mean loss {np.mean(losses):.5f}", file=sys.stderr)
    return weights


# Export


def exported(weights: Weights) -> bytes:
    """The network as an ONNX file: `image` float32 [batch, 1, 8, 8] in, `logits` float32 [batch, 10] out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("MaxPool", ["d"], ["e"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "dense1.weight", "dense1.bias"], ["g"], "dense1"),
        helper.make_node("Relu", ["g"], ["h"], "relu3"),
        helper.make_node("Gemm", ["h", "dense2.weight", "dense2.bias"], ["logits"], "dense2"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights[name], name) for name in SHAPES],
    )
    # Opset 17 and IR 8: what every onnxruntime since 1.12 reads, and nothing here needs more.
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="nnenv examples/digits",
        producer_version="1.0.0",
        doc_string="Handwritten digits: 8 x 8 grey values from 0 (paper) to 1 (ink) to ten logits.",
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def reference_logits(model: bytes, images: Array) -> Array:
    """The logits of the ONNX file for `images`, in float64; an implementation of its own.

    It shares nothing with the training code and uses no BLAS: a convolution is nine shifted sums over channels.
    Only the weights come from the file; the graph is written out here.
    """
    import onnx
    from onnx import numpy_helper

    initializers = onnx.load_from_string(model).graph.initializer
    weights = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in initializers}

    def convolved(maps: Array, layer: str) -> Array:
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        total = np.zeros((len(maps), len(kernel), 8, 8)) + bias[:, None, None]
        for dy in range(3):
            for dx in range(3):
                total += np.einsum("nchw,oc->nohw", padded[:, :, dy : dy + 8, dx : dx + 8], kernel[:, :, dy, dx])
        return total

    def dense(rows: Array, layer: str) -> Array:
        total: Array = np.einsum("ni,io->no", rows, weights[f"{layer}.weight"]) + weights[f"{layer}.bias"]
        return total

    maps = np.maximum(convolved(np.maximum(convolved(images.astype(np.float64), "conv1"), 0), "conv2"), 0)
    corners = [maps[:, :, y::2, x::2] for y in range(2) for x in range(2)]
    flat = np.maximum.reduce(corners).reshape(len(images), -1)
    return dense(np.maximum(dense(flat, "dense1"), 0), "dense2")


# Cases


def case_files(model: bytes, held_out: Examples) -> dict[str, bytes]:
    """Path below the test folder -> bytes: `case.toml`, and images and their expected logits as TensorProtos."""
    from onnx import numpy_helper

    files = {"case.toml": case_toml(model).encode()}
    start = 0
    for number, size in enumerate(CASE_SIZES):
        images = held_out.images[start : start + size]
        logits = reference_logits(model, images).astype(np.float32)
        start += size
        for file, name, values in (("input_0.pb", "image", images), ("output_0.pb", "logits", logits)):
            tensor = numpy_helper.from_array(values, name)
            files[f"test_data_set_{number}/{file}"] = tensor.SerializeToString(deterministic=True)
    return files


def case_toml(model: bytes) -> str:
    """The settings of the cases, in the spelling that nnenv writes."""
    lines = (
        'schema = "nnenv.test/1"',
        'kind = "golden"',
        f'model_sha256 = "{hashlib.sha256(model).hexdigest()}"',
        f'provenance = "{PROVENANCE}"',
    )
    return "".join(f"{line}\n" for line in lines)


def cross_checked(model: bytes, held_out: Examples) -> str:
    """One sentence on how far onnxruntime is from `reference_logits` over the held-out images.

    Exits with an error where they differ by more than LARGEST_ERROR: then one of them, or the export, is wrong.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "onnxruntime is not installed: no cross-check"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": held_out.images})[0].astype(np.float64)
    expected = reference_logits(model, held_out.images)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    sentence = f"onnxruntime {onnxruntime.__version__} differs by {error:.1e} of the largest logit"
    if not error < LARGEST_ERROR:
        sys.exit(f"error: {sentence}, more than {LARGEST_ERROR:.0e}; nothing was written")
    return sentence


# Command


def main(arguments: list[str] | None = None) -> None:
    """Train, check, and only then write model.onnx, the cases and the held-out examples."""
    options = _options(arguments)
    try:
        training, held_out = split(digits(), SEED)
        weights = train(
            training.at(np.arange(len(training.labels))[: options.images]), epochs=options.epochs, seed=SEED
        )
        model = exported(weights)
        check = cross_checked(model, held_out)
        cases = case_files(model, held_out)
    except ModuleNotFoundError as error:
        sys.exit(f"error: training needs the Python package {error.name}; install scikit-learn and onnx")
    files = {"model.onnx": model} | {f"tests/digits/{name}": data for name, data in cases.items()}
    try:
        for name, data in files.items():
            _write(options.output / name, data)
        (options.output / "data").mkdir(parents=True, exist_ok=True)
        np.savez(options.output / "data/held_out.npz", images=held_out.images, labels=held_out.labels)
        np.savez(options.output / "data/calibration.npz", images=training.images[:CALIBRATION])
    except OSError as error:
        sys.exit(f"error: {error.filename} cannot be written: {error.strerror}")
    right = reference_logits(model, held_out.images).argmax(axis=1) == held_out.labels
    print(f"model.onnx  {len(model)} bytes, sha256 {hashlib.sha256(model).hexdigest()}")
    print(f"accuracy    {right.mean():.4f} ({right.sum()} of {right.size} held-out images)")
    print(f"cross-check {check}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the digits network and record its test cases.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="where to write (default: beside me)"
    )
    parser.add_argument("--epochs", type=_positive, default=EPOCHS, metavar="N", help="passes (default: %(default)s)")
    parser.add_argument("--images", type=_positive, metavar="N", help="train on the first N images only (default: all)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
