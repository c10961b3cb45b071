"""`/etc/ld.so.cache`, so that libraries are found without running ldconfig in the image.

Layout: glibc `sysdeps/generic/dl-cache.h`, struct cache_file_new ("glibc-ld.so.cache1.1"), without extensions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER: Final = struct.Struct("<20sIIB3xI12x")
_ENTRY: Final = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2

_FLAGS: Final = {
    "x86_64": 0x0303,  # FLAG_X8664_LIB64 | FLAG_ELF_LIBC6
    "aarch64": 0x0A03,  # FLAG_AARCH64_LIB64 | FLAG_ELF_LIBC6
}

_PIECES = re.compile(r"([0-9]+)|(.)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One name the dynamic linker may ask for, and the file it gets."""

    soname: str
    path: str
    """Absolute path in the image."""
    machine: str
    """`x86_64` or `aarch64`."""


def write_ld_cache(entries: Sequence[CacheEntry]) -> bytes:
    """The cache file; among entries of one soname the first given wins, as the first directory does for ldconfig.

    The linker searches it by bisection, so the order is part of the format: `_dl_cache_libcmp`, descending.
    Raises ValueError for a machine without flags, a relative path, or a name that is not printable ASCII
    (glibc compares `char`, whose sign differs between the two machines).
    """
    for entry in entries:
        _check(entry)
    ordered = sorted(dict.fromkeys(entries), key=lambda entry: library_order(entry.soname), reverse=True)
    strings = bytearray()
    table = bytearray()
    offsets: dict[str, int] = {}
    base = _HEADER.size + _ENTRY.size * len(ordered)
    for entry in ordered:
        for text in (entry.soname, entry.path):
            if text not in offsets:
                offsets[text] = base + len(strings)
                strings += text.encode("ascii") + b"\0"
        table += _ENTRY.pack(_FLAGS[entry.machine], offsets[entry.soname], offsets[entry.path], 0, 0)
    return _HEADER.pack(_MAGIC, len(ordered), len(strings), _LITTLE_ENDIAN, 0) + bytes(table) + bytes(strings)


def library_order(name: str) -> tuple[tuple[int, int], ...]:
    """Sort key equal to glibc's `_dl_cache_libcmp`: digit runs compare as numbers and above any other character."""
    return tuple((1, int(digits)) if digits else (0, ord(other)) for digits, other in _PIECES.findall(name))


def _check(entry: CacheEntry) -> None:
    if entry.machine not in _FLAGS:
        raise ValueError(f"no ld.so.cache flags for machine {entry.machine!r}")
    if not entry.path.startswith("/"):
        raise ValueError(f"not an absolute path: {entry.path!r}")
    for text in (entry.soname, entry.path):
        if not text.isascii() or not text.isprintable() or not text:
            raise ValueError(f"not printable ASCII: {text!r}")
