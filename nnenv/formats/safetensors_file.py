"""What a safetensors file says of itself; its weights are not read.

https://github.com/huggingface/safetensors, section "Format": 8 bytes that count the header, the header as JSON, the
tensors' bytes without holes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from nnenv.errors import NnenvError

_HEADER_LIMIT: Final = 100_000_000
"""Bytes, as in the reference implementation."""
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsFacts:
    """Static facts of one file."""

    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    """(name, type as the file writes it, shape), sorted by name."""
    metadata: tuple[tuple[str, str], ...]
    weight_bytes: int


class _Refused(Exception):
    pass


def read_safetensors(stream: BinaryIO, what: str) -> SafetensorsFacts:
    """The facts of the file in `stream` (seekable); NnenvError `model-invalid` if it breaks a rule of the format."""
    try:
        return _read(stream)
    except (_Refused, ValueError, RecursionError) as error:
        raise NnenvError(
            "model-invalid",
            f"{what} is not a safetensors file that can be trusted",
            where=what,
            because=[str(error)[:300]],
            fix=["save it again with the safetensors library"],
        ) from None


def _read(stream: BinaryIO) -> SafetensorsFacts:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(_HEADER_LIMIT, size - 8):
        raise _Refused(f"its header is said to have {length} bytes, and the file has {size}")
    text = stream.read(length)
    if not text.startswith(b"{"):
        raise _Refused("its header does not begin with {")
    header = json.loads(text.decode(), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise _Refused("its header is no object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Refused(f"{_METADATA} holds more than texts")
    tensors = {name: _tensor(name, value) for name, value in header.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(tensors.items(), key=lambda item: (item[1][2], item[1][3], item[0])):
        if begin != position:
            kind = "overlaps another" if begin < position else "leaves a hole before it"
            raise _Refused(f"tensor {name[:80]!r} {kind}: it begins at {begin}, and {position} is next")
        position = end
    if position != size - 8 - length:
        raise _Refused(f"the tensors end at byte {position}, and {size - 8 - length} bytes are there")
    return SafetensorsFacts(
        tensors=tuple((name, kind, shape) for name, (kind, shape, _, _) in sorted(tensors.items())),
        metadata=tuple(sorted(metadata.items())),
        weight_bytes=position,
    )


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice: readers disagree about which one counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found


def _tensor(name: str, value: object) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _Refused(f"tensor {name[:80]!r} has other keys than dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in _BITS:
        raise _Refused(f"tensor {name[:80]!r} has an unknown type")
    numbers = [*(shape if isinstance(shape, list) else [None]), *(offsets if isinstance(offsets, list) else [None])]
    if len(offsets) != 2 or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise _Refused(f"tensor {name[:80]!r} has sizes or offsets that are no whole numbers from 0")
    begin, end = offsets
    if math.prod(shape) * _BITS[kind] != (end - begin) * 8:
        raise _Refused(f"tensor {name[:80]!r} has {end - begin} bytes, which its type and shape do not give")
    return kind, tuple(shape), begin, end
