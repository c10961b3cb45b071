"""What people and programs see: summaries, errors, JSON. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from nnenv.errors import NnenvError, SeveralErrors

JSON_VERSION = 1
"""Version of the objects that --json prints."""


class Palette:
    """ANSI colours, or none."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, style: str, text: str) -> str:
        """`text` in `style`: red, green, yellow, cyan or bold."""
        code = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}[style]
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text


def error_text(error: NnenvError, palette: Palette) -> str:
    """An error as people read it: what, where, because, fix."""
    errors = error.errors if isinstance(error, SeveralErrors) else (error,)
    return "".join(_one_error(item, palette) for item in errors)


def _one_error(error: NnenvError, palette: Palette) -> str:
    lines = [f"{palette('red', 'error')}: {error.what}"]
    if error.where:
        lines.append(f"  at {error.where}")
    lines += [f"  {text}" for text in error.because]
    if error.fix:
        lines.append(f"{palette('cyan', 'fix')}: {error.fix[0]}")
        lines += [f"  or: {text}" for text in error.fix[1:]]
    return "\n".join(lines) + "\n"


def error_json(command: str, error: NnenvError) -> dict[str, Any]:
    """The object that --json prints when a command refuses."""
    errors = error.errors if isinstance(error, SeveralErrors) else (error,)
    return {"version": JSON_VERSION, "command": command, "ok": False, "errors": [item.as_json() for item in errors]}


def json_text(document: dict[str, Any]) -> str:
    """One JSON object with sorted keys."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def table(rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows with aligned columns, two spaces between; the first row is the heading."""
    listed = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in listed) for column in range(len(listed[0]))]
    return "".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in listed
    )


def bytes_text(count: int) -> str:
    """`12.3 MB`, decimal as image tools print sizes."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def took(seconds: float) -> str:
    """How long a command took: `in 0.04 s`, `in 12.3 s`, `in 4 min 10 s`."""
    if seconds < 1:
        return f"in {seconds:.2f} s"
    if seconds < 100:
        return f"in {seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"in {minutes} min {rest} s"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`, `2 entries`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """Text of others for one line of a terminal: control characters, such as escapes, are written out."""
    return text if text.isprintable() else json.dumps(text)


def short(digest: str) -> str:
    """The first 12 digits, as Docker prints them."""
    return digest[:12]
