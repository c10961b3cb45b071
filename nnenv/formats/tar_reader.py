"""A tar reader that refuses whatever two readers could read in two ways, and unpacks nothing.

.debs are read in full strictness. Archives that others made of models may hold what says nothing of names and contents:
pax records of other tools, devices.

Source of the layout: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; the GNU tar manual,
"Basic Tar Format", for long names and base-256 numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO, Final, Literal

from nnenv.errors import NnenvError

TarKind = Literal["file", "dir", "symlink", "hardlink"]

_BLOCK: Final = 512
_ZERO_BLOCK = bytes(_BLOCK)
_CHUNK = 1 << 20
_KINDS: dict[bytes, TarKind] = {b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"5": "dir"}
_OTHER_KINDS = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"g": "a global pax header",
}
_POSIX_MAGIC = b"ustar\x0000"
_GNU_MAGIC = b"ustar  \0"
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*\Z")
_BASE_256_MARK = 0x80
"""First byte of a positive number in base 256; negative ones begin with 0xff and mean nothing here."""
_PAX_USED = frozenset({"path", "linkpath", "size"})
_PAX_IGNORED = frozenset({"mtime", "atime", "ctime", "uid", "gid", "uname", "gname"})
_PAX_MEANINGFUL = ("GNU.sparse", "SCHILY.realsize", "hdrcharset", "charset")
"""How keys begin that change what other records mean."""
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]+)=")
_PAX_LIMIT = 64 << 10
_DECIMAL = re.compile(r"[0-9]{1,18}\Z")
_OCTAL_SIZE_LIMIT = 8**11
"""The first size that a ustar header cannot hold."""
_NAME_LIMIT = 4096
_DEPTH_LIMIT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class TarEntry:
    """One entry of an accepted archive."""

    path: str
    """Relative, without leading `./` and without trailing slash."""
    kind: TarKind
    mode: int
    """The 12 permission bits as stated, setuid included."""
    size: int
    """Bytes of content, 0 unless a file."""
    offset: int
    """Where the content begins in the uncompressed archive."""
    target: str
    """Symlink: the text as stated. Hard link: the `path` of an earlier file. Else empty."""


def read_tar(
    stream: BinaryIO,
    what: str,
    *,
    entry_limit: int = 250_000,
    names_limit: int = 64 << 20,
    size_limit: int = 64 << 30,
) -> tuple[TarEntry, ...]:
    """The entries of the uncompressed archive `stream`, in archive order; `./` itself is dropped.

    Reads headers only and skips content, by seeking where `stream` can. The names are what is kept in memory, so
    `names_limit` bounds their length together; `size_limit` bounds the content together.
    Raises `archive-refused` naming `what`, entry and rule.
    """
    reader = _Blocks(stream, what)
    entries: list[TarEntry] = []
    directories: dict[str, int] = {}
    content_size = names_size = 0
    while (entry := _next_entry(reader, size_limit - content_size, what)) is not None:
        content_size += entry.size
        names_size += len(entry.path) + len(entry.target)
        reader.skip(entry.size + -entry.size % _BLOCK)
        # A directory may be stated again with the same mode; only the first counts.
        is_repetition = entry.kind == "dir" and directories.get(entry.path) == entry.mode
        if entry.path and not is_repetition:
            entries.append(entry)
        if entry.kind == "dir":
            directories[entry.path] = entry.mode
        if len(entries) > entry_limit or names_size > names_limit:
            raise _refused(what, "", f"it has more than {entry_limit} entries, or {names_limit} characters of names")
    reader.expect_zeros_to_the_end()
    _check_tree(entries, what)
    _check_hard_links(entries, what)
    return tuple(entries)


def tar_contents(
    stream: BinaryIO, what: str, *, entry_limit: int = 250_000, size_limit: int = 256 << 30
) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Each entry of an archive that anybody made, with its content in chunks of at most 1 MiB, in one pass.

    The content must be taken before the next entry, or not at all. Nothing is said about entries together: a path may
    come twice. Raises `archive-refused` naming `what`, entry and rule, at the latest at the end.
    """
    reader = _Blocks(stream, what)
    content_size = count = 0
    while (entry := _next_entry(reader, size_limit - content_size, what, foreign=True)) is not None:
        content_size += entry.size
        count += 1
        if count > entry_limit:
            raise _refused(what, "", f"it has more than {entry_limit} entries")
        begun = reader.position
        if entry.path:
            yield entry, reader.chunks(entry.size)
        reader.skip(entry.size + -entry.size % _BLOCK - (reader.position - begun))
    reader.expect_zeros_to_the_end()


def _refused(what: str, entry: str, rule: str) -> NnenvError:
    named = f"{entry[:200]!r}: " if entry else ""
    return NnenvError(
        "archive-refused",
        f"{what} holds a tar archive that fails the strict gate",
        where=what,
        because=[f"{named}{rule}"],
        fix=["fetch it again; if it is refused again, choose another version of the package"],
    )


class _Blocks:
    """Forward reads that know their position and insist on getting what they ask for."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        self._stream = stream
        self._what = what
        self.position = 0

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.position += len(content)
        if len(content) != size:
            raise _refused(self._what, "", f"it is cut off at byte {self.position}")
        return content

    def chunks(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.read(min(size, _CHUNK))
            size -= len(chunk)
            yield chunk

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. A seek beyond the end shows at the next read."""
        if self._stream.seekable():
            self._stream.seek(size, 1)
            self.position += size
            return
        while size:
            size -= len(self.read(min(size, _CHUNK)))

    def expect_zeros_to_the_end(self) -> None:
        """Writers pad to a record of 10240 bytes; nothing but zero blocks may follow the end mark."""
        while chunk := self._stream.read(_CHUNK):
            self.position += len(chunk)
            if chunk.strip(b"\0"):
                raise _refused(self._what, "", "there are bytes after its end mark")
        if self.position % _BLOCK:
            raise _refused(self._what, "", "its last block is incomplete")


@dataclass(kw_only=True, slots=True)
class _Overrides:
    """What extension headers say about the entry behind them, each at most once."""

    values: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: str, what: str) -> None:
        if key in self.values:
            raise _refused(what, value, f"two extension headers state its {key}")
        self.values[key] = value


def _next_entry(reader: _Blocks, size_limit: int, what: str, *, foreign: bool = False) -> TarEntry | None:
    """The next entry with its extension headers applied; None at the end mark of two zero blocks."""
    overrides = _Overrides()
    while True:
        header = reader.read(_BLOCK)
        if header == _ZERO_BLOCK:
            if overrides.values or reader.read(_BLOCK) != _ZERO_BLOCK:
                raise _refused(what, "", "its end mark is not two zero blocks behind an entry")
            return None
        _check_header(header, what)
        typeflag = header[156:157]
        if typeflag in (b"L", b"K"):
            _read_long_name(reader, header, "path" if typeflag == b"L" else "linkpath", overrides, what)
        elif typeflag == b"x":
            _read_pax(reader, header, overrides, what, foreign=foreign)
        elif foreign and typeflag == b"g":
            everywhere = _Overrides()
            _read_pax(reader, header, everywhere, what, foreign=True)
            if everywhere.values:
                raise _refused(what, "", "a global pax header states a name or size")
        elif foreign and typeflag in (b"3", b"4", b"6"):
            if _number(header[124:136], "size", what):
                raise _refused(what, "", f"an entry has content and is {_OTHER_KINDS[typeflag]}")
            overrides = _Overrides()
        else:
            return _entry(header, overrides.values, reader.position, size_limit, what)


def _check_header(header: bytes, what: str) -> None:
    stated = _number(header[148:156], "checksum", what)
    if stated != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        raise _refused(what, "", "a header does not have the checksum it states")
    magic = header[257:265]
    if magic not in (_POSIX_MAGIC, _GNU_MAGIC):
        raise _refused(what, "", f"a header has the magic {magic!r}; only POSIX ustar and GNU are read")
    # GNU keeps times in the place of the prefix and some readers take them for one.
    if magic == _GNU_MAGIC and header[345:500].strip(b"\0"):
        raise _refused(what, "", "a GNU header has data where POSIX has a name prefix")


def _number(raw: bytes, label: str, what: str) -> int:
    """Octal digits, or base 256 where the first bit is set (GNU)."""
    if raw[0] == _BASE_256_MARK:
        return int.from_bytes(raw[1:], "big")
    match = _OCTAL.match(raw)
    if not match:
        raise _refused(what, "", f"a header has the {label} {raw!r}")
    return int(match[1], 8)


def _text(raw: bytes, what: str) -> str:
    """A field's text up to its first NUL, behind which only NULs may come."""
    value, _, rest = raw.partition(b"\0")
    if rest.strip(b"\0"):
        raise _refused(what, repr(value), "its name has a NUL byte inside")
    return _decoded(value, what)


def _decoded(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(what, repr(raw), "its name is not UTF-8") from None


def _read_long_name(reader: _Blocks, header: bytes, key: str, overrides: _Overrides, what: str) -> None:
    size = _number(header[124:136], "size", what)
    if not 1 < size <= _NAME_LIMIT + 1:
        raise _refused(what, "", f"a GNU long name has {size} bytes")
    raw = reader.read(size + -size % _BLOCK)[:size]
    if not raw.endswith(b"\0"):
        raise _refused(what, repr(raw[:80]), "a GNU long name does not end with NUL")
    overrides.put(key, _text(raw, what), what)


def _read_pax(reader: _Blocks, header: bytes, overrides: _Overrides, what: str, *, foreign: bool = False) -> None:
    """Records `LENGTH KEY=VALUE\\n`, where LENGTH counts the whole record."""
    size = _number(header[124:136], "size", what)
    if not 0 < size <= _PAX_LIMIT:
        raise _refused(what, "", f"a pax header has {size} bytes")
    rest = reader.read(size + -size % _BLOCK)[:size]
    while rest:
        match = _PAX_RECORD.match(rest)
        length = int(match[1]) if match else 0
        # What has matched holds no line feed and nothing lies beyond the end, so this proves the length as well.
        if not match or rest[length - 1 : length] != b"\n":
            raise _refused(what, "", f"a pax header has the malformed record {rest[:80]!r}")
        key = _decoded(match[2], what)
        known = key in _PAX_USED | _PAX_IGNORED or (foreign and not key.startswith(_PAX_MEANINGFUL))
        if not known:
            raise _refused(what, "", f"a pax header states {key[:80]!r}, which has no rule here")
        if key in _PAX_USED:
            overrides.put(key, _decoded(rest[match.end() : length - 1], what), what)
        rest = rest[length:]


def _entry(header: bytes, overrides: dict[str, str], offset: int, size_limit: int, what: str) -> TarEntry:
    path = overrides.get("path", _ustar_path(header, what))
    typeflag = header[156:157]
    kind = _KINDS.get(typeflag)
    if kind is None:
        raise _refused(what, path, f"it is {_OTHER_KINDS.get(typeflag, f'of type {typeflag!r}')}")
    size = _size(header, overrides, path, what)
    if size and kind != "file":
        raise _refused(what, path, "it has content and is no file")
    if size > size_limit:
        raise _refused(what, path, "the entries up to it are larger than the limit")
    target = overrides.get("linkpath", _text(header[157:257], what))
    return TarEntry(
        path=_relative(path, kind, what),
        kind=kind,
        mode=_number(header[100:108], "mode", what) & 0o7777,
        size=size,
        offset=offset,
        target=_target(path, kind, target, what),
    )


def _ustar_path(header: bytes, what: str) -> str:
    name = _text(header[:100], what)
    prefix = _text(header[345:500], what)
    return f"{prefix}/{name}" if prefix else name


def _size(header: bytes, overrides: dict[str, str], path: str, what: str) -> int:
    """The pax size wins; a reader that ignores it must not land in the content, so both must agree.

    Only a size that ustar cannot hold may stand beside a zero there.
    """
    short = _number(header[124:136], "size", what)
    if "size" not in overrides:
        return short
    stated = overrides["size"]
    if not _DECIMAL.match(stated):
        raise _refused(what, path, f"its pax header states the size {stated[:80]!r}")
    size = int(stated)
    if short != size and (short or size < _OCTAL_SIZE_LIMIT):
        raise _refused(what, path, f"its pax header states {size} bytes, its ustar header {short}")
    return size


def _relative(path: str, kind: TarKind, what: str) -> str:
    """`path` without `./` before and slash behind; empty for `./` itself. Raises unless it stays below."""
    if kind == "dir" and path in (".", "./"):
        return ""
    relative = path.removeprefix("./")
    if kind == "dir":
        relative = relative.removesuffix("/")
    fault = _path_fault(path) or _parts_fault(relative.split("/"))
    if fault:
        raise _refused(what, path, fault)
    return relative


def _parts_fault(parts: list[str]) -> str:
    """The rule that the components of a relative path break, or nothing."""
    if "" in parts or "." in parts or ".." in parts:
        return "its name is absolute or has an empty, `.` or `..` component"
    if len(parts) > _DEPTH_LIMIT:
        return f"it lies more than {_DEPTH_LIMIT} directories deep"
    return ""


def _path_fault(path: str) -> str:
    """The rule that holds for names and link targets alike and that `path` breaks, or nothing."""
    if not path:
        return "its name or target is empty"
    if len(path.encode()) > _NAME_LIMIT:
        return f"its name or target is longer than {_NAME_LIMIT} bytes"
    if any(unicodedata.category(character) == "Cc" for character in path):
        return "its name or target has a control character"
    return ""


def _target(path: str, kind: TarKind, target: str, what: str) -> str:
    if kind == "hardlink":
        return _relative(target, kind, what)
    if kind != "symlink":
        if target:
            raise _refused(what, path, "it has a link target and is no link")
        return ""
    fault = _path_fault(target)
    if fault:
        raise _refused(what, path, fault)
    return target


def _check_tree(entries: Sequence[TarEntry], what: str) -> None:
    """No path twice, nothing below a file or link."""
    # With the separator sorting before every other character, what lies below a path comes right after it.
    ordered = sorted((entry.path.replace("/", "\0"), entry.path, entry.kind) for entry in entries)
    for (key, path, kind), (next_key, next_path, _) in pairwise(ordered):
        if key == next_key:
            raise _refused(what, next_path, "it is in the archive twice, and not as the same directory")
        if kind != "dir" and next_key.startswith(key + "\0"):
            raise _refused(what, next_path, f"it lies below {path!r}, which is a {kind}")


def _check_hard_links(entries: Sequence[TarEntry], what: str) -> None:
    """A hard link names a file that comes before it, so that one pass can resolve it."""
    files: set[str] = set()
    for entry in entries:
        if entry.kind == "hardlink" and entry.target not in files:
            raise _refused(what, entry.path, f"it links to {entry.target!r}, which is no earlier file")
        if entry.kind in ("file", "hardlink"):
            files.add(entry.path)
