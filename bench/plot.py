"""Line plots as SVG, with logarithmic axes; the same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 680
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 44, 56
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
DASHES: Final = ("", "6 3", "2 3", "8 3 2 3")
INK, GRID = "#333333", "#dddddd"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One contestant: points (x, y), both above 0."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int | None = None
    """Which of the colours, so that lines of one program can share theirs; None: one after the other."""
    dash: int | None = None
    """Which kind of stroke; None: one after the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A figure of the documentation; `slug` is its file name without `.svg`."""

    slug: str
    title: str
    x: str
    """What the horizontal axis shows, with its unit."""
    y: str
    lines: tuple[Line, ...]

    def svg(self) -> str:
        """The drawing; a sentence instead of lines if there are no points."""
        drawn = [line for line in self.lines if line.points]
        body = list(_drawing(self, drawn)) if drawn else [_text(WIDTH / 2, HEIGHT / 2, "no figures", "middle")]
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            f' font-family="sans-serif" font-size="12" fill="{INK}">'
        )
        title = f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{escape(self.title)}</text>'
        paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", paper, title, *body, "</svg>"]) + "\n"

    def markdown(self) -> str:
        """A reference to the drawing, as seen from docs/performance.md."""
        return f"![{self.title}](performance/{self.slug}.svg)\n"


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis between two pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten inside; with 2 and 5 between them where there are few."""
        decades = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
        few = math.log10(self.high / self.low) < 2.5
        ticks = [base * 10.0**power for power in decades for base in ((1, 2, 5) if few else (1,))]
        return [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]


def _powers_of_two(values: Iterable[float]) -> list[float]:
    """The values, if each is a small power of two: marks at 1, 2, 4, 8 then say more than 1, 2, 5."""
    known = sorted(set(values))
    return known if known[-1] <= 64 and all(math.log2(value).is_integer() for value in known) else []


def _axis(values: Iterable[float], start: float, end: float) -> _Axis:
    """From the values' least to their greatest, with a little room, and never less than a factor of four."""
    known = sorted(values)
    low, high = known[0] / 1.25, known[-1] * 1.25
    middle = math.sqrt(low * high)
    return _Axis(min(low, middle / 2), max(high, middle * 2), start, end)


def _drawing(plot: Plot, lines: Sequence[Line]) -> Iterable[str]:
    points = [point for line in lines for point in line.points]
    across = _axis((x for x, _ in points), LEFT, WIDTH - RIGHT)
    up = _axis((y for _, y in points), HEIGHT - BOTTOM, TOP)
    for tick in _powers_of_two(x for x, _ in points) or across.ticks():
        yield _rule(across.at(tick), TOP, across.at(tick), HEIGHT - BOTTOM)
        yield _text(across.at(tick), HEIGHT - BOTTOM + 18, _tick(tick), "middle")
    for tick in up.ticks():
        yield _rule(LEFT, up.at(tick), WIDTH - RIGHT, up.at(tick))
        yield _text(LEFT - 8, up.at(tick) + 4, _tick(tick), "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, plot.x, "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text x="18" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 18 {middle:.1f})">'
        f"{escape(plot.y)}</text>"
    )
    for number, line in enumerate(lines):
        yield from _line(number, line, across, up)


def _line(number: int, line: Line, across: _Axis, up: _Axis) -> Iterable[str]:
    colour = COLOURS[(number if line.colour is None else line.colour) % len(COLOURS)]
    dash = DASHES[(number if line.dash is None else line.dash) % len(DASHES)]
    style = f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
    spots = [(across.at(x), up.at(y)) for x, y in sorted(line.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    yield f'<polyline points="{path}" fill="none" {style}/>'
    for x, y in spots:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    left, height = WIDTH - RIGHT + 14, TOP + 12 + 20 * number
    yield f'<line x1="{left}" y1="{height}" x2="{left + 26}" y2="{height}" {style}/>'
    yield f'<circle cx="{left + 13}" cy="{height}" r="3.5" fill="{colour}"/>'
    yield _text(left + 33, height + 4, line.name, "start")


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 10 else f"{value:g}"
