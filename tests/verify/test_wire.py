"""The framing between nnenv and the harness: what is packed comes back, anything else is a WireError."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.verify.wire import MAGIC, Blobs, WireError, decode_array, encode_array, pack, unpack

from .test_tensors import DTYPES, array_of, same


def test_the_frame_is_magic_length_header_body() -> None:
    """The layout in the module's docstring, byte for byte."""
    header = b'{"a":1,"body_length":3}'
    assert pack({"a": 1}, [b"x", b"yz"]) == b"NNENV\x00\x01\n" + len(header).to_bytes(8, "big") + header + b"xyz"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    """Each dtype and shape, also behind another blob."""
    array = np.asarray(array_of(dtype, shape or (1,))).reshape(shape)
    blobs = Blobs()
    blobs.add(b"other")
    header, body = unpack(pack({"x": encode_array(array, blobs)}, blobs.parts))
    assert same(array, decode_array(header["x"], body))


def test_strings_travel_in_the_header() -> None:
    """String tensors are JSON lists and keep their shape."""
    array = np.array([["ä"], [""]], dtype=object)
    header, body = unpack(pack({"x": encode_array(array, Blobs())}, []))
    assert same(array, decode_array(header["x"], body))


@pytest.mark.parametrize("array", [np.zeros(1, "M8[s]"), np.array([1], dtype=object), np.zeros(1, "V2")])
def test_other_types_are_refused(array: np.ndarray) -> None:
    """Dates, objects and raw bytes are no tensors."""
    with pytest.raises(WireError):
        encode_array(array, Blobs())


GOOD = {"dtype": "float32", "shape": [2], "offset": 0, "length": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float128"},
        {"dtype": "object"},
        {"dtype": None},
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": [True, 2]},
        {"shape": None},
        {"shape": [0, 1 << 40, 1 << 40]},
        {"shape": [1] * 33},
        {"offset": 1},
        {"offset": -1},
        {"length": 1 << 70},
        {"length": 4},
        {"length": 8.0},
        {"dtype": "bool", "length": 2},
        {"dtype": "string"},
        {"dtype": "string", "strings": ["a"]},
        {"dtype": "string", "strings": ["a", "\ud800"]},
    ],
)
def test_references_that_lie_are_refused(change: dict[str, object]) -> None:
    """Type, shape, offset and length must agree with each other and with the body."""
    body = memoryview(b"\x02" * 8)
    assert decode_array(GOOD, body).shape == (2,)
    with pytest.raises(WireError):
        decode_array({**GOOD, **change}, body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"NNENV\x00\x02\n" + bytes(8),
        MAGIC,
        MAGIC + b"\xff" * 8,
        MAGIC + (2).to_bytes(8, "big") + b"[]",
        MAGIC + (2).to_bytes(8, "big") + b"{}",
        MAGIC + (5000).to_bytes(8, "big") + b"[" * 5000,
        pack({}, [b"abc"])[:-1],
        pack({}, [b"abc"]) + b"d",
    ],
)
def test_broken_frames_are_refused(data: bytes) -> None:
    """Wrong magic or version, cut, deep, or longer than announced."""
    with pytest.raises(WireError):
        unpack(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    """Nothing but WireError escapes."""
    with contextlib.suppress(WireError):
        unpack(MAGIC + data)
