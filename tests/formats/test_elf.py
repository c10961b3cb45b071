"""Facts read from ELF files, compared with pyelftools over the libraries of this machine."""

from __future__ import annotations

import io
import struct
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from nnenv.errors import NnenvError
from nnenv.formats.elf import elf_machine, read_elf
from nnenv.spec.elf import ElfFacts

MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}


def system_libraries() -> list[Path]:
    """Shared objects of this machine and of the running interpreter, at most a few hundred."""
    places = [sysconfig.get_config_var("LIBDIR") or "/usr/lib", sysconfig.get_paths()["platlib"], "/usr/lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places.append(f"/usr/lib/{multiarch}")
    found = {path for place in places for path in Path(place).glob("*.so*") if path.is_file() and not path.is_symlink()}
    found.update(path for path in Path(places[1]).rglob("*.so*") if path.is_file())
    return sorted(found)[:400]


def expected(path: Path) -> ElfFacts | None:
    """What pyelftools reads from the file's section headers and dynamic segment."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        stream.seek(0)
        elf = ELFFile(stream)
        tags = [tag for segment in elf.iter_segments("PT_DYNAMIC") for tag in segment.iter_tags()]
        if not tags:
            return None
        runpath = [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
        runpath = runpath or [tag.rpath for tag in tags if tag.entry.d_tag == "DT_RPATH"]
        return ElfFacts(
            path=path.name,
            machine=MACHINES[elf["e_machine"]],
            soname=next((tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"), ""),
            needed=tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
            runpath=tuple(part for part in ":".join(runpath).split(":") if part),
            version_needs=tuple(sorted(set(version_needs(elf)))),
            version_definitions=tuple(sorted(set(version_definitions(elf)))),
        )


def version_needs(elf: ELFFile) -> Iterator[tuple[str, str]]:
    """(library, version) pairs of the section .gnu.version_r."""
    section = elf.get_section_by_name(".gnu.version_r")
    for need, auxiliaries in section.iter_versions() if section else ():
        for auxiliary in auxiliaries:
            yield need.name, auxiliary.name


def version_definitions(elf: ELFFile) -> Iterator[str]:
    """Names of the section .gnu.version_d without the base."""
    section = elf.get_section_by_name(".gnu.version_d")
    for definition, auxiliaries in section.iter_versions() if section else ():
        if not definition.entry.vd_flags & 1:
            yield next(iter(auxiliaries)).name


def test_facts_equal_pyelftools_on_this_machine() -> None:
    """Every shared object around here gives the same facts as an independent reader finds."""
    paths = system_libraries()
    compared = 0
    for path in paths:
        with path.open("rb") as stream:
            assert read_elf(stream, path.name) == expected(path), path
        compared += 1
    assert compared >= 100


def test_a_file_takes_less_than_a_millisecond() -> None:
    """The reader is quick enough to look at every file of an image."""
    paths = system_libraries()[:100]
    started = time.perf_counter()
    for path in paths:
        with path.open("rb") as stream:
            read_elf(stream, path.name)
    # Twenty times the usual figure, so that a busy machine does not fail the test.
    assert (time.perf_counter() - started) / len(paths) < 0.005


def test_other_files_have_no_facts() -> None:
    """Text, an empty file and a truncated magic number are no ELF files."""
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n" * 20, bytes(100)):
        assert read_elf(io.BytesIO(content), "file") is None


def small_elf(
    dynamic: list[tuple[int, int]],
    strings: bytes,
    *,
    machine: int = 62,
    kind: int = 3,
    tail: bytes = b"",
    identity: bytes = b"\x7fELF\x02\x01\x01" + bytes(9),
) -> bytes:
    """A shared object of one PT_LOAD over the whole file; strings at 0x1000, `tail` behind them."""
    table = b"".join(
        struct.pack("<qQ", tag, value) for tag, value in [*dynamic, (5, 0x1000), (10, len(strings)), (0, 0)]
    )
    body = (strings + tail).ljust(0x800, b"\0")
    size = 0x1000 + len(body)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, kind, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    headers = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    headers += struct.pack("<IIQQQQQQ", 2, 6, 0x200, 0x200, 0x200, len(table), len(table), 8)
    return ((header + headers).ljust(0x200, b"\0") + table).ljust(0x1000, b"\0") + body


def facts_of(content: bytes) -> ElfFacts:
    """The facts of a file that must have some."""
    facts = read_elf(io.BytesIO(content), "lib/small.so")
    assert facts is not None
    return facts


def test_runpath_beats_rpath_and_keeps_origin() -> None:
    """DT_RUNPATH hides DT_RPATH, as in the dynamic linker, and `$ORIGIN` stays as written."""
    strings = b"\0liba.so\0$ORIGIN/../lib:/opt\0/old\0"
    facts = facts_of(small_elf([(1, 1), (15, 29), (29, 9)], strings))
    assert facts.needed == ("liba.so",)
    assert facts.runpath == ("$ORIGIN/../lib", "/opt")
    assert facts_of(small_elf([(15, 29)], strings)).runpath == ("/old",)


def test_machines_are_named() -> None:
    """The two machines we build for have names, every other its number."""
    assert facts_of(small_elf([], b"\0")).machine == "x86_64"
    assert facts_of(small_elf([], b"\0", machine=183)).machine == "aarch64"
    assert facts_of(small_elf([], b"\0", machine=243)).machine == "em-243"


def test_a_foreign_class_shows_its_machine_only() -> None:
    """A 32-bit library is not read further, but its presence shows."""
    content = small_elf([(1, 1)], b"\0liba.so\0", machine=3, identity=b"\x7fELF\x01\x01\x01" + bytes(9))
    assert (facts_of(content).machine, facts_of(content).needed) == ("em-3", ())


def test_object_files_have_no_facts() -> None:
    """A relocatable object is not something the dynamic linker loads."""
    assert read_elf(io.BytesIO(small_elf([(1, 1)], b"\0liba.so\0", kind=1)), "object.o") is None


def test_the_head_alone_names_the_machine() -> None:
    """The machine of a file is known from its first 20 bytes, and a file without them has none."""
    assert elf_machine(small_elf([], b"\0")[:20]) == "x86_64"
    assert elf_machine(b"\x7fELF") is None
    big_endian = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x03\x00\x16"
    assert elf_machine(big_endian) == "em-22"


def test_a_short_version_chain_is_refused() -> None:
    """A record that announces more versions than its chain holds is refused instead of read past its end."""
    need = struct.pack("<HHIII", 1, 0xFFFF, 1, 16, 0) + struct.pack("<IHHII", 0, 0, 0, 1, 0)
    content = small_elf([(0x6FFFFFFE, 0x1000 + 16), (0x6FFFFFFF, 1)], b"\0libc.so.6\0".ljust(16, b"\0"), tail=need)
    with pytest.raises(NnenvError) as caught:
        read_elf(io.BytesIO(content), "lib/loop.so")
    assert caught.value.code == "archive-refused"
    assert "the chain ends after 1" in caught.value.because[0]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (small_elf([(1, 999)], b"\0liba.so\0"), "outside the string table"),
        (small_elf([(1, 1)], b"\0liba.so"), "has no end"),
        (small_elf([(1, 1)], b"\0\xff\xfe\0"), "not UTF-8"),
        (small_elf([(0x6FFFFFFE, 0x99999), (0x6FFFFFFF, 1)], b"\0"), "in no PT_LOAD segment"),
        (small_elf([], b"\0")[:0x210], "beyond the end of the file"),
        (small_elf([], b"\0")[:50], "inside the ELF header"),
    ],
    ids=["string offset", "unterminated", "encoding", "address", "truncated", "short header"],
)
def test_malformed_files_are_refused(content: bytes, rule: str) -> None:
    """A file whose tables point elsewhere is refused, naming the file and the rule."""
    with pytest.raises(NnenvError) as caught:
        read_elf(io.BytesIO(content), "lib/bad.so")
    assert caught.value.code == "archive-refused"
    assert caught.value.where == "lib/bad.so"
    assert rule in caught.value.because[0]


def test_damage_never_escapes_as_another_exception() -> None:
    """Whatever byte is overwritten, the answer is facts, None or a refusal."""
    good = small_elf([(1, 1), (14, 9)], b"\0liba.so\0libb.so\0")
    for position in [*range(0x40 + 2 * 56), *range(0x200, 0x260)]:
        for value in (0x00, 0x7F, 0xFF):
            content = bytearray(good)
            content[position] = value
            try:
                read_elf(io.BytesIO(bytes(content)), "lib/damaged.so")
            except NnenvError as error:
                assert error.code == "archive-refused"


def test_the_running_interpreter_is_dynamic() -> None:
    """The executable itself, not only libraries, is read, also through a file on disk."""
    with Path(sys.executable).resolve().open("rb") as stream:
        facts = read_elf(stream, "python")
    assert facts is not None
    assert any(name.startswith("libc.so") for name in facts.needed)
