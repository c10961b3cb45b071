"""A deflater whose output never changes, for the small pieces between copied streams (RFC 1951, RFC 1952).

Compressors promise a round trip, not their bytes: those differ between zlib, zlib-ng and isa-l, by version and by CPU.
Image layers are named by their bytes, so the headers we add are compressed here: one block with the fixed codes,
and the two kinds of match that tar headers are full of, runs of one byte and repeats of the block before.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

STORED_LIMIT: Final = 65535
"""The most bytes one stored block can hold."""

_GZIP_HEAD: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_SHORTEST: Final = 3
_LONGEST: Final = 258
_REPEAT: Final = 512
_RUN_PATTERN: Final = re.compile(rb"(.)\1{3,}", re.DOTALL)
_EQUAL_PATTERN: Final = re.compile(rb"\0{4,}")

# RFC 1951, 3.2.5: the first length of each length code from 257 on, and how many extra bits follow the code.
_LENGTH_BASE: Final = (
    *(3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31),
    *(35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258),
)
_LENGTH_EXTRA: Final = (*(0,) * 8, *(1,) * 4, *(2,) * 4, *(3,) * 4, *(4,) * 4, *(5,) * 4, 0)


def gzip_member(raw: bytes) -> bytes:
    """`raw` as one gzip member, the same bytes on every machine and for ever."""
    return gzip_frame_head() + deflate(raw) + gzip_frame_tail(zlib.crc32(raw), len(raw))


def gzip_frame_head() -> bytes:
    """The 10 bytes before a deflate stream: no name, no time, no hint, operating system unknown (RFC 1952, 2.3)."""
    return _GZIP_HEAD


def gzip_frame_tail(crc: int, size: int) -> bytes:
    """The 8 bytes after a deflate stream that inflates to `size` bytes with CRC-32 `crc`."""
    return crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


def stored_block_head(length: int, *, last: bool) -> bytes:
    """The 5 bytes before a stored block of `length` bytes that begins at a byte boundary (RFC 1951, 3.2.4)."""
    if not 0 <= length <= STORED_LIMIT:
        raise ValueError(f"a stored block cannot hold {length} bytes")
    return bytes([last]) + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little")


def deflate(raw: bytes) -> bytes:
    """`raw` as one final deflate block with fixed codes.

    Time is linear: 10 to 30 µs for a tar header; memory is about 10 bytes per byte, so it is for small pieces.
    """
    bits = ["110"]  # BFINAL = 1, then BTYPE = 01 with its low bit first.
    position = 0
    for start, end in _repeats(raw):
        _write_runs(raw, position, start, bits)
        _write_match(end - start, _REPEAT_CODE, bits)
        position = end
    _write_runs(raw, position, len(raw), bits)
    bits.append(_END_OF_BLOCK)
    stream = "".join(bits)
    # Bits fill each byte from its low end, so the stream read backwards is one little-endian number.
    return int(stream[::-1], 2).to_bytes((len(stream) + 7) // 8, "little")


def _repeats(raw: bytes) -> Iterator[tuple[int, int]]:
    """Where four or more bytes equal those one block earlier, as (start, end), in order."""
    if len(raw) <= _REPEAT:
        return
    later = int.from_bytes(raw[_REPEAT:], "little")
    earlier = int.from_bytes(raw[:-_REPEAT], "little")
    difference = (later ^ earlier).to_bytes(len(raw) - _REPEAT, "little")
    for match in _EQUAL_PATTERN.finditer(difference):
        yield match.start() + _REPEAT, match.end() + _REPEAT


def _write_runs(raw: bytes, start: int, end: int, bits: list[str]) -> None:
    """Code `raw[start:end]` as literals and as runs: the first byte of a run literally, the others by distance 1."""
    position = start
    for match in _RUN_PATTERN.finditer(raw, start, end):
        bits.extend(map(_LITERAL.__getitem__, raw[position : match.start() + 1]))
        _write_match(match.end() - match.start() - 1, _RUN_CODE, bits)
        position = match.end()
    bits.extend(map(_LITERAL.__getitem__, raw[position:end]))


def _write_match(length: int, distance_code: str, bits: list[str]) -> None:
    """Code a match of at least three bytes, in pieces of which none is shorter than three."""
    while length > _LONGEST:
        piece = min(_LONGEST, length - _SHORTEST)
        bits.append(_LENGTH[piece] + distance_code)
        length -= piece
    bits.append(_LENGTH[length] + distance_code)


def _fixed_code(symbol: int) -> str:
    """The fixed Huffman code of a literal or length symbol, in stream order (RFC 1951, 3.2.6)."""
    if symbol < 144:
        return f"{0x30 + symbol:08b}"
    if symbol < 256:
        return f"{0x190 + symbol - 144:09b}"
    if symbol < 280:
        return f"{symbol - 256:07b}"
    return f"{0xC0 + symbol - 280:08b}"


def _extra_bits(value: int, count: int) -> str:
    """`value` in `count` bits, low bit first; empty for no bits."""
    return f"{value:0{count}b}"[::-1] if count else ""


def _length_code(length: int) -> str:
    """Code and extra bits of a match length from 3 to 258."""
    index = bisect_right(_LENGTH_BASE, length) - 1
    return _fixed_code(257 + index) + _extra_bits(length - _LENGTH_BASE[index], _LENGTH_EXTRA[index])


_LITERAL: Final = tuple(_fixed_code(byte) for byte in range(256))
_END_OF_BLOCK: Final = _fixed_code(256)
_LENGTH: Final = (*("",) * _SHORTEST, *(_length_code(length) for length in range(_SHORTEST, _LONGEST + 1)))
_RUN_CODE: Final = f"{0:05b}"
"""Distance 1: code 0, no extra bits."""
_REPEAT_CODE: Final = f"{17:05b}" + _extra_bits(_REPEAT - 385, 7)
"""Distance 512: code 17 begins at 385 and has 7 extra bits."""
