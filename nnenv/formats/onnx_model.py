"""What an ONNX file says of itself, read without the onnx package and without loading weights.

Field numbers: onnx.proto3 (ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorProto). Message bodies that are
not needed are skipped by seeking, so the cost does not grow with the weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from nnenv.errors import NnenvError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAME_LIMIT: Final = 1 << 20
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


class _Malformed(Exception):
    pass


def read_onnx(stream: BinaryIO, what: str) -> OnnxFacts:
    """The facts of the model in `stream` (seekable).

    Raises NnenvError `model-invalid` if it is no self-contained ONNX model.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        facts = _model(stream, size)
    except _Malformed as error:
        raise NnenvError(
            "model-invalid",
            f"{what} is not an ONNX model that nnenv can lock",
            where=what,
            because=[str(error)],
            fix=["check the file with onnx.checker; a model with external data must be saved as one file"],
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


def _model(stream: BinaryIO, end: int) -> OnnxFacts:
    ir_version, opsets = 0, []
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    initializers: set[str] = set()
    for number, kind, value in _fields(stream, end):
        if number == 1 and kind == _VARINT:
            ir_version = value
        elif number == 8 and kind == _BYTES:
            opsets.append(_opset(stream, value))
        elif number == 7 and kind == _BYTES:
            _graph(stream, value, inputs, outputs, initializers)
    return OnnxFacts(
        ir_version=ir_version,
        opsets=tuple(sorted(opsets)),
        inputs=tuple(item for item in inputs if item.name not in initializers),
        outputs=tuple(outputs),
    )


def _graph(
    stream: BinaryIO, end: int, inputs: list[TensorInfo], outputs: list[TensorInfo], initializers: set[str]
) -> None:
    for number, kind, value in _fields(stream, end):
        if kind != _BYTES:
            continue
        if number == 5:
            initializers.add(_initializer_name(stream, value))
        elif number == 11:
            inputs.append(_value_info(stream, value))
        elif number == 12:
            outputs.append(_value_info(stream, value))


def _initializer_name(stream: BinaryIO, end: int) -> str:
    name = ""
    for number, kind, value in _fields(stream, end):
        if number == 8 and kind == _BYTES:
            name = _text(stream, value)
        elif (number == 14 and kind == _VARINT and value == 1) or (number == 13 and kind == _BYTES):
            raise _Malformed("a weight lies in another file (external data), which this version cannot lock")
    return name


def _opset(stream: BinaryIO, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, value in _fields(stream, end):
        if number == 1 and kind == _BYTES:
            domain = _text(stream, value)
        elif number == 2 and kind == _VARINT:
            version = value
    return domain or "ai.onnx", version


def _value_info(stream: BinaryIO, end: int) -> TensorInfo:
    name, dtype = "", ""
    shape: tuple[int | str, ...] = ()
    for number, kind, value in _fields(stream, end):
        if number == 1 and kind == _BYTES:
            name = _text(stream, value)
        elif number == 2 and kind == _BYTES:
            for inner, inner_kind, inner_end in _fields(stream, value):
                if inner == 1 and inner_kind == _BYTES:
                    dtype, shape = _tensor_type(stream, inner_end)
    return TensorInfo(name=name, dtype=dtype, shape=shape)


def _tensor_type(stream: BinaryIO, end: int) -> tuple[str, tuple[int | str, ...]]:
    dtype = ""
    shape: list[int | str] = []
    for number, kind, value in _fields(stream, end):
        if number == 1 and kind == _VARINT:
            dtype = _ELEMENT_TYPES.get(value, f"type-{value}")
        elif number == 2 and kind == _BYTES:
            shape += [
                _dimension(stream, inner_end)
                for inner, inner_kind, inner_end in _fields(stream, value)
                if inner == 1 and inner_kind == _BYTES
            ]
    return dtype, tuple(shape)


def _dimension(stream: BinaryIO, end: int) -> int | str:
    size: int | str = ""
    for number, kind, value in _fields(stream, end):
        if number == 1 and kind == _VARINT:
            size = value if value < 1 << 62 else ""
        elif number == 2 and kind == _BYTES:
            size = _text(stream, value)
    return size


def _fields(stream: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, wire type, value) up to `end`; for bytes the value is where they end, and the caller may read
    them from the stream's position: what it leaves unread is skipped."""
    while (position := stream.tell()) < end:
        key = _varint(stream, end)
        number, kind = key >> 3, key & 7
        if number == 0 or position >= end:
            raise _Malformed(f"field number 0 at byte {position}")
        if kind == _VARINT:
            yield number, kind, _varint(stream, end)
            continue
        if kind == _BYTES:
            length = _varint(stream, end)
        elif kind in {_FIXED64, _FIXED32}:
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {kind} at byte {position}")
        stop = stream.tell() + length
        if stop > end:
            raise _Malformed(f"a field at byte {position} runs past its message (truncated file?)")
        yield number, kind, stop
        stream.seek(stop)


def _varint(stream: BinaryIO, end: int) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte or stream.tell() > end or shift > 63:
            raise _Malformed(f"an unfinished number at byte {stream.tell()}")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _text(stream: BinaryIO, end: int) -> str:
    length = end - stream.tell()
    if length > _NAME_LIMIT:
        raise _Malformed(f"a name of {length} bytes")
    try:
        return stream.read(length).decode()
    except UnicodeDecodeError:
        raise _Malformed("a name that is not UTF-8") from None
