"""A model file of any format that nnenv knows: what it says of itself, and what would be executed to load it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import OnnxFacts, TensorInfo, read_onnx

RUNTIMES: Final = {"onnx": "onnxruntime", "keras": "keras"}
"""Format -> the module that runs it in the standard inference test; other formats are kept and not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Static facts of one model file."""

    format: str
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    onnx: OnnxFacts | None = None
    """Of an ONNX file, all of its facts."""
    needs: tuple[str, ...] = ()
    """Requirements on the runtime that loads it: `keras>=3.12`."""
    imports: tuple[str, ...] | None = None
    """Of a file whose loading unpickles: what it would import; None for one that runs no code."""
    notice: str = ""
    """What a person should know of the format; empty if nothing."""


def read_model(stream: BinaryIO, what: str, declared: str = "") -> ModelFacts:
    """The facts of the model in `stream` (seekable), whose format is `declared` or inferred.

    NnenvError `model-invalid` if it is of no known format, of another than declared, or breaks the rules of its own.
    """
    from nnenv.formats.model_format import sniff

    found = sniff(stream, what)
    facts = _read(stream, what, "onnx" if declared == "onnx" or not found else found)
    if declared and facts.format != declared:
        raise NnenvError(
            "model-invalid",
            f"{what} is declared as {declared}, and is {facts.format}",
            where=what,
            fix=["correct `format` in model.toml, or leave it out"],
        )
    return facts


def _read(stream: BinaryIO, what: str, found: str) -> ModelFacts:
    match found:
        case "keras":
            from nnenv.formats.keras_archive import read_keras

            keras = read_keras(stream, what)
            if keras.custom:
                raise _unusable(what, f"it needs classes that are not Keras' own: {', '.join(keras.custom)[:300]}")
            major, minor, *_ = keras.version.split(".")
            needs = (f"keras>={major}.{minor}",)
            return ModelFacts(format="keras", inputs=keras.inputs, outputs=keras.outputs, needs=needs)
        case "safetensors":
            from nnenv.formats.safetensors_file import read_safetensors

            read_safetensors(stream, what)
            return ModelFacts(format="safetensors")
        case "gguf":
            from nnenv.formats.gguf import read_gguf

            read_gguf(stream, what)
            return ModelFacts(format="gguf")
        case "torch" | "pickle":
            return _torch(stream, what)
        case "hdf5" | "ort" | "saved-model":
            raise _unusable(what, f"models of the format {found} cannot be locked")
        case _:
            onnx = read_onnx(stream, what)
            return ModelFacts(format="onnx", inputs=onnx.inputs, outputs=onnx.outputs, onnx=onnx)


def _torch(stream: BinaryIO, what: str) -> ModelFacts:
    from nnenv.formats.torch_archive import read_torch

    torch = read_torch(stream, what)
    notice = "TorchScript is deprecated: export the model with torch.export" if torch.kind == "torchscript" else ""
    runs_code = torch.kind == "pickle" or bool(torch.pickles)
    return ModelFacts(format=torch.kind, imports=torch.imports if runs_code else None, notice=notice)


def _unusable(what: str, because: str) -> NnenvError:
    return NnenvError(
        "model-invalid",
        f"{what} is a model that nnenv cannot use",
        where=what,
        because=[because],
        fix=["convert it to ONNX, .keras, safetensors or GGUF"],
    )
