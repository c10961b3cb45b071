"""ELF files: what the dynamic linker would ask of one, read from its program headers alone.

Source of every layout here: System V gABI chapters 4 and 5, and the LSB's symbol versioning (`Elf64_Verneed`,
`Elf64_Verdef`). Section headers are never read: the dynamic linker does not need them and `strip` may drop them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NoReturn

from nnenv.errors import NnenvError
from nnenv.spec.elf import ElfFacts

_MACHINES: Final = {62: "x86_64", 183: "aarch64"}

_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_DYNAMIC = 1, 2

_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF

_VER_FLG_BASE = 1

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")

# Real files stay far below these; a file above them is hostile or broken.
_MOST_PROGRAM_HEADERS = 4096
_MOST_DYNAMIC_BYTES = 1 << 20
_MOST_VERSIONS = 1 << 16
_MOST_STRING_TABLE = 1 << 20
_LONGEST_STRING = 1 << 16  # the run path of libtensorflow_framework.so.2 has more than 4096 bytes
_LARGEST_FILE = 1 << 40  # seeking beyond what a file system can hold is an error of its own

Refuse = Callable[[str], NoReturn]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Load:
    """One PT_LOAD segment: file bytes `offset..offset+size` appear at `address`."""

    address: int
    offset: int
    size: int

    def holds(self, address: int, size: int) -> bool:
        """Whether `size` bytes at `address` come from this segment's part of the file."""
        return self.address <= address and address + size <= self.address + self.size


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    """An ELF file seen through its segments."""

    stream: BinaryIO
    refuse: Refuse
    loads: tuple[_Load, ...]
    dynamic: _Load

    def at(self, address: int, size: int) -> bytes:
        """`size` file bytes mapped at `address`."""
        return self.read(*self.located(address, size))

    def located(self, address: int, size: int) -> tuple[int, int]:
        """File offset of `address` and `size`; refuses when they are not wholly inside one segment's file bytes."""
        load = next((part for part in self.loads if part.holds(address, size)), None)
        if load is None:
            self.refuse(f"{size} bytes at address {address:#x} are in no PT_LOAD segment")
        return load.offset + address - load.address, size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at file offset `offset`."""
        return _exactly(self.stream, offset, size, self.refuse)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Strings:
    """The dynamic string table; a small one is read once, a large one string by string."""

    program: _Program
    address: int
    size: int
    whole: bytes = field(repr=False)

    def at(self, offset: int) -> str:
        """The string at `offset`; refuses one that leaves the table, is too long or is not UTF-8."""
        if offset >= self.size:
            self.program.refuse(f"string offset {offset} is outside the string table of {self.size} bytes")
        if self.whole:
            raw = self.whole[offset : offset + _LONGEST_STRING]
        else:
            raw = self.program.at(self.address + offset, min(_LONGEST_STRING, self.size - offset))
        end = raw.find(b"\0")
        if end < 0:
            self.program.refuse(f"the string at offset {offset} has no end within {_LONGEST_STRING} bytes")
        try:
            return raw[:end].decode()
        except UnicodeDecodeError:
            self.program.refuse(f"the string at offset {offset} is not UTF-8")


def elf_machine(head: bytes) -> str | None:
    """CPU of the ELF file that begins with `head` (20 bytes are enough), or None if it is no ELF file.

    `x86_64` and `aarch64` mean little-endian 64-bit; everything else is `em-N` with its e_machine number.
    """
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    little = head[5] == 1
    number = int.from_bytes(head[18:20], "little" if little else "big")
    return _MACHINES.get(number, f"em-{number}") if little and head[4] == 2 else f"em-{number}"


def read_elf(stream: BinaryIO, path: str) -> ElfFacts | None:
    """Facts about the ELF file in `stream`, or None when it is no ELF file or nothing a dynamic linker loads.

    A 32-bit or big-endian file yields facts with its machine only: no target runs it, and its presence must show.
    Reads headers, the dynamic segment and the strings it names (under a millisecond); `stream` must be seekable.
    Raises NnenvError `archive-refused` when a header points outside the file or a table is malformed.
    """

    def refuse(why: str) -> NoReturn:
        raise NnenvError(
            "archive-refused",
            f"the ELF file {path} is malformed",
            where=path,
            because=[why],
            fix=["choose another version of the package that ships this file, and report the file to its maintainers"],
        )

    stream.seek(0)
    head = stream.read(_HEADER.size)
    machine = elf_machine(head)
    if machine is None:
        return None
    if machine.startswith("em-") and (head[4] != 2 or head[5] != 1):
        return _facts(path, machine)
    if len(head) < _HEADER.size:
        refuse("the file ends inside the ELF header")
    program = _program(stream, head, refuse)
    return None if program is None else _dynamic_facts(program, path, machine)


def _program(stream: BinaryIO, head: bytes, refuse: Refuse) -> _Program | None:
    _, kind, _, _, _, table, _, _, _, entry_size, count, *_ = _HEADER.unpack(head)
    if kind not in (_ET_EXEC, _ET_DYN) or count == 0:
        return None
    if entry_size != _PROGRAM_HEADER.size:
        refuse(f"program headers have {entry_size} bytes each, the gABI says {_PROGRAM_HEADER.size}")
    if count > _MOST_PROGRAM_HEADERS:
        refuse(f"{count} program headers, more than {_MOST_PROGRAM_HEADERS}")
    raw = _exactly(stream, table, count * entry_size, refuse)
    loads: list[_Load] = []
    dynamic: _Load | None = None
    for what, _, offset, address, _, size, _, _ in _PROGRAM_HEADER.iter_unpack(raw):
        if what == _PT_LOAD:
            loads.append(_Load(address=address, offset=offset, size=size))
        elif what == _PT_DYNAMIC:
            dynamic = _Load(address=address, offset=offset, size=size)
    # Files with debugging information alone keep the header of the dynamic segment but not its bytes.
    if dynamic is None or dynamic.size == 0:
        return None
    if dynamic.size > _MOST_DYNAMIC_BYTES:
        refuse(f"the dynamic segment has {dynamic.size} bytes, more than {_MOST_DYNAMIC_BYTES}")
    return _Program(stream=stream, refuse=refuse, loads=tuple(loads), dynamic=dynamic)


def _dynamic_facts(program: _Program, path: str, machine: str) -> ElfFacts:
    needed: list[int] = []
    single: dict[int, int] = {}
    raw = program.read(program.dynamic.offset, program.dynamic.size - program.dynamic.size % _DYNAMIC.size)
    for tag, value in _DYNAMIC.iter_unpack(raw):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            needed.append(value)
        else:
            single.setdefault(tag, value)
    if _DT_STRTAB not in single:
        # A static-pie has a dynamic segment for its own relocations and asks the linker for nothing.
        if needed:
            program.refuse("DT_NEEDED without DT_STRTAB")
        return _facts(path, machine)
    strings = _strings(program, single[_DT_STRTAB], single.get(_DT_STRSZ, 0))
    runpath = single.get(_DT_RUNPATH, single.get(_DT_RPATH))
    return _facts(
        path,
        machine,
        soname=strings.at(single[_DT_SONAME]) if _DT_SONAME in single else "",
        needed=tuple(strings.at(offset) for offset in needed),
        runpath=() if runpath is None else tuple(part for part in strings.at(runpath).split(":") if part),
        version_needs=tuple(sorted(set(_version_needs(program, strings, single)))),
        version_definitions=tuple(sorted(set(_version_definitions(program, strings, single)))),
    )


def _facts(
    path: str,
    machine: str,
    *,
    soname: str = "",
    needed: tuple[str, ...] = (),
    runpath: tuple[str, ...] = (),
    version_needs: tuple[tuple[str, str], ...] = (),
    version_definitions: tuple[str, ...] = (),
) -> ElfFacts:
    return ElfFacts(
        path=path,
        machine=machine,
        soname=soname,
        needed=needed,
        runpath=runpath,
        version_needs=version_needs,
        version_definitions=version_definitions,
    )


def _strings(program: _Program, address: int, size: int) -> _Strings:
    program.located(address, size)
    whole = program.at(address, size) if size <= _MOST_STRING_TABLE else b""
    return _Strings(program=program, address=address, size=size, whole=whole)


def _version_needs(program: _Program, strings: _Strings, dynamic: dict[int, int]) -> Iterator[tuple[str, str]]:
    """(library, version) of each `Vernaux` under each `Verneed`."""
    left = _Budget(program)
    for address, (_, count, library, auxiliary, _) in _chain(
        program, left, _VERNEED, dynamic.get(_DT_VERNEED), dynamic.get(_DT_VERNEEDNUM, 0)
    ):
        name = strings.at(library)
        for _, (_, _, _, version, _) in _chain(program, left, _VERNAUX, address + auxiliary, count):
            yield name, strings.at(version)


def _version_definitions(program: _Program, strings: _Strings, dynamic: dict[int, int]) -> Iterator[str]:
    """Name of each `Verdef` but the base one; its first `Verdaux` holds it, the others name parents."""
    left = _Budget(program)
    for address, (_, flags, _, count, _, auxiliary, _) in _chain(
        program, left, _VERDEF, dynamic.get(_DT_VERDEF), dynamic.get(_DT_VERDEFNUM, 0)
    ):
        if count == 0:
            program.refuse("a version definition has no name")
        if flags & _VER_FLG_BASE:
            continue
        name, _ = _VERDAUX.unpack(program.at(address + auxiliary, _VERDAUX.size))
        yield strings.at(name)


class _Budget:
    """Counts links of version chains, so that a chain that loops ends."""

    def __init__(self, program: _Program) -> None:
        self._program = program
        self._left = _MOST_VERSIONS

    def spend(self) -> None:
        """One link more; refuses past the limit."""
        self._left -= 1
        if self._left < 0:
            self._program.refuse(f"more than {_MOST_VERSIONS} symbol version records")


def _chain(
    program: _Program, budget: _Budget, layout: struct.Struct, start: int | None, count: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(address, fields) of `count` records linked by their last field, a distance in bytes that ends with 0."""
    address = start
    for position in range(count):
        if address is None:
            program.refuse(f"{count} version records announced, but the chain ends after {position}")
        budget.spend()
        fields = layout.unpack(program.at(address, layout.size))
        yield address, fields
        address = address + fields[-1] if fields[-1] else None


def _exactly(stream: BinaryIO, offset: int, size: int, refuse: Refuse) -> bytes:
    if offset > _LARGEST_FILE:
        refuse(f"file offset {offset:#x} is beyond any file")
    stream.seek(offset)
    raw = stream.read(size)
    if len(raw) != size:
        refuse(f"{size} bytes at offset {offset} reach beyond the end of the file")
    return raw
