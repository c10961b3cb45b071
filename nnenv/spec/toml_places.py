"""Where the values of a TOML document stand, so that one of them can be changed and nothing else.

For documents that `tomllib` has accepted: what is no TOML gives wrong places here, never an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from nnenv.spec.toml_gate import BLANK, KEY, SCALAR, KeyPath, parts_of


class Form(StrEnum):
    """How a statement or a member of an inline table looks."""

    HEADER = "header"
    """`[a.b]`"""
    LISTED = "listed"
    """`[[a.b]]`"""
    PAIR = "pair"
    """`a.b = 1` on lines of its own."""
    MEMBER = "member"
    """`a.b = 1` in an inline table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One header or key with what it holds, as offsets into the text."""

    form: Form
    table: KeyPath
    """Path of the table that the key stands in; of a header, the empty path."""
    key: KeyPath
    """As written: `a.b` has two parts."""
    start: int
    """Of the key or the opening bracket."""
    value: int
    """Start of the value; of a header, its end."""
    end: int
    """End of the value or header, before comment and end of line."""

    @property
    def path(self) -> KeyPath:
        """The whole path from the root."""
        return self.table + self.key


def places(text: str) -> Iterator[Place]:
    """Every header, key and member of an inline table, in the order of the text; linear in its length.

    Line ends are `\\n`. What stands in arrays is passed over, inline tables too.
    """
    table: KeyPath = ()
    position = _after_blank(text, 0)
    while position < len(text):
        if text[position] == "[":
            header = _header(text, position)
            table = header.key
            yield header
            position = header.end
        else:
            yield from _pair(text, position, table, Form.PAIR)
            position = _value_end(text, _value_start(text, position))
        position = _after_blank(text, position)


def _header(text: str, start: int) -> Place:
    form = Form.LISTED if text.startswith("[[", start) else Form.HEADER
    brackets = 2 if form is Form.LISTED else 1
    key_start = _after_blank(text, start + brackets)
    match = KEY.match(text, key_start)
    assert match is not None
    end = match.end() + brackets
    return Place(form=form, table=(), key=parts_of(match[1]), start=start, value=end, end=end)


def _pair(text: str, start: int, table: KeyPath, form: Form) -> Iterator[Place]:
    """The pair at `start`, and the members of its value if that is an inline table."""
    match = KEY.match(text, start)
    assert match is not None
    value = _value_start(text, start)
    pair = Place(form=form, table=table, key=parts_of(match[1]), start=start, value=value, end=_value_end(text, value))
    yield pair
    if text[value] == "{":
        position = _after_blank(text, value + 1)
        while text[position] != "}":
            yield from _pair(text, position, pair.path, Form.MEMBER)
            position = _after_comma(text, _value_end(text, _value_start(text, position)))


def _value_start(text: str, key: int) -> int:
    match = KEY.match(text, key)
    assert match is not None
    return _after_blank(text, match.end() + 1)


def _value_end(text: str, start: int) -> int:
    """The end of the value at `start`."""
    depth = 0
    position = start
    while True:
        letter = text[position]
        if letter in "[{":
            depth += 1
            position += 1
        elif letter in "]}":
            depth -= 1
            position += 1
        elif letter in ",=":
            position += 1
        else:
            match = SCALAR.match(text, position)
            assert match is not None
            position = match.end()
        if depth == 0:
            return _date_end(text, position)
        position = _after_blank(text, position)


def _date_end(text: str, position: int) -> int:
    """A date and its time may be parted by one space: the value goes on behind it."""
    if text.startswith(" ", position) and text[position + 1 : position + 2].isdigit():
        match = SCALAR.match(text, position + 1)
        assert match is not None
        return match.end()
    return position


def _after_comma(text: str, position: int) -> int:
    position = _after_blank(text, position)
    return _after_blank(text, position + 1) if text.startswith(",", position) else position


def _after_blank(text: str, position: int) -> int:
    match = BLANK.match(text, position)
    assert match is not None
    return match.end()
