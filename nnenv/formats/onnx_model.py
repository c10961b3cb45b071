"""What an ONNX file says of itself, read without the onnx package and without loading weights.

Field numbers: onnx.proto3 (ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorProto). Message bodies that are
not needed are skipped by seeking, so the cost does not grow with the weights.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.protobuf import BYTES, VARINT, Malformed, fields, packed, text

_DEPTH: Final = 32
"""Graphs inside of graphs."""
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""TensorProto.DataType -> bits of an element."""
_ELEMENT_TYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
"""TensorProto.DataType -> numpy's name (bfloat16 has none there)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """An input or output of the graph."""

    name: str
    dtype: str
    """numpy's name, or `type-N` for an element type we have no name for, or "" for sequences and maps."""
    shape: tuple[int | str, ...]
    """Fixed sizes as numbers, free ones by their name ("" if unnamed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFacts:
    """Static facts of one ONNX model."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    """(domain, version), sorted; the default domain is `ai.onnx`."""
    inputs: tuple[TensorInfo, ...]
    """Graph inputs that are not initializers, in order."""
    outputs: tuple[TensorInfo, ...]
    operators: tuple[tuple[str, str], ...] = ()
    """(domain, type) of each operator that is used anywhere, sorted; the default domain is `ai.onnx`."""
    weight_bytes: int = 0
    """Bytes of all weights, here and in other files."""
    external: tuple[ExternalData, ...] = ()
    """Weights in other files, sorted, each once."""

    @property
    def files(self) -> tuple[str, ...]:
        """Locations of the other files that belong to the model, sorted."""
        return tuple(sorted({one.location for one in self.external}))


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class ExternalData:
    """A weight that lies in another file (ONNX docs/ExternalData.md)."""

    location: str
    """Path of that file from the model's own directory, as the model says it."""
    offset: int
    """Byte in that file."""
    size: int
    """Bytes that type and shape ask for."""
    length: int | None
    """Bytes that the model says; None if it does not."""


@dataclass(slots=True)
class _Found:
    """What a walk through a model has found so far."""

    operators: set[tuple[str, str]] = field(default_factory=set)
    external: set[ExternalData] = field(default_factory=set)
    weight_bytes: int = 0


def read_onnx(stream: BinaryIO, what: str) -> OnnxFacts:
    """The facts of the model in `stream` (seekable).

    Where weights lie in other files is only read: `check_external` holds that against the files that are there.
    Raises NnenvError `model-invalid` if it is no ONNX model.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        facts = _model(stream, size)
    except Malformed as error:
        raise NnenvError(
            "model-invalid",
            f"{what} is not an ONNX model that nnenv can lock",
            where=what,
            because=[str(error)],
            fix=["check the file with onnx.checker"],
        ) from None
    if not facts.opsets or not facts.outputs:
        raise NnenvError(
            "model-invalid",
            f"{what} is not an ONNX model",
            where=what,
            because=["it has no operator set or no outputs"],
            fix=["name an .onnx file in `source`"],
        )
    return facts


def unsafe_location(location: str) -> str | None:
    """The rule that a location of external data breaks, in a clause; None for one that may be opened.

    Links are for whoever opens it: this is what the text alone tells.
    """
    if not location:
        return "it is empty"
    if re.search(r"[\x00-\x1f\x7f]", location):
        return "it holds a control character"
    if "\\" in location or re.match(r"[A-Za-z]:", location):
        return "it holds a backslash or a drive"
    if location.startswith("/"):
        return "it is an absolute path"
    parts = location.split("/")
    if ".." in parts:
        return "it holds .."
    if posixpath.normpath(location) != location:
        return "it is not in its shortest form"
    if unicodedata.normalize("NFC", location) != location:
        return "its characters are not in normal form (NFC)"
    if len(location.encode()) > 1024 or len(parts) > 16:
        return "it is too long"
    return None


def check_external(facts: OnnxFacts, sizes: Mapping[str, int], what: str) -> None:
    """Hold the external data of a model against the files that are there: location -> bytes.

    NnenvError `model-invalid` for a location that may not be opened, a file that is missing, and a weight that does not
    lie inside of its file or has another size than its type and shape ask for.
    """
    for one in facts.external:
        rule = unsafe_location(one.location)
        if rule is None and one.location not in sizes:
            rule = "there is no such file"
        elif rule is None and one.length is not None and one.length != one.size:
            rule = f"{one.length} bytes are stated, and type and shape ask for {one.size}"
        elif rule is None and one.offset + one.size > sizes[one.location]:
            rule = f"bytes {one.offset} to {one.offset + one.size} are wanted of a file of {sizes[one.location]}"
        if rule is not None:
            raise NnenvError(
                "model-invalid",
                f"a weight of {what} lies where it may not or cannot",
                where=what,
                because=[f"location {one.location[:200]!r}: {rule}"],
                fix=["save the model again, with its weights in one file beside it or inside"],
            )


def _model(stream: BinaryIO, end: int) -> OnnxFacts:
    ir_version, opsets = 0, []
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    initializers: set[str] = set()
    found = _Found()
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == VARINT:
            ir_version = value
        elif number == 8 and kind == BYTES:
            opsets.append(_opset(stream, value))
        elif number == 7 and kind == BYTES:
            _graph(stream, value, found, inputs, outputs, initializers)
        elif number == 20 and kind == BYTES:
            for _, inner_kind, inner_end in fields(stream, value):
                if inner_kind == BYTES:
                    _graph(stream, inner_end, found, [], [], set())
        elif number == 25 and kind == BYTES:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner == 7 and inner_kind == BYTES:
                    _node(stream, inner_end, found, 0)
    return OnnxFacts(
        ir_version=ir_version,
        opsets=tuple(sorted(opsets)),
        inputs=tuple(item for item in inputs if item.name not in initializers),
        outputs=tuple(outputs),
        operators=tuple(sorted(found.operators)),
        weight_bytes=found.weight_bytes,
        external=tuple(sorted(found.external, key=lambda one: (one.location, one.offset, one.size, one.length or -1))),
    )


def _graph(
    stream: BinaryIO,
    end: int,
    found: _Found,
    inputs: list[TensorInfo],
    outputs: list[TensorInfo],
    initializers: set[str],
    depth: int = 0,
) -> None:
    if depth > _DEPTH:
        raise Malformed(f"graphs are nested deeper than {_DEPTH}")
    for number, kind, value in fields(stream, end):
        if kind != BYTES:
            continue
        if number == 1:
            _node(stream, value, found, depth)
        elif number == 5:
            initializers.add(_tensor(stream, value, found))
        elif number == 11:
            inputs.append(_value_info(stream, value))
        elif number == 12:
            outputs.append(_value_info(stream, value))
        elif number == 15:
            initializers.add(_sparse(stream, value, found))


def _node(stream: BinaryIO, end: int, found: _Found, depth: int) -> None:
    domain, operator = "", ""
    for number, kind, value in fields(stream, end):
        if kind != BYTES:
            continue
        if number == 4:
            operator = text(stream, value)
        elif number == 7:
            domain = text(stream, value)
        elif number == 5:
            _attribute(stream, value, found, depth)
    found.operators.add((domain or "ai.onnx", operator))


def _attribute(stream: BinaryIO, end: int, found: _Found, depth: int) -> None:
    for number, kind, value in fields(stream, end):
        if kind != BYTES:
            continue
        if number in {5, 10}:
            _tensor(stream, value, found)
        elif number in {6, 11}:
            _graph(stream, value, found, [], [], set(), depth + 1)
        elif number in {22, 23}:
            _sparse(stream, value, found)


def _sparse(stream: BinaryIO, end: int, found: _Found) -> str:
    """The name of a sparse tensor, which is that of its values."""
    name = ""
    for number, kind, value in fields(stream, end):
        if number in {1, 2} and kind == BYTES:
            named = _tensor(stream, value, found)
            name = named if number == 1 else name
    return name


def _tensor(stream: BinaryIO, end: int, found: _Found) -> str:
    """The name of a tensor; its size, and where it lies if that is elsewhere, are noted."""
    name, element, is_external = "", 0, False
    sizes: list[int] = []
    entries: dict[str, str] = {}
    for number, kind, value in fields(stream, end):
        if number == 1:
            sizes += _numbers(stream, kind, value)
        elif number == 2 and kind == VARINT:
            element = value
        elif number == 8 and kind == BYTES:
            name = text(stream, value)
        elif number == 13 and kind == BYTES:
            key, said = _entry(stream, value)
            if key in entries:
                raise Malformed(f"a weight states its {key[:40]} twice")
            entries[key] = said
        elif number == 14 and kind == VARINT:
            is_external = value == 1
    if any(size >= 1 << 62 for size in sizes):
        raise Malformed("a weight with a negative size")
    size = (math.prod(sizes) * _BITS.get(element, 0) + 7) // 8
    found.weight_bytes += size
    if is_external or entries:
        if element not in _BITS:
            raise Malformed(f"a weight of type {element} lies in another file, which cannot be")
        found.external.add(
            ExternalData(
                location=entries.get("location", ""),
                offset=_count(entries.get("offset", "0")),
                size=size,
                length=_count(entries["length"]) if "length" in entries else None,
            )
        )
    return name


def _numbers(stream: BinaryIO, kind: int, value: int) -> list[int]:
    """Repeated numbers, packed or not."""
    if kind == VARINT:
        return [value]
    return list(packed(stream, value))


def _entry(stream: BinaryIO, end: int) -> tuple[str, str]:
    key, said = "", ""
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            key = text(stream, value)
        elif number == 2 and kind == BYTES:
            said = text(stream, value)
    return key, said


def _count(said: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", said, re.ASCII):
        raise Malformed(f"an offset or length of external data that is no number: {said[:40]!r}")
    return int(said)


def _opset(stream: BinaryIO, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            domain = text(stream, value)
        elif number == 2 and kind == VARINT:
            version = value
    return domain or "ai.onnx", version


def _value_info(stream: BinaryIO, end: int) -> TensorInfo:
    name, dtype = "", ""
    shape: tuple[int | str, ...] = ()
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == BYTES:
            name = text(stream, value)
        elif number == 2 and kind == BYTES:
            for inner, inner_kind, inner_end in fields(stream, value):
                if inner == 1 and inner_kind == BYTES:
                    dtype, shape = _tensor_type(stream, inner_end)
    return TensorInfo(name=name, dtype=dtype, shape=shape)


def _tensor_type(stream: BinaryIO, end: int) -> tuple[str, tuple[int | str, ...]]:
    dtype = ""
    shape: list[int | str] = []
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == VARINT:
            dtype = _ELEMENT_TYPES.get(value, f"type-{value}")
        elif number == 2 and kind == BYTES:
            shape += [
                _dimension(stream, inner_end)
                for inner, inner_kind, inner_end in fields(stream, value)
                if inner == 1 and inner_kind == BYTES
            ]
    return dtype, tuple(shape)


def _dimension(stream: BinaryIO, end: int) -> int | str:
    size: int | str = ""
    for number, kind, value in fields(stream, end):
        if number == 1 and kind == VARINT:
            size = value if value < 1 << 62 else ""
        elif number == 2 and kind == BYTES:
            size = text(stream, value)
    return size
