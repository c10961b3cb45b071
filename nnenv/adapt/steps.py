"""Runs in the sandbox, with a toolchain's Python: makes one model out of another, by one step. It judges nothing.

    python steps.py     one request as JSON on stdin; on stdout 8 bytes, big-endian, that count the answer's head, the
                        head as JSON, and if it says `"ok": true` the bytes of the model that was made

A request says `step`, `model` (a path), `options` by their names in model.toml, and `files`: their paths by option.
Stand-alone: Python's standard library, and per step onnx, onnxruntime, numpy, onnxslim. Writes only below /tmp.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Options = Mapping[str, Any]
Files = Mapping[str, Any]


class StepError(Exception):
    """A step that cannot be done, in words for the user."""


def main() -> int:
    """Always 0: what went wrong is in the answer."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch, os.fdopen(answer_to, "wb") as stream:
        # Tools write beside what they read.
        model, made = Path(scratch) / "model.onnx", Path(scratch) / "made.onnx"
        model.symlink_to(request["model"])
        try:
            STEPS[request["step"]](model, made, request["options"], request["files"])
            _check(made)
        except StepError as error:
            _answer(stream, {"ok": False, "because": str(error)})
        except Exception as error:
            # The boundary: whatever a tool raises is an answer.
            _answer(stream, {"ok": False, "because": f"{type(error).__name__}: {error}"})
        else:
            _answer(stream, {"ok": True, "size": made.stat().st_size})
            with made.open("rb") as content:
                shutil.copyfileobj(content, stream, 1 << 20)
    return 0


def _answer(stream: Any, head: Mapping[str, object]) -> None:
    text = json.dumps(head).encode()
    stream.write(len(text).to_bytes(8, "big") + text)


def _check(made: Path) -> None:
    """The file is one self-contained, valid ONNX model; a path lets the checker read more than 2 GiB."""
    import onnx

    if not made.is_file():
        raise StepError("it wrote no model")
    beside = sorted(path.name for path in made.parent.iterdir() if path != made and path.suffix != ".npz")
    if any(path.endswith(".data") for path in beside):
        raise StepError(f"it wrote weights into other files: {', '.join(beside)}")
    try:
        onnx.checker.check_model(str(made))
    except onnx.checker.ValidationError as error:
        raise StepError(f"the model that it wrote is not valid: {error}") from error


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _save(model: Any, path: Path) -> None:
    import onnx

    onnx.save(model, str(path))


# Steps


def quantize_dynamic(model: Path, made: Path, options: Options, files: Files) -> None:
    """Weights as integers; activations are quantised when the model runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(model),
        str(made),
        weight_type=_integer(QuantType, options["weights"]),
        per_channel=options["per-channel"],
        reduce_range=options["reduce-range"],
        nodes_to_exclude=list(options.get("exclude", ())),
    )


def quantize_static(model: Path, made: Path, options: Options, files: Files) -> None:
    """Weights and activations as integers, with ranges of activations from calibration data (QDQ)."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = made.with_name("prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(made),
        _reader(model, Path(files["calibration"])),
        quant_format=QuantFormat.QDQ,
        activation_type=_integer(QuantType, options["activations"]),
        weight_type=_integer(QuantType, options["weights"]),
        per_channel=options["per-channel"],
        reduce_range=options["reduce-range"],
        calibrate_method={
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }[options["method"]],
        nodes_to_exclude=list(options.get("exclude", ())),
    )
    whole = _load(made)
    _drop_unused_domains(whole)
    _save(whole, made)


def _drop_unused_domains(model: Any) -> None:
    """onnxruntime's optimiser imports every operator set that it knows, of which runtimes may know fewer."""
    used = {
        domain
        for node in (*model.graph.node, *(n for f in model.functions for n in f.node))
        for domain in _domains(node)
    }
    kept = [one for one in model.opset_import if (one.domain or "ai.onnx") in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _domains(node: Any) -> Iterator[str]:
    """The domains of a node and of those inside of it."""
    yield node.domain or "ai.onnx"
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _domains(inner)


def _integer(types: Any, name: str) -> Any:
    return {"int8": types.QInt8, "uint8": types.QUInt8}[name]


_MOST_SAMPLES: Final = 4096


def _reader(model: Path, data: Path) -> Any:
    """Gives the calibration's samples one by one, as the model wants them."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader

    graph = _load(model).graph
    weights = {initializer.name for initializer in graph.initializer}
    wanted = {port.name: port for port in graph.input if port.name not in weights}
    arrays = dict(np.load(data, allow_pickle=False))
    if len(wanted) == len(arrays) == 1:
        arrays = dict.fromkeys(wanted, next(iter(arrays.values())))
    missing = sorted(set(wanted) - set(arrays))
    if missing:
        raise StepError(f"the calibration data has no array for {', '.join(missing)}; it has {', '.join(arrays)}")
    counts = {len(arrays[name]) if arrays[name].ndim else 0 for name in wanted}
    if len(counts) != 1 or counts == {0}:
        raise StepError("the arrays of the calibration data count different samples, or none")
    total = min(counts.pop(), _MOST_SAMPLES)
    batches = [_batch(port) for port in wanted.values()]
    batch = max([size for size in batches if size], default=1)

    def samples() -> Iterator[dict[str, Any]]:
        for start in range(0, total - batch + 1, batch):
            yield {name: arrays[name][start : start + batch] for name in wanted}

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """What onnxruntime asks for samples."""

        def __init__(self) -> None:
            self._samples = samples()

        def get_next(self) -> dict[str, Any] | None:
            """The next sample; None after the last."""
            return next(self._samples, None)

        def __len__(self) -> int:
            return total // batch

        def rewind(self) -> None:
            """From the first sample again."""
            self._samples = samples()

    return Reader()


def _batch(port: Any) -> int:
    """The first size of an input where it is fixed, else 0."""
    sizes = port.type.tensor_type.shape.dim
    return int(sizes[0].dim_value) if sizes else 0


def float16(model: Path, made: Path, options: Options, files: Files) -> None:
    """Weights and arithmetic in float16; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    excluded = list(options.get("exclude", ())) or None
    whole = convert_float_to_float16(_load(model), keep_io_types=True, node_block_list=excluded)
    _sort(whole.graph)
    _save(whole, made)


def _sort(graph: Any) -> None:
    """Nodes in an order in which each comes after those that it needs; the converter appends its casts at the end."""
    made_by = {output: index for index, node in enumerate(graph.node) for output in node.output}
    ordered: list[int] = []
    placed: set[int] = set()

    for first in range(len(graph.node)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            needed = {made_by[name] for name in _needs(graph.node[index]) if name in made_by} - placed
            if index in placed or not needed:
                waiting.pop()
                if index not in placed:
                    placed.add(index)
                    ordered.append(index)
            elif len(waiting) > len(graph.node):
                raise StepError("the graph has a cycle")
            else:
                waiting += sorted(needed, reverse=True)
    nodes = [graph.node[index] for index in ordered]
    del graph.node[:]
    graph.node.extend(nodes)


def _needs(node: Any) -> Iterator[str]:
    """The values that a node reads, those of graphs inside of it too."""
    yield from node.input
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _needs(inner)


def _graphs(node: Any) -> Iterator[Any]:
    """The graphs inside of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def convert_opset(model: Path, made: Path, options: Options, files: Files) -> None:
    """The same graph in another version of the default operator set, and the oldest file format that has it."""
    import onnx
    from onnx.version_converter import convert_version

    converted = convert_version(_load(model), options["opset"])
    converted.ir_version = onnx.helper.find_min_ir_version_for(converted.opset_import)
    _save(converted, made)


def simplify(model: Path, made: Path, options: Options, files: Files) -> None:
    """The same function with fewer nodes."""
    import onnxslim

    _save(onnxslim.slim(str(model)), made)


def fix_shapes(model: Path, made: Path, options: Options, files: Files) -> None:
    """Inputs with fixed sizes in place of free ones."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    whole = _load(model)
    names = [port.name for port in whole.graph.input]
    for name, shape in options["shapes"].items():
        if name not in names:
            raise StepError(f"the model has no input {name}; it has {', '.join(names)}")
        make_input_shape_fixed(whole.graph, name, [int(size) for size in shape.split("x")])
    fix_output_shapes(whole)
    _save(whole, made)


def prune(model: Path, made: Path, options: Options, files: Files) -> None:
    """The smallest values of each matrix or kernel become zero."""
    import numpy as np
    from onnx import numpy_helper

    whole = _load(model)
    for tensor in whole.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim < 2 or array.dtype.kind != "f":
            continue
        order = np.argsort(np.abs(array), axis=None, kind="stable")
        pruned = array.copy().reshape(-1)
        pruned[order[: int(pruned.size * options["amount"])]] = 0
        tensor.CopyFrom(numpy_helper.from_array(pruned.reshape(array.shape), tensor.name))
    _save(whole, made)


def run_script(model: Path, made: Path, options: Options, files: Files) -> None:
    """What a script of the user's makes: it is called with the model's path and the path of the model to write."""
    folder = made.parent / "script"
    folder.mkdir()
    for name, path in (("script", files["script"]), *(("", path) for path in files.get("inputs", ()))):
        shutil.copyfile(path, folder / ("step.py" if name else Path(path).name))
    ended = subprocess.run(
        [sys.executable, "step.py", str(model), str(made)], cwd=folder, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()[-4:]
        raise StepError(f"the script ended with {ended.returncode}: " + " | ".join(said))


STEPS: Final[Mapping[str, Callable[[Path, Path, Options, Files], None]]] = {
    "quantize-dynamic": quantize_dynamic,
    "quantize-static": quantize_static,
    "float16": float16,
    "convert-opset": convert_opset,
    "simplify": simplify,
    "fix-shapes": fix_shapes,
    "prune": prune,
    "run": run_script,
}
"""Step, as model.toml names it -> what does it: (model, file to write, options, files)."""

if __name__ == "__main__":
    sys.exit(main())
