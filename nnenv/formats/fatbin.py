"""GPU code in shared libraries: which architectures a CUDA library was compiled for.

NVIDIA does not document the format. The layout here was decoded by compiling one kernel with nvcc 13.0.88 for 24
targets and reading each back, and parses 51 released wheels without an unknown entry (GPU compatibility reference,
section 3). The sections are found by the section headers (System V gABI chapter 4): no program header leads there.
Only headers are read; the code itself, mostly compressed, is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NoReturn

from nnenv.errors import NnenvError
from nnenv.formats.elf import Refuse
from nnenv.spec.gpu import GpuCode

_SECTIONS: Final = (b".nv_fatbin\0", b"__nv_relfatbin\0")
_SHT_NOBITS: Final = 8

_ELF_HEADER = struct.Struct("<40xQ10xHHH")
"""e_shoff, e_shentsize, e_shnum, e_shstrndx of a little-endian 64-bit file."""
_SECTION_HEADER = struct.Struct("<II16xQQ24x")
"""sh_name, sh_type, sh_offset, sh_size."""

_MAGIC: Final = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")
"""Magic, version, size of this header, size of the entries behind it."""
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
"""Kind, version, size of this header, size of the payload, size compressed, unknown, minor, major, architecture,
place and length of the name, flags, unknown, size uncompressed."""
_PTX, _SASS = 1, 2
_ONLY_THIS, _FAMILY = 0x100000, 0x200000
"""Flags: the architecture has the suffix a, or f."""
_PADDING: Final = 8
"""Containers begin at multiples of this, counted from the start of the section."""

# Real files stay far below these; a file above them is hostile or broken.
_MOST_SECTIONS: Final = 4096
_LARGEST_NAMES: Final = 1 << 20
_MOST_PIECES: Final = 1 << 20
"""Containers, entries, and steps over padding."""
_LARGEST_HEADER: Final = 1 << 16


def read_gpu_code(stream: BinaryIO, path: str) -> GpuCode:
    """The GPU code in the ELF file in `stream`, empty if there is none; `stream` must be seekable.

    A file that is no 64-bit little-endian ELF file, or has no section headers, has none. 5 to 30 ms for a library of
    300 to 600 MB that is in memory. Raises NnenvError `archive-refused` when a header points outside the file, or the
    containers are not as the format has them.
    """

    def refuse(why: str) -> NoReturn:
        raise NnenvError(
            "archive-refused",
            f"the GPU code in {path} is malformed",
            where=path,
            because=[why],
            fix=["choose another version of the package that ships this file, and report the file to its maintainers"],
        )

    sass: set[str] = set()
    ptx: set[tuple[str, str]] = set()
    budget = _Budget(refuse)
    for offset, size in _fatbin_sections(stream, refuse):
        for kind, architecture, version in _entries(stream, offset, offset + size, budget, refuse):
            if kind == _SASS:
                sass.add(architecture)
            elif kind == _PTX:
                ptx.add((architecture, version))
    return GpuCode(
        sass=tuple(sorted(sass, key=_by_number)),
        ptx=tuple(sorted(ptx, key=lambda item: (_by_number(item[0]), _numbers(item[1])))),
    )


def _fatbin_sections(stream: BinaryIO, refuse: Refuse) -> Iterator[tuple[int, int]]:
    """(offset, size) of each section that holds containers."""
    stream.seek(0)
    head = stream.read(_ELF_HEADER.size)
    if len(head) < _ELF_HEADER.size or head[:4] != b"\x7fELF" or head[4] != 2 or head[5] != 1:
        return
    table, entry_size, count, names_index = _ELF_HEADER.unpack(head)
    if table == 0 or count == 0:
        return
    if entry_size != _SECTION_HEADER.size:
        refuse(f"section headers have {entry_size} bytes each, the gABI says {_SECTION_HEADER.size}")
    if count > _MOST_SECTIONS or names_index >= count:
        refuse(f"{count} sections, the names in number {names_index}")
    headers = list(_SECTION_HEADER.iter_unpack(_exactly(stream, table, count * entry_size, refuse)))
    _, _, names_offset, names_size = headers[names_index]
    if names_size > _LARGEST_NAMES:
        refuse(f"the names of the sections take {names_size} bytes")
    names = _exactly(stream, names_offset, names_size, refuse)
    for name, kind, offset, size in headers:
        if kind != _SHT_NOBITS and names.startswith(_SECTIONS, name):
            yield offset, size


class _Budget:
    """Counts what was looked at in all sections, which may overlap, so that reading them ends."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self._left = _MOST_PIECES

    def spend(self) -> None:
        """One piece more; refuses past the limit."""
        self._left -= 1
        if self._left < 0:
            self._refuse(f"more than {_MOST_PIECES} pieces of GPU code")


def _entries(stream: BinaryIO, start: int, end: int, budget: _Budget, refuse: Refuse) -> Iterator[tuple[int, str, str]]:
    """(kind, architecture with suffix, version of the PTX language) of each entry between two offsets."""
    place = start
    while place + _CONTAINER.size <= end:
        budget.spend()
        magic, _, header_size, size = _CONTAINER.unpack(_exactly(stream, place, _CONTAINER.size, refuse))
        if magic == 0:
            place += _PADDING  # between containers of different object files
        elif magic != _MAGIC:
            refuse(f"no container begins at offset {place:#x}")
        elif not _CONTAINER.size <= header_size <= _LARGEST_HEADER or place + header_size + size > end:
            refuse(f"the container at offset {place:#x} has {header_size} and {size} bytes, more than its section")
        else:
            inner, place = place + header_size, place + header_size + size
            while inner + _ENTRY.size <= place:
                budget.spend()
                kind, _, entry_header, payload, _, _, minor, major, arch, _, _, flags, _, _ = _ENTRY.unpack(
                    _exactly(stream, inner, _ENTRY.size, refuse)
                )
                if not _ENTRY.size <= entry_header <= _LARGEST_HEADER or inner + entry_header + payload > place:
                    refuse(f"the entry at offset {inner:#x} has {payload} bytes, more than its container")
                suffix = "a" if flags & _ONLY_THIS else "f" if flags & _FAMILY else ""
                yield kind, f"{arch}{suffix}", f"{major}.{minor}"
                inner += entry_header + payload
            place = start + -(-(place - start) // _PADDING) * _PADDING


def _by_number(architecture: str) -> tuple[int, str]:
    digits = architecture.rstrip("af")
    return int(digits), architecture[len(digits) :]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _exactly(stream: BinaryIO, offset: int, size: int, refuse: Refuse) -> bytes:
    if offset > 1 << 40:
        refuse(f"file offset {offset:#x} is beyond any file")
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        refuse(f"{size} bytes at offset {offset:#x} reach beyond the end of the file")
    return data
