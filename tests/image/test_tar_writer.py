"""The tar writer's bytes, read back by two readers that are not ours."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from nnenv.formats.tar_writer import BLOCK, END_OF_ARCHIVE, header, padding

MTIME = 315532800
GIB_8 = 8 << 30

SHAPES = [
    ("a", "file", 0, ""),
    ("opt/nnenv/bin/python3", "file", 3, ""),
    ("opt/nnenv", "dir", 0, ""),
    ("lib", "symlink", 0, "usr/lib"),
    ("usr/bin/perl5.36", "hardlink", 0, "usr/bin/perl"),
    ("n" * 100, "file", 1, ""),
    ("n" * 101, "file", 1, ""),
    ("d" * 99, "dir", 0, ""),
    ("d" * 100, "dir", 0, ""),
    ("x" * 99 + "/" + "y" * 40, "file", 5, ""),
    ("deep/" * 60 + "end", "file", 7, ""),
    ("naïve/模型.onnx", "file", 2, ""),
    ("link", "symlink", 0, "t" * 100),
    ("link2", "symlink", 0, "t" * 101),
    ("link3", "symlink", 0, "../köln"),
    ("hard", "hardlink", 0, "deep/" * 30 + "end"),
    ("size-below", "file", GIB_8 - 1, ""),
    ("size-at", "file", GIB_8, ""),
    ("size-" + "above" * 30, "file", 5 * GIB_8 + 17, ""),
]
TYPES = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}


def first_member(raw: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(raw + END_OF_ARCHIVE)) as archive:
        return archive.next()


@pytest.mark.parametrize(("path", "kind", "size", "target"), SHAPES, ids=range(len(SHAPES)))
def test_the_standard_library_reads_back_what_was_written(path, kind, size, target):
    """Every shape of entry comes back from `tarfile` with the same fields, and with no names or surprises."""
    raw = header(path, kind, size=size, mode=0o644, target=target, uid=7, gid=8, mtime=MTIME)
    member = first_member(raw)
    assert (member.name, member.type, member.size, member.linkname) == (path, TYPES[kind], size, target)
    assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 7, 8, MTIME)
    assert (member.uname, member.gname) == ("", "")


@pytest.mark.parametrize(("path", "kind", "size", "target"), SHAPES, ids=range(len(SHAPES)))
def test_an_extended_header_is_written_only_where_ustar_has_no_room(path, kind, size, target):
    """One block suffices for ASCII names of up to 100 bytes and sizes below 8 GiB."""
    stored = path + "/" if kind == "dir" else path
    fits = len(stored) <= 100 and len(target) <= 100 and size < GIB_8 and (stored + target).isascii()
    raw = header(path, kind, size=size, mode=0o755, target=target, mtime=MTIME)
    assert len(raw) % BLOCK == 0
    assert (len(raw) == BLOCK) == fits


def test_the_bytes_equal_the_standard_library_for_plain_entries():
    """Where `tarfile` writes plain ustar, our block is the same, checksum included."""
    for path, kind, size, target in SHAPES[:6]:
        info = tarfile.TarInfo(path)
        info.type, info.size, info.linkname, info.mode, info.mtime = TYPES[kind], size, target, 0o755, MTIME
        theirs = info.tobuf(tarfile.USTAR_FORMAT)
        ours = header(path, kind, size=size, mode=0o755, target=target, mtime=MTIME)
        # `tarfile` writes device numbers as zeros where ours are empty; both sum to what the checksum says.
        assert ours[:148] == theirs[:148]
        assert ours[156:265] == theirs[156:265]


def test_a_header_never_changes():
    """The bytes are part of every image's identity: this is the header of recipe 1."""
    raw = header("opt/nnenv/bin/run", "file", size=0o1234, mode=0o755, mtime=MTIME)
    assert raw.rstrip(b"\0") == (
        b"opt/nnenv/bin/run".ljust(100, b"\0")
        + b"0000755\x000000000\x000000000\x0000000001234\x0002263523000\x00"
        + b"011224\0 0"
        + bytes(100)
        + b"ustar\x0000"
    )


def test_pax_records_count_their_own_digits():
    """The length in a record stays right where it grows by a digit itself (98, 99, 100 bytes and so on)."""
    for length in [*range(101, 130), *range(980, 1010)]:
        path = "p" * length
        raw = header(path, "file", mode=0o644, mtime=MTIME)
        assert first_member(raw).name == path


def test_gnu_tar_lists_an_archive(tmp_path: Path):
    """GNU tar, or whatever `tar` is here, lists the same names in the same order."""
    small = [shape for shape in SHAPES if shape[2] < GIB_8 - 1 and shape[0].isascii()]
    archive = tmp_path / "all.tar"
    with archive.open("wb") as stream:
        for path, kind, size, target in small:
            stream.write(header(path, kind, size=size, mode=0o644, target=target, mtime=MTIME))
            stream.write(b"x" * size + padding(size))
        stream.write(END_OF_ARCHIVE)
    listed = subprocess.run(["tar", "-tf", archive], check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == [path + "/" if kind == "dir" else path for path, kind, _, _ in small]


def test_padding_reaches_the_next_block():
    """Content and padding fill whole blocks, and full blocks get none."""
    assert [len(padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
    assert bytes(1024) == END_OF_ARCHIVE


@pytest.mark.parametrize("wrong", [{"uid": 8**7}, {"gid": -1}, {"size": -1}, {"mtime": -1}, {"target": "a\0b"}])
def test_what_cannot_be_written_is_not_written(wrong):
    """A number or name outside what the format can say is a mistake of the caller."""
    arguments = {"mode": 0o644, "mtime": MTIME, **wrong}
    with pytest.raises(ValueError, match="tar header"):
        header("a", "symlink", **arguments)
