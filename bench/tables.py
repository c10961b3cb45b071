"""Tables of measurements, as aligned text and as Markdown: ratios against a named peer, and the aims."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.timing import Series

MEGA: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What a figure should not exceed."""

    at_most: float
    of: str = ""
    """The contestant whose figure is the unit; "" if the aim is absolute, in `unit`."""
    unit: str = "x"
    """`x`, `s`, `ms`, `MB`: what `at_most` is in."""

    def verdict(self, figure: float) -> str:
        """`figure` is in `unit`: the ratio for `x`."""
        shown = f"{plain(self.at_most)}x {self.of}" if self.unit == "x" else f"{plain(self.at_most)} {self.unit}"
        if figure <= self.at_most:
            return f"<= {shown}: meets"
        return f"<= {shown}: missed by {ratio(figure / self.at_most)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What is printed; cells are text already."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences below the table."""
    left: int = 1
    """Columns from the left that hold words; the others hold figures, and are aligned to the right."""
    verdicts: bool = False
    """Whether the last column holds words as well."""
    figures: tuple[Mapping[str, object], ...] = field(default=())
    """The same as plain values, for `--json`; may be empty."""

    def text(self) -> str:
        """For a terminal."""
        widths = [max(_width(row[at]) for row in (self.columns, *self.rows)) for at in range(len(self.columns))]
        lines = [self.title, ""]
        for row in (self.columns, tuple("-" * width for width in widths), *self.rows):
            cells = [
                _pad(cell, width, self._holds_words(at))
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)]) + "\n"

    def markdown(self) -> str:
        """For the documentation."""
        rule = tuple("---" if self._holds_words(at) else "---:" for at in range(len(self.columns)))
        rows = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, rule, *self.rows)
        )
        notes = ["", *self.notes] if self.notes else []
        return "\n".join([f"**{self.title}**", "", *rows, *notes]) + "\n"

    def _holds_words(self, at: int) -> bool:
        return at < self.left or (self.verdicts and at == len(self.columns) - 1)

    def as_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
            "figures": [dict(figure) for figure in self.figures],
        }


def comparison(
    title: str,
    series: Sequence[Series],
    *,
    against: str,
    aims: Mapping[str, Aim] | None = None,
    unit: str = "s",
    noted: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """One row a contestant: median, range, CPU, peak memory, ratios to the contestant `against`, aim.

    `unit` is `s` or `ms`; `noted` is the heading of a column with what each produced, "" for none.
    An aim `of` another contestant compares medians of wall time; one in `s` or `ms` the median, one in `MB` the peak.
    """
    known = {one.name: one for one in series if one.samples}
    scale = 1000.0 if unit == "ms" else 1.0
    columns = [
        "contestant",
        *([noted] if noted else []),
        unit,
        "range",
        "CPU",
        "peak MB",
        f"x {against}",
        "CPU x",
        "aim",
    ]
    rows = []
    for one in series:
        if not one.samples:
            empty = [""] * (len(columns) - 2)
            rows.append((f"{one.name}", *empty, one.absent))
            continue
        rows.append(
            (
                one.name,
                *([one.note] if noted else []),
                number(one.median * scale),
                f"{number(one.least * scale)}-{number(one.most * scale)}",
                number(one.cpu * scale),
                number(one.peak / MEGA),
                ratio(one.median / known[against].median) if against in known else "?",
                ratio(one.cpu / known[against].cpu) if against in known else "?",
                _aimed(one, known, (aims or {}).get(one.name)),
            )
        )
    return Table(
        title=title,
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple(notes),
        verdicts=True,
        figures=tuple(figures_of(one) for one in series),
    )


def figures_of(series: Series) -> dict[str, object]:
    """A series as plain values, in seconds and bytes."""
    if not series.samples:
        return {"name": series.name, "absent": series.absent}
    return {
        "name": series.name,
        "note": series.note,
        "wall": [sample.cost.wall for sample in series.samples],
        "cpu": [sample.cost.cpu for sample in series.samples],
        "peak": [sample.cost.peak for sample in series.samples],
    }


def number(value: float) -> str:
    """Three significant digits, and never an exponent: `0.0123`, `1.23`, `123`, `12345`."""
    if value == 0:
        return "0"
    decimals = 0
    while decimals < 6 and abs(value) < 100 / 10**decimals:
        decimals += 1
    return f"{value:.{decimals}f}"


def ratio(value: float) -> str:
    """`0.42x`, `1.04x`, `3.4x`, `85x`."""
    if value < 2:
        return f"{value:.2f}x"
    return f"{value:.1f}x" if value < 10 else f"{value:.0f}x"


def plain(value: float) -> str:
    """The shortest spelling: `2`, `2.5`."""
    return f"{value:g}"


def _aimed(one: Series, known: Mapping[str, Series], aim: Aim | None) -> str:
    if aim is None:
        return ""
    if aim.unit == "x":
        if aim.of not in known:
            return f"<= {plain(aim.at_most)}x {aim.of}: not measured"
        return aim.verdict(one.median / known[aim.of].median)
    figures = {"s": one.median, "ms": one.median * 1000, "MB": one.peak / MEGA}
    return aim.verdict(figures[aim.unit])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - _width(cell))
    return cell + space if left else space + cell
