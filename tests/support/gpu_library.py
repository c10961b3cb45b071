"""Small ELF files with GPU code in them: the headers are real, the code is a few zero bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable

Entry = tuple[int, str, tuple[int, int]]
"""(1 for PTX or 2 for SASS, architecture with suffix, version of PTX)."""


def entry(
    kind: int, architecture: str, version: tuple[int, int] = (0, 0), *, payload: int = 24, header: int = 64
) -> bytes:
    """One piece of code; `header` and `payload` are what it says of its own sizes."""
    number = architecture.rstrip("af")
    flags = {"a": 0x100000, "f": 0x200000}.get(architecture[len(number) :], 0)
    major, minor = version
    fields = (kind, 0x101, header, payload, 0, 0, minor, major, int(number), 0, 0, flags, 0, payload)
    return struct.pack("<HHIQIIHHIIIQQQ", *fields) + bytes(payload if payload < 1000 else 0)


def container(entries: Iterable[bytes], *, magic: int = 0xBA55ED50, size: int | None = None) -> bytes:
    """Entries behind one header; `size` is what the header says, if not the truth."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", magic, 1, 16, len(body) if size is None else size) + body


def library(content: bytes, *, section: str = ".nv_fatbin", times: int = 1) -> bytes:
    """An ELF file without anything to load, and with one section that holds `content`; `times` headers name it."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 3, 62, 1, 0, 0, 0, 0, 64, 56, 0, 0, 0, 0
    )
    return with_section(header, content, section=section, times=times)


def with_section(elf: bytes, content: bytes, *, section: str = ".nv_fatbin", times: int = 1) -> bytes:
    """The ELF file with this section, and no other: behind its end, as section headers may be."""
    elf += bytes(-len(elf) % 8)
    names = f"\0{section}\0.shstrtab\0".encode()
    start = len(elf) + len(content)
    headers = [
        bytes(64),
        *[_section(1, 1, len(elf), len(content))] * times,
        _section(2 + len(section), 3, start, len(names)),
    ]
    data = bytearray(elf + content + names)
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HHH", data, 58, 64, len(headers), len(headers) - 1)
    return bytes(data) + b"".join(headers)


def gpu_library(entries: Iterable[Entry]) -> bytes:
    """A library with these pieces of code and nothing to load."""
    return library(containers(entries))


def containers(entries: Iterable[Entry]) -> bytes:
    """Each piece of code in a container of its own, with padding behind it."""
    parts = [container([entry(*one)]) for one in entries]
    return b"".join(part + bytes(-len(part) % 8) for part in parts)


def _section(name: int, kind: int, offset: int, size: int) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 8, 0)
