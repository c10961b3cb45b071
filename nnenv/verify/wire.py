"""The framing between nnenv and the harness inside an image: a JSON header and raw blobs, both ways.

    8 bytes   magic
    8 bytes   length of the header, big-endian
    header    a JSON object; `body_length` is the number of bytes that follow
    body      blobs, one after the other; the header refers to them by `offset` and `length`

Stand-alone: copied into images beside `harness.py`; imports nothing of nnenv and runs on Python 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MAGIC: Final = b"NNENV\x00\x01\n"
HEADER_LIMIT: Final = 64 << 20
"""Bytes of JSON that `unpack` reads at most."""

_INTEGERS: Final = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_FLOATS: Final = ("float16", "float32", "float64", "complex64", "complex128")
DTYPES: Final = frozenset(("bool", *_INTEGERS, *_FLOATS))
"""The dtypes that travel as blobs, little-endian in C order; strings travel as JSON lists."""


class WireError(ValueError):
    """The bytes are no message of this protocol."""


class Blobs:
    """The body of a message while it is put together."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> dict[str, int]:
        """Append `data`; the reference to it for the header."""
        reference = {"offset": self.size, "length": len(data)}
        self.parts.append(data)
        self.size += len(data)
        return reference


def pack(header: Mapping[str, object], blobs: Sequence[bytes]) -> bytes:
    """One message. `header` holds JSON values only."""
    whole = {**header, "body_length": sum(map(len, blobs))}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((MAGIC, len(text).to_bytes(8, "big"), text, *blobs))


def unpack(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and body of one message that fills `data` exactly; raises WireError."""
    if data[:8] != MAGIC:
        raise WireError(f"the message starts with {data[:8]!r}, not with {MAGIC!r}")
    size = int.from_bytes(data[8:16], "big")
    if len(data) < 16 or size > min(HEADER_LIMIT, len(data) - 16):
        raise WireError(f"the header of {size} bytes is cut off or too large")
    try:
        header = json.loads(data[16 : 16 + size])
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header is no JSON: {error}") from error
    body = memoryview(data)[16 + size :]
    if not isinstance(header, dict) or header.get("body_length") != len(body):
        raise WireError(f"the body has {len(body)} bytes, which is not what the header says")
    return header, body


def encode_array(array: Array, blobs: Blobs) -> dict[str, object]:
    """`array` as a value for the header, its bytes appended to `blobs`; raises WireError for other dtypes."""
    described = {"shape": list(array.shape)}
    if array.dtype.kind in "OU":
        texts = array.ravel().tolist()
        if not all(isinstance(text, str) for text in texts):
            raise WireError("an object array holds something else than strings")
        return {**described, "dtype": "string", "strings": texts}
    if array.dtype.name not in DTYPES:
        raise WireError(f"tensors of type {array.dtype.name} are not supported")
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {**described, "dtype": array.dtype.name, **blobs.add(raw)}


def decode_array(reference: object, body: memoryview) -> Array:
    """The array that `encode_array` described, native-endian, possibly read-only; raises WireError."""
    import numpy as np

    if not isinstance(reference, dict):
        raise WireError("a tensor is no JSON object")
    shape, dtype = _shape(reference.get("shape")), reference.get("dtype")
    count = 1
    for extent in shape:
        count *= extent
    if dtype == "string":
        return _strings(reference.get("strings"), count).reshape(shape)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"the dtype {dtype!r} is not supported")
    raw = _slice(reference, body)
    if len(raw) != count * np.dtype(dtype).itemsize:
        raise WireError(f"{len(raw)} bytes are not {count} values of type {dtype}")
    if dtype == "bool" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise WireError("a bool is neither 0 nor 1")
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _shape(shape: object) -> tuple[int, ...]:
    # Rank and extents are bounded because numpy multiplies them in 64 bits before it looks at the data.
    if not isinstance(shape, list) or len(shape) > 32:
        raise WireError("a tensor has no shape of at most 32 dimensions")
    size = 1
    for extent in shape:
        if type(extent) is not int or extent < 0:
            raise WireError(f"the shape {shape} is not made of natural numbers")
        size *= max(extent, 1)
    if size >> 58:
        raise WireError(f"the shape {shape} is larger than any memory")
    return tuple(shape)


def _strings(texts: object, count: int) -> Array:
    import numpy as np

    if not isinstance(texts, list) or len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise WireError(f"a string tensor is no list of {count} strings")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise WireError("a string is no Unicode text") from error
    flat = np.empty(count, dtype=object)
    flat[:] = texts
    return flat


def _slice(reference: Mapping[str, object], body: memoryview) -> memoryview:
    offset, length = reference.get("offset"), reference.get("length")
    if type(offset) is not int or type(length) is not int or not 0 <= offset <= offset + length <= len(body):
        raise WireError(f"a blob (offset {offset}, length {length}) is outside the body of {len(body)} bytes")
    return body[offset : offset + length]
