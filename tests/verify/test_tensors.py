"""TensorProto bytes <-> numpy: the onnx package is the oracle, hostile bytes are refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nnenv.verify.tensors import TensorError, read_tensor, write_tensor

SHIPPED = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.pb"))
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


def array_of(dtype: str, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    """Seeded values over the whole range of `dtype`."""
    generator = np.random.Generator(np.random.PCG64(7))
    kind = np.dtype(dtype).kind
    if kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if kind in "iu":
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    values = generator.standard_normal(shape)
    return (values + 1j * values[::-1]).astype(dtype) if kind == "c" else values.astype(dtype)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal type, shape and bytes."""
    if one.dtype.kind == "O":
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_every_tensor_the_onnx_package_ships_reads_as_it_does_there() -> None:
    """All .pb files of onnx's backend test data: the same name, type, shape and bytes as onnx itself reads."""
    assert len(SHIPPED) > 300
    read = 0
    for path in SHIPPED:
        data = path.read_bytes()
        oracle = TensorProto()
        try:
            oracle.ParseFromString(data)
            expected = numpy_helper.to_array(oracle)
        except Exception:
            with pytest.raises(TensorError):
                read_tensor(data)
            continue
        name, array = read_tensor(data)
        assert (name, path.name) == (oracle.name, path.name)
        assert same(expected, array), path
        read += 1
    assert read > 300


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 4)])
def test_written_bytes_are_those_onnx_writes(dtype: str, shape: tuple[int, ...]) -> None:
    """`write_tensor` is byte-identical to onnx's own serialisation and reads back unchanged."""
    array = np.asarray(array_of(dtype, shape or (1,))).reshape(shape)
    data = write_tensor("x", array)
    assert data == numpy_helper.from_array(array, "x").SerializeToString()
    name, back = read_tensor(data)
    assert name == "x"
    assert same(array, back)


@pytest.mark.parametrize("dtype", DTYPES)
def test_typed_fields_read_as_raw_data_does(dtype: str) -> None:
    """Values in float_data, int32_data, … (packed, as onnx's helper writes them) give the same array."""
    array = array_of(dtype)
    proto = helper.make_tensor("x", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())
    assert not proto.HasField("raw_data")
    assert same(numpy_helper.to_array(proto), read_tensor(proto.SerializeToString())[1])


def test_strings_survive() -> None:
    """String tensors are read and written as onnx does, also with characters outside ASCII and none at all."""
    array = np.array([["a", "ß"], ["", "日本"]], dtype=object)
    data = write_tensor("s", array)
    proto = TensorProto()
    proto.ParseFromString(data)
    assert numpy_helper.to_array(proto).tolist() == array.tolist()
    assert data == proto.SerializeToString()
    assert same(array, read_tensor(data)[1])
    assert write_tensor("s", array.astype(str)) == data


def test_byte_order_and_memory_layout_do_not_show() -> None:
    """Big-endian and transposed arrays are written as their values say."""
    array = array_of("float32")
    assert write_tensor("x", array.astype(">f4")) == write_tensor("x", array)
    assert write_tensor("x", np.asfortranarray(array)) == write_tensor("x", array)


def test_unpacked_repeated_fields_are_read() -> None:
    """protobuf lets a writer repeat scalars one by one; dims and int64_data mix both forms here."""
    data = b"\x08\x02" + b"\x0a\x01\x01" + b"\x10\x07" + b"\x38\x05" + b"\x3a\x01\x06"
    assert read_tensor(data)[1].tolist() == [[5], [6]]


FLOAT_1 = b"\x08\x01\x10\x01"
REFUSED = {
    "truncated varint": (b"\x08\x80", "ends inside a varint"),
    "varint of eleven bytes": (b"\x08" + b"\x80" * 10 + b"\x01", "longer than 10 bytes"),
    "varint above 64 bits": (b"\x08" + b"\xff" * 9 + b"\x02", "larger than 64 bits"),
    "truncated payload": (FLOAT_1 + b"\x4a\x04\x00\x00", "4 bytes announced, 2 left"),
    "length of 2^63": (FLOAT_1 + b"\x4a" + b"\x80" * 9 + b"\x01", "ends inside a field"),
    "negative dimension": (b"\x08" + b"\xff" * 9 + b"\x01" + b"\x10\x01", "negative dimension"),
    "dims that overflow": ((b"\x08" + b"\x80" * 8 + b"\x01") * 4 + b"\x10\x01", "larger than any memory"),
    "overflow behind a zero": (b"\x08\x00" + (b"\x08" + b"\x80" * 8 + b"\x01") * 3 + b"\x10\x01", "larger than any"),
    "rank 33": (b"\x08\x01" * 33 + b"\x10\x01\x4a\x04\x00\x00\x00\x00", "33 dimensions"),
    "too few values": (b"\x08\x02\x10\x01\x4a\x04\x00\x00\x00\x00", "asks for 2 values, the file holds 1"),
    "no values": (FLOAT_1, "asks for 1 values, the file holds 0"),
    "half a value": (FLOAT_1 + b"\x4a\x03\x00\x00\x00", "no whole number of float32"),
    "values in two fields": (FLOAT_1 + b"\x4a\x04\x00\x00\x00\x00\x25\x00\x00\x00\x00", "in 2 fields at once"),
    "values in the wrong field": (FLOAT_1 + b"\x38\x01", "field 7, not in field 4"),
    "a string in raw_data": (b"\x08\x01\x10\x08\x4a\x01a", "not in string_data"),
    "int8 of 128": (b"\x08\x01\x10\x03\x28\x80\x01", "128 is no int8"),
    "bool of 2": (b"\x08\x01\x10\x09\x4a\x01\x02", "neither 0 nor 1"),
    "two data types": (b"\x10\x01\x10\x02", "field 2 occurs twice"),
    "no data type": (b"\x08\x00", "data type 0"),
    "data type 99": (b"\x08\x00\x10\x63", "data type 99"),
    "bfloat16": (b"\x08\x01\x10\x10\x4a\x02\x00\x00", "bfloat16 is not supported"),
    "float8": (b"\x08\x01\x10\x11\x4a\x01\x00", "float8e4m3fn is not supported"),
    "external data": (FLOAT_1 + b"\x70\x01", "external file"),
    "external entries": (FLOAT_1 + b"\x6a\x00", "external file"),
    "segment": (FLOAT_1 + b"\x1a\x00", "segmented"),
    "unknown field": (b"\x7a\x00", "field 15 is not part"),
    "field 0": (b"\x00\x00", "field 0 is not part"),
    "group": (b"\x0b", "wire type 3"),
    "name not UTF-8": (b"\x42\x01\xff\x10\x01", "not UTF-8"),
    "string not UTF-8": (b"\x10\x08\x32\x01\xff", "not UTF-8"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_hostile_bytes_are_refused(why: str) -> None:
    """Each breaks one rule, and the message says which."""
    data, message = REFUSED[why]
    with pytest.raises(TensorError, match=message):
        read_tensor(data)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_tensor_or_a_tensor_error(data: bytes) -> None:
    """Nothing but TensorError escapes, whatever the bytes."""
    with contextlib.suppress(TensorError):
        read_tensor(data)


@given(st.data())
def test_a_damaged_tensor_never_crashes(data: st.DataObject) -> None:
    """One byte of a valid tensor replaced or cut: read or refused, never another exception."""
    whole = write_tensor("input", array_of(data.draw(st.sampled_from(DTYPES))))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + 1 :]
    with contextlib.suppress(TensorError):
        read_tensor(damaged)


@pytest.mark.parametrize("array", [np.array(["a", 1], dtype=object), np.zeros(1, "M8[s]"), np.zeros(1, "S3")])
def test_arrays_without_an_onnx_type_are_not_written(array: np.ndarray) -> None:
    """Objects, dates and byte strings have no place in a TensorProto."""
    with pytest.raises(TensorError):
        write_tensor("x", array)
