"""`nnenv compat`: what nnenv knows of CUDA and no artifact states."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette, counted, table
from nnenv.errors import NnenvError
from nnenv.resolve.compat import Table, tables
from nnenv.workflows.compat import Refreshed, refresh
from nnenv.workflows.session import Session

REFRESH: Final = "refresh"
"""The word that stands where a table's name can."""

_WIDEST_CELL: Final = 40
"""Characters, in tables that do not fit a line."""
_LINE: Final = 116


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv compat`."""
    describe(
        parser,
        "Show what nnenv knows of CUDA and no package states: drivers, PTX, GPUs, libraries of the driver, libraries\n"
        "loaded by name, known trouble; each table with its source and when that was read.\n"
        "`nnenv compat refresh` derives the tables that follow from the Python index anew, and prints how they differ\n"
        "from those that nnenv has; it changes nothing.",
        "  nnenv compat                            # the curated tables\n"
        "  nnenv compat gpus                       # one table\n"
        "  nnenv compat --json                     # all of it, with sources\n"
        "  nnenv compat refresh --out compat.toml  # the file as it would be",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"a table, or `{REFRESH}` (default: all tables)")
    parser.add_argument("--out", metavar="FILE", help="with `refresh`: write the file as it would be")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Show the tables, or derive them anew."""
    if arguments.name == REFRESH:
        found = refresh(session, arguments.out)
        emit(arguments, "compat", refreshed_json(found), lambda: refreshed_text(found, palette(arguments)))
        return 0
    if arguments.out is not None:
        raise NnenvError(
            "usage", "--out is for `nnenv compat refresh`", fix=["`nnenv compat --json` prints tables"], exit_code=2
        )
    shown = tables() if arguments.name is None else (_table(arguments.name),)
    whole = arguments.name is not None
    emit(arguments, "compat", compat_json(shown), lambda: compat_text(shown, palette(arguments), whole=whole))
    return 0


def _table(name: str) -> Table:
    """The table of that name; NnenvError `usage` without one."""
    from difflib import get_close_matches

    found = {one.name: one for one in tables()}
    if name not in found:
        similar = [f"did you mean `nnenv compat {close}`?" for close in get_close_matches(name, [*found, REFRESH], n=1)]
        raise NnenvError(
            "usage",
            f"there is no table {name[:80]!r}",
            because=[f"tables: {', '.join(found)}"],
            fix=similar or ["see `nnenv compat`"],
            exit_code=2,
        )
    return found[name]


# JSON


def compat_json(shown: Sequence[Table]) -> dict[str, Any]:
    """What `nnenv compat --json` prints: each row with its own source and date, or its table's."""
    return {
        "ok": True,
        "tables": [
            {
                "name": one.name,
                "about": one.about,
                "source": one.source,
                "date": one.date,
                "derivable": one.derivable,
                "rows": [{"source": one.source, "date": one.date, **_plain(row)} for row in one.rows],
            }
            for one in shown
        ],
    }


def refreshed_json(found: Refreshed) -> dict[str, Any]:
    """What `nnenv compat refresh --json` prints."""
    return {"ok": True, "same": not found.difference, "difference": found.difference, "out": found.out}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it, in which there are no dates."""
    return {key: value if isinstance(value, (str, int, list)) else str(value) for key, value in row.items()}


# Text


def compat_text(shown: Sequence[Table], palette: Palette, *, whole: bool) -> str:
    """What `nnenv compat` prints; the rows of derivable tables, which are many, only if they were asked for."""
    return "\n".join(_table_text(one, palette, whole=whole or not one.derivable) for one in shown)


def _table_text(one: Table, palette: Palette, *, whole: bool) -> str:
    text = _wrapped(f"{palette('bold', one.name)}  {one.about}", "", "  ")
    if whole:
        text += _rows_text(one.rows)
    else:
        text += f"  {counted(len(one.rows), 'row')}: `nnenv compat {one.name}`\n"
    return text + _wrapped(f"source: {one.source}; read on {one.date}", "  ", "    ")


def _rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns with a heading; where they do not fit a line, the wide ones stand below their rows."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    widths = {key: max(len(key), *(len(_cell(row.get(key, ""))) for row in rows)) for key in keys}
    fits = sum(widths.values()) + 2 * len(keys) <= _LINE
    columns = [key for key in keys if fits or widths[key] <= _WIDEST_CELL]
    lines = table([columns, *([_cell(row.get(key, "")) for key in columns] for row in rows)]).splitlines()
    text = f"  {lines[0]}\n"
    for line, row in zip(lines[1:], rows, strict=True):
        text += f"  {line}\n"
        for key in keys:
            if key not in columns and _cell(row.get(key, "")):
                text += _wrapped(f"{key}: {_cell(row[key])}", "      ", "        ")
    return text


def _cell(value: object) -> str:
    """A value for people: lists with commas, yes for what is true."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _wrapped(text: str, first: str, others: str) -> str:
    """Text in lines of one width, whatever the terminal's, so that the output can be compared."""
    return (
        textwrap.fill(
            text,
            _LINE,
            initial_indent=first,
            subsequent_indent=others,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def refreshed_text(found: Refreshed, palette: Palette) -> str:
    """What `nnenv compat refresh` prints: a unified diff."""
    if not found.difference:
        return "the derivable tables are as the index says\n"
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = found.difference.splitlines()
    return "".join(f"{palette(styles[line[0]], line) if line[:1] in styles else line}\n" for line in lines)
