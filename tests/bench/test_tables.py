"""Tables, aims, plots and the documentation's blocks: text from figures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import docs
from bench.plot import Line, Plot
from bench.tables import Aim, Table, comparison, number, ratio
from bench.timing import Cost, Sample, Series

SVG = "{http://www.w3.org/2000/svg}"


def series(name: str, *walls: float, peak: int = 20_000_000, note: str = "") -> Series:
    """A contestant's measurements."""
    return Series(
        name=name, samples=tuple(Sample(cost=Cost(wall=wall, cpu=wall, peak=peak), note=note) for wall in walls)
    )


TABLE = comparison(
    "Lock",
    [
        series("nnenv", 1.5, 1.2, 1.9, note="171"),
        series("uv | lock", 0.6, 0.5, 0.7, note="175"),
        Series(name="pdm", absent="not available: no index"),
    ],
    against="uv | lock",
    aims={"nnenv": Aim(at_most=2, of="uv | lock")},
    noted="packages",
    notes=["A note."],
)
TEXT = """\
Lock

contestant  packages      s        range    CPU  peak MB  x uv | lock  CPU x  aim
----------  --------  -----  -----------  -----  -------  -----------  -----  --------------------------------
nnenv            171   1.50    1.20-1.90   1.50     20.0         2.5x   2.5x  <= 2x uv | lock: missed by 1.25x
uv | lock        175  0.600  0.500-0.700  0.600     20.0        1.00x  1.00x
pdm                                                                           not available: no index
  A note.
"""


def test_a_comparison_as_text() -> None:
    """Columns are aligned, words to the left and figures to the right, with ratio, aim, and who is absent."""
    assert TABLE.text() == TEXT


def test_a_comparison_as_markdown() -> None:
    """The same as a Markdown table, whose cells hold no bar of their own."""
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "**Lock**"
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    assert lines[5].startswith("| uv \\| lock | 175 | 0.600 |")
    assert {line.replace("\\|", "").count("|") for line in lines[2:7]} == {10}
    assert lines[-1] == "A note."


def test_a_comparison_as_values() -> None:
    """JSON has every single measurement, in seconds and bytes."""
    figures = TABLE.as_json()["figures"]
    assert isinstance(figures, list)
    assert figures[0]["wall"] == [1.5, 1.2, 1.9]
    assert figures[2] == {"name": "pdm", "absent": "not available: no index"}


@pytest.mark.parametrize(
    ("aim", "figure", "said"),
    [
        (Aim(at_most=2, of="uv"), 1.99, "<= 2x uv: meets"),
        (Aim(at_most=2, of="uv"), 2.0, "<= 2x uv: meets"),
        (Aim(at_most=2, of="uv"), 2.8, "<= 2x uv: missed by 1.40x"),
        (Aim(at_most=0.15, unit="s"), 0.6, "<= 0.15 s: missed by 4.0x"),
        (Aim(at_most=150, unit="MB"), 149.0, "<= 150 MB: meets"),
        (Aim(at_most=2.5, of="python"), 250.0, "<= 2.5x python: missed by 100x"),
    ],
)
def test_aims(aim: Aim, figure: float, said: str) -> None:
    """An aim is met up to its figure; beyond it the miss is a factor."""
    assert aim.verdict(figure) == said


def test_absolute_aims_and_aims_of_somebody_absent() -> None:
    """Seconds, milliseconds and megabytes are taken from the measurement; a missing peer leaves an aim open."""
    one = series("a", 0.2, peak=200_000_000)
    aims = [
        Aim(at_most=0.1, unit="s"),
        Aim(at_most=300, unit="ms"),
        Aim(at_most=150, unit="MB"),
        Aim(at_most=2, of="b"),
    ]
    said = [comparison("", [one], against="a", aims={"a": aim}).rows[0][-1] for aim in aims]
    assert said == [
        "<= 0.1 s: missed by 2.0x",
        "<= 300 ms: meets",
        "<= 150 MB: missed by 1.33x",
        "<= 2x b: not measured",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (0.999, "0.999"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1e6, "1000000"),
    ],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    """Three significant digits, without an exponent."""
    assert number(value) == said


def test_ratios_are_as_exact_as_they_need_to_be() -> None:
    """Two decimals below two, one below ten, none above."""
    assert [ratio(value) for value in (0.423, 1.04, 2.34, 85.4)] == ["0.42x", "1.04x", "2.3x", "85x"]


PLOT = Plot(
    slug="p",
    title="Cost <against> work",
    x="packages & more",
    y="seconds",
    lines=(
        Line(name="nnenv", points=((400.0, 3.0), (1.0, 0.2), (10.0, 0.5))),
        Line(name="uv", points=((1.0, 0.1), (400.0, 1.0))),
        Line(name="nobody", points=()),
    ),
)


def test_a_plot_is_a_drawing_with_axes_and_legend() -> None:
    """Well-formed SVG: a line and a legend for each with points, titles of both axes, everything inside the paper."""
    root = ElementTree.fromstring(PLOT.svg())
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"Cost <against> work", "packages & more", "seconds", "nnenv", "uv"} <= set(texts)
    assert "nobody" not in texts
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 2
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    for line in lines:
        spots = [tuple(map(float, spot.split(","))) for spot in line.attrib["points"].split()]
        assert [x for x, _ in spots] == sorted(x for x, _ in spots)
        assert all(0 < x < width and 0 < y < height for x, y in spots)


def test_a_logarithmic_axis_gives_equal_factors_equal_room() -> None:
    """From 1 to 10 is as far as from 10 to 100, and more is higher."""
    line = Line(name="a", points=((1.0, 1.0), (10.0, 10.0), (100.0, 100.0)))
    root = ElementTree.fromstring(Plot(slug="p", title="t", x="x", y="y", lines=(line,)).svg())
    (drawn,) = root.iter(f"{SVG}polyline")
    (x1, y1), (x2, y2), (x3, y3) = (map(float, spot.split(",")) for spot in drawn.attrib["points"].split())
    assert abs((x2 - x1) - (x3 - x2)) < 0.2
    assert y1 > y2 > y3


@pytest.mark.parametrize("points", [(), ((5.0, 5.0),), ((1.0, 1e-6), (8.0, 1e6))])
def test_a_plot_of_little_or_much_is_still_one(points: tuple[tuple[float, float], ...]) -> None:
    """No points, one point, and twelve decades give well-formed drawings; the same figures the same bytes."""
    plot = Plot(slug="p", title="t", x="x", y="y", lines=(Line(name="a", points=points),))
    assert ElementTree.fromstring(plot.svg()).tag == f"{SVG}svg"
    assert plot.svg() == plot.svg()


def test_blocks_of_the_documentation_are_replaced(tmp_path: Path) -> None:
    """Only what stands between a suite's marks changes; plots go beside the page; nothing else is left there."""
    page = tmp_path / "performance.md"
    page.write_text("# A\n\n<!-- bench:lock -->\nold\n<!-- end -->\n\nWords.\n\n<!-- bench:start -->\n<!-- end -->\n")
    docs.update(tmp_path, {"lock": "new \\1\n"}, {"p": PLOT.svg()})
    text = page.read_text()
    assert "<!-- bench:lock -->\n\nnew \\1\n\n<!-- end -->\n\nWords.\n\n<!-- bench:start -->\n<!-- end -->\n" in text
    assert "old" not in text
    docs.update(tmp_path, {"lock": "new \\1\n"}, {})
    assert page.read_text() == text
    assert (tmp_path / "performance" / "p.svg").read_text() == PLOT.svg()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["performance", "performance.md"]


def test_a_block_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A suite without marks in the page changes nothing."""
    page = tmp_path / "performance.md"
    page.write_text("# A\n")
    with pytest.raises(KeyError, match="bench:lock"):
        docs.update(tmp_path, {"lock": "new"}, {})
    assert page.read_text() == "# A\n"


def test_a_table_without_rows_is_printed() -> None:
    """A table of nothing has its heading."""
    assert Table(title="t", columns=("a", "b"), rows=()).text() == "t\n\na  b\n-  -\n"
