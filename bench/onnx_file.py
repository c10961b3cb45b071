"""A model of any size: one matrix product, written as ONNX without the onnx package.

`y = x W` with `x` float32 [1, rows] and `W` float32 [rows, columns]. Field numbers: onnx.proto3.
"""

from __future__ import annotations

import array
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_FLOAT32: Final = 1
_BLOCK: Final = 1 << 18
"""Weights in a block: 1 MiB."""


def shape_of(megabytes: int) -> tuple[int, int]:
    """(rows, columns) of the weights in a model of about so many MB (10^6 bytes); few rows, so that a case is small."""
    rows = 1000
    return rows, megabytes * 1_000_000 // 4 // rows


def write_model(path: Path, megabytes: int, *, seed: int, sparse: bool = False) -> None:
    """Write the model; equal seeds give equal bytes. A sparse one has weights of zero that take no room on the disk."""
    rows, columns = shape_of(megabytes)
    size = rows * columns * 4
    weights = _number(1, rows) + _number(1, columns) + _number(2, _FLOAT32) + _text(8, "W") + _head(9, size)
    before = _bytes(1, _node()) + _text(2, "g") + _head(5, len(weights) + size) + weights
    after = _bytes(11, _tensor_type("x", rows)) + _bytes(12, _tensor_type("y", columns))
    opset = _bytes(8, _text(1, "") + _number(2, 17))
    with path.open("wb") as stream:
        stream.write(_number(1, 8) + opset + _head(7, len(before) + size + len(after)) + before)
        if sparse:
            stream.seek(size, 1)
        else:
            _write_weights(stream, rows * columns, seed)
        stream.write(after)


def write_case(folder: Path, megabytes: int, *, seed: int) -> None:
    """A test case in the ONNX layout: `x` is 1 in its first place, so `y` is the first row of the weights."""
    rows, columns = shape_of(megabytes)
    folder.mkdir(parents=True)
    first = array.array("f", [1.0] + [0.0] * (rows - 1))
    row = array.array("f")
    for block in _blocks(columns, seed):
        row.extend(block)
    (folder / "input_0.pb").write_bytes(_tensor("x", first))
    (folder / "output_0.pb").write_bytes(_tensor("y", row))


def _write_weights(stream: BinaryIO, count: int, seed: int) -> None:
    for block in _blocks(count, seed):
        stream.write(block.tobytes())


def _blocks(count: int, seed: int) -> Iterator[array.array[float]]:
    """`count` weights between -1 and 1. Every block holds the same ones, turned by another prime step: making them all
    anew would take longer than what is measured, and nothing that is measured compresses a model."""
    chance = random.Random(seed)
    table = array.array("f", (chance.uniform(-1, 1) for _ in range(_BLOCK)))
    start = 0
    while count > 0:
        block = table[start:] + table[:start]
        yield block[:count]
        count -= _BLOCK
        start = (start + 7919) % _BLOCK


def _node() -> bytes:
    return _text(1, "x") + _text(1, "W") + _text(2, "y") + _text(4, "MatMul")


def _tensor_type(name: str, length: int) -> bytes:
    shape = _bytes(1, _number(1, 1)) + _bytes(1, _number(1, length))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT32) + _bytes(2, shape)))


def _tensor(name: str, values: array.array[float]) -> bytes:
    dims = _number(1, 1) + _number(1, len(values))
    return dims + _number(2, _FLOAT32) + _text(8, name) + _bytes(9, values.tobytes())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _head(field, len(value)) + value


def _head(field: int, length: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
