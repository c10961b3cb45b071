"""The bit-stable deflater: fixed bytes, and a round trip through zlib for anything."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.formats.deflate import (
    STORED_LIMIT,
    deflate,
    gzip_frame_head,
    gzip_frame_tail,
    gzip_member,
    stored_block_head,
)
from nnenv.formats.tar_writer import header

GOLDEN = {
    b"": "0300",
    b"a": "4b0400",
    b"aaaa": "4b040200",
    bytes(1024): "631805231a8cc6ffc88e7f00",
    header("opt/nnenv/bin/run", "file", size=668, mode=0o755, mtime=315532800): (
        "cb2f28d1cfcb4bcd2bd34fcaccd32f2acd63a03e30000273535306030860308000060308303432366130303232333635"
        "323630306030303434323261503060a003282d2e492c6230306018990000"
    ),
    header("a", "dir", mode=0o755, mtime=0) + header("a/b", "dir", mode=0o755, mtime=0): (
        "4bd467a039300002735353060308603080000603046030400006030333433353060553063a80d2e292c4220603038691"
        "0912f593f40761fc9b18988dc63f3de21f00"
    ),
}

# Bytes as headers have them: long runs, few symbols, the same block again.
piece = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.integers(0, 1500)),
)
material = st.builds(lambda parts, times: b"".join(parts) * times, st.lists(piece, max_size=6), st.integers(1, 3))


@pytest.mark.parametrize(("raw", "expected"), GOLDEN.items())
def test_the_bytes_never_change(raw, expected):
    """The output names image layers, so a change here is a new image recipe."""
    assert deflate(raw).hex() == expected


@given(material)
def test_zlib_inflates_it_to_the_same(raw):
    """Any reader of RFC 1951 gets the input back, and the stream ends where the output ends."""
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(deflate(raw)) == raw
    assert inflater.eof
    assert inflater.unused_data == b""


@pytest.mark.parametrize("length", [*range(1, 12), *range(255, 265), *range(510, 525), 775, 776, 777, 5000])
def test_runs_and_repeats_of_every_awkward_length(length):
    """Around the shortest and longest match, and the distance of one block, nothing is lost."""
    for raw in (
        b"z" * length,
        bytes(range(256)) * 2 + bytes(range(256)) * (length // 256) + bytes(range(length % 256)),
    ):
        assert zlib.decompress(deflate(raw), -15) == raw


def test_a_tar_header_becomes_small():
    """A header of 512 bytes takes at most 170, and one that is nearly the last again far fewer."""
    one = header("opt/nnenv/lib/python3.11/site-packages/numpy/linalg/lapack_lite.pyi", "file", mode=0o644, mtime=1)
    two = header("opt/nnenv/lib/python3.11/site-packages/numpy/linalg/lapack_lite.pyj", "file", mode=0o644, mtime=1)
    assert len(deflate(one)) < 170
    assert len(deflate(one + two)) - len(deflate(one)) < 40


def test_a_gzip_member_has_no_clock_and_no_name():
    """The frame is RFC 1952 with everything optional left out."""
    member = gzip_member(b"tar")
    assert member[:10] == gzip_frame_head() == bytes.fromhex("1f8b08000000000000ff")
    assert member[-8:] == gzip_frame_tail(zlib.crc32(b"tar"), 3)
    assert gzip.decompress(member + gzip_member(b"ball")) == b"tarball"


def test_the_tail_holds_sizes_modulo_4_gib():
    """ISIZE is the size modulo 2**32 (RFC 1952, 2.3.1)."""
    assert gzip_frame_tail(0, (5 << 32) + 7) == bytes(4) + b"\x07\0\0\0"


def test_stored_blocks_are_read_back():
    """A stream of stored blocks is what zlib says it is."""
    content = bytes(range(256)) * 300
    blocks = [content[at : at + STORED_LIMIT] for at in range(0, len(content), STORED_LIMIT)]
    stream = b"".join(stored_block_head(len(b), last=b is blocks[-1]) + b for b in blocks)
    assert zlib.decompress(stream, -15) == content
    with pytest.raises(ValueError, match="65536"):
        stored_block_head(STORED_LIMIT + 1, last=True)
