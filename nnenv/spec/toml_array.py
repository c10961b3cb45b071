"""An array of strings as the text of a TOML file has it, changed element by element in the style that it is in.

Comments, quotes, line ends and trailing commas of what stays are kept. A comment behind an element goes with it; a
comment on a line of its own stays. tomlkit is not used: in arrays it moves comments and drops trailing commas, and a
new key lands behind the comment that belongs to the next table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r'(?P<string>"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}|\'\'\'(?:[^\']|\'{1,2}(?!\'))*\'{3,5}'
    r'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
    r"|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<space>[ \t]+)|(?P<comma>,)|(?P<open>\[)|(?P<close>\])"
)
_WIDEST: Final = 120
"""Columns; an array on one line that would get wider is spread over lines."""
_INDENT: Final = "    "


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """A string, comment, newline, run of space, comma or bracket."""

    kind: str
    text: str


class ArrayText:
    """The text of one array, from bracket to bracket, open for changes.

    Elements are counted from 0. Line ends are `\\n`.
    """

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)

    def __str__(self) -> str:
        return "".join(token.text for token in self._tokens)

    def __len__(self) -> int:
        return len(self._strings())

    def replace(self, element: int, value: str) -> None:
        """Put `value` in the place of an element."""
        self._tokens[self._strings()[element]] = _string(value)

    def insert(self, element: int, value: str) -> None:
        """Put `value` before the element that is number `element` now, or behind the last."""
        self._tidy()
        strings = self._strings()
        before = strings[element - 1] if element else 0
        comma = self._comma_behind(before)
        line_end = self._line_end(before if comma is None else comma)
        if line_end is None:
            self._insert_on_the_line(before, value)
            return
        new = [_Token(kind="newline", text="\n"), self._indent(before), _string(value)]
        # The last element of an array without a trailing comma stays without one.
        if element == 0 or comma is not None:
            self._tokens[line_end:line_end] = [*new, _COMMA]
        else:
            self._tokens[line_end:line_end] = new
            self._tokens.insert(before + 1, _COMMA)

    def remove(self, element: int) -> None:
        """Take an element away, with its comma and the comment behind it."""
        strings = self._strings()
        index = strings[element]
        comma = self._comma_behind(index)
        first, last = self._own_lines(index, index if comma is None else comma)
        if comma is None and element:
            # It was the last of an array without a trailing comma: the one before it becomes that.
            previous_comma = self._comma_behind(strings[element - 1])
            assert previous_comma is not None
            del self._tokens[first:last]
            del self._tokens[previous_comma]
        else:
            del self._tokens[first:last]
        self._tidy()

    def spread(self, column: int, indent: str) -> None:
        """Put each element on a line of its own, if the array is on one line that is too wide.

        `column` is where it begins, `indent` the white space that its line begins with.
        """
        kinds = {token.kind for token in self._tokens}
        if column + len(str(self)) <= _WIDEST or kinds & {"newline", "comment"}:
            return
        lines = "".join(f"{indent}{_INDENT}{self._tokens[index].text},\n" for index in self._strings())
        self._tokens = _tokens(f"[\n{lines}{indent}]")

    def _tidy(self) -> None:
        """Leave no space between the brackets of an array that holds nothing else."""
        if {token.kind for token in self._tokens} == {"open", "space", "close"}:
            self._tokens = [token for token in self._tokens if token.kind != "space"]

    def _strings(self) -> list[int]:
        """Where the elements are among the tokens."""
        return [index for index, token in enumerate(self._tokens) if token.kind == "string"]

    def _comma_behind(self, index: int) -> int | None:
        """Where the comma of the element at `index` is; None if it has none, or for the bracket."""
        for later in range(index + 1, len(self._tokens)):
            if self._tokens[later].kind in {"comma", "string", "close"}:
                return later if self._tokens[later].kind == "comma" else None
        return None

    def _line_end(self, index: int) -> int | None:
        """Where the line of a token ends; None if something other than a comment follows on it."""
        for later in range(index + 1, len(self._tokens)):
            if self._tokens[later].kind == "newline":
                return later
            if self._tokens[later].kind not in {"space", "comment"}:
                return None
        return None

    def _line_start(self, index: int) -> int | None:
        """Where the first token of an element's line is; None if something other than space stands before it."""
        while self._tokens[index - 1].kind == "space":
            index -= 1
        return index if self._tokens[index - 1].kind == "newline" else None

    def _own_lines(self, index: int, comma: int) -> tuple[int, int]:
        """What goes with an element: its whole line if it is alone on it, else the element, its comma and the space
        on one side."""
        start, end = self._line_start(index), self._line_end(comma)
        if start is not None and end is not None and all(t.kind != "newline" for t in self._tokens[index:comma]):
            return start, end + 1
        if self._tokens[comma].kind == "comma" and self._tokens[comma + 1].kind == "space":
            return index, comma + 2
        if self._tokens[index - 1].kind == "space" and self._tokens[index - 2].kind == "comma":
            return index - 1, comma + 1
        return index, comma + 1

    def _insert_on_the_line(self, before: int, value: str) -> None:
        space = _Token(kind="space", text=" ")
        if self._tokens[before].kind == "string":
            self._tokens[before + 1 : before + 1] = [_COMMA, space, _string(value)]
            return
        place = before + 2 if self._tokens[before + 1].kind == "space" else before + 1
        self._tokens[place:place] = [_string(value), _COMMA, space] if self._strings() else [_string(value)]

    def _indent(self, before: int) -> _Token:
        """The space that a new line behind the element at `before` begins with: that of an element beside it."""
        strings = self._strings()
        for index in ([before] if self._tokens[before].kind == "string" else []) + strings:
            start = self._line_start(index)
            if start is not None:
                return _Token(kind="space", text="".join(token.text for token in self._tokens[start:index]))
        closing = self._line_start(len(self._tokens) - 1)
        return _Token(
            kind="space",
            text="".join(token.text for token in self._tokens[closing or len(self._tokens) : -1]) + _INDENT,
        )


_COMMA: Final = _Token(kind="comma", text=",")


def _tokens(text: str) -> list[_Token]:
    return [_Token(kind=match.lastgroup or "", text=match[0]) for match in _TOKEN.finditer(text)]


def quoted(value: str) -> str:
    """A string without control characters as TOML writes it: in double quotes, or in single ones where that saves
    escapes."""
    if '"' in value and "'" not in value and "\\" not in value:
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _string(value: str) -> _Token:
    return _Token(kind="string", text=quoted(value))
