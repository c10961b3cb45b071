"""Tar headers with our own bytes: ustar, and PAX only where ustar has no room.

Source: POSIX.1-2017, the pax utility, ustar Interchange Format and pax Extended Header.
The bytes are part of an image's identity, so no library version may change them.
"""

from __future__ import annotations

from typing import Final, Literal

TarKind = Literal["file", "dir", "symlink", "hardlink"]

BLOCK: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
"""Two zero blocks; no padding to a 10 KiB record, which only tapes needed."""

_TYPEFLAG: Final[dict[str, bytes]] = {"file": b"0", "hardlink": b"1", "symlink": b"2", "dir": b"5"}
_NAME_LIMIT: Final = 100
_SIZE_LIMIT: Final = 8**11
_IDENTITY_LIMIT: Final = 8**7
_PAX_NAME: Final = b"././@PaxHeader"
_PAX_MODE: Final = 0o644
_CHECKSUM_AS_SPACES: Final = 8 * ord(" ")
_MAGIC: Final = b"ustar\x0000"
_MAGIC_SUM: Final = sum(_MAGIC)


def header(
    path: str,
    kind: TarKind,
    *,
    size: int = 0,
    mode: int,
    target: str = "",
    uid: int = 0,
    gid: int = 0,
    mtime: int,
) -> bytes:
    """The header block of one entry, with a PAX extended header before it where ustar has no room.

    `path` is relative and without a trailing slash; a directory's gets one.
    Only a file has a `size` other than 0; only links have a `target`.
    User and group names stay empty.
    ValueError if a number cannot be written, or a name holds NUL: the caller has checked its input before.
    """
    if size < 0 or not (0 <= uid < _IDENTITY_LIMIT and 0 <= gid < _IDENTITY_LIMIT and 0 <= mtime < _SIZE_LIMIT):
        raise ValueError(f"tar header for {path!r}: size, uid, gid or mtime out of range")
    if kind == "dir":
        path += "/"
    name, link = path.encode(), target.encode()
    if b"\0" in name or b"\0" in link:
        raise ValueError(f"tar header for {path!r}: a name holds NUL")
    records = _records(path, name, target, link, size)
    if not records:
        return _block(name, _TYPEFLAG[kind], link, size=size, mode=mode, uid=uid, gid=gid, mtime=mtime)
    # Readers that know PAX ignore what stands here instead; a cut name must not end in "/",
    # which makes old readers take a file for a directory.
    name = path.encode("ascii", "replace")[:_NAME_LIMIT]
    name = name if kind == "dir" else name.rstrip(b"/")
    link = target.encode("ascii", "replace")[:_NAME_LIMIT]
    size_field = size if size < _SIZE_LIMIT else 0
    extended = _block(_PAX_NAME, b"x", b"", size=len(records), mode=_PAX_MODE, uid=0, gid=0, mtime=mtime)
    extended += records + padding(len(records))
    return extended + _block(name, _TYPEFLAG[kind], link, size=size_field, mode=mode, uid=uid, gid=gid, mtime=mtime)


def padding(size: int) -> bytes:
    """The zero bytes that follow `size` bytes of content up to the next block."""
    return bytes(-size % BLOCK)


def _records(path: str, name: bytes, target: str, link: bytes, size: int) -> bytes:
    """The PAX records this entry needs, or nothing."""
    records = b""
    if len(name) > _NAME_LIMIT or not path.isascii():
        records += _record(b"path", name)
    if len(link) > _NAME_LIMIT or not target.isascii():
        records += _record(b"linkpath", link)
    if size >= _SIZE_LIMIT:
        records += _record(b"size", b"%d" % size)
    return records


def _record(keyword: bytes, value: bytes) -> bytes:
    """`LENGTH keyword=value\\n`, where LENGTH counts its own digits (POSIX.1-2017, pax Extended Header)."""
    rest = b" %b=%b\n" % (keyword, value)
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%b" % (length, rest)


def _block(name: bytes, typeflag: bytes, link: bytes, *, size: int, mode: int, uid: int, gid: int, mtime: int) -> bytes:
    """One 512-byte ustar block."""
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    # The checksum counts the other bytes as unsigned and its own field as spaces.
    checksum = sum(name) + sum(numbers) + sum(link) + typeflag[0] + _MAGIC_SUM + _CHECKSUM_AS_SPACES
    block = b"%b%b%06o\0 %b%b%b" % (
        name.ljust(_NAME_LIMIT, b"\0"),
        numbers,
        checksum,
        typeflag,
        link.ljust(_NAME_LIMIT, b"\0"),
        _MAGIC,
    )
    return block.ljust(BLOCK, b"\0")
