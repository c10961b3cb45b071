"""Protocol Buffers' wire format, field by field from a seekable stream; bodies that nobody reads are skipped.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_NAME_LIMIT: Final = 1 << 20


class Malformed(Exception):
    """Bytes that break the format, or a rule of what is read from it; the text says which."""


def fields(stream: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, wire type, value) of a message up to `end`.

    For bytes the value is where they end, and the caller may read them from the stream's position: what it leaves
    unread is skipped. Malformed for what is no message.
    """
    while (position := stream.tell()) < end:
        key = varint(stream, end)
        number, kind = key >> 3, key & 7
        if number == 0 or position >= end:
            raise Malformed(f"field number 0 at byte {position}")
        if kind == VARINT:
            yield number, kind, varint(stream, end)
            continue
        if kind == BYTES:
            length = varint(stream, end)
        elif kind in {FIXED64, FIXED32}:
            length = 8 if kind == FIXED64 else 4
        else:
            raise Malformed(f"wire type {kind} at byte {position}")
        stop = stream.tell() + length
        if stop > end:
            raise Malformed(f"a field at byte {position} runs past its message (truncated file?)")
        yield number, kind, stop
        stream.seek(stop)


def varint(stream: BinaryIO, end: int) -> int:
    """The number at the stream's position; Malformed if it does not end before `end`."""
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte or stream.tell() > end or shift > 63:
            raise Malformed(f"an unfinished number at byte {stream.tell()}")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def packed(stream: BinaryIO, end: int) -> Iterator[int]:
    """Repeated numbers in one field, from the stream's position to `end`."""
    while stream.tell() < end:
        yield varint(stream, end)


def text(stream: BinaryIO, end: int) -> str:
    """The text from the stream's position to `end`; Malformed if it is too long or no UTF-8."""
    length = end - stream.tell()
    if length > _NAME_LIMIT:
        raise Malformed(f"a name of {length} bytes")
    try:
        return stream.read(length).decode()
    except UnicodeDecodeError:
        raise Malformed("a name that is not UTF-8") from None
