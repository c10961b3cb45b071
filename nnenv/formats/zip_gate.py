"""A zip reader for wheels that refuses whatever two readers could read in two ways.

Source of the layout: PKWARE APPNOTE 6.3.10, section 4.3. An accepted archive is exactly this, byte after byte:
local header and content of each member without gap or overlap, central directory, [zip64 end record and locator,]
end record without comment. The stdlib's `zipfile` opens 28 of 35 archives that a package index must reject, so it
is not used.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final, Protocol

from nnenv.errors import NnenvError

STORED: Final = 0
DEFLATED: Final = 8
CHUNK: Final = 1 << 20

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LONGEST_LOCAL = 2 * 0xFFFF
"""Bytes of name and extra fields at most: both lengths have 16 bits (APPNOTE 4.4.10, 4.4.11)."""

_UTF8_FLAG = 1 << 11
_HARMLESS_FLAGS = _UTF8_FLAG | 0b110
"""Bits 1 and 2 tell how hard the compressor tried (APPNOTE 4.4.4)."""
_MAX16 = 0xFFFF
_MAX32 = 0xFFFFFFFF
_ZIP64_EXTRA = 0x0001
_UNICODE_PATH_EXTRA = 0x7075
_ZIP64_PLACEHOLDERS = (_MAX32, _MAX32, _MAX32, _MAX16)
_ZIP64_LEADING = {16: 2, 24: 3, 28: 4}
"""Length of a zip64 field -> how many of size, compressed size, offset and disk it holds from the front."""
_EXTRA_HEADER = struct.Struct("<2H")
_MSDOS_DIRECTORY = 0x10
_EMPTY_DEFLATE_SIZE = 2
_NAME_LIMIT = 4096
_CENTRAL_LIMIT = 32 << 20
_MEMBER_LIMIT = 100_000
_BOMB_SIZE = 64 << 20
_BOMB_RATIO = 50
_HEAD_LIMIT = 32 << 20
_TAIL = 128 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """One regular file of an accepted archive."""

    name: str
    method: int
    """0 (stored) or 8 (deflated)."""
    crc32: int
    compressed_size: int
    size: int
    data_offset: int
    """Where the compressed bytes begin in the archive."""
    executable: bool
    """An x bit is set; nothing else of the mode is believed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CentralEntry:
    """One row of the central directory, a directory's row included; its local header is not read yet."""

    name: str
    method: int
    crc32: int
    compressed_size: int
    size: int
    header_offset: int
    end_offset: int
    """Where the next record begins: header and content are the bytes from `header_offset` up to here."""
    flags: int
    executable: bool

    @property
    def is_directory(self) -> bool:
        """True for a name that ends in a slash."""
        return self.name.endswith("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class TailTooShort:
    """The answer for a tail that does not reach back to the central directory."""

    needed_from: int
    """Ask again with the bytes from this offset to the end; after two such answers nothing more is missing."""


def read_members(stream: BinaryIO, what: str, *, size_limit: int = 64 << 30) -> tuple[ZipMember, ...]:
    """The regular files of the zip archive `stream`, in central-directory order; directories are checked and dropped.

    Reads the tail and the local headers, never the content. Raises `wheel-refused` naming `what`, member and rule.
    """
    total_size = stream.seek(0, 2)
    entries = _central_directory_of(stream, total_size, what)
    if sum(entry.size for entry in entries) > size_limit:
        raise _refused(what, "", f"its members are more than {size_limit} bytes when unpacked")
    members = []
    for entry in entries:
        member = _member(_read_local_header(stream, entry, what), entry, what)
        if not entry.is_directory:
            members.append(member)
    return tuple(members)


def read_central_directory(
    tail: bytes, tail_offset: int, total_size: int, what: str
) -> tuple[CentralEntry, ...] | TailTooShort:
    """The central directory of an archive of `total_size` bytes whose last bytes, from `tail_offset`, are `tail`.

    Every rule that needs no local header has been checked. Raises `wheel-refused`.
    """
    if tail_offset + len(tail) != total_size:
        raise _refused(what, "", f"it has {tail_offset + len(tail)} bytes where {total_size} were expected")
    end = _find_end(tail, tail_offset, total_size, what)
    if isinstance(end, TailTooShort):
        return end
    if end.central_offset < tail_offset:
        return TailTooShort(needed_from=end.central_offset)
    begin = end.central_offset - tail_offset
    entries = _parse_central(tail[begin : begin + end.central_size], end, what)
    _check_names_together(entries, what)
    return entries


def member_from_range(data: bytes, entry: CentralEntry, what: str) -> bytes:
    """The content of `entry` from `data`, which holds at least the archive's `header_offset:end_offset`.

    `data` begins at the local header. Length and CRC are checked. Raises `wheel-refused`.
    """
    record = data[: entry.end_offset - entry.header_offset]
    if len(record) < entry.end_offset - entry.header_offset:
        raise _refused(what, entry.name, "the bytes received end before the member does")
    member = _member(record, entry, what)
    compressed = record[member.data_offset - entry.header_offset :]
    return b"".join(_checked(_expand(iter([compressed]), member, what), member, what))


def member_head(data: bytes, entry: CentralEntry, what: str) -> bytes:
    """The beginning of `entry`'s content, as far as `data` goes, which begins at the local header; nothing is checked
    but the local header, since the checksum is of the whole. At most 32 MiB. Raises `wheel-refused`.
    """
    if len(data) < _LOCAL.size + _LONGEST_LOCAL and len(data) < entry.end_offset - entry.header_offset:
        raise _refused(what, entry.name, "the bytes received end before the member's content")
    member = _member(data, entry, what)
    compressed = data[member.data_offset - entry.header_offset :][: member.compressed_size]
    length = min(member.size, _HEAD_LIMIT)
    if member.method == STORED or not length:
        return compressed[:length]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, length)
    except zlib.error as error:
        raise _refused(what, entry.name, f"its deflate stream is broken ({error})") from None


def inflate(stream: BinaryIO, member: ZipMember, what: str = "the wheel") -> Iterator[bytes]:
    """The content of `member` in chunks of at most 1 MiB; length and CRC are checked before the last chunk is out.

    `stream` may be read elsewhere between chunks. Raises `wheel-refused`, also for bytes after the deflate stream.
    """
    return inflate_chunks(_compressed_chunks(stream, member, what), member, what)


def inflate_chunks(chunks: Iterator[bytes], member: ZipMember, what: str = "the wheel") -> Iterator[bytes]:
    """As `inflate`, for one who reads the compressed bytes anyway: `chunks` are all of them, as they stand."""
    return _checked(_expand(chunks, member, what), member, what)


def read_member(stream: BinaryIO, member: ZipMember, limit: int = 64 << 20, what: str = "the wheel") -> bytes:
    """The whole content of a small member; raises `wheel-refused` if it is larger than `limit`."""
    if member.size > limit:
        raise _refused(what, member.name, f"it has {member.size} bytes where at most {limit} are reasonable")
    return b"".join(inflate(stream, member, what))


def _refused(what: str, member: str, rule: str) -> NnenvError:
    named = f"{member!r}: " if member else ""
    return NnenvError(
        "wheel-refused",
        f"{what} fails the strict zip gate",
        where=what,
        because=[f"{named}{rule}"],
        fix=["fetch it again; if it is refused again, choose another version or ask its publisher to rebuild it"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """What the end records say, proven to fit the file's length."""

    count: int
    central_size: int
    central_offset: int


def _central_directory_of(stream: BinaryIO, total_size: int, what: str) -> tuple[CentralEntry, ...]:
    start = max(0, total_size - _TAIL)
    while True:
        stream.seek(start)
        answer = read_central_directory(stream.read(total_size - start), start, total_size, what)
        if not isinstance(answer, TailTooShort):
            return answer
        start = answer.needed_from


def _find_end(tail: bytes, tail_offset: int, total_size: int, what: str) -> _End | TailTooShort:
    if total_size < _END.size:
        raise _refused(what, "", "it is too short to be a zip archive")
    both = _END.size + _LOCATOR64.size + _END64.size
    if len(tail) < min(both, total_size):
        return TailTooShort(needed_from=max(0, total_size - both))
    signature, disk, central_disk, here, count, size, offset, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise _refused(what, "", "it does not end with an end record without comment (truncated, or bytes added)")
    stated = (disk, central_disk, here, count, size, offset)
    central_end = total_size - _END.size
    if total_size >= both and tail[-_END.size - _LOCATOR64.size :].startswith(b"PK\x06\x07"):
        central_end = total_size - both
        stated = _zip64_end(tail[-both:], central_end, stated, what)
    disk, central_disk, here, count, size, offset = stated
    if disk or central_disk or here != count:
        raise _refused(what, "", "it claims to span several disks")
    if offset + size != central_end:
        raise _refused(what, "", "the central directory does not end where the end record begins")
    if size > _CENTRAL_LIMIT or count > _MEMBER_LIMIT:
        raise _refused(what, "", f"it has more than {_MEMBER_LIMIT} members or a directory over {_CENTRAL_LIMIT} bytes")
    return _End(count=count, central_size=size, central_offset=offset)


def _zip64_end(tail: bytes, offset: int, stated: tuple[int, ...], what: str) -> tuple[int, int, int, int, int, int]:
    """The end record's six numbers from the zip64 record at `offset`; each must equal the short one or replace it."""
    signature, size, _, _, *wide = _END64.unpack(tail[: _END64.size])
    _, locator_disk, locator_offset, disks = _LOCATOR64.unpack(tail[_END64.size : _END64.size + _LOCATOR64.size])
    if signature != b"PK\x06\x06" or size != _END64.size - 12:
        raise _refused(what, "", "the zip64 end record is missing, or has data of its own")
    if locator_disk or disks != 1 or locator_offset != offset:
        raise _refused(what, "", "the zip64 locator does not point at the zip64 end record")
    for short, long, placeholder in zip(stated, wide, (_MAX16,) * 4 + (_MAX32,) * 2, strict=True):
        if short not in (long, placeholder):
            raise _refused(what, "", "the zip64 end record disagrees with the end record")
    disk, central_disk, here, count, central_size, central_offset = wide
    return disk, central_disk, here, count, central_size, central_offset


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A central row before it is known where the next record begins."""

    name: str
    flags: int
    method: int
    crc32: int
    compressed_size: int
    size: int
    header_offset: int
    executable: bool


def _parse_central(data: bytes, end: _End, what: str) -> tuple[CentralEntry, ...]:
    rows = []
    position = 0
    for _ in range(end.count):
        row, position = _parse_row(data, position, what)
        rows.append(row)
    if position != len(data):
        raise _refused(what, "", "the central directory has bytes after its last member")
    ends = _record_ends(rows, end.central_offset, what)
    return tuple(_entry(row, ends[row.header_offset], what) for row in rows)


def _parse_row(data: bytes, position: int, what: str) -> tuple[_Row, int]:
    if len(data) < position + _CENTRAL.size:
        raise _refused(what, "", "the central directory ends before its last member")
    fields = _CENTRAL.unpack_from(data, position)
    signature, _, _, flags, method, _, _, crc32, compressed_size, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, attributes, header_offset = fields[10:]
    name_at = position + _CENTRAL.size
    extra_at = name_at + name_length
    if signature != b"PK\x01\x02" or extra_at + extra_length > len(data):
        raise _refused(what, "", "the central directory is not made of member records")
    name = _decoded_name(data[name_at:extra_at], flags, what)
    if comment_length:
        raise _refused(what, name, "it has a comment")
    extra = _extra_fields(data[extra_at : extra_at + extra_length], name, what)
    _check_unicode_path(extra, data[name_at:extra_at], name, what)
    stated = (size, compressed_size, header_offset, disk)
    size, compressed_size, header_offset, disk = _with_zip64(stated, extra, name, what)
    _check_flags(flags, method, disk, name, what)
    row = _Row(
        name=name,
        flags=flags,
        method=method,
        crc32=crc32,
        compressed_size=compressed_size,
        size=size,
        header_offset=header_offset,
        executable=_executable(attributes, name, what),
    )
    _check_sizes(row, what)
    return row, extra_at + extra_length


def _entry(row: _Row, end_offset: int, what: str) -> CentralEntry:
    if row.header_offset + _LOCAL.size + row.compressed_size > end_offset:
        raise _refused(what, row.name, "it overlaps the record behind it")
    return CentralEntry(
        name=row.name,
        method=row.method,
        crc32=row.crc32,
        compressed_size=row.compressed_size,
        size=row.size,
        header_offset=row.header_offset,
        end_offset=end_offset,
        flags=row.flags,
        executable=row.executable,
    )


def _record_ends(rows: list[_Row], central_offset: int, what: str) -> dict[int, int]:
    """Header offset -> where the next record begins. The first must begin at 0, no two at one place."""
    starts = sorted(row.header_offset for row in rows)
    if (starts[0] if starts else central_offset) != 0:
        raise _refused(what, "", "there are bytes before the first member")
    ends = dict(pairwise([*starts, central_offset]))
    if len(ends) != len(starts):
        raise _refused(what, "", "two members share one local header")
    return ends


def _decoded_name(raw: bytes, flags: int, what: str) -> str:
    """The name as text; raises unless it is one relative, portable path (APPNOTE 4.4.17, appendix D)."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8_FLAG else "ascii")
    except UnicodeDecodeError:
        raise _refused(what, repr(raw[:200]), "its name is neither ASCII nor marked as UTF-8") from None
    fault = _name_fault(name, len(raw))
    if fault:
        raise _refused(what, name[:200], fault)
    return name


def _name_fault(name: str, length: int) -> str:
    """The rule that `name` breaks, or nothing."""
    parts = name.removesuffix("/").split("/")
    if length > _NAME_LIMIT:
        return f"its name is longer than {_NAME_LIMIT} bytes"
    if "" in parts:
        return "its name is empty, absolute or has an empty component"
    if "." in parts or ".." in parts:
        return "its name has a `.` or `..` component"
    if "\\" in name or (
        not (name.isascii() and name.isprintable()) and any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name)
    ):
        return "its name has a backslash or a control character"
    if not unicodedata.is_normalized("NFC", name):
        return "its name is not in Unicode normal form C"
    return ""


def _extra_fields(data: bytes, name: str, what: str) -> dict[int, bytes]:
    """Extra field id -> content (APPNOTE 4.5); the two ids whose meaning matters may occur once."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        remaining = len(data) - position - _EXTRA_HEADER.size
        kind, length = _EXTRA_HEADER.unpack_from(data, position) if remaining >= 0 else (0, 0)
        position += _EXTRA_HEADER.size
        if length > remaining:
            raise _refused(what, name, "its extra fields do not fill their space exactly")
        if kind in fields and kind in (_ZIP64_EXTRA, _UNICODE_PATH_EXTRA):
            raise _refused(what, name, f"extra field 0x{kind:04x} occurs twice")
        fields[kind] = data[position : position + length]
        position += length
    return fields


def _with_zip64(stated: tuple[int, ...], extra: dict[int, bytes], name: str, what: str) -> tuple[int, ...]:
    """(size, compressed size[, offset, disk]) with each all-ones placeholder replaced from the zip64 field.

    APPNOTE 4.5.3: the field holds the placeholders' values in this order. Go's writer puts in all sizes whenever it
    puts in one; that is allowed if the others repeat what the header says.
    """
    needed = [value == placeholder for value, placeholder in zip(stated, _ZIP64_PLACEHOLDERS, strict=False)]
    field = extra.get(_ZIP64_EXTRA)
    if field is None and any(needed):
        raise _refused(what, name, "it needs a zip64 field and has none")
    if field is None:
        return stated
    values = _zip64_values(field, stated, needed)
    leading = _ZIP64_LEADING.get(len(field), 0)
    if values is None and not any(needed[leading:]):
        values = _zip64_values(field, stated, [index < leading for index in range(len(stated))])
    if values is None:
        raise _refused(what, name, "its zip64 field has the wrong length")
    for short, wide, replaced in zip(stated, values, needed, strict=True):
        if not replaced and short != wide:
            raise _refused(what, name, "its zip64 field disagrees with its header")
    return values


def _zip64_values(field: bytes, stated: tuple[int, ...], present: list[bool]) -> tuple[int, ...] | None:
    """`stated` with the values marked as `present` taken from `field`; None if those do not fill it exactly."""
    layout = "<" + "".join(code for code, is_present in zip("QQQI", present, strict=False) if is_present)
    if struct.calcsize(layout) != len(field):
        return None
    wide = iter(struct.unpack(layout, field))
    return tuple(next(wide) if is_present else value for value, is_present in zip(stated, present, strict=True))


def _check_unicode_path(extra: dict[int, bytes], raw: bytes, name: str, what: str) -> None:
    """APPNOTE 4.6.9: version 1, CRC of the header's name, the name as UTF-8; it must say the same name again."""
    field = extra.get(_UNICODE_PATH_EXTRA)
    if field is not None and field != b"\x01" + struct.pack("<I", zlib.crc32(raw)) + name.encode():
        raise _refused(what, name, "its unicode-path field gives it another name")


def _check_flags(flags: int, method: int, disk: int, name: str, what: str) -> None:
    if flags & ~_HARMLESS_FLAGS:
        raise _refused(what, name, f"flags 0x{flags:04x}: it is encrypted, patched or has a data descriptor")
    if method not in (STORED, DEFLATED):
        raise _refused(what, name, f"compression method {method}; only stored (0) and deflated (8) are read")
    if disk:
        raise _refused(what, name, "it claims to be on another disk")


def _executable(attributes: int, name: str, what: str) -> bool:
    """Whether an x bit is set; refuses links, devices, setuid, setgid, and a kind that the name contradicts.

    The high half is believed whatever system the archive says it was made on, because readers differ about that.
    """
    mode = attributes >> 16
    kind = stat.S_IFMT(mode)
    is_directory = name.endswith("/")
    if kind not in (0, stat.S_IFDIR if is_directory else stat.S_IFREG):
        raise _refused(what, name, f"mode {mode:o}: it is a link or device, or its name says another kind")
    if not is_directory and attributes & _MSDOS_DIRECTORY:
        raise _refused(what, name, "its attributes say directory, its name says file")
    if not is_directory and mode & (stat.S_ISUID | stat.S_ISGID):
        raise _refused(what, name, f"mode {mode:o}: it is setuid or setgid")
    return not is_directory and bool(mode & 0o111)


def _check_sizes(row: _Row, what: str) -> None:
    if row.method == STORED and row.size != row.compressed_size:
        raise _refused(what, row.name, "it is stored with two different sizes")
    if row.name.endswith("/") and (row.size or row.compressed_size > _EMPTY_DEFLATE_SIZE):
        raise _refused(what, row.name, "it is a directory with content")
    if row.size > _BOMB_SIZE and row.size > row.compressed_size * _BOMB_RATIO:
        raise _refused(what, row.name, f"it grows more than {_BOMB_RATIO} times, to {row.size} bytes")


def _check_names_together(entries: tuple[CentralEntry, ...], what: str) -> None:
    """No name twice, also on a file system that ignores case; no file where another member needs a directory."""
    # With the separator sorting before every other character, what lies below a name comes right after it.
    ordered = sorted((_folded(entry.name).replace("/", "\0"), entry.name) for entry in entries)
    for (key, name), (next_key, next_name) in pairwise(ordered):
        if key == next_key:
            raise _refused(what, next_name, f"{name!r} has the same name, or one that differs in case only")
        if not name.endswith("/") and next_key.startswith(key + "\0"):
            raise _refused(what, next_name, f"{name!r} is a file, so nothing can lie below it")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.removesuffix("/").casefold())


def _read_local_header(stream: BinaryIO, entry: CentralEntry, what: str) -> bytes:
    """The record's first bytes: the local header with name and extra fields."""
    stream.seek(entry.header_offset)
    fixed = stream.read(_LOCAL.size)
    if len(fixed) < _LOCAL.size:
        raise _refused(what, entry.name, "its local header is missing")
    name_length, extra_length = _LOCAL.unpack(fixed)[9:]
    return fixed + stream.read(name_length + extra_length)


def _member(record: bytes, entry: CentralEntry, what: str) -> ZipMember:
    """`entry` as a member, once the local header at the start of `record` says what the central directory says."""
    signature, _, flags, method, _, _, crc32, compressed_size, size, name_length, extra_length = _LOCAL.unpack_from(
        record
    )
    if signature != b"PK\x03\x04":
        raise _refused(what, entry.name, "its local header is missing")
    extra_at = _LOCAL.size + name_length
    raw = record[_LOCAL.size : extra_at]
    extra = _extra_fields(record[extra_at : extra_at + extra_length], entry.name, what)
    _check_unicode_path(extra, raw, entry.name, what)
    size, compressed_size = _with_zip64((size, compressed_size), extra, entry.name, what)
    local = (raw, flags, method, crc32, compressed_size, size)
    central = (entry.name.encode(), entry.flags, entry.method, entry.crc32, entry.compressed_size, entry.size)
    labels = ("name", "flags", "method", "CRC", "compressed size", "size")
    for label, here, there in zip(labels, local, central, strict=True):
        if here != there:
            raise _refused(what, entry.name, f"local header and central directory give it two values of {label}")
    data_offset = entry.header_offset + extra_at + extra_length
    if data_offset + entry.compressed_size != entry.end_offset:
        raise _refused(what, entry.name, "there is a gap or an overlap between it and the record behind it")
    return ZipMember(
        name=entry.name,
        method=entry.method,
        crc32=entry.crc32,
        compressed_size=entry.compressed_size,
        size=entry.size,
        data_offset=data_offset,
        executable=entry.executable,
    )


def _compressed_chunks(stream: BinaryIO, member: ZipMember, what: str) -> Iterator[bytes]:
    position = member.data_offset
    end = position + member.compressed_size
    while position < end:
        stream.seek(position)
        chunk = stream.read(min(CHUNK, end - position))
        if not chunk:
            raise _refused(what, member.name, "the archive ends inside it")
        position += len(chunk)
        yield chunk


def _expand(chunks: Iterator[bytes], member: ZipMember, what: str) -> Iterator[bytes]:
    """The uncompressed bytes; the deflate stream must end exactly with the compressed bytes."""
    if member.method == STORED:
        yield from chunks
        return
    decoder = InflateDecoder(-zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            if decoder.eof:
                raise _refused(what, member.name, "there are bytes after its deflate stream")
            yield from drained(decoder, chunk)
    except zlib.error as error:
        raise _refused(what, member.name, f"its deflate stream is broken ({error})") from None
    if decoder.unused_data:
        raise _refused(what, member.name, "there are bytes after its deflate stream")
    if not decoder.eof:
        raise _refused(what, member.name, "its deflate stream has no end")


class Decoder(Protocol):
    """The face that `lzma` and `bz2` give their decompressors; one object decodes exactly one stream."""

    @property
    def eof(self) -> bool:
        """The end of the stream has been reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was given after the end of the stream."""
        ...

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out before something more goes in."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes of output."""
        ...


class InflateDecoder:
    """zlib's decompressor as a `Decoder`."""

    def __init__(self, window_bits: int) -> None:
        """`window_bits` as in `zlib.decompressobj`: negative for raw deflate, 31 for one gzip member."""
        self._inner = zlib.decompressobj(window_bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """The end of the stream has been reached."""
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        """What was given after the end of the stream."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes; `needs_input` says whether more come without more input. Raises zlib.error."""
        output = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(output) < max_length
        return output


def drained(decoder: Decoder, data: bytes) -> Iterator[bytes]:
    """All that comes out of `decoder` when `data` goes in, in chunks of at most 1 MiB; raises what it raises."""
    output = decoder.decompress(data, CHUNK)
    while output:
        yield output
        if decoder.eof or decoder.needs_input:
            return
        output = decoder.decompress(b"", CHUNK)


def _checked(chunks: Iterator[bytes], member: ZipMember, what: str) -> Iterator[bytes]:
    """`chunks` as they are; raises as soon as they are too long, at the end if too short or of another CRC.

    One chunk is held back, so that a reader which stops at the stated length has seen the CRC checked.
    """
    crc32, length = 0, 0
    held = b""
    for chunk in chunks:
        length += len(chunk)
        if length > member.size:
            raise _refused(what, member.name, f"it unpacks to more than the {member.size} bytes it states")
        crc32 = zlib.crc32(chunk, crc32)
        if held:
            yield held
        held = chunk
    if length != member.size:
        raise _refused(what, member.name, f"it unpacks to {length} bytes and states {member.size}")
    if crc32 != member.crc32:
        raise _refused(what, member.name, "its content does not have the CRC it states")
    if held:
        yield held
