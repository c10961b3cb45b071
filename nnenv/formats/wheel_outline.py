"""What a wheel says of itself in a few of its members, read without running anything."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nnenv.spec.gpu import WheelFile, WheelOutline

TEXT_LIMIT: Final = 256 << 10
"""Bytes of a member that states something; the largest seen has 3 kB."""

_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")


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
    values = _json(text) if statement.reads == "json" else _assignments(text)
    return _version(values, statement.cuda), _version(values, statement.cudnn)


def _json(text: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _assignments(text: bytes) -> Mapping[str, Any]:
    """Name -> value of each `name = literal` at the top of a module; the module is parsed, not run."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: dict[str, Any] = {}
    for statement in module.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            try:
                values[target.id] = _literal(value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                values.pop(target.id, None)
    return values


def _literal(value: ast.expr) -> object:
    """What a literal means; TensorFlow writes its dictionary as `collections.OrderedDict([(key, value), …])`."""
    if isinstance(value, ast.Call) and len(value.args) == 1 and not value.keywords:
        return dict(ast.literal_eval(value.args[0]))
    return ast.literal_eval(value)


def _version(values: Mapping[str, Any], name: str) -> str:
    found: object = values
    for part in name.split(".") if name else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) and _VERSION.fullmatch(found) else ""


_SONAME: Final = re.compile(rb"lib[A-Za-z0-9_+.-]+\.so(?:\.[0-9]+)+")
_NOT_TEXT: Final = re.compile(rb"[^\x00\x20-\x7e]")
_EVERYONE_NEEDS: Final = b"\0libc.so.6\0"


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
    return tuple(sorted({text.decode() for text in strings if _SONAME.fullmatch(text)}))


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
