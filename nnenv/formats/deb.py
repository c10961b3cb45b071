"""What a Debian package file holds, behind a gate that leaves no room for two readings.

Source of the layout: deb(5). dpkg-deb and python-debian read 8 of 19 crafted packages differently (two data
members, unknown members, negative sizes, bytes behind the end), so exactly one form is accepted here.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.tar_reader import TarEntry, read_tar
from nnenv.formats.zip_gate import Decoder, InflateDecoder, drained

SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm", "config", "triggers")
"""Members of the control archive that make dpkg or debconf do something."""

_MAGIC = b"!<arch>\n"
_HEADER_SIZE = 60
_MEMBER_NAME = re.compile(rb"([^ ]{1,16}) *\Z")
_DIGITS = re.compile(rb"[0-9]+ *\Z")
_BLANK_OR_DIGITS = re.compile(rb"[0-9]* *\Z")
_CONTROL = re.compile(r"control\.tar(?:\.(gz|xz|zst))?\Z")
_DATA = re.compile(r"data\.tar(?:\.(gz|xz|zst|bz2))?\Z")
_FORMAT = b"2.0\n"
_CONTROL_LIMIT = 64 << 20
_CHUNK = 1 << 20
_SMALL_CHUNK = 1 << 12
"""zstd's decoder returns all that one input gives, up to 32,000 times as much."""
_MEMORY_LIMIT = 256 << 20
"""What an xz or zstd dictionary may take; `xz -9` needs 65 MiB."""
_MD5SUM = re.compile(r"([0-9a-f]{32}) [ *](?:\./)?(.+)\Z")
_REMOVED_CONFFILE = "remove-on-upgrade "


@dataclass(frozen=True, kw_only=True, slots=True)
class DebParts:
    """The small parts of an accepted package, and where its files lie."""

    control: str
    """The control file, one deb822 paragraph."""
    scripts: Mapping[str, str]
    """Text of those of `SCRIPTS` that the package has. A compiled script's bytes above 127 are lone surrogates."""
    conffiles: tuple[str, ...]
    """Absolute paths."""
    md5sums: Mapping[str, str]
    """Relative path -> 32 hex digits, as the package states it; empty if it states nothing."""
    data_compression: str
    """`gz`, `xz`, `zst`, `bz2`, or empty."""
    data_offset: int
    """Where data.tar's compressed bytes begin in the file."""
    data_size: int
    """Number of its compressed bytes."""


def read_deb(stream: BinaryIO, what: str) -> DebParts:
    """The parts of the package `stream`; data.tar is located, not read. Raises `archive-refused`."""
    total_size = stream.seek(0, 2)
    stream.seek(0)
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise _refused(what, "it does not begin with the ar signature, so it is no .deb")
    first = _read_header(stream, total_size, what)
    if first.name != "debian-binary" or stream.read(first.size) != _FORMAT:
        raise _refused(what, "its first member is not a debian-binary that says 2.0")
    control = _read_header(stream, total_size, what)
    control_match = _CONTROL.match(control.name)
    if not control_match:
        raise _refused(what, f"its second member is {control.name!r}, not control.tar, .gz, .xz or .zst")
    files = _control_files(stream, control, control_match[1] or "", what)
    stream.seek(control.end)
    data = _read_header(stream, total_size, what)
    data_match = _DATA.match(data.name)
    if not data_match:
        raise _refused(what, f"its third member is {data.name!r}, not data.tar, .gz, .xz, .zst or .bz2")
    if data.end != total_size:
        raise _refused(what, "there are bytes after data.tar")
    return DebParts(
        control=_utf8(files["control"], "control", what),
        scripts={name: files[name].decode("utf-8", "surrogateescape") for name in SCRIPTS if name in files},
        conffiles=_conffiles(_utf8(files.get("conffiles", b""), "conffiles", what), what),
        md5sums=_md5sums(_utf8(files.get("md5sums", b""), "md5sums", what), what),
        data_compression=data_match[1] or "",
        data_offset=data.offset,
        data_size=data.size,
    )


def decompress_data(stream: BinaryIO, parts: DebParts, *, limit: int, what: str = "the package") -> Iterator[bytes]:
    """data.tar, uncompressed, in chunks; raises `archive-refused` if it is broken or unpacks to more than `limit`.

    `stream` may be read elsewhere between chunks. The compressed bytes are one single stream without anything behind.
    """
    span = _Span(offset=parts.data_offset, size=parts.data_size)
    return _decompressed(stream, span, parts.data_compression, limit, f"{what}: data.tar")


def _refused(what: str, rule: str, fix: str = "") -> NnenvError:
    again = "fetch it again; if it is refused again, choose another version of the package"
    return NnenvError(
        "archive-refused", f"{what} fails the strict .deb gate", where=what, because=[rule], fix=[fix or again]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """Bytes of the package file."""

    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _ArMember:
    """One ar member whose header, size and padding are proven."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins: members are padded to an even length."""
        return self.offset + self.size + self.size % 2


def _read_header(stream: BinaryIO, total_size: int, what: str) -> _ArMember:
    """The member whose header is next; leaves the stream at its content."""
    header = stream.read(_HEADER_SIZE)
    if header[58:] != b"`\n":
        raise _refused(what, "a member's header is missing or broken")
    name = _MEMBER_NAME.match(header[:16])
    numbers = (header[16:28], header[28:34], header[34:40], header[40:48])
    if not name or not all(map(_BLANK_OR_DIGITS.match, numbers)) or not _DIGITS.match(header[48:58]):
        raise _refused(what, f"a member's header is malformed: {header!r}")
    offset = stream.tell()
    member = _ArMember(name=name[1].decode("ascii", "backslashreplace"), offset=offset, size=int(header[48:58]))
    if member.end > total_size:
        raise _refused(what, f"{member.name!r} is cut off")
    if member.size % 2:
        stream.seek(member.end - 1)
        if stream.read(1) != b"\n":
            raise _refused(what, f"{member.name!r} is not padded with a line feed")
        stream.seek(offset)
    return member


def _control_files(stream: BinaryIO, member: _ArMember, compression: str, what: str) -> dict[str, bytes]:
    """File name -> content of the control archive, which holds plain files only."""
    label = f"{what}: control.tar"
    span = _Span(offset=member.offset, size=member.size)
    content = b"".join(_decompressed(stream, span, compression, _CONTROL_LIMIT, label))
    entries = read_tar(io.BytesIO(content), label)
    for entry in entries:
        if entry.kind != "file" or "/" in entry.path:
            raise _refused(label, f"{entry.path!r} is not a plain file at the top")
    files = {entry.path: _content(content, entry) for entry in entries}
    if "control" not in files:
        raise _refused(label, "it has no control file")
    return files


def _content(archive: bytes, entry: TarEntry) -> bytes:
    return archive[entry.offset : entry.offset + entry.size]


def _utf8(content: bytes, name: str, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(what, f"{name} is not UTF-8") from None


def _conffiles(text: str, what: str) -> tuple[str, ...]:
    """The files that the package owns and an administrator may change; deb-conffiles(5)."""
    paths = [line.rstrip() for line in text.split("\n")]
    paths = [path for path in paths if path and not path.startswith(_REMOVED_CONFFILE)]
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise _refused(what, f"conffiles lists {path[:200]!r}")
    return tuple(paths)


def _md5sums(text: str, what: str) -> dict[str, str]:
    """deb-md5sums(5): md5sum's text format, relative paths."""
    sums: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        match = _MD5SUM.match(line)
        if not match or match[2] in sums:
            raise _refused(what, f"md5sums has the line {line[:200]!r}, which is malformed or a repetition")
        sums[match[2]] = match[1]
    return sums


class _ZstandardDecoder:
    """zstandard's decompressor; it cannot bound its output, so it is fed little at a time."""

    needs_input = True

    def __init__(self, module: Any) -> None:
        self._inner = module.ZstdDecompressor(max_window_size=_MEMORY_LIMIT).decompressobj(read_across_frames=False)
        self._error: type[Exception] = module.ZstdError

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        del max_length
        try:
            return bytes(self._inner.decompress(data))
        except self._error as error:
            raise ValueError(str(error)) from None


def _decoder(compression: str, what: str) -> Decoder:
    match compression:
        case "gz":
            return InflateDecoder(zlib.MAX_WBITS | 16)
        case "xz":
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
        case "bz2":
            return bz2.BZ2Decompressor()
        case _:
            return _ZstandardDecoder(_zstandard(what))


def _zstandard(what: str) -> Any:
    """The optional decoder; Debian's own archive does not use zstd, Ubuntu's does."""
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        rule = "it is compressed with zstd, and Python's `zstandard` is not installed here"
        raise _refused(what, rule, "install the distribution `zstandard` beside nnenv") from None


def _decompressed(stream: BinaryIO, span: _Span, compression: str, limit: int, what: str) -> Iterator[bytes]:
    """The uncompressed bytes of `span`; raises as soon as a rule is broken."""
    chunks = _raw(stream, span, _SMALL_CHUNK if compression == "zst" else _CHUNK, what)
    if compression:
        chunks = _expanded(chunks, _decoder(compression, what), what)
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > limit:
            raise _refused(what, f"it unpacks to more than {limit} bytes")
        yield chunk


def _raw(stream: BinaryIO, span: _Span, size: int, what: str) -> Iterator[bytes]:
    position = span.offset
    end = span.offset + span.size
    while position < end:
        stream.seek(position)
        chunk = stream.read(min(size, end - position))
        if not chunk:
            raise _refused(what, "it is cut off")
        position += len(chunk)
        yield chunk


def _expanded(chunks: Iterator[bytes], decoder: Decoder, what: str) -> Iterator[bytes]:
    for chunk in chunks:
        if decoder.eof:
            raise _refused(what, "there are bytes after its compressed stream")
        try:
            yield from drained(decoder, chunk)
        # bz2 says OSError; nothing else is read here, so it cannot be the disk's.
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            raise _refused(what, f"its compressed stream is broken ({error})") from None
    if decoder.unused_data:
        raise _refused(what, "there are bytes after its compressed stream")
    if not decoder.eof:
        raise _refused(what, "its compressed stream has no end")
