"""The .deb gate and its tar reader: one form is read, and every other is refused by its rule."""

from __future__ import annotations

import io
import sys
import tarfile
import types
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.deb import DebParts, decompress_data, read_deb
from nnenv.formats.tar_reader import TarEntry, read_tar
from tests.formats.archives import (
    ar,
    ar_member,
    compressed,
    control_tar,
    deb,
    padded,
    pax,
    pax_record,
    tar,
    tar_entry,
    tar_header,
)

COMPRESSIONS = ["", "gz", "xz", "bz2"]
VERSION = ar_member("debian-binary", b"2.0\n")
CONTROL = ar_member("control.tar", control_tar())
DATA = ar_member("data.tar.gz", compressed("gz", tar()))


def _refusal(package: bytes) -> str:
    """Why the gate refuses `package`, data included."""
    stream = io.BytesIO(package)
    with pytest.raises(NnenvError) as caught:
        parts = read_deb(stream, "demo.deb")
        content = b"".join(decompress_data(stream, parts, limit=1 << 20, what="demo.deb"))
        read_tar(io.BytesIO(content), "demo.deb")
    _check_error(caught.value, "demo.deb")
    return caught.value.because[0]


def _tar_refusal(archive: bytes) -> str:
    with pytest.raises(NnenvError) as caught:
        read_tar(io.BytesIO(archive), "demo.tar")
    _check_error(caught.value, "demo.tar")
    return caught.value.because[0]


def _check_error(error: NnenvError, what: str) -> None:
    assert error.code == "archive-refused"
    assert error.where is not None
    assert what in error.where
    assert what in error.what
    assert error.fix


def _package(compression: str, data: bytes) -> bytes:
    suffix = f".{compression}" if compression else ""
    return ar(VERSION, CONTROL, ar_member(f"data.tar{suffix}", compressed(compression, data)))


def _data(package: bytes, limit: int = 1 << 20) -> bytes:
    stream = io.BytesIO(package)
    return b"".join(decompress_data(stream, read_deb(stream, "demo.deb"), limit=limit))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_data_is_decompressed(compression: str) -> None:
    """Each compression that dpkg writes gives the archive back, in chunks of at most 1 MiB, up to the limit."""
    data = tar(tar_entry(b"./a", b"content" * 400_000))
    package = _package(compression, data)
    stream = io.BytesIO(package)
    parts = read_deb(stream, "demo.deb")
    chunks = list(decompress_data(stream, parts, limit=len(data)))
    assert parts.data_compression == compression
    assert data == b"".join(chunks)
    assert max(map(len, chunks)) <= 1 << 20


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_bombs_stop_at_the_limit(compression: str) -> None:
    """Nothing larger than the limit comes out."""
    package = _package(compression, tar(tar_entry(b"./a", bytes(5 << 20))))
    with pytest.raises(NnenvError) as caught:
        _data(package)
    assert "more than 1048576 bytes" in caught.value.because[0]


def test_package_that_shrinks_while_being_read_is_refused() -> None:
    """Data that is gone when it is asked for is a refusal, not an end."""
    package = _package("", tar(tar_entry(b"./a", b"content")))
    parts = read_deb(io.BytesIO(package), "demo.deb")
    with pytest.raises(NnenvError) as caught:
        list(decompress_data(io.BytesIO(package[:-100]), parts, limit=1 << 20))
    assert "cut off" in caught.value.because[0]


class _ZstdError(Exception):
    pass


class _RawBlockDecoder:
    """A decoder of zstd frames made of raw blocks only (RFC 8878, 3.1.1), with the face of zstandard's."""

    def __init__(self) -> None:
        self.eof = False
        self.unused_data = b""
        self._input = b""
        self._in_frame = False

    def decompress(self, data: bytes) -> bytes:
        self._input += data
        output = b""
        if not self._in_frame and len(self._input) >= 6:
            if self._input[:4] != b"\x28\xb5\x2f\xfd":
                raise _ZstdError("Unknown frame descriptor")
            self._input, self._in_frame = self._input[6:], True
        while self._in_frame and not self.eof and len(self._input) >= 3:
            head = int.from_bytes(self._input[:3], "little")
            if len(self._input) < 3 + (head >> 3):
                break
            output += self._input[3 : 3 + (head >> 3)]
            self._input = self._input[3 + (head >> 3) :]
            self.eof = bool(head & 1)
        if self.eof:
            self.unused_data, self._input = self._input, b""
        return output


def _zstandard_simulator() -> types.ModuleType:
    module = types.ModuleType("zstandard")
    decompressor = types.SimpleNamespace(decompressobj=lambda read_across_frames: _RawBlockDecoder())
    vars(module).update(ZstdDecompressor=lambda max_window_size: decompressor, ZstdError=_ZstdError)
    return module


def test_zstd_is_read_where_its_decoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `zstandard` there, a zst package is read, and a broken or doubled stream is refused."""
    monkeypatch.setitem(sys.modules, "zstandard", _zstandard_simulator())
    data = tar(tar_entry(b"./a", b"content" * 3000))
    assert data == _data(_package("zst", data))
    stream = compressed("zst", data)
    for broken, rule in (
        (b"\0" * 100, "is broken"),
        (stream[:-1], "no end"),
        (stream + b"x", "after its compressed stream"),
        (stream + b"x" * 9000, "after its compressed stream"),
    ):
        assert rule in _refusal(ar(VERSION, CONTROL, ar_member("data.tar.zst", broken)))


def test_zstd_without_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `zstandard` the refusal names the distribution to install."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(NnenvError) as caught:
        _data(_package("zst", tar()))
    assert caught.value.code == "archive-refused"
    assert "zstandard" in caught.value.fix[0]


def test_control_archive() -> None:
    """Control text, scripts, conffiles and md5sums come out; other members are passed over."""
    control = control_tar(
        {
            "control": "Package: demo\nDescription: größer\n".encode(),
            "postinst": b"#!/bin/sh\n",
            "triggers": b"activate-noawait ldconfig\n",
            "preinst": b"\x7fELF\xff",
            "conffiles": b"/etc/demo.conf\nremove-on-upgrade /etc/old.conf\n",
            "md5sums": b"0123456789abcdef0123456789abcdef  usr/share/doc/a b\n" + b"0" * 32 + b"  ./etc/x\n",
            "shlibs": b"libdemo 1 demo\n",
        }
    )
    package = ar(VERSION, ar_member("control.tar.xz", compressed("xz", control)), DATA)
    data = compressed("gz", tar())
    assert read_deb(io.BytesIO(package), "demo.deb") == DebParts(
        control="Package: demo\nDescription: größer\n",
        scripts={
            "preinst": "\x7fELF\udcff",
            "postinst": "#!/bin/sh\n",
            "triggers": "activate-noawait ldconfig\n",
        },
        conffiles=("/etc/demo.conf",),
        md5sums={"usr/share/doc/a b": "0123456789abcdef0123456789abcdef", "etc/x": "0" * 32},
        data_compression="gz",
        data_offset=package.index(data),
        data_size=len(data),
    )


HOSTILE_DEBS = {
    "an empty file": (b"", "ar signature"),
    "another format": (b"PK\x03\x04" + bytes(100), "ar signature"),
    "only the signature": (ar(), "header is missing"),
    "format 3.0": (ar(ar_member("debian-binary", b"3.0\n"), CONTROL, DATA), "says 2.0"),
    "format 2.0 with more lines": (ar(ar_member("debian-binary", b"2.0\nx\n"), CONTROL, DATA), "says 2.0"),
    "no debian-binary": (ar(CONTROL, DATA), "first member"),
    "a GNU member name": (ar(ar_member("debian-binary/", b"2.0\n"), CONTROL, DATA), "first member"),
    "data before control": (ar(VERSION, DATA, CONTROL), "second member is 'data.tar.gz'"),
    "no control": (ar(VERSION, DATA), "second member"),
    "two controls": (ar(VERSION, CONTROL, CONTROL, DATA), "third member is 'control.tar'"),
    "no data": (ar(VERSION, CONTROL), "header is missing"),
    "two data": (ar(VERSION, CONTROL, DATA, DATA), "after data.tar"),
    "data of two compressions": (
        ar(VERSION, CONTROL, DATA, ar_member("data.tar.xz", compressed("xz", tar()))),
        "after data.tar",
    ),
    "an unknown member before": (ar(VERSION, ar_member("_x", b""), CONTROL, DATA), "second member is '_x'"),
    "an unknown member between": (ar(VERSION, CONTROL, ar_member("_x", b""), DATA), "third member is '_x'"),
    "an unknown member behind": (ar(VERSION, CONTROL, DATA, ar_member("_x", b"")), "after data.tar"),
    "trailing junk": (deb(after=b"x"), "after data.tar"),
    "a trailing line feed": (deb(after=b"\n"), "after data.tar"),
    "an unknown control compression": (
        ar(VERSION, ar_member("control.tar.bz2", compressed("bz2", control_tar())), DATA),
        "second member",
    ),
    "an unknown data compression": (ar(VERSION, CONTROL, ar_member("data.tar.lzma", b"")), "third member"),
    "a name that only begins right": (ar(VERSION, CONTROL, ar_member("data.tar.gzip", b"")), "third member"),
    "a negative size": (ar(VERSION, CONTROL, ar_member("data.tar.gz", b"", size=b"-60")), "malformed"),
    "a size with a sign": (ar(VERSION, CONTROL, ar_member("data.tar.gz", b"1234", size=b"+4")), "malformed"),
    "no size": (ar(VERSION, CONTROL, ar_member("data.tar.gz", b"", size=b"")), "malformed"),
    "a header with words for numbers": (deb().replace(b"100644", b"rw-r--", 1), "malformed"),
    "a size beyond the end": (ar(VERSION, CONTROL, ar_member("data.tar.gz", b"", size=b"9999")), "cut off"),
    "a truncated package": (deb()[:-2], "cut off"),
    "an empty member name": (ar(VERSION, ar_member("", b""), CONTROL, DATA), "malformed"),
    "a wrong header end": (deb().replace(b"`\n", b"`\r", 1), "missing or broken"),
    "padding that is no line feed": (
        ar(VERSION, CONTROL, ar_member("data.tar", tar() + b"x", padding=b"y")),
        "padded with a line feed",
    ),
    "no padding": (ar(VERSION, CONTROL, ar_member("data.tar", tar() + b"x", padding=b"")), "cut off"),
    "two gzip streams": (deb(data=compressed("gz", tar()) * 2), "after its compressed stream"),
    "two xz streams": (
        ar(VERSION, CONTROL, ar_member("data.tar.xz", compressed("xz", tar()) * 2)),
        "after its compressed stream",
    ),
    "two bzip2 streams": (
        ar(VERSION, CONTROL, ar_member("data.tar.bz2", compressed("bz2", tar()) * 2)),
        "after its compressed stream",
    ),
    "much behind the stream": (deb(data=compressed("gz", tar()) + bytes(3 << 20)), "after its compressed stream"),
    "much behind the xz stream": (
        ar(VERSION, CONTROL, ar_member("data.tar.xz", compressed("xz", tar()) + bytes(3 << 20))),
        "after its compressed stream",
    ),
    "a stream without end": (deb(data=compressed("gz", tar())[:-8]), "no end"),
    "no stream": (deb(data=b""), "no end"),
    "a broken gzip stream": (deb(data=b"\x1f\x8b" + b"\xff" * 30), "is broken"),
    "a broken xz stream": (ar(VERSION, CONTROL, ar_member("data.tar.xz", b"x" * 40)), "is broken"),
    "a broken bzip2 stream": (ar(VERSION, CONTROL, ar_member("data.tar.bz2", b"x" * 40)), "is broken"),
    "a gzip stream of another CRC": (
        deb(data=compressed("gz", tar())[:-8] + bytes(8)),
        "is broken",
    ),
    "two control streams": (
        ar(VERSION, ar_member("control.tar.gz", compressed("gz", control_tar()) * 2), DATA),
        "after its compressed stream",
    ),
    "a control archive without control": (deb(control=control_tar({"postinst": b""})), "no control file"),
    "a symlink in the control archive": (
        deb(control=tar(tar_entry(b"./control", typeflag=b"2", target=b"/etc/passwd"))),
        "not a plain file",
    ),
    "a directory in the control archive": (
        deb(control=tar(tar_entry(b"./x/", typeflag=b"5"), tar_entry(b"./control", b"x"))),
        "not a plain file",
    ),
    "a deeper file in the control archive": (deb(control=control_tar({"a/control": b""})), "not a plain file"),
    "a control file that is not UTF-8": (deb(control=control_tar({"control": b"\xff"})), "control is not UTF-8"),
    "a relative conffile": (
        deb(control=control_tar({"control": b"", "conffiles": b"etc/x\n"})),
        "conffiles lists 'etc/x'",
    ),
    "a conffile that climbs": (
        deb(control=control_tar({"control": b"", "conffiles": b"/etc/../x\n"})),
        "conffiles lists",
    ),
    "a malformed md5sum": (deb(control=control_tar({"control": b"", "md5sums": b"xyz  a\n"})), "md5sums has"),
    "an md5sum twice": (
        deb(control=control_tar({"control": b"", "md5sums": (b"0" * 32 + b"  a\n") * 2})),
        "md5sums has",
    ),
    "a broken data archive": (deb(data=compressed("gz", b"x" * 1024)), "checksum"),
}


@pytest.mark.parametrize("case", HOSTILE_DEBS)
def test_package_of_another_form_is_refused(case: str) -> None:
    """Each form that two readers could read in two ways is refused, by the rule made for it."""
    package, rule = HOSTILE_DEBS[case]
    assert rule in _refusal(package)


def test_control_archive_may_not_be_a_bomb() -> None:
    """A control archive that unpacks to more than 64 MiB is refused."""
    bomb = compressed("xz", bytes(65 << 20))
    assert "more than 67108864 bytes" in _refusal(ar(VERSION, ar_member("control.tar.xz", bomb), DATA))


@given(position=st.integers(min_value=0), value=st.integers(0, 255))
def test_no_changed_byte_escapes_the_gate(position: int, value: int) -> None:
    """One changed byte anywhere is refused as `archive-refused` or harmless, and never another exception."""
    package = bytearray(_package("gz", tar(tar_entry(b"./a", b"content"))))
    package[position % len(package)] = value
    stream = io.BytesIO(bytes(package))
    try:
        parts = read_deb(stream, "demo.deb")
        content = b"".join(decompress_data(stream, parts, limit=1 << 20))
        read_tar(io.BytesIO(content), "demo.deb")
    except NnenvError as error:
        assert error.code == "archive-refused"


def _entry(path: str, kind: str = "file", **values: object) -> TarEntry:
    fields: dict[str, object] = {"path": path, "kind": kind, "mode": 0o644, "size": 0, "offset": 0, "target": ""}
    return TarEntry(**{**fields, **values})  # type: ignore[arg-type]


def test_tar_entries() -> None:
    """Paths lose `./` and slash, `./` itself is dropped, and offsets point at the content."""
    archive = tar(
        tar_entry(b"./", typeflag=b"5", mode=0o755),
        tar_entry(b"./usr/", typeflag=b"5", mode=0o755),
        tar_entry(b"./usr/su", b"binary", mode=0o4755),
        tar_entry(b"./usr/", typeflag=b"5", mode=0o755),
        tar_entry(b"./usr/link", typeflag=b"2", target=b"../../etc/x", mode=0o777),
        tar_entry(b"./usr/hard", typeflag=b"1", target=b"./usr/su", mode=0o4755),
        tar_entry(b"plain", b"x" * 513, typeflag=b"\0"),
        tar_entry(b"name", prefix=b"./long/prefix"),
        tar_entry(b"./back\\slash", magic=b"ustar  \0"),
    )
    assert read_tar(io.BytesIO(archive), "demo.tar") == (
        _entry("usr", "dir", mode=0o755, offset=1024),
        _entry("usr/su", mode=0o4755, size=6, offset=1536),
        _entry("usr/link", "symlink", mode=0o777, offset=3072, target="../../etc/x"),
        _entry("usr/hard", "hardlink", mode=0o4755, offset=3584, target="usr/su"),
        _entry("plain", size=513, offset=4096),
        _entry("long/prefix/name", offset=5632),
        _entry("back\\slash", offset=6144),
    )


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_as_the_standard_library_writes_them(tar_format: int) -> None:
    """Long names and targets, non-ASCII ones too, are those that went in."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for number in (1, 2):
            info = tarfile.TarInfo(f"./{'größe/' * 30}{number}")
            info.size = 7
            info.mtime = 1.5
            archive.addfile(info, io.BytesIO(b"content"))
        link = tarfile.TarInfo("./link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 300
        archive.addfile(link)
    stream.seek(0)
    first, second, third = read_tar(stream, "demo.tar")
    assert [f"{'größe/' * 30}{number}" for number in (1, 2)] == [first.path, second.path]
    assert stream.getvalue()[second.offset : second.offset + second.size] == b"content"
    assert (third.kind, third.target) == ("symlink", "t" * 300)


def test_a_pipe_is_read_forward() -> None:
    """A stream that cannot seek gives the same entries."""
    archive = tar(tar_entry(b"a", b"x" * 3_000_000), tar_entry(b"b", b"y"))
    assert read_tar(_Pipe(archive), "demo.tar") == read_tar(io.BytesIO(archive), "demo.tar")


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")


def test_pax_size_may_repeat_the_ustar_size() -> None:
    """Two headers that agree are no contradiction."""
    [entry] = read_tar(io.BytesIO(tar(pax({"size": "7"}), FILE)), "demo.tar")
    assert entry.size == 7


def test_pax_size_replaces_what_ustar_cannot_hold() -> None:
    """A size of 8 GiB and more stands in the pax header, with zero in the ustar one; base 256 is read too."""
    size = 1 << 33
    for archive in (
        pax({"size": str(size), "mtime": "1.5", "uname": "x"}) + tar_header(b"a"),
        tar_header(b"a", size_field=b"\x80" + size.to_bytes(11, "big")),
    ):
        [entry] = read_tar(_sparse(archive, size), "demo.tar")
        assert entry.size == size


def _sparse(head: bytes, size: int) -> BinaryIO:
    return _Zeros(head, len(head) + size + 1024)


class _Zeros(io.BytesIO):
    """`head`, then zeros up to `length`, without memory for them."""

    def __init__(self, head: bytes, length: int) -> None:
        super().__init__()
        self._head = head
        self._length = length
        self._position = 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + (self._position if whence else 0)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        size = max(0, min(size or 0, self._length - self._position))
        content = self._head[self._position : self._position + size].ljust(size, b"\0")
        self._position += size
        return content


def _global_pax() -> bytes:
    return tar_entry(b"pax", pax_record("path", "evil"), typeflag=b"g")


def _long(typeflag: bytes, content: bytes) -> bytes:
    return tar_entry(b"././@LongLink", content, typeflag=typeflag, magic=b"ustar  \0")


FILE = tar_entry(b"./a", b"content")

HOSTILE_TARS = {
    "an empty file": (b"", "cut off"),
    "half a header": (FILE[:300], "cut off"),
    "no end mark": (FILE, "cut off"),
    "a single zero block": (FILE + bytes(512), "cut off"),
    "a zero block between entries": (FILE + bytes(512) + FILE + bytes(1024), "end mark"),
    "content cut off": (tar_header(b"a", size=4096) + bytes(1000), "cut off"),
    "junk behind the end mark": (tar(FILE) + b"x" * 512, "after its end mark"),
    "a second archive behind the end mark": (tar(FILE) + tar(FILE), "after its end mark"),
    "an incomplete last block": (tar(FILE) + bytes(5), "last block is incomplete"),
    "a wrong checksum": (tar(FILE.replace(b"./a", b"./b", 1)), "checksum it states"),
    "no checksum": (tar(FILE[:148] + b"zzzzzzzz" + FILE[156:]), "has the checksum"),
    "a header without magic": (tar(tar_header(b"a", magic=bytes(8))), "magic"),
    "a GNU header with a prefix": (
        tar(tar_header(b"a", magic=b"ustar  \0", prefix=b"evil")),
        "where POSIX has a name prefix",
    ),
    "a character device": (tar(tar_header(b"a", typeflag=b"3")), "a character device"),
    "a block device": (tar(tar_header(b"a", typeflag=b"4")), "a block device"),
    "a fifo": (tar(tar_header(b"a", typeflag=b"6")), "a fifo"),
    "a sparse file": (tar(tar_header(b"a", typeflag=b"S", magic=b"ustar  \0")), "a sparse file"),
    "a contiguous file": (tar(tar_header(b"a", typeflag=b"7")), "a contiguous file"),
    "an unknown type": (tar(tar_header(b"a", typeflag=b"Z")), "of type b'Z'"),
    "a global pax header": (tar(_global_pax(), FILE), "a global pax header"),
    "an absolute name": (tar(tar_header(b"/etc/passwd")), "absolute"),
    "a hidden absolute name": (tar(tar_header(b".//etc/passwd")), "absolute"),
    "a parent component": (tar(tar_header(b"./a/../../b")), "`..`"),
    "a dot component": (tar(tar_header(b"./a/./b")), "`..`"),
    "a parent as directory": (tar(tar_header(b"../", typeflag=b"5")), "`..`"),
    "an empty component": (tar(tar_header(b"a//b")), "empty"),
    "a directory with two slashes": (tar(tar_header(b"a//", typeflag=b"5")), "empty"),
    "a file with a slash behind": (tar(tar_header(b"a/")), "empty"),
    "an empty name": (tar(tar_header(b"")), "name or target is empty"),
    "a file named ./": (tar(tar_header(b"./")), "empty"),
    "the root as directory": (tar(tar_header(b"/", typeflag=b"5")), "absolute"),
    "a hidden root as directory": (tar(tar_header(b".//", typeflag=b"5")), "absolute"),
    "a NUL in the name": (tar(tar_header(b"a\0b")), "NUL byte inside"),
    "a NUL in a long name": (tar(_long(b"L", b"a\0b\0"), FILE), "NUL byte inside"),
    "a NUL in a pax name": (tar(pax({"path": "a\0b"}), FILE), "control character"),
    "a line feed in the name": (tar(tar_header(b"a\nb")), "control character"),
    "a control character in a target": (tar(tar_header(b"a", typeflag=b"2", target=b"a\nb")), "control character"),
    "a name that is not UTF-8": (tar(tar_header(b"a\xff")), "not UTF-8"),
    "a very long name": (tar(pax({"path": "a/" * 2048 + "b"}), FILE), "longer than 4096"),
    "a very deep name": (tar(pax({"path": "a/" * 100 + "b"}), FILE), "more than 100 directories deep"),
    "a GNU long name without end": (tar(_long(b"L", b"abc"), FILE), "does not end with NUL"),
    "a GNU long name of great size": (tar(_long(b"L", b"a" * 5000), FILE), "long name has 5000 bytes"),
    "a GNU long name of no size": (tar(_long(b"L", b""), FILE), "long name has 0 bytes"),
    "two GNU long names": (tar(_long(b"L", b"a\0"), _long(b"L", b"b\0"), FILE), "two extension headers"),
    "a GNU and a pax name": (tar(_long(b"L", b"a\0"), pax({"path": "b"}), FILE), "two extension headers"),
    "a long name for nothing": (tar(_long(b"L", b"a\0")), "end mark"),
    "two pax sizes": (tar(tar_entry(b"p", pax_record("size", "7") * 2, typeflag=b"x"), FILE), "two extension"),
    "a pax size that disagrees": (tar(pax({"size": "512"}), FILE), "ustar header 7"),
    "a pax size over a ustar zero": (tar(pax({"size": "7"}), tar_header(b"a"), padded(b"content")), "ustar header 0"),
    "a ustar size over a pax zero": (tar(pax({"size": "0"}), FILE), "ustar header 7"),
    "a pax size that is no number": (tar(pax({"size": "-7"}), FILE), "states the size '-7'"),
    "a pax sparse file": (tar(pax({"GNU.sparse.major": "1"}), FILE), "no rule here"),
    "a pax file capability": (tar(pax({"SCHILY.xattr.security.capability": "x"}), FILE), "no rule here"),
    "a pax record that is too long": (tar(tar_entry(b"p", b"99 path=a\n", typeflag=b"x"), FILE), "malformed"),
    "a pax record that is too short": (tar(tar_entry(b"p", b"5 path=a\n", typeflag=b"x"), FILE), "malformed"),
    "a pax record without line feed": (tar(tar_entry(b"p", b"9 path=ab", typeflag=b"x"), FILE), "malformed"),
    "a pax header that is text": (tar(tar_entry(b"p", b"hello\n", typeflag=b"x"), FILE), "malformed"),
    "an empty pax header": (tar(tar_entry(b"p", b"", typeflag=b"x"), FILE), "a pax header has 0 bytes"),
    "a great pax header": (tar(tar_entry(b"p", b"x" * 70_000, typeflag=b"x"), FILE), "a pax header has 70000 bytes"),
    "a negative size": (tar(tar_header(b"a", size_field=b"\xff" * 12)), "has the size"),
    "a size with a sign": (tar(tar_header(b"a", size_field=b"-0000000001\0")), "has the size"),
    "a size of many exabytes": (tar(tar_header(b"a", size_field=b"\x80" + b"\x7f" * 11)), "larger than the limit"),
    "a directory with content": (tar(tar_entry(b"a/", b"x", typeflag=b"5")), "has content and is no file"),
    "a link with content": (tar(tar_entry(b"a", b"x", typeflag=b"2", target=b"b")), "has content and is no file"),
    "a file with a target": (tar(tar_header(b"a", target=b"b")), "target and is no link"),
    "a symlink without target": (tar(tar_header(b"a", typeflag=b"2")), "name or target is empty"),
    "a hard link to nothing": (tar(tar_header(b"a", typeflag=b"1", target=b"b")), "no earlier file"),
    "a hard link forward": (tar(tar_header(b"b", typeflag=b"1", target=b"a"), FILE), "no earlier file"),
    "a hard link outside": (tar(FILE, tar_header(b"b", typeflag=b"1", target=b"../a")), "`..`"),
    "an absolute hard link": (tar(FILE, tar_header(b"b", typeflag=b"1", target=b"/a")), "absolute"),
    "a hard link to a symlink": (
        tar(tar_header(b"a", typeflag=b"2", target=b"/x"), tar_header(b"b", typeflag=b"1", target=b"a")),
        "no earlier file",
    ),
    "a file twice": (tar(FILE, FILE), "twice"),
    "a file and a symlink of one name": (tar(FILE, tar_header(b"a", typeflag=b"2", target=b"/etc")), "twice"),
    "a directory with two modes": (
        tar(tar_header(b"a", typeflag=b"5"), tar_header(b"a", typeflag=b"5", mode=0o777)),
        "twice",
    ),
    "a file below a symlink": (
        tar(tar_header(b"a", typeflag=b"2", target=b"/etc"), tar_header(b"a/b")),
        "below 'a', which is a symlink",
    ),
    "a symlink above an earlier file": (
        tar(tar_header(b"a/b/c"), tar_header(b"a-b"), tar_header(b"a", typeflag=b"2", target=b"/etc")),
        "below 'a', which is a symlink",
    ),
    "a file below a file": (tar(FILE, tar_header(b"a/b")), "below 'a', which is a file"),
}


@pytest.mark.parametrize("case", HOSTILE_TARS)
def test_hostile_tar_is_refused(case: str) -> None:
    """Each lie is refused, by the rule made for it."""
    archive, rule = HOSTILE_TARS[case]
    assert rule in _tar_refusal(archive)


@pytest.mark.parametrize("limits", [{"entry_limit": 3}, {"names_limit": 3}, {"size_limit": 7}], ids=str)
def test_tar_limits(limits: dict[str, int]) -> None:
    """More entries, names or bytes than the caller allows are refused."""
    archive = tar(*(tar_entry(f"{number}".encode(), b"12") for number in range(4)))
    assert len(read_tar(io.BytesIO(archive), "demo.tar", entry_limit=4, names_limit=4, size_limit=8)) == 4
    with pytest.raises(NnenvError):
        read_tar(io.BytesIO(archive), "demo.tar", **limits)
