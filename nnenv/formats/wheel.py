"""What a wheel says about itself, believed only where zip structure, file name, RECORD and content agree.

Source of the rules: the binary distribution format, recording installed projects, and entry points specifications
of the Python packaging user guide (PEP 427, 376, 491).
"""

from __future__ import annotations

import base64
import binascii
import configparser
import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from typing import BinaryIO, Final, Protocol

from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from nnenv.errors import NnenvError
from nnenv.formats.zip_gate import ZipMember, read_member, read_members

SCHEMES: Final = frozenset({"purelib", "platlib", "headers", "scripts", "data"})
"""The directories that may lie in `NAME-VERSION.data/`."""

_HASHES = {"sha256": 32, "sha384": 48, "sha512": 64}
"""Algorithm -> digest bytes. RECORD demands sha256 or better."""
_UNHASHED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_RECORD_FIELDS = 3
_SMALL = 16 << 20
_SIZE = re.compile(r"[0-9]{1,18}\Z")
_SCRIPT_NAME = re.compile(r"[^\s/\\\[=][^\s/\\=]*\Z")
_REFERENCE = re.compile(r"(?P<module>[^\s:\[]+)\s*:\s*(?P<attribute>[^\s:\[]+)\s*(?:\[[^\[\]]*\]\s*)?\Z")
_NAME_BYTES = 255


class Hash(Protocol):
    """What `hashlib` returns, as far as it is needed here."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRow:
    """What RECORD states about one member."""

    algorithm: str
    """`sha256`, `sha384` or `sha512`; empty for RECORD and its signatures, which cannot be hashed."""
    digest_hex: str
    size: int | None
    """Bytes, None where RECORD leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryPoint:
    """A command: `name` calls `attribute` (dotted) of `module`."""

    name: str
    module: str
    attribute: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelContents:
    """An accepted wheel, except that its members' content is not hashed yet: see `hasher`."""

    filename: str
    name: str
    """Normalised distribution name."""
    version: str
    """Normalised version."""
    dist_info: str
    """Name of the one `.dist-info` directory."""
    metadata: bytes
    """METADATA, byte for byte."""
    root_is_purelib: bool
    tags: tuple[str, ...]
    """The file name's compatibility tags, one by one, sorted."""
    record: Mapping[str, RecordRow]
    """Row of every member."""
    console_scripts: tuple[EntryPoint, ...]
    gui_scripts: tuple[EntryPoint, ...]
    members: tuple[ZipMember, ...]

    @property
    def pth_files(self) -> tuple[str, ...]:
        """Members that Python's start-up would execute: `.pth` files that land directly in site-packages."""
        return tuple(member.name for member in self.members if _is_start_up_file(member.name))


def read_wheel(stream: BinaryIO, filename: str) -> WheelContents:
    """The wheel `stream`, named `filename`; raises `wheel-refused` naming file, member and rule.

    Reads headers and the few small files of `.dist-info`. Every other member's content is still to be checked by
    whoever inflates it: CRC by `zip_gate.inflate`, RECORD by `hasher` and `check_digest`.
    """
    name, version, tags = _parsed_filename(filename)
    members = read_members(stream, filename)
    dist_info = _dist_info(members, name, version, filename)
    _check_data_directories(members, name, version, filename)
    reader = _DistInfo(stream=stream, filename=filename, directory=dist_info, members=members)
    metadata = reader.required("METADATA")
    _check_metadata(_headers(metadata), name, version, filename)
    console_scripts, gui_scripts = _entry_points(reader.optional("entry_points.txt"), filename)
    contents = WheelContents(
        filename=filename,
        name=name,
        version=str(version),
        dist_info=dist_info,
        metadata=metadata,
        root_is_purelib=_root_is_purelib(_headers(reader.required("WHEEL")), filename),
        tags=tags,
        record=_record(reader.required("RECORD"), dist_info, members, filename),
        console_scripts=console_scripts,
        gui_scripts=gui_scripts,
        members=members,
    )
    for path, content in reader.read.items():
        row = contents.record[path]
        digest = hasher(row)
        if digest:
            digest.update(content)
        check_digest(filename, path, row, digest)
    return contents


def hasher(row: RecordRow) -> Hash | None:
    """A fresh hash for the member that `row` describes, None if the member has none."""
    return hashlib.new(row.algorithm) if row.algorithm else None


def check_digest(filename: str, member: str, row: RecordRow, digest: Hash | None) -> None:
    """Raises `wheel-refused` unless `digest`, fed with the member's content, is what RECORD states."""
    if (digest.hexdigest() if digest else "") != row.digest_hex:
        raise _refused(filename, f"{member!r}: its content does not have the {row.algorithm} that RECORD states")


def _refused(filename: str, *because: str) -> NnenvError:
    return NnenvError(
        "wheel-refused",
        f"{filename} is not a wheel that describes itself truly",
        where=filename,
        because=because,
        fix=["fetch it again; if it is refused again, choose another version or ask its publisher to rebuild it"],
    )


def _parsed_filename(filename: str) -> tuple[NormalizedName, Version, tuple[str, ...]]:
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise _refused(filename, f"its file name breaks the rules: {error}") from None
    return name, version, tuple(sorted(map(str, tags)))


def _dist_info(members: Sequence[ZipMember], name: NormalizedName, version: Version, filename: str) -> str:
    """The one top-level `.dist-info` directory; vendored ones deeper down are ordinary content."""
    found = sorted({top for top in map(_top, members) if top.casefold().endswith(".dist-info")})
    if len(found) != 1:
        raise _refused(filename, f"it has {len(found)} .dist-info directories where one is needed", *found)
    if not _names(found[0].removesuffix(".dist-info"), name, version):
        raise _refused(filename, f"{found[0]!r} belongs to another distribution or version than the file name")
    return found[0]


def _check_data_directories(
    members: Sequence[ZipMember], name: NormalizedName, version: Version, filename: str
) -> None:
    for member in members:
        top, *deeper = member.name.split("/")
        if not deeper or not top.casefold().endswith(".data"):
            continue
        if not _names(top.removesuffix(".data"), name, version):
            raise _refused(filename, f"{top!r} belongs to another distribution or version than the file name")
        if deeper[0] not in SCHEMES or len(deeper) == 1:
            raise _refused(filename, f"{member.name!r}: only {', '.join(sorted(SCHEMES))} may lie in {top!r}")


def _top(member: ZipMember) -> str:
    top, slash, _ = member.name.partition("/")
    return top if slash else ""


def _names(stem: str, name: NormalizedName, version: Version) -> bool:
    """`stem` is `NAME-VERSION` after normalising both."""
    stated_name, _, stated_version = stem.rpartition("-")
    return canonicalize_name(stated_name) == name and _same_version(stated_version, version)


def _same_version(text: str, version: Version) -> bool:
    try:
        return Version(text) == version
    except InvalidVersion:
        return False


class _DistInfo:
    """Reads files of `.dist-info` and remembers their content, so that RECORD can be checked afterwards."""

    def __init__(self, *, stream: BinaryIO, filename: str, directory: str, members: Sequence[ZipMember]) -> None:
        self._stream = stream
        self._filename = filename
        self._directory = directory
        self._members = {member.name: member for member in members}
        self.read: dict[str, bytes] = {}

    def optional(self, name: str) -> bytes | None:
        path = f"{self._directory}/{name}"
        member = self._members.get(path)
        if member is None:
            return None
        self.read[path] = read_member(self._stream, member, _SMALL, self._filename)
        return self.read[path]

    def required(self, name: str) -> bytes:
        content = self.optional(name)
        if content is None:
            raise _refused(self._filename, f"{self._directory}/{name} is missing")
        return content


def _headers(content: bytes) -> Message:
    return BytesParser().parsebytes(content, headersonly=True)


def _header(headers: Message, key: str, source: str, filename: str) -> str:
    values = headers.get_all(key, [])
    if len(values) != 1:
        raise _refused(filename, f"{source} states {key} {len(values)} times where once is needed")
    return str(values[0]).strip()


def _check_metadata(headers: Message, name: NormalizedName, version: Version, filename: str) -> None:
    stated_name = _header(headers, "Name", "METADATA", filename)
    stated_version = _header(headers, "Version", "METADATA", filename)
    if canonicalize_name(stated_name) != name or not _same_version(stated_version, version):
        raise _refused(filename, f"METADATA describes {stated_name[:200]!r} {stated_version[:200]!r}")


def _root_is_purelib(headers: Message, filename: str) -> bool:
    wheel_version = _header(headers, "Wheel-Version", "WHEEL", filename)
    if not re.match(r"1\.[0-9]+\Z", wheel_version):
        raise _refused(filename, f"WHEEL states Wheel-Version {wheel_version[:80]!r}; only 1.x is known")
    stated = _header(headers, "Root-Is-Purelib", "WHEEL", filename).lower()
    if stated not in ("true", "false"):
        raise _refused(filename, f"WHEEL states Root-Is-Purelib {stated[:80]!r}; only true and false are known")
    return stated == "true"


def _record(content: bytes, dist_info: str, members: Sequence[ZipMember], filename: str) -> dict[str, RecordRow]:
    """RECORD's rows by member, in member order; there is a row for each member and a member for each row."""
    unhashed = {f"{dist_info}/{name}" for name in _UNHASHED}
    stated: dict[str, RecordRow] = {}
    for path, digest, size in _record_lines(content, filename):
        if path in stated:
            raise _refused(filename, f"{path!r} is in RECORD twice")
        stated[path] = _record_row(path, digest, size, path in unhashed, filename)
    names = {member.name for member in members}
    for path in sorted(stated.keys() - names):
        raise _refused(filename, f"RECORD lists {path!r}, which is not in the archive")
    # The signatures are made after RECORD and need no row (PEP 427).
    stated = {path: RecordRow(algorithm="", digest_hex="", size=None) for path in unhashed} | stated
    for member in members:
        row = stated.get(member.name)
        if row is None:
            raise _refused(filename, f"{member.name!r} is in the archive and not in RECORD")
        if row.size not in (None, member.size):
            raise _refused(filename, f"{member.name!r} has {member.size} bytes and RECORD states {row.size}")
    return {member.name: stated[member.name] for member in members}


def _record_lines(content: bytes, filename: str) -> list[tuple[str, str, str]]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(filename, f"RECORD cannot be read: {error}") from None
    lines = []
    for row in rows:
        if len(row) != _RECORD_FIELDS:
            raise _refused(filename, f"RECORD has a line of {len(row)} fields where {_RECORD_FIELDS} are needed")
        lines.append((row[0], row[1], row[2]))
    return lines


def _record_row(path: str, digest: str, size: str, is_unhashed: bool, filename: str) -> RecordRow:
    if size and not _SIZE.match(size):
        raise _refused(filename, f"{path!r}: RECORD states the size {size[:80]!r}")
    bytes_stated = int(size) if size else None
    if is_unhashed:
        if digest:
            raise _refused(filename, f"{path!r}: RECORD states a hash, which cannot be true")
        return RecordRow(algorithm="", digest_hex="", size=bytes_stated)
    algorithm, _, encoded = digest.partition("=")
    digest_hex = _urlsafe_hex(encoded)
    if len(digest_hex) != 2 * _HASHES.get(algorithm, -1):
        raise _refused(filename, f"{path!r}: RECORD states {digest[:120]!r}, not a sha256, sha384 or sha512")
    return RecordRow(algorithm=algorithm, digest_hex=digest_hex, size=bytes_stated)


def _urlsafe_hex(encoded: str) -> str:
    """Digest in hex from unpadded urlsafe base64; empty if `encoded` is not exactly what encoding gives."""
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return ""
    return raw.hex() if base64.urlsafe_b64encode(raw).rstrip(b"=") == encoded.encode() else ""


class _EntryPointsParser(configparser.RawConfigParser):
    """The INI dialect of entry_points.txt: names keep their case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _entry_points(content: bytes | None, filename: str) -> tuple[tuple[EntryPoint, ...], tuple[EntryPoint, ...]]:
    """Console and GUI commands in file order; other groups are left to whoever uses them."""
    parser = _EntryPointsParser(delimiters=("=",), strict=True, default_section="\0")
    try:
        parser.read_string((content or b"").decode("utf-8"))
    except (UnicodeDecodeError, configparser.Error) as error:
        raise _refused(filename, f"entry_points.txt cannot be read: {error}") from None
    groups = []
    for group in ("console_scripts", "gui_scripts"):
        items = parser.items(group) if parser.has_section(group) else []
        groups.append(tuple(_entry_point(name, reference, filename) for name, reference in items))
    commands = sorted(entry.name for group in groups for entry in group)
    if len(set(commands)) != len(commands):
        raise _refused(filename, "entry_points.txt names one command as console and as GUI script")
    return groups[0], groups[1]


def _entry_point(name: str, reference: str, filename: str) -> EntryPoint:
    """The name becomes a file name and the reference becomes Python source, so both are checked here."""
    bad_name = not _SCRIPT_NAME.match(name) or name in (".", "..") or not name.isprintable()
    if bad_name or len(name.encode()) > _NAME_BYTES:
        raise _refused(filename, f"entry_points.txt: {name[:120]!r} is not a command name")
    match = _REFERENCE.match(reference)
    if not match or not all(part.isidentifier() for part in ".".join(match.groups()).split(".")):
        raise _refused(filename, f"entry_points.txt: {name!r} names {reference[:120]!r}, not `module:function`")
    return EntryPoint(name=name, module=match["module"], attribute=match["attribute"])


def _is_start_up_file(name: str) -> bool:
    *directories, base = name.split("/")
    match directories:
        case []:
            is_site_packages = True
        case [data, "purelib" | "platlib"]:
            is_site_packages = data.endswith(".data")
        case _:
            is_site_packages = False
    return is_site_packages and base.endswith(".pth")
