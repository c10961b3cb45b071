"""Extraction of our own tars: what comes out, and that nothing else gets in."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from nnenv.adapters.layer_trees import extract_tar
from nnenv.errors import NnenvError
from nnenv.formats.tar_writer import END_OF_ARCHIVE, header, padding
from nnenv.image.layers import EPOCH, plain_layer, read_layer_tar, spliced_layer
from nnenv.image.tree import Entry, compose
from tests.image.memory_objects import MemoryObjects

CONTENT = bytes(range(256)) * 600


def tree() -> tuple[Entry, ...]:
    return compose(
        [
            Entry(path="tmp", kind="dir", mode=0o1777),
            Entry(path="lib", kind="symlink", mode=0o777, target="/etc"),
            Entry(path="usr/lib/a.so", kind="file", mode=0o644, content=CONTENT),
            Entry(path="usr/lib/b.so", kind="hardlink", mode=0o644, target="usr/lib/a.so"),
            Entry(path="z.so", kind="hardlink", mode=0o644, target="usr/lib/a.so"),
            Entry(path="usr/bin/tool", kind="file", mode=0o4755, content=b"tool"),
            Entry(path="usr/empty", kind="file", mode=0o644, content=b""),
            Entry(path="deep/" * 40 + "模型", kind="file", mode=0o644, content=b"deep"),
            Entry(path="far", kind="symlink", mode=0o777, target="t/" * 80),
        ]
    )


def raw_entry(path: str, kind: str = "file", content: bytes = b"", target: str = "", mode: int = 0o644) -> bytes:
    head = header(path, kind, size=len(content), mode=mode, target=target, mtime=EPOCH)
    return head + content + padding(len(content))


def refused(tar: bytes, destination: Path) -> str:
    with pytest.raises(NnenvError) as caught:
        extract_tar(iter([tar]), destination)
    assert caught.value.code == "store-corrupt"
    return caught.value.because[0]


@pytest.mark.parametrize("make", [plain_layer, spliced_layer])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_layer_becomes_a_directory(make, umask, tmp_path: Path):
    """Contents, kinds and normalised modes come out, whatever the umask; hard links share one file."""
    objects = MemoryObjects()
    layer = make("a", tree(), objects)
    before = os.umask(umask)
    try:
        extract_tar(read_layer_tar(layer, objects), tmp_path / "root")
    finally:
        os.umask(before)
    root = tmp_path / "root"
    found = {path.relative_to(root).as_posix(): path.lstat() for path in root.rglob("*")}
    assert sorted(found) == [entry.path for entry in tree()]
    modes = {path: stat.S_IMODE(status.st_mode) for path, status in found.items() if not stat.S_ISLNK(status.st_mode)}
    assert {modes[path] for path in ("tmp", "usr", "usr/lib", "deep/deep")} == {0o755}
    assert (modes["usr/lib/a.so"], modes["usr/bin/tool"]) == (0o444, 0o555)
    assert (root / "usr/lib/a.so").read_bytes() == CONTENT
    assert (root / ("deep/" * 40) / "模型").read_bytes() == b"deep"
    assert len({found[path].st_ino for path in ("usr/lib/a.so", "usr/lib/b.so", "z.so")}) == 1
    assert ((root / "lib").readlink(), (root / "far").readlink()) == (Path("/etc"), Path("t/" * 80))
    assert found["usr/lib/a.so"].st_mtime == EPOCH


def test_a_tar_in_small_pieces_is_the_same_tar(tmp_path: Path):
    """Where the chunks of the stream are cut does not matter."""
    objects = MemoryObjects()
    tar = b"".join(read_layer_tar(plain_layer("a", tree(), objects), objects))
    extract_tar((tar[at : at + 77] for at in range(0, len(tar), 77)), tmp_path)
    assert (tmp_path / "usr/lib/a.so").read_bytes() == CONTENT


HOSTILE = {
    "a path that leaves": raw_entry("../escaped"),
    "an absolute path": raw_entry("/escaped"),
    "a whiteout": raw_entry(".wh.file"),
    "something below a link": raw_entry("d", "symlink", target="..") + raw_entry("d/escaped"),
    "something below a file": raw_entry("d") + raw_entry("d/escaped"),
    "no parent": raw_entry("d/file"),
    "one path twice": raw_entry("a") + raw_entry("a"),
    "the wrong order": raw_entry("b") + raw_entry("a"),
    "a hard link to nothing": raw_entry("a", "hardlink", target="b"),
    "a hard link outside": raw_entry("a", "hardlink", target="../outside"),
    "a hard link to a link": raw_entry("a", "symlink", target="../outside") + raw_entry("b", "hardlink", target="a"),
    "a truncated file": raw_entry("a", content=b"content")[:515],
    "a dirty padding": raw_entry("a", content=b"content")[:-1] + b"x",
    "a device": raw_entry("a")[:156] + b"3" + raw_entry("a")[157:],
    "a wrong checksum": b"b" + raw_entry("a")[1:],
    "a hidden field": raw_entry("a")[:500] + b"prefix".ljust(12, b"\0"),
    "no numbers": b"a".ljust(512, b"z"),
}


@pytest.mark.parametrize("tar", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_we_would_not_have_written_is_refused(tar, tmp_path: Path):
    """Nothing is made outside the destination, and the answer is an error with a code."""
    (tmp_path / "outside").write_text("untouched")
    refused(tar + END_OF_ARCHIVE, tmp_path / "root")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    assert (tmp_path / "outside").stat().st_nlink == 1


@pytest.mark.parametrize("ending", [b"", bytes(512), END_OF_ARCHIVE + b"x", END_OF_ARCHIVE + bytes(512)])
def test_the_end_is_two_zero_blocks_and_nothing_more(ending, tmp_path: Path):
    """A cut tar and one with something behind it are refused."""
    refused(raw_entry("a") + ending, tmp_path)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_by_another_writer_is_refused(tar_format, tmp_path: Path):
    """Only our own spelling is read: that is what makes the reader small enough to trust."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        archive.addfile(tarfile.TarInfo("a" * 120), io.BytesIO())
    refused(stream.getvalue(), tmp_path)


def test_nothing_that_is_there_is_replaced(tmp_path: Path):
    """A name that exists in the destination, be it a link to elsewhere, is not followed and not overwritten."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")
    assert "there already" in refused(raw_entry("a", content=b"x") + END_OF_ARCHIVE, tmp_path / "root")
    assert not (tmp_path / "elsewhere").exists()


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path):
    """The error says which place refused the write."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NnenvError) as caught:
        extract_tar(iter([END_OF_ARCHIVE]), tmp_path / "file")
    assert caught.value.where == str(tmp_path / "file")
