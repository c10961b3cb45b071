"""The gate in front of `tomllib`: limits first, and the line of every key.

One linear scan decides before the parser sees a byte.
It is exact about strings, comments and brackets, and loose about everything else: what it accepts, `tomllib` may still
refuse, but `tomllib` never sees a document that nests deeply or holds a key of thousands of parts.
The source of the limits: `tomllib` of Python 3.11 takes 3.6 s for a dotted key of 40 KB and raises RecursionError for a
long run of `[`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from nnenv.errors import NnenvError

KeyPath = tuple[str, ...]
"""Keys from the root of a document; the index of an array's element is a decimal string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TomlLimits:
    """What one document may hold at most."""

    size: int = 1 << 20
    """Bytes."""
    depth: int = 32
    """Parts of the table's name, parts of the key and open brackets, added up."""
    key_parts: int = 16
    """Parts of one dotted key or of one table's name."""
    total_parts: int = 20_000
    """Parts of all keys and tables' names together."""
    word: int = 256
    """Characters of one part of a key, or of one number or date."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TomlDocument:
    """A parsed document and where its keys stand."""

    values: dict[str, object]
    lines: dict[KeyPath, int]
    """Line (from 1) of each table, key and element of an array; keys of inline tables are not in it."""


DEFAULT_LIMITS: Final = TomlLimits()


def read_toml(
    data: bytes, filename: str, *, limits: TomlLimits = DEFAULT_LIMITS, code: str = "manifest-invalid"
) -> TomlDocument:
    """The document in `data`; linear in its size.

    Raises NnenvError with `code`, at `filename:line:column`, for what breaks a limit or is not TOML 1.0.
    """
    import tomllib

    text = gated_text(data, filename, limits=limits, code=code)
    lines = key_lines(text, filename, limits=limits, code=code)
    try:
        return TomlDocument(values=tomllib.loads(text), lines=lines)
    except ValueError as error:
        raise _not_toml(str(error), text, filename, code) from None


def gated_text(
    data: bytes, filename: str, *, limits: TomlLimits = DEFAULT_LIMITS, code: str = "manifest-invalid"
) -> str:
    """`data` as text with `\\n` line ends; raises NnenvError when it is too big, not UTF-8, or starts with a BOM."""
    if len(data) > limits.size:
        raise NnenvError(
            code,
            f"the file has {len(data)} bytes; at most {limits.size} are read",
            where=filename,
            fix=["keep data in files of their own and name their paths here"],
        )
    if data.startswith(b"\xef\xbb\xbf"):
        raise NnenvError(
            code,
            "the file starts with a byte order mark, which TOML does not allow",
            where=f"{filename}:1:1",
            fix=["save the file as UTF-8 without a byte order mark"],
        )
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise NnenvError(
            code,
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            where=f"{filename}:{line}:{column}",
            fix=["save the file as UTF-8"],
        ) from None


def key_lines(
    text: str,
    filename: str = "model.toml",
    *,
    limits: TomlLimits = DEFAULT_LIMITS,
    code: str = "manifest-invalid",
) -> dict[KeyPath, int]:
    """Line of each table, key and element of an array in `text`; linear in its length.

    A key inside an inline table has no line of its own: `line_of` falls back to the key that holds the table.
    Raises NnenvError with `code` when a limit is broken, or where the text cannot be TOML.
    """
    scan = _Scan(text, filename, limits, code)
    while scan.statement():
        pass
    return scan.lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Line of `path`, or of the nearest table or key that holds it, or 1."""
    for length in range(len(path), 0, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return 1


def _not_toml(message: str, text: str, filename: str, code: str) -> NnenvError:
    """`tomllib`'s refusal as ours; its position is only in its message up to Python 3.13."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z", message)
    reason = message[: found.start()] if found else message
    if found and found[1]:
        position = f"{found[1]}:{found[2]}"
    else:
        position = f"{text.count(chr(10)) + 1}:{len(text) - text.rfind(chr(10))}"
    return NnenvError(
        code, f"not valid TOML: {reason}", where=f"{filename}:{position}", fix=["correct the line to TOML 1.0"]
    )


# No repeat gives anything back, so that no text makes a pattern try twice; small patterns, since compiling them is most
# of the cost of importing this module. A repeated group is `(?>(?:...)*)` rather than `(?:...)*+`: before Python 3.11.5
# (Debian 12 has 3.11.2) the latter loses its place when its last round fails half-way (CPython issue 106052).
_BASIC = r'"(?>(?:[^"\\\n]++|\\.)*)"'
_LITERAL = r"'[^'\n]*+'"
# Up to two quotes may stand right before the closing three (TOML 1.0, "String").
_LONG_BASIC = r'"""(?>(?:[^"\\]++|\\[\s\S]|"{1,2}(?!"))*)"{3,5}'
_LONG_LITERAL = r"'''(?>(?:[^']++|'{1,2}(?!'))*)'{3,5}"
_PART = rf"(?:[A-Za-z0-9_-]++|{_BASIC}|{_LITERAL})"
_PARTS = re.compile(_PART)
KEY = re.compile(rf"({_PART}(?>(?:[ \t]*+\.[ \t]*+{_PART})*))[ \t]*+")
SCALAR = re.compile(rf"{_LONG_BASIC}|{_LONG_LITERAL}|{_BASIC}|{_LITERAL}|[A-Za-z0-9_+.:-]++")
# A date and its time may be parted by one space.
_TIME = re.compile(r" [0-9][A-Za-z0-9_+.:-]*+")
_OPENING = re.compile(r"\[\[?+[ \t]*+")
BLANK = re.compile(r"(?>(?:[ \t\n]++|#[^\n]*+)*)")
_SPACE = re.compile(r"[ \t]*+")
_END_OF_LINE = re.compile(r"(?>(?:#[^\n]*+)?)(?:\n|\Z)")
_ESCAPE = re.compile(r'\\(?:([btnfr"\\])|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))')
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_LAST_CODE_POINT = 0x10FFFF
_MARKS = frozenset("[]{},=")


class _Scan:
    """One pass over a document: `statement` moves on by a table's header or a key and its value."""

    def __init__(self, text: str, filename: str, limits: TomlLimits, code: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._filename = filename
        self._limits = limits
        self._code = code
        self._position = 0
        self._table: KeyPath = ()
        self._elements: dict[KeyPath, int] = {}
        """Elements seen so far of each array of tables."""
        self._parts = 0
        self._line = 1
        self._counted = 0
        """Newlines before this offset are in `_line`."""

    def statement(self) -> bool:
        """Scan one statement; False at the end of the text."""
        self._skip(BLANK)
        if self._position == len(self._text):
            return False
        if self._text[self._position] == "[":
            self._header()
        else:
            self._pair()
        self._end_line()
        return True

    def _header(self) -> None:
        line = self._line_at(self._position)
        closing = "]" * len(self._skip(_OPENING).rstrip(" \t"))
        parts = self._key()
        if not self._text.startswith(closing, self._position):
            self._not_toml("a table's header is written [name] or [[name]], alone on its line")
        self._position += len(closing)
        if closing == "]":
            path = self._resolved(parts)
        else:
            array = (*self._resolved(parts[:-1]), parts[-1])
            index = self._elements.get(array, 0)
            self._elements[array] = index + 1
            path = (*array, str(index))
        self._note(path, 0, line)
        self._table = path

    def _pair(self) -> None:
        line = self._line_at(self._position)
        path = self._table + self._key()
        self._note(path, len(self._table), line)
        if not self._text.startswith("=", self._position):
            self._not_toml("expected = after the key")
        self._position += 1
        self._skip(_SPACE)
        if self._text.startswith(("[", "{"), self._position):
            self._brackets(path)
        else:
            self._scalar()

    def _scalar(self) -> str:
        """Scan a string, number, boolean or date."""
        match = SCALAR.match(self._text, self._position)
        if match is None:
            self._not_toml("expected a value on the line of its key, and quotes that close")
        scalar = match[0]
        if scalar[0] not in "\"'":
            time = _TIME.match(self._text, match.end())
            scalar += time[0] if time else ""
            self._check_word(scalar)
        self._position += len(scalar)
        return scalar

    def _brackets(self, path: KeyPath) -> None:
        """Scan an array or inline table with all that it holds."""
        is_array = self._text[self._position] == "["
        dots: list[int] = []  # one count for each open bracket: dots of the key that stands in it
        index = -1
        while True:
            self._skip(BLANK)
            token = self._text[self._position : self._position + 1]
            if len(dots) == 1 and is_array and token not in ("]", ",", "}", "="):
                index += 1
                self.lines[(*path, str(index))] = self._line_at(self._position)
            if token not in _MARKS:
                word = self._scalar()
                if word[0] not in "\"'":
                    dots[-1] += word.count(".")
                    self._check_parts(dots[-1] + 1)
                continue
            self._position += 1
            if token in ("[", "{"):
                dots.append(0)
                self._check_depth(len(path) + len(dots) + sum(dots))
            elif token in ("]", "}"):
                dots.pop()
                if not dots:
                    return
            elif token == "=":
                self._count_parts(dots[-1] + 1)
            else:
                dots[-1] = 0

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Move over what `pattern`, which always matches here, takes; the text of it."""
        match = pattern.match(self._text, self._position)
        assert match is not None
        self._position = match.end()
        return match[0]

    def _end_line(self) -> None:
        self._skip(_SPACE)
        end = _END_OF_LINE.match(self._text, self._position)
        if end is None:
            self._not_toml("expected the end of the line")
        self._position = end.end()

    def _key(self) -> KeyPath:
        """Scan a dotted key and the space after it; its parts, within the limits."""
        match = KEY.match(self._text, self._position)
        if match is None:
            self._not_toml("expected a key, a [table] or a # comment")
        parts = parts_of(match[1])
        self._check_parts(len(parts))
        self._count_parts(len(parts))
        for part in parts:
            self._check_word(part)
        self._position = match.end()
        return parts

    def _resolved(self, parts: KeyPath) -> KeyPath:
        """The path that a header means: a name of an array of tables stands for its last element."""
        if not self._elements:
            return parts
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            seen = self._elements.get(path)
            if seen:
                path = (*path, str(seen - 1))
        return path

    def _note(self, path: KeyPath, known: int, line: int) -> None:
        """Remember `line` for `path` and for what first appears with it, beyond its first `known` parts."""
        for length in range(known + 1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _line_at(self, offset: int) -> int:
        self._line += self._text.count("\n", self._counted, offset)
        self._counted = offset
        return self._line

    def _check_word(self, word: str) -> None:
        if len(word) > self._limits.word:
            self._limit(f"a key, number or date has {len(word)} characters; at most {self._limits.word} are read")

    def _check_parts(self, parts: int) -> None:
        if parts > self._limits.key_parts:
            self._limit(f"a dotted key has more than {self._limits.key_parts} parts")

    def _count_parts(self, parts: int) -> None:
        self._parts += parts
        if self._parts > self._limits.total_parts:
            self._limit(f"the keys of the file have more than {self._limits.total_parts} parts together")

    def _check_depth(self, depth: int) -> None:
        if depth > self._limits.depth:
            self._limit(f"values are nested more than {self._limits.depth} deep")

    def _limit(self, reason: str) -> NoReturn:
        self._refuse(reason, "write it smaller or flatter; no file that nnenv reads needs this much")

    def _not_toml(self, reason: str) -> NoReturn:
        self._refuse(f"not valid TOML: {reason}", "correct the line to TOML 1.0")

    def _refuse(self, what: str, fix: str) -> NoReturn:
        offset = self._position
        column = offset - self._text.rfind("\n", 0, offset)
        raise NnenvError(self._code, what, where=f"{self._filename}:{self._line_at(offset)}:{column}", fix=[fix])


def parts_of(dotted: str) -> KeyPath:
    """The parts of a dotted key."""
    if '"' in dotted or "'" in dotted:
        return tuple(_unquoted(part) for part in _PARTS.findall(dotted))
    if "." in dotted:
        return tuple(part.strip(" \t") for part in dotted.split("."))
    return (dotted,)


def _unquoted(part: str) -> str:
    """The key that a part of a dotted key spells; a wrong escape stays, for `tomllib` to refuse."""
    if part[0] == "'":
        return part[1:-1]
    if part[0] == '"':
        return _ESCAPE.sub(_unescaped, part[1:-1])
    return part


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return _ESCAPED[match[1]]
    code_point = int(match[2] or match[3], 16)
    return chr(code_point) if code_point <= _LAST_CODE_POINT else match[0]
