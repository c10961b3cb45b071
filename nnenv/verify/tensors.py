"""ONNX TensorProto <-> numpy, without the onnx package.

Stand-alone: this file is also copied into images beside `harness.py`, so it imports nothing of nnenv
and runs on Python 3.9. The message is defined in onnx.proto, `message TensorProto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Union

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Union, not `|`: an alias is evaluated when the file is imported, on Python 3.9 too.
Payload = Union[int, memoryview]  # noqa: UP007
Fields = dict[int, list[tuple[int, Payload]]]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DIMS, DATA_TYPE, SEGMENT, FLOAT_DATA, INT32_DATA, STRING_DATA = 1, 2, 3, 4, 5, 6
INT64_DATA, NAME, RAW_DATA, DOUBLE_DATA, UINT64_DATA = 7, 8, 9, 10, 11
DOC_STRING, EXTERNAL_DATA, DATA_LOCATION, METADATA_PROPS = 12, 13, 14, 16

_WIRE_TYPES: Final[dict[int, tuple[int, ...]]] = {
    DIMS: (VARINT, LENGTH),
    DATA_TYPE: (VARINT,),
    SEGMENT: (LENGTH,),
    FLOAT_DATA: (FIXED32, LENGTH),
    INT32_DATA: (VARINT, LENGTH),
    STRING_DATA: (LENGTH,),
    INT64_DATA: (VARINT, LENGTH),
    NAME: (LENGTH,),
    RAW_DATA: (LENGTH,),
    DOUBLE_DATA: (FIXED64, LENGTH),
    UINT64_DATA: (VARINT, LENGTH),
    DOC_STRING: (LENGTH,),
    EXTERNAL_DATA: (LENGTH,),
    DATA_LOCATION: (VARINT,),
    METADATA_PROPS: (LENGTH,),
}
"""Field number -> wire types it may have; repeated scalars may be packed or not."""

_SINGULAR: Final = (DATA_TYPE, SEGMENT, NAME, RAW_DATA, DOC_STRING, DATA_LOCATION)
_VALUES: Final = (FLOAT_DATA, INT32_DATA, STRING_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA, UINT64_DATA)

STRING: Final = 8
BOOL: Final = 9

_DTYPES: Final[dict[int, tuple[str, int]]] = {
    1: ("float32", FLOAT_DATA),
    2: ("uint8", INT32_DATA),
    3: ("int8", INT32_DATA),
    4: ("uint16", INT32_DATA),
    5: ("int16", INT32_DATA),
    6: ("int32", INT32_DATA),
    7: ("int64", INT64_DATA),
    BOOL: ("bool", INT32_DATA),
    10: ("float16", INT32_DATA),
    11: ("float64", DOUBLE_DATA),
    12: ("uint32", UINT64_DATA),
    13: ("uint64", UINT64_DATA),
    14: ("complex64", FLOAT_DATA),
    15: ("complex128", DOUBLE_DATA),
}
"""TensorProto.DataType -> (numpy dtype, the typed field its values may be in)."""

_UNSUPPORTED: Final[dict[int, str]] = {
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
}
"""Data types of ONNX that numpy has no dtype for."""

_CODES: Final[dict[str, int]] = {dtype: code for code, (dtype, _) in _DTYPES.items()}

MAX_RANK: Final = 32
"""numpy 1.x allows no more dimensions."""
MAX_BYTES: Final = 1 << 62


class TensorError(ValueError):
    """The bytes or the array are no tensor that nnenv compares; the text says which rule is broken."""


def read_tensor(data: bytes) -> tuple[str, Array]:
    """Name and values of one serialised TensorProto; the array is native-endian and may be read-only.

    Strings come back as an object array of str. Stricter than protobuf: unknown and repeated singular fields,
    values that do not fit the data type, and values in two places are refused. Raises TensorError.
    """
    import numpy as np

    fields = _fields(data)
    _refuse_elsewhere(fields)
    name = _text(_bytes(fields, NAME), "the tensor's name")
    code = _number(fields, DATA_TYPE)
    if code in _UNSUPPORTED:
        raise TensorError(f"the data type {_UNSUPPORTED[code]} is not supported; numpy has no such type")
    if code != STRING and code not in _DTYPES:
        raise TensorError(f"the data type {code} is not one that ONNX defines")
    used = [number for number in _VALUES if number in fields]
    if len(used) > 1:
        raise TensorError(f"values are in {len(used)} fields at once ({', '.join(map(str, used))})")
    dims = _dims(fields, 8 if code == STRING else np.dtype(_DTYPES[code][0]).itemsize)
    flat = _strings(fields, used) if code == STRING else _values(fields, used, code)
    return name, _shaped(flat, dims)


def write_tensor(name: str, array: Array) -> bytes:
    """`array` as TensorProto bytes: fields in ascending order, values in raw_data, strings in string_data.

    The bytes depend on name, dtype, shape and values only. Raises TensorError for a dtype without ONNX type.
    """
    dims = b"".join(b"\x08" + _encoded(extent) for extent in array.shape)
    label = b"\x42" + _delimited(_utf8(name)) if name else b""
    if array.dtype.kind in "OU":
        texts = b"".join(b"\x32" + _delimited(_utf8(item)) for item in array.ravel().tolist())
        return dims + b"\x10" + _encoded(STRING) + texts + label
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise TensorError(f"the numpy dtype {array.dtype.name} has no ONNX data type that nnenv supports")
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return dims + b"\x10" + _encoded(code) + label + b"\x4a" + _delimited(raw)


def _utf8(item: object) -> bytes:
    if not isinstance(item, str):
        raise TensorError(f"a string tensor holds an item of type {type(item).__name__}")
    try:
        return item.encode()
    except UnicodeEncodeError as error:
        raise TensorError(f"{item!r} cannot be written as UTF-8") from error


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(data: bytes) -> bytes:
    return _encoded(len(data)) + data


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for position in range(at, min(at + 10, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            if value >> 64:
                raise TensorError("a varint is larger than 64 bits")
            return value, position + 1
    raise TensorError("a varint is longer than 10 bytes" if len(data) - at >= 10 else "the data ends inside a varint")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _payload(data: memoryview, at: int, wire: int) -> tuple[Payload, int]:
    if wire == VARINT:
        return _varint(data, at)
    if wire == LENGTH:
        size, at = _varint(data, at)
    else:
        size = 8 if wire == FIXED64 else 4
    if size > len(data) - at:
        raise TensorError(f"the data ends inside a field: {size} bytes announced, {len(data) - at} left")
    return data[at : at + size], at + size


def _fields(data: bytes) -> Fields:
    view = memoryview(data)
    fields: Fields = {}
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        if number not in _WIRE_TYPES:
            raise TensorError(f"field {number} is not part of TensorProto")
        if wire not in _WIRE_TYPES[number]:
            raise TensorError(f"field {number} has wire type {wire}, which TensorProto does not allow")
        value, at = _payload(view, at, wire)
        if number in _SINGULAR and number in fields:
            raise TensorError(f"field {number} occurs twice")
        fields.setdefault(number, []).append((wire, value))
    return fields


def _refuse_elsewhere(fields: Fields) -> None:
    """Values outside this message would escape the digest of the file."""
    if EXTERNAL_DATA in fields or _number(fields, DATA_LOCATION) != 0:
        raise TensorError("the values are in an external file; store them inside the tensor")
    if SEGMENT in fields:
        raise TensorError("segmented tensors are not supported (or this is a SequenceProto, not a TensorProto)")


def _number(fields: Fields, number: int) -> int:
    values = fields.get(number)
    value = values[0][1] if values else 0
    assert isinstance(value, int)
    return value


def _bytes(fields: Fields, number: int) -> memoryview:
    values = fields.get(number)
    value = values[0][1] if values else memoryview(b"")
    assert isinstance(value, memoryview)
    return value


def _text(data: memoryview, what: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise TensorError(f"{what} is not UTF-8") from error


def _integers(fields: Fields, number: int) -> list[int]:
    values: list[int] = []
    for _, payload in fields.get(number, []):
        if isinstance(payload, int):
            values.append(payload)
        else:
            values.extend(_varints(payload))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _dims(fields: Fields, itemsize: int) -> tuple[int, ...]:
    dims = tuple(_signed(value) for value in _integers(fields, DIMS))
    if len(dims) > MAX_RANK:
        raise TensorError(f"the tensor has {len(dims)} dimensions; at most {MAX_RANK} are supported")
    if any(extent < 0 for extent in dims):
        raise TensorError(f"the shape {list(dims)} has a negative dimension")
    # A zero hides how large the others are, and numpy multiplies those in 64 bits.
    size = itemsize
    for extent in dims:
        size *= max(extent, 1)
    if size > MAX_BYTES:
        raise TensorError(f"the shape {list(dims)} is larger than any memory")
    return dims


def _strings(fields: Fields, used: list[int]) -> Array:
    import numpy as np

    if used and used != [STRING_DATA]:
        raise TensorError(f"values of a string tensor are in field {used[0]}, not in string_data")
    texts = [_text(value, "a string") for _, value in fields.get(STRING_DATA, []) if isinstance(value, memoryview)]
    flat = np.empty(len(texts), dtype=object)
    flat[:] = texts
    return flat


def _values(fields: Fields, used: list[int], code: int) -> Array:
    import numpy as np

    dtype, typed = np.dtype(_DTYPES[code][0]), _DTYPES[code][1]
    if not used:
        return np.empty(0, dtype)
    if used == [RAW_DATA]:
        return _from_bytes(_bytes(fields, RAW_DATA), dtype)
    if used != [typed]:
        raise TensorError(f"values of a {dtype.name} tensor are in field {used[0]}, not in field {typed}")
    if typed in (FLOAT_DATA, DOUBLE_DATA):
        packed = b"".join(value for _, value in fields[typed] if isinstance(value, memoryview))
        return _from_bytes(memoryview(packed), dtype)
    return _from_integers(_integers(fields, typed), dtype, signed=typed != UINT64_DATA)


def _from_bytes(data: memoryview, dtype: np.dtype[Any]) -> Array:
    import numpy as np

    if len(data) % dtype.itemsize:
        raise TensorError(f"{len(data)} bytes are no whole number of {dtype.name} values")
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise TensorError("a bool is neither 0 nor 1")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _from_integers(values: list[int], dtype: np.dtype[Any], *, signed: bool) -> Array:
    import numpy as np

    numbers = [_signed(value) for value in values] if signed else values
    # "float16 values must be bit-wise converted to an uint16_t prior to writing" (onnx.proto, int32_data)
    stored = np.dtype(np.uint16) if dtype.kind == "f" else dtype
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(stored).min, np.iinfo(stored).max)
    for number in numbers:
        if not low <= number <= high:
            raise TensorError(f"the value {number} is no {dtype.name}")
    return np.array(numbers, stored).view(dtype)


def _shaped(flat: Array, dims: tuple[int, ...]) -> Array:
    count = 1
    for extent in dims:
        count *= extent
    if flat.size != count:
        raise TensorError(f"the shape {list(dims)} asks for {count} values, the file holds {flat.size}")
    return flat.reshape(dims)
