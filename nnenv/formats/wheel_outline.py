"""What a wheel says of itself in a few of its members, read without running anything."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nnenv.spec.gpu import WheelFile, WheelOutline

TEXT_LIMIT: Final = 256 << 10
"""Bytes of a member that states something; the largest seen has 3 kB."""

_VERSION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)*)(?:\.x)?")
"""A version; CuPy leaves its end open, `12.x`."""
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:[ \t]*:[^=\n]*)?[ \t]*=(?!=)[ \t]*([^\n\\]{1,4096})")
_PAIRS: Final = re.compile(r"collections\.OrderedDict\((.*)\)")
"""How TensorFlow writes a dictionary, with its pairs in a list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A member that states what the wheel was built with."""

    member: str
    reads: str
    """`assignments` or `json`."""
    cuda: str
    """Name of the value; a dot leads into a dictionary; empty if there is none."""
    cudnn: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """What is worth a look in one distribution's wheels."""

    statements: tuple[Statement, ...]
    libraries: tuple[str, ...]
    """Members whose DT_NEEDED tells what the wheel needs."""

    @property
    def digest(self) -> str:
        """Equal for equal probes, on any machine: 16 hexadecimal digits."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


NO_PROBES: Final = Probes(statements=(), libraries=())
"""The file list alone."""


def stated(statement: Statement, text: bytes) -> tuple[str, str]:
    """(CUDA, cuDNN) as a member states them; what is missing or not understood is empty, never guessed."""
    if len(text) > TEXT_LIMIT:
        return "", ""
    names = (statement.cuda, statement.cudnn)
    values = _json(text) if statement.reads == "json" else _assignments(text, {name.split(".")[0] for name in names})
    return _version(values, statement.cuda), _version(values, statement.cudnn)


def _json(text: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _assignments(text: bytes, names: Collection[str]) -> Mapping[str, Any]:
    """Name -> value of each line `name = literal` of a module, of these names; the last line of a name counts.

    Lines are read one by one rather than by Python's parser, whose grammar is another in each Python.
    """
    values: dict[str, Any] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        match = _ASSIGNMENT.fullmatch(line)
        if match is not None and match[1] in names:
            values[match[1]] = _literal(match[2])
    return values


def _literal(text: str) -> object:
    """What a literal means; None for whatever else."""
    pairs = _PAIRS.fullmatch(text.rstrip())
    try:
        return dict(ast.literal_eval(pairs[1])) if pairs is not None else ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _version(values: Mapping[str, Any], name: str) -> str:
    found: object = values
    for part in name.split(".") if name else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    match = _VERSION.fullmatch(found) if isinstance(found, str) else None
    return match[1] if match is not None else ""


_SONAME: Final = re.compile(rb"lib[A-Za-z0-9_+.-]+\.so(?:\.[0-9]+)+")
_NOT_TEXT: Final = re.compile(rb"[^\x00\x20-\x7e]")
_EVERYONE_NEEDS: Final = b"\0libc.so.6\0"
_MOST_NEEDED: Final = 256
"""Libraries that one library may name; the most seen are 21."""


def libraries_named(head: bytes) -> tuple[str, ...] | None:
    """Sonames in the dynamic string table of the ELF file that begins with `head`, sorted; None if it is not in there.

    The table is in the first part of a file, while the dynamic segment that says which of its strings are DT_NEEDED
    is near the end, which a compressed member gives only after all the rest. The table is found by the C library's
    name. Its sonames are those that are needed, and the file's own.
    """
    place = head.find(_EVERYONE_NEEDS)
    if not head.startswith(b"\x7fELF") or place < 0:
        return None
    end = _NOT_TEXT.search(head, place)
    begin = max((match.end() for match in _NOT_TEXT.finditer(head, max(0, place - TEXT_LIMIT), place)), default=0)
    strings = head[begin : end.start() if end else len(head)].split(b"\0")
    sonames = {text.decode() for text in strings if _SONAME.fullmatch(text)}
    return tuple(sorted(sonames)) if len(sonames) <= _MOST_NEEDED else None


def pack_outline(outline: WheelOutline) -> bytes:
    """As bytes for the store, the same for equal outlines."""
    row = {
        "files": [[file.path, file.size, file.crc32] for file in outline.files],
        "cuda": outline.cuda,
        "cudnn": outline.cudnn,
        "needed": [[path, list(sonames)] for path, sonames in outline.needed],
    }
    return json.dumps(row, separators=(",", ":"), sort_keys=True).encode()


def unpack_outline(packed: bytes) -> WheelOutline:
    """What `pack_outline` made bytes of."""
    row = json.loads(packed)
    return WheelOutline(
        files=_files(row["files"]),
        cuda=row["cuda"],
        cudnn=row["cudnn"],
        needed=tuple((path, tuple(sonames)) for path, sonames in row["needed"]),
    )


def _files(rows: Sequence[Sequence[Any]]) -> tuple[WheelFile, ...]:
    return tuple(WheelFile(path=path, size=size, crc32=crc32) for path, size, crc32 in rows)
