"""GPU code read from libraries that are built here byte by byte."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.fatbin import read_gpu_code
from nnenv.spec.gpu import GpuCode
from tests.support.gpu_library import container, entry, gpu_library, library

PTX, SASS = 1, 2


def code_in(data: bytes) -> GpuCode:
    """What is read from a file of these bytes."""
    return read_gpu_code(io.BytesIO(data), "libx.so")


def with_header(data: bytes, place: int, layout: str, value: int) -> bytes:
    """The file with another number in its ELF header."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, place, value)
    return bytes(changed)


def test_architectures_and_suffixes() -> None:
    """SASS by number and suffix, PTX with its version; a suffix is a flag, and numbers sort as numbers."""
    found = code_in(
        gpu_library(
            [
                *((SASS, name, (0, 0)) for name in ("120f", "90a", "90", "80", "80")),
                (PTX, "90", (8, 10)),
                (PTX, "90", (8, 4)),
            ]
        )
    )
    assert found == GpuCode(sass=("80", "90", "90a", "120f"), ptx=(("90", "8.4"), ("90", "8.10")))


def test_several_entries_in_one_container() -> None:
    """As nvcc writes them; other kinds than PTX and SASS do not count."""
    found = code_in(library(container([entry(SASS, "75"), entry(PTX, "75", (7, 8)), entry(16, "99")])))
    assert found == GpuCode(sass=("75",), ptx=(("75", "7.8"),))


def test_the_section_for_relocatable_code_counts() -> None:
    """`__nv_relfatbin` holds the same."""
    assert code_in(library(container([entry(SASS, "86")]), section="__nv_relfatbin")).sass == ("86",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" + bytes(100),
        library(container([entry(SASS, "80")]), section=".nv_fatbinx"),
        bytes(64),
    ],
    ids=["empty", "short", "script", "another section", "zeros"],
)
def test_no_code(data: bytes) -> None:
    """What has none is no error."""
    assert not code_in(data)


def test_padding_between_containers_is_skipped() -> None:
    """Up to the next multiple of 8 whatever stands there, and then as long as it is zero."""
    first = container([entry(SASS, "80", payload=21)])
    assert len(first) % 8 == 5
    assert code_in(library(first + b"\xcc\xcc\xcc" + bytes(16) + container([entry(SASS, "90")]))).sass == ("80", "90")


def test_a_file_with_debugging_information_alone_has_none() -> None:
    """It names the section, but does not hold it (SHT_NOBITS), so its offset and size mean nothing."""
    data = library(container([entry(SASS, "80")], magic=7))
    headers = int.from_bytes(data[40:48], "little")
    assert not code_in(with_header(data, headers + 64 + 4, "<I", 8))


def test_a_file_without_section_headers_has_none() -> None:
    """`strip` may drop them."""
    data = bytearray(gpu_library([(SASS, "80", (0, 0))]))
    struct.pack_into("<Q", data, 40, 0)
    assert not code_in(bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (library(container([entry(SASS, "80")], magic=0x12345678)), "no container begins"),
        (library(container([entry(SASS, "80")], size=1 << 40)), "more than its section"),
        (library(container([entry(SASS, "80", payload=1 << 40)])), "more than its container"),
        (library(container([entry(SASS, "80", header=0, payload=0)])), "more than its container"),
        (gpu_library([(SASS, "80", (0, 0))])[:-64], "reach beyond the end"),
        (library(bytes(16 << 20)), "pieces of GPU code"),
        (library(bytes(3 << 20), times=3), "pieces of GPU code"),
        (library(container([entry(SASS, "80")]), times=5000), "5002 sections"),
        (library(container([]), section=".nv_fatbin\0" + "x" * (1 << 20)), "the names of the sections take"),
        (with_header(library(b""), 40, "<Q", 1 << 60), "beyond any file"),
        (with_header(library(b""), 58, "<H", 40), "section headers have 40 bytes each"),
        (with_header(library(b""), 62, "<H", 3), "the names in number 3"),
    ],
    ids=[
        "magic",
        "container",
        "entry",
        "loop",
        "cut",
        "padding",
        "overlapping sections",
        "many sections",
        "long names",
        "far",
        "other headers",
        "names elsewhere",
    ],
)
def test_malformed_code_is_refused(data: bytes, why: str) -> None:
    """With the file, the rule and the fix, and without reading on for ever."""
    with pytest.raises(NnenvError) as caught:
        code_in(data)
    assert caught.value.code == "archive-refused"
    assert why in caught.value.because[0]
    assert caught.value.where == "libx.so"
    assert caught.value.fix


def test_only_headers_are_read() -> None:
    """Of a piece of code of 64 MB a few hundred bytes are asked for: what is between headers is skipped."""

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.taken += len(found)
            return found

    payload = 64 << 20
    piece = entry(SASS, "90a", payload=payload) + bytes(payload)
    stream = Counting(library(container([piece, entry(SASS, "80")])))
    assert read_gpu_code(stream, "libx.so").sass == ("80", "90a")
    assert stream.taken < 1000


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damage_never_gives_another_error(data: st.DataObject) -> None:
    """Any few changed bytes: code, no code, or a refusal."""
    damaged = bytearray(gpu_library([(SASS, "80", (0, 0)), (PTX, "90a", (8, 4))]))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.sampled_from([0, 1, 7, 0x40, 0x7F, 0x80, 0xFF]))
    try:
        assert isinstance(code_in(bytes(damaged)), GpuCode)
    except NnenvError as error:
        assert error.code == "archive-refused"
