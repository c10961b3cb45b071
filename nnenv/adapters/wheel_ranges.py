"""Wheels read in parts: by range requests from an index, or from the store, with the same result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from nnenv.adapters.http import RangeResult
from nnenv.formats.wheel_outline import TEXT_LIMIT, Probes, Statement, libraries_named, stated
from nnenv.spec.gpu import WheelFile, WheelOutline

if TYPE_CHECKING:
    from nnenv.formats.zip_gate import CentralEntry

TAIL: Final = 64 << 10
"""Bytes of a wheel's end read first: holds the central directory of all but the largest wheels, and mostly METADATA."""
HEADS: Final = (256 << 10, 1 << 20)
"""Bytes of a library read to find what it needs: up to the first, then up to the second."""

_MOST_TAILS: Final = 3
"""Answers of a zip's end until its central directory is whole: `TailTooShort` comes twice at most."""

ReadPart = Callable[[int, int | None], RangeResult | None]
"""Bytes from one offset up to another (None: the end); a negative first counts from the end. None: no parts here."""


class Ends:
    """The ends of files as they were read: what lies in one of them is not asked for again.

    METADATA, file list and small members of a wheel are told by different questions, and its end is in all of them.
    """

    def __init__(self, limit: int = 8 << 20) -> None:
        """`limit`: bytes kept of all files together; the oldest go first."""
        self._limit = limit
        self._known: dict[str, RangeResult] = {}
        self._mutex = threading.Lock()

    def reading(self, key: str, read: ReadPart) -> ReadPart:
        """`read`, which reads the file called `key`, asked for no more than is not known."""

        def part(start: int, end: int | None) -> RangeResult | None:
            known = self._known.get(key)
            if known is None:
                return self._kept(key, read(start, end))
            begin = max(0, known.total + start) if start < 0 else start
            stop = known.total if end is None else min(end, known.total)
            if stop <= known.start:
                return read(begin, stop)
            if begin >= known.start:
                return _slice(known, begin, stop)
            front = read(begin, known.start)
            if front is None or front.total != known.total:
                return None
            longer = RangeResult(data=front.data + known.data, start=begin, total=known.total)
            return _slice(self._kept(key, longer) or longer, begin, stop)

        return part

    def _kept(self, key: str, answer: RangeResult | None) -> RangeResult | None:
        """`answer`; kept where it reaches the file's end and leaves room for others."""
        if answer is not None and answer.start + len(answer.data) == answer.total and len(answer.data) <= self._limit:
            with self._mutex:
                self._known.pop(key, None)
                self._known[key] = answer
                while sum(len(known.data) for known in self._known.values()) > self._limit:
                    del self._known[next(iter(self._known))]
        return answer


def _slice(known: RangeResult, begin: int, stop: int) -> RangeResult:
    return RangeResult(data=known.data[begin - known.start : stop - known.start], start=begin, total=known.total)


def file_parts(stream: BinaryIO) -> ReadPart:
    """Parts of a file at hand."""

    def part(start: int, end: int | None) -> RangeResult:
        total = stream.seek(0, 2)
        begin = max(0, total + start) if start < 0 else start
        stream.seek(begin)
        return RangeResult(data=stream.read((total if end is None else end) - begin), start=begin, total=total)

    return part


def read_directory(read: ReadPart, filename: str) -> tuple[Sequence[CentralEntry], int] | None:
    """(central directory, bytes of the whole file); None if parts cannot be had. Raises `wheel-refused`."""
    from nnenv.formats.zip_gate import TailTooShort, read_central_directory

    tail = read(-TAIL, None)
    for _ in range(_MOST_TAILS):
        if tail is None:
            return None
        directory = read_central_directory(tail.data, tail.start, tail.total, filename)
        if not isinstance(directory, TailTooShort):
            return directory, tail.total
        tail = read(directory.needed_from, tail.total)
    return None


def read_metadata_member(read: ReadPart, directory: Sequence[CentralEntry], filename: str) -> bytes | None:
    """METADATA; None where it is not there once, which the whole wheel's gate explains. Raises `wheel-refused`."""
    from nnenv.formats.zip_gate import member_from_range

    entries = [
        entry for entry in directory if entry.name.count("/") == 1 and entry.name.endswith(".dist-info/METADATA")
    ]
    if len(entries) != 1:
        return None
    (entry,) = entries
    part = read(entry.header_offset, entry.end_offset)
    return None if part is None else member_from_range(part.data, entry, filename)


def read_outline(read: ReadPart, probes: Probes, filename: str) -> WheelOutline | None:
    """The wheel's outline; None if parts of it cannot be had. Raises `wheel-refused`.

    Which parts are looked at depends on the wheel and the probes alone, so an index and the store give the same.
    """
    found = read_directory(read, filename)
    if found is None:
        return None
    entries = {entry.name: entry for entry in found[0] if not entry.is_directory}
    try:
        cuda, cudnn = _stated(read, entries, probes, filename)
        needed = tuple(
            (path, sonames)
            for path in sorted(set(probes.libraries) & set(entries))
            if (sonames := _named(read, entries[path], filename)) is not None
        )
    except _NoPartsError:
        return None
    return WheelOutline(
        files=tuple(
            WheelFile(path=name, size=entry.size, crc32=entry.crc32) for name, entry in sorted(entries.items())
        ),
        cuda=cuda,
        cudnn=cudnn,
        needed=needed,
    )


class _NoPartsError(Exception):
    """The source gave parts, and gives no more: what was learned so far must not pass for all there is."""


def _part(read: ReadPart, start: int, end: int) -> bytes:
    part = read(start, end)
    if part is None:
        raise _NoPartsError
    return part.data


def _stated(read: ReadPart, entries: Mapping[str, CentralEntry], probes: Probes, filename: str) -> tuple[str, str]:
    """(CUDA, cuDNN) by the first member that states each."""
    cuda = cudnn = ""
    for statement in probes.statements:
        said = stated(statement, _text(read, entries, statement, filename))
        cuda, cudnn = cuda or said[0], cudnn or said[1]
    return cuda, cudnn


def _text(read: ReadPart, entries: Mapping[str, CentralEntry], statement: Statement, filename: str) -> bytes:
    """The member's content; empty where the wheel has none of that name, or one too large to be meant."""
    from nnenv.formats.zip_gate import member_from_range

    entry = entries.get(statement.member)
    if entry is None or max(entry.size, entry.end_offset - entry.header_offset) > TEXT_LIMIT:
        return b""
    return member_from_range(_part(read, entry.header_offset, entry.end_offset), entry, filename)


def _named(read: ReadPart, entry: CentralEntry, filename: str) -> tuple[str, ...] | None:
    """What the library names at its beginning; None where that does not reach far enough."""
    from nnenv.formats.zip_gate import member_head

    record = b""
    for size in HEADS:
        begin = entry.header_offset + len(record)
        end = min(entry.end_offset, entry.header_offset + size)
        if begin < end:
            record += _part(read, begin, end)
            sonames = libraries_named(member_head(record, entry, filename))
            if sonames is not None:
                return sonames
    return None
