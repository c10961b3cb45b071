"""One self-contained HTML page of what models measured: tables and plots, no script, nothing from elsewhere.

Colours and their contrast follow reference/aesthetics.md; the page has no clock, so equal reports give equal bytes
but for the times that were measured.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nnenv.verify.report import EvaluationReport

_COLOURS: Final = ("#2a6fbb", "#d9822b", "#3a9a5b", "#a3459b", "#7a6a2f", "#b23b3b")
_WIDTH: Final = 640
_BAR: Final = 18
_LETTER: Final = 8
"""Pixels that a letter of a label takes at most, on average."""
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #ffffff; --line: #d4dbe3; --soft: #5a6877; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --paper: #161b21; --line: #39434e; --soft: #a3afbc; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem; text-align: right;
  border-bottom: 1px solid var(--line); } th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.failed { color: #c0392b; font-weight: 600; } .passed { color: #2e8b57; } p, figcaption { color: var(--soft); }
svg { max-width: 100%; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } figure { margin: 1.5rem 0; }
div { overflow-x: auto; }
"""

Rows = Sequence[tuple[str, EvaluationReport]]


def page(title: str, rows: Rows, drifts: Sequence[tuple[str, float]]) -> str:
    """The page: `rows` are (target, measure), `drifts` (step of a target's adaptation, what it moved)."""
    parts = [f"<h1>{html.escape(title)}</h1>", _table(rows)]
    parts += [
        f'<p class="failed">{html.escape(f"{t} {one.model}: {why}")}</p>' for t, one in rows for why in one.failures
    ]
    for metric in dict.fromkeys(one.metric for _, one in rows):
        measured = [(f"{target} {one.model}", one.value) for target, one in rows if one.metric == metric]
        parts.append(_bars(metric, measured, "{:.4f}"))
    costs = {f"{target} {one.model}": one.cost for target, one in rows}
    parts.append(_bars("size, KiB", [(name, cost.size / 1024) for name, cost in costs.items()], "{:.1f}"))
    parts.append(_bars("least time of a run, ms", [(n, cost.milliseconds) for n, cost in costs.items()], "{:.3f}"))
    if drifts:
        parts.append(_bars("drift of each step, max|a-e|/max|e|", drifts, "{:.1e}"))
    parts += _classes(rows)
    body = "\n".join(part for part in parts if part)
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _table(rows: Rows) -> str:
    head = (
        "target",
        "model",
        "measure",
        "value",
        "before",
        "samples",
        "size, KiB",
        "min time, ms",
        "cpu, ms",
        "peak, MiB",
    )
    lines = ["".join(f"<th>{name}</th>" for name in (*head, ""))]
    for target, one in rows:
        cost = one.cost
        cells = (
            target,
            one.model,
            one.metric,
            f"{one.value:.4f}",
            "" if one.baseline is None else f"{one.baseline:.4f}",
            str(one.samples),
            f"{cost.size / 1024:.1f}",
            f"{cost.milliseconds:.3f}",
            f"{cost.cpu_milliseconds:.3f}",
            f"{cost.peak_mebibytes:.0f}",
        )
        word = "passed" if one.passed else "failed"
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'{text}<td class="{word}">{word}</td>')
    return "<div><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _bars(title: str, values: Sequence[tuple[str, float]], form: str) -> str:
    """A bar for each value, from zero."""
    largest = max((value for _, value in values), default=0.0) or 1.0
    label = 12 + _LETTER * max(len(name) for name, _ in values)
    room = max(120, _WIDTH - label - 90)
    parts = []
    for number, (name, value) in enumerate(values):
        top = number * (_BAR + 8)
        width = max(1.0, room * max(value, 0.0) / largest)
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<text x="{label - 8}" y="{top + 14}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{label}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
            f'<text x="{label + width + 6:.1f}" y="{top + 14}">{form.format(value)}</text>'
        )
    return _figure(title, label + room + 90, len(values) * (_BAR + 8), "".join(parts))


def _classes(rows: Rows) -> Iterator[str]:
    """F1 of each class, the targets beside each other."""
    by_model: dict[str, list[tuple[str, Mapping[int, float]]]] = {}
    for target, one in rows:
        known = by_model.setdefault(f"{one.model}, {one.metric}", [])
        if one.classes:
            known.append((target, {row.label: row.f1 for row in one.classes}))
    for name, series in by_model.items():
        labels = sorted({label for _, scores in series for label in scores})
        if not labels or len(labels) > 100:
            continue
        parts, slot = [], (_WIDTH - 40) / len(labels)
        bar = slot * 0.8 / len(series)
        for index, (target, scores) in enumerate(series):
            colour = _COLOURS[index % len(_COLOURS)]
            for position, label in enumerate(labels):
                height = 120 * scores.get(label, 0.0)
                left = 30 + position * slot + index * bar
                place = f'x="{left:.1f}" y="{130 - height:.1f}" width="{bar:.1f}" height="{height:.1f}"'
                parts.append(
                    f'<rect {place} fill="{colour}">'
                    f"<title>{html.escape(target)}, class {label}: {scores.get(label, 0.0):.3f}</title></rect>"
                )
            parts.append(
                f'<rect x="{30 + index * 150}" y="158" width="10" height="10" fill="{colour}"/>'
                f'<text x="{44 + index * 150}" y="168">{html.escape(target)}</text>'
            )
        for position, label in enumerate(labels):
            parts.append(f'<text x="{30 + (position + 0.4) * slot:.1f}" y="146" text-anchor="middle">{label}</text>')
        yield _figure(f"F1 by class: {name}", max(_WIDTH, 60 + 150 * len(series)), 176, "".join(parts))


def _figure(title: str, width: float, height: float, inside: str) -> str:
    label = html.escape(title)
    return (
        f'<figure><figcaption>{label}</figcaption><svg role="img" aria-label="{label}" width="{width:.0f}"'
        f' height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{inside}</svg></figure>'
    )
