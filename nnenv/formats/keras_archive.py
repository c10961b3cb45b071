"""What a `.keras` file (Keras 3) says of itself: its version, layers, inputs and outputs. Nothing is unpacked or run.

https://keras.io/guides/serialization_and_saving: a zip of metadata.json, config.json and model.weights.h5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import TensorInfo
from nnenv.formats.zip_gate import ZipMember, read_member, read_members

_TEXT_LIMIT: Final = 64 << 20
_DEPTH: Final = 64
_RUNS_CODE: Final = frozenset({"Lambda", "__lambda__", "function"})
"""Classes that a config carries code for, as bytes of Python or by a name to import."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KerasFacts:
    """Static facts of one file."""

    version: str
    """The Keras that saved it: `3.12.0`."""
    model_class: str
    """`Functional`, `Sequential`, or the class of a subclassed model."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    """By the names of their layers; types and shapes are not in the file."""
    custom: tuple[str, ...]
    """Classes that are not Keras' own, sorted: somebody must register them."""
    weight_bytes: int


class _Refused(Exception):
    pass


def read_keras(stream: BinaryIO, what: str) -> KerasFacts:
    """The facts of the file in `stream` (seekable).

    NnenvError `model-invalid` if it is no such file, or carries code that loading would run.
    """
    try:
        members = {member.name: member for member in read_members(stream, what)}
        return _facts(stream, members, what)
    except NnenvError as error:
        raise _invalid(what, [*error.because]) from None
    except (_Refused, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(what, [str(error)[:300]]) from None


def _invalid(what: str, because: list[str]) -> NnenvError:
    return NnenvError(
        "model-invalid",
        f"{what} is not a .keras file that can be used",
        where=what,
        because=because,
        fix=["save the model with `model.save('NAME.keras')` of Keras 3, without Lambda layers"],
    )


def _facts(stream: BinaryIO, members: Mapping[str, ZipMember], what: str) -> KerasFacts:
    missing = sorted({"metadata.json", "config.json", "model.weights.h5"} - set(members))
    if missing:
        raise _Refused(f"it holds no {', '.join(missing)}")
    metadata = json.loads(read_member(stream, members["metadata.json"], _TEXT_LIMIT, what))
    config = json.loads(read_member(stream, members["config.json"], _TEXT_LIMIT, what))
    version = str(metadata["keras_version"])
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){1,2}[0-9A-Za-z.]*", version):
        raise _Refused("it does not say which Keras saved it")
    custom = set()
    for name, item in _objects(config):
        if name in _RUNS_CODE:
            raise _Refused(f"it holds a {name}, whose code would run when it is loaded")
        module = item.get("module")
        if isinstance(module, str) and module.partition(".")[0] not in {"keras", "builtins"}:
            custom.add(f"{module}.{name}")
        if item.get("registered_name") and module is None:
            custom.add(str(item["registered_name"]))
    inner = config["config"]
    return KerasFacts(
        version=version,
        model_class=str(config["class_name"]),
        inputs=tuple(_inputs(inner)),
        outputs=tuple(TensorInfo(name=name, dtype="", shape=()) for name in _output_names(inner)),
        custom=tuple(sorted(custom)),
        weight_bytes=members["model.weights.h5"].size,
    )


def _objects(value: Any, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class name, object) of everything that a config would have made."""
    if depth > _DEPTH:
        raise _Refused(f"its config is nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        if isinstance(value.get("class_name"), str):
            yield value["class_name"], value
        for inner in value.values():
            yield from _objects(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner, depth + 1)


def _inputs(config: Mapping[str, Any]) -> Iterator[TensorInfo]:
    layers = {layer["config"]["name"]: layer for layer in config.get("layers", []) if "name" in layer.get("config", {})}
    names = _names(config["input_layers"]) if "input_layers" in config else list(layers)[:1]
    for name in names:
        inner = layers[name]["config"]
        shape = inner.get("batch_shape") or inner.get("batch_input_shape") or []
        dtype = inner.get("dtype")
        yield TensorInfo(
            name=str(name),
            dtype=dtype if isinstance(dtype, str) else "",
            shape=tuple(size if isinstance(size, int) else "" for size in shape),
        )


def _output_names(config: Mapping[str, Any]) -> list[str]:
    if "output_layers" in config:
        return _names(config["output_layers"])
    layers = [layer["config"]["name"] for layer in config.get("layers", []) if "name" in layer.get("config", {})]
    return [str(name) for name in layers[-1:]]


def _names(listed: Any) -> list[str]:
    """Names of layers, of `["x", 0, 0]`, a list of such, or a mapping to such."""
    if isinstance(listed, dict):
        return [name for value in listed.values() for name in _names(value)]
    if listed and isinstance(listed[0], str):
        return [listed[0]]
    return [name for value in listed for name in _names(value)]
