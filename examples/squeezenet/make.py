"""Make a full-size network and its test cases: a known architecture with seeded, calibrated weights.

The architectures are those that the onnx package ships as its own test data, where every weight is the same constant.
Here each weight gets a number of its own, and each layer is settled on one seeded image, so that activations neither
die nor explode and the answer depends on the input. Nothing is trained: the network recognises nothing.

Every number comes from integers and from float64 arithmetic that is rounded coarsely, so that any machine writes the
same model. Needs numpy and onnx; onnxruntime, where there is one, cross-checks.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SEED: Final = 20260101
OPSET: Final = 17
IR_VERSION: Final = 8
IMAGE_SHAPE: Final = (1, 3, 224, 224)
CASES: Final = 2
FEWEST_POSITIONS: Final = 49
"""Positions a channel must have for its own mean and variance to say something; a dense layer has one."""
LARGEST_ERROR: Final = 5e-5
"""onnxruntime must agree twice as well as the 1e-4 that verification allows."""

DIGESTS: Final = {
    "squeezenet": "5f50ef3265e8dc0304e511fcc8eeb1e0f1626760e4d8e7d860941b6cad198486",
    "shufflenet": "6faf6d53679c1d236a3fa9cf502961e12fcf8988e0dabef4b4c2377bec2afbc4",
    "resnet50": "43bab528425b443b119fa90761adf0eb025715eaea73ef37b46a0a67c8a5094c",
    "densenet121": "b087f80827cb647d3023de91536ecbc64c5d2a73511af3ebdad510d3c2aae9c5",
    "inception_v2": "4cb14441d2262a80e6a57fbbcb288cb7b34ed762d621cc3d4e15f99baf225f84",
    "vgg19": "c3ab0016df28a0bcac4db03f7911930add5d6655d2b587ba29ee2d6dfc555b51",
}
"""Architecture -> sha256 of its model, with the graphs that onnx 1.23.2 ships.

Those with local response normalization (alexnet, inception_v1, zfnet512) are left out: implementations of it disagree.
"""

PROVENANCE: Final = (
    "Logits computed in float64 from the weights in the model file by the numpy forward pass of make.py, "
    "then rounded to float32."
)

MANIFEST: Final = """\
[project]
name = "{name}"
version = "1.0.0"
description = "A network of full size with seeded weights, for measuring"

[models.{key}]
version = "1.0.0"
source = "file:model.onnx"

[[models.{key}.tests]]
data = "tests/{key}"

[requires]
packages = ["numpy", "onnxruntime>=1.20"]

[targets.cpu]
platform = "linux/amd64"
os = "debian:12"
"""


# Numbers


def normal(name: str, shape: Sequence[int]) -> Array:
    """About normal numbers, float64 with mean 0 and variance 1, a function of name and shape alone.

    Sums of four 16-bit integers: whatever the processor, they are exact.
    """
    seed = int.from_bytes(hashlib.sha256(f"{SEED}:{name}".encode()).digest()[:16], "big")
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    sums = sum((raw >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
    deviation = (4 * (2.0**32 - 1) / 12) ** 0.5
    return ((np.asarray(sums, dtype=np.float64) - 2 * 65535) / deviation).reshape(shape)


def image(name: str) -> Array:
    """A seeded picture, float32: coarse patches, finer ones, and noise, so that two of them differ at every scale."""
    picture = np.zeros(IMAGE_SHAPE)
    for cells, weight in ((7, 1.0), (28, 0.5), (224, 0.25)):
        cell = IMAGE_SHAPE[-1] // cells
        patches = normal(f"{name}:{cells}", (1, 3, cells, cells))
        picture += weight * patches.repeat(cell, axis=2).repeat(cell, axis=3)
    return picture.astype(np.float32)


def rounded(values: Array, unit: Array | float) -> Array:
    """The nearest multiples of 1/256 of the power of two below `unit`: the last bits, where processors and BLAS
    libraries differ, do not reach the model."""
    _, exponent = np.frexp(unit)
    return np.ldexp(np.rint(np.ldexp(values, 8 - exponent)), exponent - 8)


# Operators, in float64, of one image [1, c, h, w]


def windows(x: Array, node: Node, filler: float) -> Array:
    """What a kernel sees at each position: a view [c, rows, columns, kernel height, kernel width]."""
    top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)), constant_values=filler)
    rows, columns = node.attributes.get("strides", (1, 1))
    view = np.lib.stride_tricks.sliding_window_view(padded, node.attributes["kernel_shape"], axis=(1, 2))
    return view[:, ::rows, ::columns]


def conv(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Convolution in groups, as one matrix product a group."""
    seen = windows(x, node, 0.0)
    groups = node.attributes.get("group", 1)
    rows, columns = seen.shape[1:3]
    outputs = []
    for part, kernels in zip(np.split(seen, groups), np.split(weight, groups), strict=True):
        matrix = part.transpose(0, 3, 4, 1, 2).reshape(-1, rows * columns)
        outputs.append(kernels.reshape(len(kernels), -1) @ matrix)
    result = np.concatenate(outputs).reshape(1, -1, rows, columns)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


def gemm(node: Node, x: Array, weight: Array, bias: Array) -> Array:
    """A dense layer."""
    return x @ (weight.T if node.attributes.get("transB", 0) else weight) + bias


def batch_normalization(node: Node, x: Array, scale: Array, shift: Array, mean: Array, variance: Array) -> Array:
    """With the statistics that the model holds."""
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return x * factor.reshape(1, -1, 1, 1) + (shift - mean * factor).reshape(1, -1, 1, 1)


def average_pool(node: Node, x: Array) -> Array:
    """The mean of what a window sees of the image; padding does not count."""
    total = windows(x, node, 0.0).sum(axis=(3, 4))
    return (total / windows(np.ones_like(x), node, 0.0).sum(axis=(3, 4)))[None]


OPERATORS: Final[Mapping[str, Callable[..., Array]]] = {
    "Add": lambda node, x, y: x + y,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attributes["axis"]),
    "Conv": conv,
    "Gemm": gemm,
    "GlobalAveragePool": lambda node, x: x.mean(axis=(2, 3), keepdims=True),
    "MaxPool": lambda node, x: windows(x, node, -np.inf).max(axis=(3, 4))[None],
    "Mul": lambda node, x, y: x * y,
    "Relu": lambda node, x: np.maximum(x, 0),
    "Reshape": lambda node, x, shape: x.reshape(shape),
    "Sum": lambda node, *parts: sum(parts),
    "Transpose": lambda node, x: x.transpose(node.attributes["perm"]),
}


# The network


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operator of the graph."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


@dataclass(kw_only=True, slots=True)
class Network:
    """A graph from `image` to `logits`, and the values of its weights."""

    nodes: list[Node]
    constants: dict[str, Array]
    """Shapes that Reshape asks for."""
    shapes: dict[str, tuple[int, ...]]
    """Of each weight."""
    weights: dict[str, Array] = field(default_factory=dict)
    """float32, once they are settled."""


def architecture(name: str) -> Network:
    """The graph that the onnx package ships, without what training needs: no dropout, logits in place of softmax."""
    import onnx
    from onnx import numpy_helper

    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"
    graph = onnx.load(path).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {key: value.shape for key, value in values.items() if value.dtype == np.float32}
    renamed = {tensor.name: "image" for tensor in graph.input if tensor.name not in values}
    nodes: list[Node] = []
    for node in graph.node:
        inputs = tuple(renamed.get(tensor, tensor) for tensor in node.input)
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        output = node.output[0]
        if node.op_type == "ConstantOfShape":
            shapes[output] = tuple(int(size) for size in values[inputs[0]])
        elif node.op_type == "Unsqueeze":  # of weights only
            shapes[output] = (*shapes.pop(inputs[0]), *(1 for _ in attributes["axes"]))
        elif node.op_type in {"Dropout", "Softmax"}:
            renamed[output] = inputs[0]
        else:
            nodes.append(Node(operator=node.op_type, inputs=inputs, output=output, attributes=attributes))
    last = nodes[-1]
    nodes[-1] = Node(operator=last.operator, inputs=last.inputs, output="logits", attributes=last.attributes)
    used = {tensor for node in nodes for tensor in node.inputs}
    return Network(
        nodes=nodes,
        constants={key: value for key, value in values.items() if value.dtype == np.int64 and key in used},
        shapes={key: shape for key, shape in shapes.items() if key in used},
    )


def forward(network: Network, picture: Array, settle: Callable[[Node, list[Array]], None] | None = None) -> Array:
    """The logits for one image in float64; `settle` may set the weights of a node that is about to run."""
    values: dict[str, Array] = {"image": picture.astype(np.float64)}
    last_use = {tensor: number for number, node in enumerate(network.nodes) for tensor in node.inputs}
    for number, node in enumerate(network.nodes):
        if settle is not None:
            settle(node, [values[tensor] for tensor in node.inputs if tensor in values])
        values[node.output] = OPERATORS[node.operator](node, *(_value(network, values, key) for key in node.inputs))
        for tensor in node.inputs:
            if last_use[tensor] == number:
                values.pop(tensor, None)
    return values["logits"]


def _value(network: Network, values: Mapping[str, Array], name: str) -> Array:
    if name in network.weights:
        return network.weights[name].astype(np.float64)
    return values[name] if name in values else network.constants[name]


# Weights


def settled(name: str) -> Network:
    """The architecture with all its weights, chosen layer by layer along one forward pass."""
    network = architecture(name)

    def settle(node: Node, inputs: list[Array]) -> None:
        wanted = [tensor for tensor in node.inputs if tensor in network.shapes]
        if wanted:
            drawn = {tensor: normal(f"{name}:{tensor}", network.shapes[tensor]) for tensor in wanted}
            values = _layer_values(node, inputs[0], wanted, drawn)
            network.weights.update({tensor: value.astype(np.float32) for tensor, value in values.items()})

    forward(network, image("calibration"), settle)
    return network


def _layer_values(node: Node, x: Array, names: Sequence[str], drawn: Mapping[str, Array]) -> dict[str, Array]:
    """The weights of one layer, in the order of the operator's inputs."""
    match node.operator:
        case "Conv" | "Gemm":
            return _kernel_values(node, x, names, drawn)
        case "BatchNormalization":
            scale, shift, mean, variance = names
            spread = np.maximum(x.var(axis=(0, 2, 3)), 2.0**-10)
            return {
                scale: 1 + 0.1 * drawn[scale],
                shift: 0.1 * drawn[shift],
                mean: rounded(x.mean(axis=(0, 2, 3)), np.sqrt(spread)),
                variance: rounded(spread, spread),
            }
        case "Mul":
            return {names[0]: 1 + 0.1 * drawn[names[0]]}
        case "Add":
            return {names[0]: 0.1 * drawn[names[0]]}
        case other:
            raise AssertionError(f"{other} has no weights in these architectures")


def _kernel_values(node: Node, x: Array, names: Sequence[str], drawn: Mapping[str, Array]) -> dict[str, Array]:
    """Kernels whose answers have about variance 1, and biases that put each channel's mean at 0."""
    weight = drawn[names[0]]
    unbiased = conv(node, x, weight) if node.operator == "Conv" else gemm(node, x, weight, np.zeros(len(weight)))
    # A power of two, so that rounding has nothing to do with it.
    factor = 2.0 ** -float(np.rint(np.log2(unbiased.std())))
    values = {names[0]: weight * factor}
    if len(names) > 1:
        positions = unbiased[0, 0].size if node.operator == "Conv" else 1
        centre = -factor * unbiased.mean(axis=(0, 2, 3)) if positions >= FEWEST_POSITIONS else 0.1 * drawn[names[1]]
        values[names[1]] = rounded(centre, 1.0)
    return values


# Files


def exported(name: str, network: Network) -> bytes:
    """The ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = {**network.constants, **network.weights}
    classes = forward(network, image("calibration")).shape
    graph = helper.make_graph(
        [helper.make_node(n.operator, n.inputs, [n.output], **n.attributes) for n in network.nodes],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE_SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, classes)],
        [numpy_helper.from_array(tensors[key], key) for key in sorted(tensors)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="nnenv-example"
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def case_files(network: Network, model: bytes) -> dict[str, bytes]:
    """Path below the folder of the cases -> bytes: `case.toml`, and images and logits as TensorProtos."""
    from onnx import numpy_helper

    settings = (
        'schema = "nnenv.test/1"',
        'kind = "golden"',
        f'model_sha256 = "{hashlib.sha256(model).hexdigest()}"',
        f'provenance = "{PROVENANCE}"',
    )
    files = {"case.toml": "".join(f"{line}\n" for line in settings).encode()}
    for number in range(CASES):
        picture = image(f"case {number}")
        logits = forward(network, picture).astype(np.float32)
        for file, name, values in (("input_0.pb", "image", picture), ("output_0.pb", "logits", logits)):
            tensor = numpy_helper.from_array(values, name)
            files[f"test_data_set_{number}/{file}"] = tensor.SerializeToString(deterministic=True)
    return files


def cross_checked(network: Network, model: bytes) -> str:
    """One sentence on how far onnxruntime is from `forward`; exits with an error beyond LARGEST_ERROR."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "onnxruntime is not installed: no cross-check"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    worst = 0.0
    for number in range(CASES):
        picture = image(f"case {number}")
        expected = forward(network, picture)
        found = session.run(["logits"], {"image": picture})[0].astype(np.float64)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    sentence = f"onnxruntime {onnxruntime.__version__} differs by {worst:.1e} of the largest logit"
    if not worst < LARGEST_ERROR:
        sys.exit(f"error: {sentence}, more than {LARGEST_ERROR:.0e}; nothing was written")
    return sentence


# Command


def main(arguments: list[str] | None = None) -> None:
    """Make the network, check it, and only then write model.onnx, its cases, and model.toml if there is none."""
    options = _options(arguments)
    name: str = options.architecture
    try:
        network = settled(name)
        model = exported(name, network)
        check = cross_checked(network, model)
        cases = case_files(network, model)
    except ModuleNotFoundError as error:
        sys.exit(f"error: this needs the Python package {error.name}\nfix: pip install numpy onnx")
    key = name.replace("_", "-")
    files = {"model.onnx": model} | {f"tests/{key}/{path}": data for path, data in cases.items()}
    if not (options.output / "model.toml").exists():
        files["model.toml"] = MANIFEST.format(name=key, key=key).encode()
    try:
        for path, data in files.items():
            _write(options.output / path, data)
    except OSError as error:
        sys.exit(f"error: {error.filename} cannot be written: {error.strerror}")
    digest = hashlib.sha256(model).hexdigest()
    parameters = sum(value.size for value in network.weights.values())
    print(f"model.onnx   {name}, {parameters} parameters, {len(model)} bytes, sha256 {digest}")
    same = "yes" if digest == DIGESTS[name] else "no: onnx ships another graph, or numpy counts differently here"
    print(f"same bytes   {same}")
    print(f"cross-check  {check}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a network of full size with seeded weights, and its test cases.")
    parser.add_argument("--architecture", choices=sorted(DIGESTS), default="squeezenet", help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="where to write (default: beside me)"
    )
    return parser.parse_args(arguments)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
