"""The zip gate: honest archives come out as they are, every lie is refused by its rule."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.zip_gate import (
    CHUNK,
    CentralEntry,
    TailTooShort,
    ZipMember,
    inflate,
    member_from_range,
    read_central_directory,
    read_member,
    read_members,
)
from tests.formats.archives import PLACEHOLDER, Member, deflated, extra_field, zip_archive

HONEST = (
    Member(name="package/__init__.py", content=b"print('hello')\n" * 50),
    Member(name="package/bin/tool", content=b"#!/bin/sh\n", method=0, mode=0o100755),
    Member(name="package/empty", content=b"", method=0, mode=0),
    Member(name="package/größe.txt", content=b"\xff" * 300_000),
)


def _refusal(archive: bytes) -> str:
    """Why the gate refuses `archive`, content included."""
    stream = io.BytesIO(archive)
    with pytest.raises(NnenvError) as caught:
        for member in read_members(stream, "demo.whl"):
            for _ in inflate(stream, member, "demo.whl"):
                pass
    assert caught.value.code == "wheel-refused"
    assert caught.value.where == "demo.whl"
    assert "demo.whl" in caught.value.what
    assert caught.value.fix
    return caught.value.because[0]


def _zip64(*values: int) -> bytes:
    return extra_field(1, struct.pack(f"<{len(values)}Q", *values))


def test_honest_archive_is_read_as_zipfile_reads_it() -> None:
    """Names, order, sizes, modes and content of an honest archive are those that the stdlib finds."""
    archive = zip_archive(HONEST)
    stream = io.BytesIO(archive)
    members = read_members(stream, "demo.whl")
    with zipfile.ZipFile(io.BytesIO(archive)) as reference:
        assert reference.namelist() == [member.name for member in members]
        for info, member in zip(reference.infolist(), members, strict=True):
            assert reference.read(info) == read_member(stream, member)
            assert (info.CRC, info.file_size, info.compress_size, info.compress_type) == (
                member.crc32,
                member.size,
                member.compressed_size,
                member.method,
            )
    assert [member.executable for member in members] == [False, True, False, False]


def test_archives_of_the_standard_library_pass() -> None:
    """What `zipfile` writes, with directories and both methods, is accepted."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/", b"")
        archive.writestr("a/b.txt", b"b" * 1000)
        archive.writestr("a/c.txt", b"c", zipfile.ZIP_STORED)
        with archive.open("a/d.bin", "w", force_zip64=True) as member:
            member.write(b"d" * 100)
    members = read_members(stream, "demo.whl")
    assert [member.name for member in members] == ["a/b.txt", "a/c.txt", "a/d.bin"]
    assert read_member(stream, members[2]) == b"d" * 100


def test_directories_are_checked_and_dropped() -> None:
    """A directory entry is no member, whether stored, deflated, or below another."""
    directories = [
        Member(name="a/", content=b"", method=0, mode=0o40755, dos_attributes=0x10),
        Member(name="a/b/", content=b"", mode=0o42755),
        Member(name="a/b/c"),
    ]
    assert [m.name for m in read_members(io.BytesIO(zip_archive(directories)), "demo.whl")] == ["a/b/c"]


def test_an_empty_archive_has_no_members() -> None:
    """An end record alone is an archive."""
    assert read_members(io.BytesIO(zip_archive([])), "demo.whl") == ()


@pytest.mark.parametrize("end", [{}, {"count": 4, "here": 4}], ids=["placeholders", "repeated"])
def test_valid_zip64_is_accepted(end: dict[str, int]) -> None:
    """A zip64 end record is read, whether the short one holds placeholders or the same numbers."""
    assert len(read_members(io.BytesIO(zip_archive(HONEST, zip64=True, end=end)), "demo.whl")) == 4


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        ({"size": PLACEHOLDER, "compressed_size": PLACEHOLDER}, (9, 9)),
        ({"size": PLACEHOLDER}, (9,)),
        ({"size": PLACEHOLDER}, (9, 9)),
        ({"header_offset": PLACEHOLDER}, (0,)),
        ({"size": PLACEHOLDER, "header_offset": PLACEHOLDER}, (9, 0)),
        ({"size": PLACEHOLDER}, (9, 9, 0)),
        ({}, (9, 9)),
    ],
    ids=str,
)
def test_zip64_fields_replace_placeholders(overrides: dict[str, int], values: tuple[int, ...]) -> None:
    """Only placeholders are replaced, in the order of the specification; Go's full form is understood."""
    member = Member(name="a", content=b"123456789", method=0, central=overrides, extra=_zip64(*values))
    [read] = read_members(io.BytesIO(zip_archive([member])), "demo.whl")
    assert (read.size, read.compressed_size, read.data_offset) == (9, 9, 31)


def test_a_zip64_local_header_is_compared_by_value() -> None:
    """Python's `force_zip64` shape: sizes in the local field, short sizes in the central directory."""
    local = {"size": PLACEHOLDER, "compressed_size": PLACEHOLDER}
    member = Member(name="a", content=b"12", method=0, local=local, local_extra=_zip64(2, 2))
    assert read_members(io.BytesIO(zip_archive([member])), "demo.whl")[0].size == 2


def test_only_headers_are_read() -> None:
    """The gate asks a stream for headers and directory, never for content."""
    content = bytes(range(256)) * 40_000
    stream = _CountingStream(zip_archive([Member(name=f"m{i}", content=content, method=0) for i in range(4)]))
    read_members(stream, "demo.whl")
    assert stream.bytes_read < 140_000


class _CountingStream(io.BytesIO):
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.bytes_read += len(content)
        return content


ONE = Member(name="a", content=b"a" * 100)
TWO = (ONE, Member(name="b"))
ZEROS = bytes(65 << 20)

HOSTILE = {
    "an empty file": (b"", "too short"),
    "random bytes": (b"x" * 200, "end record"),
    "a truncated archive": (zip_archive(TWO)[:-1], "end record"),
    "bytes after the end": (zip_archive(TWO, after=b"x"), "end record"),
    "a comment": (zip_archive(TWO, end={"comment": 3}, after=b"abc"), "end record"),
    "a comment length without comment": (zip_archive(TWO, end={"comment": 3}), "end record"),
    "bytes before the first member": (zip_archive(TWO, before=b"MZ"), "before the first"),
    "bytes before that the offsets ignore": (b"MZ" + zip_archive(TWO), "does not end where"),
    "bytes before an empty archive": (zip_archive([], before=b"MZ"), "before the first"),
    "an archive appended to another": (zip_archive([ONE]) + zip_archive(TWO), "does not end where"),
    "a second disk": (zip_archive(TWO, end={"disk": 1}), "several disks"),
    "a directory on a second disk": (zip_archive(TWO, end={"central_disk": 1}), "several disks"),
    "members on another disk": (zip_archive(TWO, end={"count": 3}), "several disks"),
    "too few members counted": (zip_archive(TWO, end={"count": 1, "here": 1}), "after its last member"),
    "too many members counted": (zip_archive(TWO, end={"count": 3, "here": 3}), "before its last member"),
    "more members than anyone needs": (zip_archive(TWO, end={"count": 65535, "here": 65535}), "before its last"),
    "junk in the central directory": (zip_archive(TWO, central_junk=b"PK\x01\x02"), "after its last member"),
    "a central row without signature": (zip_archive(TWO).replace(b"PK\x01\x02", b"PK\x01\x03"), "member records"),
    "a central row that is longer than the directory": (
        zip_archive([Member(name="a", extra=b"cut off!")]).replace(b"\x08\0\0\0\0\0", b"\x09\0\0\0\0\0"),
        "member records",
    ),
    "a gap between members": (zip_archive([Member(name="a", gap=b"x"), *TWO[1:]]), "gap"),
    "a gap before the directory": (zip_archive([*TWO[:1], Member(name="b", gap=b"x")]), "gap"),
    "a hidden member between two": (
        zip_archive([Member(name="a", gap=zip_archive([Member(name="c")])), TWO[1]]),
        "gap",
    ),
    "two rows for one record": (
        zip_archive([ONE, Member(name="b", central={"header_offset": 0})]),
        "share one local header",
    ),
    "a record inside another": (
        zip_archive([ONE, Member(name="b", central={"header_offset": 10})]),
        "overlaps",
    ),
    "a size that reaches into the next": (
        zip_archive([Member(name="a", both={"compressed_size": 20}, compressed=b"x" * 19), TWO[1]]),
        "gap or an overlap",
    ),
    "no local header": (zip_archive(TWO).replace(b"PK\x03\x04", b"PK\x03\x05"), "local header is missing"),
    "another local name": (zip_archive([Member(name="a", local_name=b"b")]), "two values of name"),
    "a local name cut short": (zip_archive([Member(name="ab", local_name=b"a")]), "two values of name"),
    "another local method": (zip_archive([Member(name="a", local={"method": 0})]), "two values of method"),
    "another local CRC": (zip_archive([Member(name="a", local={"crc32": 1})]), "two values of CRC"),
    "another local size": (zip_archive([Member(name="a", local={"size": 1})]), "two values of size"),
    "another local compressed size": (
        zip_archive([Member(name="a", local={"compressed_size": 1})]),
        "two values of compressed size",
    ),
    "other local flags": (zip_archive([Member(name="a", local={"flags": 2})]), "two values of flags"),
    "a data descriptor": (zip_archive([Member(name="a", both={"flags": 8})]), "data descriptor"),
    "encryption": (zip_archive([Member(name="a", both={"flags": 1})]), "encrypted"),
    "strong encryption": (zip_archive([Member(name="a", both={"flags": 0x40})]), "encrypted"),
    "a masked directory": (zip_archive([Member(name="a", both={"flags": 0x2000})]), "encrypted"),
    "bzip2": (zip_archive([Member(name="a", both={"method": 12})]), "method 12"),
    "a member on another disk": (zip_archive([Member(name="a", central={"disk": 1})]), "another disk"),
    "a member comment": (zip_archive([Member(name="a", comment=b"x")]), "comment"),
    "one name twice": (zip_archive([ONE, ONE]), "same name"),
    "one name in two cases": (zip_archive([Member(name="straße"), Member(name="STRASSE")]), "same name"),
    "a directory twice": (zip_archive([Member(name="a/", content=b"", mode=0)] * 2), "same name"),
    "a file that is a directory too": (
        zip_archive([Member(name="a/", content=b"", mode=0), Member(name="a")]),
        "same name",
    ),
    "a member below a file": (
        zip_archive([Member(name="a/b/c"), Member(name="a-b"), Member(name="a")]),
        "'a' is a file",
    ),
    "a name outside NFC": (zip_archive([Member(name="e\u0301")]), "normal form C"),
    "a name that is not UTF-8": (zip_archive([Member(name=b"\xff")]), "neither ASCII nor"),
    "a name in a code page": (zip_archive([Member(name="é", both={"flags": 0})]), "neither ASCII nor"),
    "an absolute name": (zip_archive([Member(name="/etc/passwd")]), "absolute"),
    "an empty name": (zip_archive([Member(name="")]), "its name is empty"),
    "an empty component": (zip_archive([Member(name="a//b")]), "empty component"),
    "a parent component": (zip_archive([Member(name="a/../../b")]), "`..`"),
    "a name that is a parent": (zip_archive([Member(name="../", content=b"", mode=0)]), "`..`"),
    "a dot component": (zip_archive([Member(name="./a")]), "`.`"),
    "a backslash": (zip_archive([Member(name="a\\b")]), "backslash"),
    "a NUL": (zip_archive([Member(name="a\0.py")]), "control character"),
    "a line feed": (zip_archive([Member(name="a\nb")]), "control character"),
    "a C1 control character": (zip_archive([Member(name="a\x85b")]), "control character"),
    "a line separator": (zip_archive([Member(name="a\u2028b")]), "control character"),
    "a very long name": (zip_archive([Member(name="a/" * 2048 + "b")]), "longer than 4096"),
    "a symlink": (zip_archive([Member(name="a", mode=0o120777)]), "link or device"),
    "a device": (zip_archive([Member(name="a", mode=0o020666)]), "link or device"),
    "a directory mode on a file": (zip_archive([Member(name="a", mode=0o040755)]), "link or device"),
    "a file mode on a directory": (zip_archive([Member(name="a/", content=b"")]), "link or device"),
    "a directory attribute on a file": (zip_archive([Member(name="a", dos_attributes=0x10)]), "attributes say"),
    "setuid": (zip_archive([Member(name="a", mode=0o104755)]), "setuid"),
    "setgid": (zip_archive([Member(name="a", mode=0o102755)]), "setuid"),
    "a directory with content": (
        zip_archive([Member(name="a/", content=b"x", mode=0)]),
        "directory with content",
    ),
    "a directory with hidden content": (
        zip_archive([Member(name="a/", content=b"", compressed=b"\x03\0hidden", mode=0)]),
        "directory with content",
    ),
    "a stored member with two sizes": (
        zip_archive([Member(name="a", method=0, both={"size": 3})]),
        "two different sizes",
    ),
    "a bomb": (zip_archive([Member(name="a", content=ZEROS)]), "grows more than 50 times"),
    "a missing zip64 field": (
        zip_archive([Member(name="a", central={"size": PLACEHOLDER})]),
        "needs a zip64 field",
    ),
    "a zip64 field of the wrong length": (
        zip_archive([Member(name="a", central={"size": PLACEHOLDER}, extra=extra_field(1, b"1234567"))]),
        "wrong length",
    ),
    "a zip64 field that leaves a placeholder": (
        zip_archive([Member(name="a", central={"header_offset": PLACEHOLDER}, extra=_zip64(7, 9))]),
        "wrong length",
    ),
    "a zip64 field that disagrees": (
        zip_archive([Member(name="a", extra=_zip64(8, 9))]),
        "disagrees with its header",
    ),
    "a zip64 size that disagrees with the local one": (
        zip_archive([Member(name="a", central={"size": PLACEHOLDER}, extra=_zip64(8))]),
        "two values of size",
    ),
    "two zip64 fields": (
        zip_archive([Member(name="a", central={"size": PLACEHOLDER}, extra=_zip64(7) + _zip64(8))]),
        "occurs twice",
    ),
    "a broken extra field": (zip_archive([Member(name="a", extra=b"\1\0\7\0abc")]), "extra fields do not fill"),
    "half an extra field": (zip_archive([Member(name="a", extra=b"\1\0\0")]), "extra fields do not fill"),
    "a broken local extra field": (
        zip_archive([Member(name="a", local_extra=b"\1\0\7\0abc")]),
        "extra fields do not fill",
    ),
    "a zip64 end record that disagrees": (
        zip_archive(TWO, zip64=True, end={"count": 7, "here": 7}),
        "disagrees with the end record",
    ),
    "a zip64 end record of another size": (
        zip_archive(TWO, zip64=True, end64={"record_size": 45}),
        "data of its own",
    ),
    "a zip64 locator that points elsewhere": (
        zip_archive(TWO, zip64=True, end64={"locator_offset": 0}),
        "does not point at",
    ),
    "a zip64 locator without zip64 end record": (
        b"PK\x06\x07" + bytes(16) + zip_archive([]),
        "does not end where",
    ),
    "a zip64 end record without signature": (
        zip_archive(TWO, zip64=True).replace(b"PK\x06\x06", b"PK\x06\x05"),
        "end record is missing",
    ),
    "a zip64 locator on another disk": (zip_archive(TWO, zip64=True, end64={"locator_disk": 1}), "does not point at"),
    "a zip64 locator of two disks": (zip_archive(TWO, zip64=True, end64={"disks": 2}), "does not point at"),
    "zip64 counts that disagree": (zip_archive(TWO, zip64=True, end64={"count": 3}), "several disks"),
    "too many members in zip64": (
        zip_archive(TWO, zip64=True, end64={"count": 1 << 40, "here": 1 << 40}),
        "more than 100000 members",
    ),
    "a placeholder without zip64 end record": (zip_archive(TWO, end={"offset": PLACEHOLDER}), "does not end where"),
    "a unicode-path field with another name": (
        zip_archive(
            [Member(name="a", extra=extra_field(0x7075, b"\1" + struct.pack("<I", zlib.crc32(b"a")) + b"evil"))]
        ),
        "another name",
    ),
    "a local unicode-path field with another name": (
        zip_archive(
            [Member(name="a", local_extra=extra_field(0x7075, b"\1" + struct.pack("<I", zlib.crc32(b"a")) + b"evil"))]
        ),
        "another name",
    ),
    "bytes after the deflate stream": (
        zip_archive([Member(name="a", compressed=deflated(b"content") + b"x")]),
        "after its deflate stream",
    ),
    "a chunk after the deflate stream": (
        zip_archive([Member(name="a", compressed=deflated(b"content") + b"x" * 2 * CHUNK)]),
        "after its deflate stream",
    ),
    "a deflate stream without end": (
        zip_archive([Member(name="a", compressed=b"\x00\x07\x00\xf8\xffcontent")]),
        "has no end",
    ),
    "a broken deflate stream": (zip_archive([Member(name="a", compressed=b"\xff" * 9)]), "is broken"),
    "less content than stated": (zip_archive([Member(name="a", both={"size": 8})]), "unpacks to 7 bytes"),
    "more content than stated": (zip_archive([Member(name="a", both={"size": 6})]), "more than the 6 bytes"),
    "content of another CRC": (zip_archive([Member(name="a", both={"crc32": 1})]), "CRC"),
    "stored content of another CRC": (zip_archive([Member(name="a", method=0, both={"crc32": 1})]), "CRC"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archive_is_refused(case: str) -> None:
    """Each lie is refused, by the rule made for it."""
    archive, rule = HOSTILE[case]
    assert rule in _refusal(archive)


def test_unicode_path_that_agrees_is_accepted() -> None:
    """The field that Info-ZIP adds for non-ASCII names may repeat the name."""
    raw = "ä".encode()
    repeated = extra_field(0x7075, b"\1" + struct.pack("<I", zlib.crc32(raw)) + raw)
    member = Member(name="ä", extra=repeated, local_extra=repeated)
    assert read_members(io.BytesIO(zip_archive([member])), "demo.whl")[0].name == "ä"


def test_large_members_are_no_bombs() -> None:
    """What is large and grows less than 50 times is accepted, as is what is small and grows more."""
    large = Member(name="a", compressed=bytes(2 << 20), both={"size": 65 << 20})
    small = Member(name="b", content=bytes(1 << 20))
    assert len(read_members(io.BytesIO(zip_archive([large, small])), "demo.whl")) == 2


def test_other_extra_fields_may_repeat() -> None:
    """Fields that mean nothing here are passed over, however often they occur."""
    member = Member(name="a", extra=extra_field(0x5455, b"times") * 2)
    assert len(read_members(io.BytesIO(zip_archive([member])), "demo.whl")) == 1


def test_the_central_directory_has_a_limit() -> None:
    """A directory over 32 MiB is refused before a range read asks for it."""
    size = 33 << 20
    tail = bytes(100) + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0)
    with pytest.raises(NnenvError) as caught:
        read_central_directory(tail, size - 100, size + 22, "demo.whl")
    assert "directory over 33554432 bytes" in caught.value.because[0]


class _ShrunkStream(io.BytesIO):
    """A file that lost its first bytes after its tail was read."""

    def read(self, size: int | None = -1, /) -> bytes:
        return b"" if self.tell() == 0 else super().read(size)


def test_archive_that_shrinks_while_being_read_is_refused() -> None:
    """A local header that is gone when it is asked for is a refusal."""
    archive = zip_archive([Member(name="a", content=bytes(300_000), method=0)])
    with pytest.raises(NnenvError) as caught:
        read_members(_ShrunkStream(archive), "demo.whl")
    assert "local header is missing" in caught.value.because[0]


def test_total_size_is_limited() -> None:
    """Members that are together larger than the limit are refused before anything is inflated."""
    with pytest.raises(NnenvError, match="strict zip gate"):
        read_members(io.BytesIO(zip_archive(TWO)), "demo.whl", size_limit=106)
    read_members(io.BytesIO(zip_archive(TWO)), "demo.whl", size_limit=107)


def test_content_comes_in_chunks_and_the_stream_may_be_shared() -> None:
    """No chunk is larger than 1 MiB, and two members can be inflated alternately from one stream."""
    content = bytes(range(256)) * (3 << 12)
    stream = io.BytesIO(zip_archive([Member(name="a", content=content), Member(name="b", content=content, method=0)]))
    first, second = (inflate(stream, member) for member in read_members(stream, "demo.whl"))
    pairs = list(zip(first, second, strict=True))
    assert max(len(chunk) for pair in pairs for chunk in pair) <= CHUNK
    assert [content, content] == [b"".join(chunks) for chunks in zip(*pairs, strict=True)]


def test_content_is_checked_before_the_last_chunk_is_given() -> None:
    """Whoever has received all stated bytes has received checked bytes."""
    member = Member(name="a", content=b"a", both={"crc32": 1})
    stream = io.BytesIO(zip_archive([member]))
    [read] = read_members(stream, "demo.whl")
    with pytest.raises(NnenvError):
        next(inflate(stream, read))


def test_archive_cut_off_while_being_read_is_refused() -> None:
    """A member that lies beyond the end of the stream is named."""
    beyond = ZipMember(name="a", method=0, crc32=0, compressed_size=9, size=9, data_offset=100, executable=False)
    with pytest.raises(NnenvError) as caught:
        read_member(io.BytesIO(b"short"), beyond)
    assert "ends inside" in caught.value.because[0]


def test_small_member_limit() -> None:
    """`read_member` refuses what does not fit its limit without inflating it."""
    stream = io.BytesIO(zip_archive([ONE]))
    [member] = read_members(stream, "demo.whl")
    assert read_member(stream, member, 100) == b"a" * 100
    with pytest.raises(NnenvError) as caught:
        read_member(stream, member, 99)
    assert "at most 99" in caught.value.because[0]


@pytest.mark.parametrize("zip64", [False, True], ids=["zip", "zip64"])
@pytest.mark.parametrize("tail_size", [10, 60, 100, 250, 10_000])
def test_range_reads_find_a_member(tail_size: int, zip64: bool) -> None:
    """From any first tail, at most two more requests lead to the central directory, one more to the content."""
    archive = zip_archive(HONEST, zip64=zip64)
    entries = _central_directory(archive, tail_size)
    [entry] = [entry for entry in entries if entry.name == "package/__init__.py"]
    record = archive[entry.header_offset : entry.end_offset]
    assert member_from_range(record, entry, "demo.whl") == HONEST[0].content
    assert member_from_range(record + b"more", entry, "demo.whl") == HONEST[0].content


def _central_directory(archive: bytes, tail_size: int) -> tuple[CentralEntry, ...]:
    start = max(0, len(archive) - tail_size)
    for _ in range(3):
        answer = read_central_directory(archive[start:], start, len(archive), "demo.whl")
        if not isinstance(answer, TailTooShort):
            return answer
        assert answer.needed_from < start
        start = answer.needed_from
    raise AssertionError("three requests were not enough")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda record: record[:-1], "end before the member does"),
        (lambda record: b"\0" + record[1:], "local header is missing"),
        (lambda record: record[:-20] + bytes(20), "deflate stream|CRC|unpacks"),
    ],
    ids=["cut", "no header", "other content"],
)
def test_range_that_lies_is_refused(change: Callable[[bytes], bytes], rule: str) -> None:
    """A range that is too short or holds other bytes than the directory promises is refused."""
    archive = zip_archive(HONEST)
    entries = read_central_directory(archive, 0, len(archive), "demo.whl")
    assert isinstance(entries, tuple)
    record = archive[: entries[0].end_offset]
    with pytest.raises(NnenvError) as caught:
        member_from_range(change(record), entries[0], "demo.whl")
    assert any(word in caught.value.because[0] for word in rule.split("|"))


def test_tail_of_another_file_is_refused() -> None:
    """A tail that does not end where the file ends (a server that ignored the range) is refused."""
    archive = zip_archive(HONEST)
    with pytest.raises(NnenvError) as caught:
        read_central_directory(archive, 5, len(archive), "demo.whl")
    assert "were expected" in caught.value.because[0]


@given(position=st.integers(min_value=0), value=st.integers(0, 255))
def test_no_changed_byte_gives_other_content(position: int, value: int) -> None:
    """One changed byte anywhere either is refused as `wheel-refused` or changes no name and no content."""
    archive = bytearray(zip_archive(HONEST))
    honest = {member.raw_name.decode(): member.content for member in HONEST}
    archive[position % len(archive)] = value
    stream = io.BytesIO(bytes(archive))
    try:
        found = {m.name: read_member(stream, m) for m in read_members(stream, "demo.whl")}
    except NnenvError as error:
        assert error.code == "wheel-refused"
    else:
        assert honest == found
