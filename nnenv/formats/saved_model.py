"""What a TensorFlow SavedModel says of itself: version, signatures, operators, assets. Nothing is executed.

Field numbers: tensorflow/core/protobuf/saved_model.proto, meta_graph.proto, and core/framework/graph.proto,
function.proto, types.proto.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import TensorInfo, unsafe_location
from nnenv.formats.protobuf import BYTES, VARINT, Malformed, fields, text

GRAPH: Final = "saved_model.pb"
UNSAFE_OPERATORS: Final = frozenset(
    {"EagerPyFunc", "LoadLibrary", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles"}
)
"""Operators that run Python or touch files when a graph runs (TensorFlow's SECURITY.md: models are programs)."""
_TYPES: Final = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_SHARD: Final = re.compile(r"variables/variables\.data-([0-9]{5})-of-([0-9]{5})")
_KNOWN: Final = re.compile(
    r"saved_model\.pb|fingerprint\.pb|keras_metadata\.pb|variables/variables\.(index|data-[0-9]{5}-of-[0-9]{5})"
    r"|assets(\.extra)?/.+"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedModelFacts:
    """Static facts of one SavedModel."""

    version: str
    """The TensorFlow that saved it."""
    tags: tuple[str, ...]
    signatures: tuple[tuple[str, tuple[TensorInfo, ...], tuple[TensorInfo, ...]], ...]
    """(name, inputs, outputs) by their keys, sorted."""
    operators: tuple[str, ...]
    assets: tuple[str, ...]
    """Files below `assets/` that the graph names."""


@dataclass(slots=True)
class _Found:
    version: str = ""
    tags: set[str] = field(default_factory=set)
    signatures: dict[str, tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)


def read_saved_model(stream: BinaryIO, what: str) -> SavedModelFacts:
    """The facts of `saved_model.pb` in `stream` (seekable).

    NnenvError `model-invalid` if it is none, names an asset that leaves its folder, or has an operator that runs Python
    or touches files.
    """
    found = _Found()
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        for number, kind, value in fields(stream, size):
            if number == 2 and kind == BYTES:
                _meta_graph(stream, value, found)
    except Malformed as error:
        raise _invalid(what, str(error)) from None
    if not found.version or not found.operators:
        raise _invalid(what, "it has no graph, or does not say which TensorFlow saved it")
    for asset in sorted(found.assets):
        if rule := unsafe_location(asset):
            raise _invalid(what, f"asset {asset[:200]!r}: {rule}")
    if unsafe := sorted(found.operators & UNSAFE_OPERATORS):
        raise _invalid(what, f"its graph holds {', '.join(unsafe)}, which runs Python or touches files")
    return SavedModelFacts(
        version=found.version,
        tags=tuple(sorted(found.tags)),
        signatures=tuple((name, *ports) for name, ports in sorted(found.signatures.items())),
        operators=tuple(sorted(found.operators)),
        assets=tuple(sorted(found.assets)),
    )


def check_saved_model_files(names: Iterable[str], what: str) -> None:
    """NnenvError `model-invalid` unless the relative paths are those of a SavedModel, and all of them."""
    known = set(names)
    for name in sorted(known):
        if rule := unsafe_location(name):
            raise _invalid(what, f"{name[:200]!r}: {rule}")
        if not _KNOWN.fullmatch(name):
            raise _invalid(what, f"{name[:200]} is no file of a SavedModel")
    shards = [match for name in known if (match := _SHARD.fullmatch(name))]
    wanted = {f"{number:05}" for match in shards for number in range(int(match[2]))}
    if GRAPH not in known:
        raise _invalid(what, f"it holds no {GRAPH}")
    if {match[1] for match in shards} != wanted or bool(shards) != ("variables/variables.index" in known):
        raise _invalid(what, "its variables are not complete")


def _invalid(what: str, because: str) -> NnenvError:
    return NnenvError(
        "model-invalid",
        f"{what} is not a SavedModel that can be used",
        where=what,
        because=[because],
        fix=["export the model again with `tf.saved_model.save` or Keras' `model.export`"],
    )


def _meta_graph(stream: BinaryIO, end: int, found: _Found) -> None:
    for number, kind, value in fields(stream, end):
        if kind != BYTES:
            continue
        if number == 1:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner == 4 and inner_kind == BYTES:
                    found.tags.add(text(stream, inner_end))
                elif inner == 5 and inner_kind == BYTES:
                    found.version = text(stream, inner_end)
        elif number == 2:
            _graph(stream, value, found)
        elif number == 5:
            _signature(stream, value, found)
        elif number == 6:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner == 2 and inner_kind == BYTES:
                    found.assets.add(text(stream, inner_end))


def _graph(stream: BinaryIO, end: int, found: _Found) -> None:
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            _node(stream, value, found)
        elif number == 2 and kind == BYTES:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner != 1 or inner_kind != BYTES:
                    continue
                for part, part_kind, part_end in fields(stream, inner_end):
                    if part == 3 and part_kind == BYTES:
                        _node(stream, part_end, found)


def _node(stream: BinaryIO, end: int, found: _Found) -> None:
    for number, kind, value in fields(stream, end):
        if number == 2 and kind == BYTES:
            found.operators.add(text(stream, value))


def _signature(stream: BinaryIO, end: int, found: _Found) -> None:
    name, ports = "", ([], [])  # type: tuple[str, tuple[list[TensorInfo], list[TensorInfo]]]
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            name = text(stream, value)
        elif number == 2 and kind == BYTES:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner in {1, 2} and inner_kind == BYTES:
                    ports[inner - 1].append(_port(stream, inner_end))
    inputs, outputs = (tuple(sorted(side, key=lambda port: port.name)) for side in ports)
    found.signatures[name] = (inputs, outputs)


def _port(stream: BinaryIO, end: int) -> TensorInfo:
    name, dtype = "", ""
    shape: list[int | str] = []
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            name = text(stream, value)
        elif number == 2 and kind == BYTES:
            for inner, inner_kind, inner_value in fields(stream, value):
                if inner == 2 and inner_kind == VARINT:
                    dtype = _TYPES.get(inner_value, f"type-{inner_value}")
                elif inner == 3 and inner_kind == BYTES:
                    shape = [
                        _size(stream, part_end)
                        for part, part_kind, part_end in fields(stream, inner_value)
                        if part == 2 and part_kind == BYTES
                    ]
    return TensorInfo(name=name, dtype=dtype, shape=tuple(shape))


def _size(stream: BinaryIO, end: int) -> int | str:
    size: int | str = 0
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == VARINT:
            size = value if value < 1 << 62 else ""
    return size
