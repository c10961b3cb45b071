"""Zip, tar, ar and wheel files made byte by byte, so that a test can make exactly one byte lie."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import lzma
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PLACEHOLDER = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One zip member; `local` and `central` override single fields of one header, `both` of both."""

    name: str | bytes
    content: bytes = b"content"
    method: int = 8
    mode: int = 0o100644
    dos_attributes: int = 0
    compressed: bytes | None = None
    both: Mapping[str, int] = field(default_factory=dict)
    local: Mapping[str, int] = field(default_factory=dict)
    central: Mapping[str, int] = field(default_factory=dict)
    local_name: bytes | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    comment: bytes = b""
    gap: bytes = b""
    """Bytes that follow the record and belong to nothing."""

    @property
    def raw_name(self) -> bytes:
        """The name as it stands in the archive."""
        return self.name.encode() if isinstance(self.name, str) else self.name

    def payload(self) -> bytes:
        """The compressed bytes."""
        if self.compressed is not None:
            return self.compressed
        return deflated(self.content) if self.method == 8 else self.content

    def fields(self, overrides: Mapping[str, int]) -> dict[str, int]:
        """The numbers that both headers state."""
        honest = {
            "flags": 0 if self.raw_name.isascii() else 1 << 11,
            "method": self.method,
            "crc32": zlib.crc32(self.content),
            "compressed_size": len(self.payload()),
            "size": len(self.content),
        }
        return {**honest, **self.both, **overrides}


def deflated(content: bytes) -> bytes:
    """A raw deflate stream."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(content) + compressor.flush()


def extra_field(kind: int, content: bytes) -> bytes:
    """One extra field."""
    return struct.pack("<2H", kind, len(content)) + content


def zip_archive(
    members: Sequence[Member],
    *,
    before: bytes = b"",
    after: bytes = b"",
    zip64: bool = False,
    end: Mapping[str, int] | None = None,
    end64: Mapping[str, int] | None = None,
    central_junk: bytes = b"",
) -> bytes:
    """An archive of `members`; `end` and `end64` override fields of the end records."""
    records, rows = before, b""
    for member in members:
        rows += _central_row(member, len(records))
        records += _local_record(member) + member.gap
    rows += central_junk
    honest = {
        "disk": 0,
        "central_disk": 0,
        "here": len(members),
        "count": len(members),
        "size": len(rows),
        "offset": len(records),
    }
    wide = _zip64_end(honest, len(records) + len(rows), end64 or {}) if zip64 else b""
    short = {key: 0xFFFF if key in ("here", "count") else PLACEHOLDER for key in ("here", "count", "size", "offset")}
    stated = {**honest, **(short if zip64 else {}), "comment": 0, **(end or {})}
    return records + rows + wide + struct.pack("<4s4H2IH", b"PK\x05\x06", *stated.values()) + after


def _local_record(member: Member) -> bytes:
    name = member.raw_name if member.local_name is None else member.local_name
    numbers = member.fields(member.local)
    header = struct.pack(
        "<4s5H3I2H",
        b"PK\x03\x04",
        20,
        numbers["flags"],
        numbers["method"],
        0,
        0x21,
        numbers["crc32"],
        numbers["compressed_size"],
        numbers["size"],
        len(name),
        len(member.local_extra),
    )
    return header + name + member.local_extra + member.payload()


def _central_row(member: Member, header_offset: int) -> bytes:
    numbers = {"disk": 0, "header_offset": header_offset, **member.fields(member.central)}
    header = struct.pack(
        "<4s6H3I5H2I",
        b"PK\x01\x02",
        0x0314,
        20,
        numbers["flags"],
        numbers["method"],
        0,
        0x21,
        numbers["crc32"],
        numbers["compressed_size"],
        numbers["size"],
        len(member.raw_name),
        len(member.extra),
        len(member.comment),
        numbers["disk"],
        0,
        member.mode << 16 | member.dos_attributes,
        numbers["header_offset"],
    )
    return header + member.raw_name + member.extra + member.comment


def _zip64_end(honest: Mapping[str, int], position: int, overrides: Mapping[str, int]) -> bytes:
    locator = {"locator_disk": 0, "locator_offset": position, "disks": 1}
    stated = {"record_size": 44, **honest, **locator, **overrides}
    record = struct.pack("<4sQ2H", b"PK\x06\x06", stated["record_size"], 45, 45)
    record += struct.pack(
        "<2I4Q", *(stated[key] for key in ("disk", "central_disk", "here", "count")), stated["size"], stated["offset"]
    )
    return record + struct.pack("<4sIQI", b"PK\x06\x07", *(stated[key] for key in locator))


def record_line(path: str, content: bytes, algorithm: str = "sha256") -> str:
    """A line of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
    return f"{path},{algorithm}={digest},{len(content)}\n"


def wheel_files(
    files: Mapping[str, bytes] | None = None,
    *,
    dist_info: str = "demo-1.0.dist-info",
    entry_points: str = "",
) -> dict[str, bytes]:
    """The files of a small honest wheel, RECORD last."""
    content = {"demo/__init__.py": b"answer = 42\n", **(files or {})}
    content[f"{dist_info}/METADATA"] = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n\nText.\n"
    content[f"{dist_info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if entry_points:
        content[f"{dist_info}/entry_points.txt"] = entry_points.encode()
    lines = [record_line(path, data) for path, data in content.items()]
    content[f"{dist_info}/RECORD"] = "".join([*lines, f"{dist_info}/RECORD,,\n"]).encode()
    return content


def wheel(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of `files` as they are."""
    return zip_archive([Member(name=name, content=content) for name, content in files.items()])


def tar_header(
    path: bytes,
    *,
    typeflag: bytes = b"0",
    size: int = 0,
    mode: int = 0o644,
    target: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    size_field: bytes | None = None,
) -> bytes:
    """One 512-byte header with a right checksum."""
    header = path.ljust(100, b"\0") + b"%07o\0%07o\0%07o\0" % (mode, 0, 0)
    header += (size_field or b"%011o\0" % size) + b"%011o\0" % 0 + b" " * 8 + typeflag + target.ljust(100, b"\0")
    header += magic + bytes(80) + prefix.ljust(155, b"\0") + bytes(12)
    assert len(header) == 512
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def tar_entry(path: bytes, content: bytes = b"", **fields: object) -> bytes:
    """Header and padded content."""
    return tar_header(path, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]


def padded(content: bytes) -> bytes:
    """`content` filled up to whole blocks."""
    return content + bytes(-len(content) % 512)


def pax_record(key: str, value: str) -> bytes:
    """One record of a pax header; its length counts itself."""
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(records: Mapping[str, str]) -> bytes:
    """A pax header for the entry behind it."""
    return tar_entry(b"pax", b"".join(pax_record(key, value) for key, value in records.items()), typeflag=b"x")


def tar(*entries: bytes) -> bytes:
    """An archive of `entries` with its end mark."""
    return b"".join(entries) + bytes(1024)


def control_tar(files: Mapping[str, bytes] | None = None) -> bytes:
    """A control archive; by default of a package `demo`."""
    content = {"control": b"Package: demo\nVersion: 1.0\nArchitecture: all\n"} if files is None else files
    return tar(
        tar_entry(b"./", typeflag=b"5", mode=0o755),
        *(tar_entry(f"./{name}".encode(), data) for name, data in content.items()),
    )


def ar_member(name: str, content: bytes, *, size: bytes | None = None, padding: bytes = b"\n") -> bytes:
    """One ar member; `size` overrides the size field."""
    size_field = str(len(content)).encode() if size is None else size
    header = name.encode().ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8) + size_field.ljust(10)
    return header + b"`\n" + content + (padding if len(content) % 2 else b"")


def ar(*members: bytes) -> bytes:
    """An ar archive."""
    return b"!<arch>\n" + b"".join(members)


def deb(*, control: bytes | None = None, data: bytes | None = None, after: bytes = b"") -> bytes:
    """A package with uncompressed control archive and gzipped data."""
    return (
        ar(
            ar_member("debian-binary", b"2.0\n"),
            ar_member("control.tar", control_tar() if control is None else control),
            ar_member("data.tar.gz", compressed("gz", tar()) if data is None else data),
        )
        + after
    )


def compressed(compression: str, content: bytes) -> bytes:
    """`content` as one stream; zst as a single frame of raw blocks (RFC 8878, 3.1.1)."""
    match compression:
        case "gz":
            return gzip.compress(content, mtime=0)
        case "xz":
            return lzma.compress(content)
        case "bz2":
            return bz2.compress(content)
        case "zst":
            return b"\x28\xb5\x2f\xfd\x00\x58" + _raw_blocks(content)
        case _:
            return content


def _raw_blocks(content: bytes) -> bytes:
    blocks = [content[start : start + 1024] for start in range(0, len(content), 1024)] or [b""]
    heads = [len(block) << 3 | (index == len(blocks) - 1) for index, block in enumerate(blocks)]
    return b"".join(head.to_bytes(3, "little") + block for head, block in zip(heads, blocks, strict=True))
