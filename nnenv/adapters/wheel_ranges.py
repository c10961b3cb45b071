"""Wheels read in parts: by range requests from an index, or from the store, with the same result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from nnenv.adapters.http import RangeResult
from nnenv.formats.wheel_outline import TEXT_LIMIT, Probes, Statement, libraries_named, stated
from nnenv.spec.gpu import WheelFile, WheelOutline

if TYPE_CHECKING:
    from nnenv.formats.zip_gate import CentralEntry

TAIL: Final = 64 << 10
"""Bytes of a wheel's end read first: holds the central directory of all but the largest wheels."""
HEADS: Final = (256 << 10, 1 << 20)
"""Bytes of a library read to find what it needs: first few, then more."""

_MOST_TAILS: Final = 3
"""Answers of a zip's end until its central directory is whole: `TailTooShort` comes twice at most."""

ReadPart = Callable[[int, int | None], RangeResult | None]
"""Bytes from one offset up to another (None: the end); a negative first counts from the end. None: no parts here."""


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


def read_outline(read: ReadPart, probes: Probes, filename: str) -> WheelOutline | None:
    """The wheel's outline; None if parts of it cannot be had. Raises `wheel-refused`.

    Which parts are read depends on the wheel and the probes alone, so an index and the store give the same.
    """
    found = read_directory(read, filename)
    if found is None:
        return None
    entries = {entry.name: entry for entry in found[0] if not entry.is_directory}
    cuda = cudnn = ""
    for statement in probes.statements:
        text = _text(read, entries, statement, filename)
        if text is None:
            return None
        said = stated(statement, text)
        cuda, cudnn = cuda or said[0], cudnn or said[1]
    needed: list[tuple[str, tuple[str, ...]]] = []
    for path in sorted(set(probes.libraries) & set(entries)):
        sonames = _named(read, entries[path], filename)
        if sonames is not None:
            needed.append((path, sonames))
    return WheelOutline(
        files=tuple(
            WheelFile(path=name, size=entry.size, crc32=entry.crc32) for name, entry in sorted(entries.items())
        ),
        cuda=cuda,
        cudnn=cudnn,
        needed=tuple(needed),
    )


def _text(read: ReadPart, entries: Mapping[str, CentralEntry], statement: Statement, filename: str) -> bytes | None:
    """The member's content; empty where the wheel has none of that name, or one too large to be meant."""
    from nnenv.formats.zip_gate import member_from_range

    entry = entries.get(statement.member)
    if entry is None or max(entry.size, entry.end_offset - entry.header_offset) > TEXT_LIMIT:
        return b""
    part = read(entry.header_offset, entry.end_offset)
    return None if part is None else member_from_range(part.data, entry, filename)


def _named(read: ReadPart, entry: CentralEntry, filename: str) -> tuple[str, ...] | None:
    from nnenv.formats.zip_gate import member_head

    for size in HEADS:
        part = read(entry.header_offset, min(entry.end_offset, entry.header_offset + size))
        if part is None:
            return None
        sonames = libraries_named(member_head(part.data, entry, filename))
        if sonames is not None:
            return sonames
    return None
