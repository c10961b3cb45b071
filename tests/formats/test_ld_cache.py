"""`ld.so.cache`: byte layout, glibc's order, and what the machine's own ldconfig makes of it."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from nnenv.formats.ld_cache import CacheEntry, library_order, write_ld_cache


def entry(soname: str, path: str = "", machine: str = "x86_64") -> CacheEntry:
    """One entry below /usr/lib."""
    return CacheEntry(soname=soname, path=path or f"/usr/lib/{soname}", machine=machine)


def glibc_compare(one: str, other: str) -> int:
    """`_dl_cache_libcmp` of glibc, written from its description: digits as numbers, and above all else."""
    i = j = 0
    while i < len(one):
        if one[i].isdigit():
            if j >= len(other) or not other[j].isdigit():
                return 1
            start, begin = i, j
            while i < len(one) and one[i].isdigit():
                i += 1
            while j < len(other) and other[j].isdigit():
                j += 1
            if int(one[start:i]) != int(other[begin:j]):
                return int(one[start:i]) - int(other[begin:j])
        elif j < len(other) and other[j].isdigit():
            return -1
        elif j >= len(other) or one[i] != other[j]:
            return ord(one[i]) - (ord(other[j]) if j < len(other) else 0)
        else:
            i, j = i + 1, j + 1
    return -(ord(other[j]) if j < len(other) else 0)


def strings_of(cache: bytes) -> list[tuple[str, str]]:
    """(soname, path) of each entry in file order, read by the layout of dl-cache.h."""
    assert cache[:20] == b"glibc-ld.so.cache1.1"
    count = struct.unpack_from("<I", cache, 20)[0]
    found = []
    for number in range(count):
        _, key, value, _, _ = struct.unpack_from("<iIIIQ", cache, 48 + 24 * number)
        found.append(tuple(cache[at : cache.index(b"\0", at)].decode() for at in (key, value)))
    return [(soname, path) for soname, path in found]


def test_one_entry_has_known_bytes() -> None:
    """The layout is pinned byte by byte, since the file is part of the image's identity."""
    assert write_ld_cache([entry("a.so.1", "/usr/lib/a.so.12")]) == (
        b"glibc-ld.so.cache1.1"
        + struct.pack("<II", 1, 24)
        + b"\x02\0\0\0"
        + bytes(16)
        + struct.pack("<iIIIQ", 0x0303, 72, 79, 0, 0)
        + b"a.so.1\0/usr/lib/a.so.12\0"
    )


def test_aarch64_has_its_own_flags() -> None:
    """The linker of arm64 ignores entries with another machine's flags."""
    assert struct.unpack_from("<i", write_ld_cache([entry("a", machine="aarch64")]), 48)[0] == 0x0A03


def test_order_is_that_of_glibc() -> None:
    """For any two names our sort key agrees with glibc's comparison."""
    random.seed(7)
    names = ["".join(random.choices("lib.so-_+a0129Z", k=random.randint(0, 9))) for _ in range(300)]
    names += ["libc.so.6", "libc.so.10", "libstdc++.so.6", "libz.so.1", "libz.so", "lib1.so", "liba.so"]
    for one in names:
        for other in names:
            wanted = glibc_compare(one, other)
            found = (library_order(one) > library_order(other)) - (library_order(one) < library_order(other))
            assert found == (wanted > 0) - (wanted < 0), (one, other)


def test_the_first_directory_wins() -> None:
    """Entries of one name keep the given order, which is the order of the search path."""
    cache = write_ld_cache([entry("liba.so.1", "/opt/liba.so.1"), entry("libb.so.1"), entry("liba.so.1")])
    assert [path for soname, path in strings_of(cache) if soname == "liba.so.1"] == [
        "/opt/liba.so.1",
        "/usr/lib/liba.so.1",
    ]


def test_the_order_of_names_does_not_matter() -> None:
    """The same libraries in any order give the same bytes."""
    entries = [entry(f"lib{name}.so.{number}") for name in ("a", "b", "cuda", "c10") for number in (1, 2, 10)]
    assert write_ld_cache(entries) == write_ld_cache(entries[::-1])


@pytest.mark.parametrize(
    "wrong", [entry("a", "relative/a"), entry("ä"), entry("a", machine="riscv64"), entry("a\nb"), entry("")]
)
def test_what_the_format_cannot_say_is_refused(wrong: CacheEntry) -> None:
    """A relative path, another machine, or a name outside ASCII never reaches the file."""
    with pytest.raises(ValueError, match=r"not|no "):
        write_ld_cache([wrong])


def test_ldconfig_lists_the_same(tmp_path: Path) -> None:
    """The system's ldconfig prints every entry of our file; without one the layout alone is checked."""
    entries = [entry(f"lib{name}.so.{number}") for name in ("z", "gomp", "cudart", "stdc++") for number in (1, 6, 12)]
    cache = write_ld_cache(entries)
    assert sorted(strings_of(cache)) == sorted((e.soname, e.path) for e in entries)
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin")
    if ldconfig is None:
        return
    (tmp_path / "cache").write_bytes(cache)
    printed = subprocess.run(
        [ldconfig, "-p", "-C", tmp_path / "cache"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    ).stdout
    listed = [line.split() for line in printed.splitlines()[1:] if "=>" in line]
    assert sorted((words[0], words[-1]) for words in listed) == sorted((e.soname, e.path) for e in entries)
