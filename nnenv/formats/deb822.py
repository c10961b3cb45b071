"""Debian control data (deb822): a strict reader, and an index of a Packages file for quick look-ups.

A Packages file of a release has some 60,000 paragraphs in 50 MB, of which one closure asks for about fifty.
`pack_index` keeps the wanted fields, sorted by name in small compressed blocks; `PackagesIndex` opens the result
in about a millisecond and inflates only the blocks that are asked for.
"""

from __future__ import annotations

import bisect
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nnenv.errors import NnenvError

FIELDS: Final = (
    "Package",
    "Version",
    "Architecture",
    "Multi-Arch",
    "Essential",
    "Source",
    "Section",
    "Pre-Depends",
    "Depends",
    "Provides",
    "Conflicts",
    "Breaks",
    "Replaces",
    "Filename",
    "Size",
    "SHA256",
)
"""What an index keeps of a paragraph."""

_WANTED: Final = frozenset(field.encode() for field in FIELDS)
_PARAGRAPH_END: Final = re.compile(rb"\n(?:[ \t]*\n)+")
_CONTINUED: Final = re.compile(rb"\n[ \t]+")
_FIELD_NAME: Final = re.compile(r"[!-9;-~]+\Z")
_VIRTUAL: Final = re.compile(rb"(?:\A|,)\s*([^\s,(:]+)")
_MAGIC: Final = b"nnenv-packages-1\n"
_BLOCK: Final = 24_000


def iterate_paragraphs(data: bytes | str, where: str = "control data") -> Iterator[Mapping[str, str]]:
    """The paragraphs of `data`, each field name as written -> value, continuation lines joined by newlines.

    Raises NnenvError debian-index-invalid for a line that is no field, a repeated field, or text that is not UTF-8.
    Comment lines (`#`) are skipped, as in files of apt. Source: Debian policy 5.1, deb822(5).
    """
    paragraph: dict[str, str] = {}
    seen: set[str] = set()
    last = ""
    for number, line in enumerate(_text(data, where).split("\n"), start=1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if paragraph:
                yield paragraph
            paragraph, seen, last = {}, set(), ""
        elif line[0] in " \t":
            if not last:
                raise _invalid(f"{where}:{number}", "a continuation line follows no field")
            paragraph[last] += "\n" + line.strip()
        else:
            last, value = _field(line, where, number)
            if last.lower() in seen:
                raise _invalid(f"{where}:{number}", f"the field {last} occurs twice in one paragraph")
            seen.add(last.lower())
            paragraph[last] = value
    if paragraph:
        yield paragraph


def pack_index(data: bytes, where: str = "Packages") -> bytes:
    """A compact index of the Packages file `data`, for `PackagesIndex`; about a second for a whole release.

    Raises NnenvError debian-index-invalid for a paragraph without Package, or with a NUL in it.
    """
    if b"\0" in data:
        raise _invalid(where, "the file holds a NUL byte")
    packages: list[tuple[bytes, bytes]] = []
    provided: set[tuple[bytes, bytes]] = set()
    for paragraph in _PARAGRAPH_END.split(data.strip(b"\n")) if data.strip() else ():
        fields = _wanted_lines(paragraph)
        name = fields.get(b"Package", b"").strip()
        if not name:
            raise _invalid(where, "a paragraph has no Package field", paragraph[:80].decode("utf-8", "replace"))
        packages.append((name, b"\n".join(b"%s:%s" % field for field in fields.items())))
        if b"Provides" in fields:
            provided.update((virtual, name) for virtual in _VIRTUAL.findall(fields[b"Provides"]))
    packages.sort(key=lambda row: row[0])
    package_table, package_blocks = _pack_rows(packages)
    provides_table, provides_blocks = _pack_rows(sorted(provided))
    table = {"packages": package_table, "provides": provides_table, "count": len(packages)}
    header = zlib.compress(json.dumps(table).encode())
    return b"".join([_MAGIC, len(header).to_bytes(8, "big"), header, package_blocks, provides_blocks])


class PackagesIndex:
    """Look-ups in what `pack_index` wrote; ValueError on construction when `packed` is something else."""

    def __init__(self, packed: bytes, where: str = "Packages") -> None:
        start = len(_MAGIC) + 8
        size = int.from_bytes(packed[len(_MAGIC) : start], "big")
        if not packed.startswith(_MAGIC) or start + size > len(packed):
            raise ValueError("not an index of this version")
        try:
            table = json.loads(zlib.decompress(packed[start : start + size]))
        except zlib.error as error:
            raise ValueError("the table of the index is damaged") from error
        self._where = where
        self.count: int = table["count"]
        """Paragraphs in the file."""
        blocks = memoryview(packed)[start + size :]
        self._packages = _Rows(table["packages"], blocks)
        self._provides = _Rows(table["provides"], blocks[table["packages"]["size"] :])

    def paragraphs(self, name: str) -> tuple[Mapping[str, str], ...]:
        """The paragraphs of the package `name` in the order of the file, wanted fields only."""
        rows = self._packages.find(name.encode())
        where = f"{self._where} ({name})"
        return tuple(paragraph for row in rows for paragraph in iterate_paragraphs(row, where))

    def providers(self, virtual: str) -> tuple[str, ...]:
        """Names of the packages with `virtual` among their Provides, sorted."""
        return tuple(row.decode() for row in self._provides.find(virtual.encode()))


class _Rows:
    """Sorted (key, value) rows in compressed blocks; all rows of one key are in one block."""

    def __init__(self, table: Mapping[str, list[str] | list[int]], blocks: memoryview) -> None:
        self._first_keys = [str(key).encode() for key in table["keys"]]
        self._ends = [int(end) for end in table["ends"]]
        self._blocks = blocks
        self._inflated: dict[int, list[bytes]] = {}

    def find(self, key: bytes) -> list[bytes]:
        number = bisect.bisect_right(self._first_keys, key) - 1
        if number < 0:
            return []
        prefix = key + b"\t"
        return [row[len(prefix) :] for row in self._block(number) if row.startswith(prefix)]

    def _block(self, number: int) -> list[bytes]:
        if number not in self._inflated:
            start = self._ends[number - 1] if number else 0
            self._inflated[number] = zlib.decompress(self._blocks[start : self._ends[number]]).split(b"\0")
        return self._inflated[number]


def _pack_rows(rows: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, object], bytes]:
    keys: list[str] = []
    ends: list[int] = []
    blocks: list[bytes] = []
    for first, block in _blocks(rows):
        blocks.append(zlib.compress(block, 1))
        keys.append(first.decode())
        ends.append((ends[-1] if ends else 0) + len(blocks[-1]))
    return {"keys": keys, "ends": ends, "size": ends[-1] if ends else 0}, b"".join(blocks)


def _blocks(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """(first key, rows joined by NUL) of about `_BLOCK` bytes, cut only where the key changes."""
    block: list[bytes] = []
    size, first, last = 0, b"", b""
    for key, value in rows:
        if size >= _BLOCK and key != last:
            yield first, b"\0".join(block)
            block, size = [], 0
        if not block:
            first = key
        block.append(key + b"\t" + value)
        size += len(value)
        last = key
    if block:
        yield first, b"\0".join(block)


def _wanted_lines(paragraph: bytes) -> dict[bytes, bytes]:
    if b"\n " in paragraph or b"\n\t" in paragraph:
        paragraph = _CONTINUED.sub(b" ", paragraph)
    fields: dict[bytes, bytes] = {}
    for line in paragraph.split(b"\n"):
        name, _, value = line.partition(b":")
        if name in _WANTED:
            if name in fields:
                raise _invalid("Packages", f"the field {name.decode()} occurs twice in one paragraph")
            fields[name] = value
    return fields


def _text(data: bytes | str, where: str) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(where, f"the text is not UTF-8 at byte {error.start}") from error


def _field(line: str, where: str, number: int) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _FIELD_NAME.match(name) or name.startswith("-"):
        raise _invalid(f"{where}:{number}", "the line is neither a field nor a continuation", line[:80])
    return name, value.strip()


def _invalid(where: str, what: str, line: str = "") -> NnenvError:
    return NnenvError(
        "debian-index-invalid",
        what,
        where=where,
        because=[repr(line)] if line else [],
        fix=["use another mirror: this file is not in the format of Debian control data (policy 5.1)"],
    )
