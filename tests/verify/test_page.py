"""The page of measures, read as text and looked at in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nnenv.verify.page import page
from nnenv.verify.report import ClassReport, EvaluationReport, ModelCost


def measure(value: float, *failures: str, labels: int = 10) -> EvaluationReport:
    """A measure of a classification."""
    rows = (ClassReport(label=i, precision=value, recall=1.0, f1=1 - i / 20, support=9) for i in range(labels))
    return EvaluationReport(
        model="digits",
        number=0,
        metric="accuracy",
        value=value,
        samples=90,
        baseline=0.99,
        failures=failures,
        notes=(),
        cost=ModelCost(size=45_000, milliseconds=0.01, cpu_milliseconds=0.02, peak_mebibytes=64.0),
        classes=tuple(rows),
    )


ROWS = [
    ("cpu", measure(0.99)),
    ("a-target-with-a-rather-long-name (emulated)", measure(0.98)),
    ("cpu-<int8>", measure(0.5, "accuracy is 0.5000, less than 0.9")),
]
DRIFTS = [("a-target-with-a-rather-long-name digits: quantize-static", 0.022)]

OVERFLOWS = """<script>
const bad = [];
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect();
  for (const part of svg.querySelectorAll("text, rect")) {
    const own = part.getBoundingClientRect();
    if (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 4 || own.bottom > box.bottom + 4)
      bad.push(part.textContent || part.tagName);
  }
}
const wide = document.documentElement.scrollWidth > window.innerWidth;
document.body.setAttribute("data-found", JSON.stringify({svgs: document.querySelectorAll("svg").length, bad, wide}));
</script>"""


class Tags(HTMLParser):
    """Open tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """One more, unless it is a void element."""
        if tag not in {"meta", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """The last one, if this is it."""
        if tag != "rect":
            assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_alone() -> None:
    """Every tag is closed, names are text, and nothing is loaded from anywhere."""
    made = page("digits & co: quality", ROWS, DRIFTS)
    tags = Tags()
    tags.feed(made.replace("<!doctype html>", ""))
    assert tags.open == []
    assert "cpu-&lt;int8&gt;" in made
    assert "digits &amp; co" in made
    assert not re.search(r"https?://|src=|@import|url\(", made)
    assert "less than 0.9" in made
    assert made == page("digits & co: quality", ROWS, DRIFTS)


@pytest.mark.browser
def test_a_browser_shows_all_of_it(tmp_path: Path) -> None:
    """In Chromium, on two windows: no label or bar leaves its plot, and the page itself needs no scrolling."""
    browser = shutil.which("chromium")
    assert browser
    text = page("digits: quality", ROWS, DRIFTS).replace("</body>", OVERFLOWS + "</body>")
    (tmp_path / "page.html").write_text(text)
    for width in (1200, 1000):
        shown = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile{width}",
             f"--window-size={width},1600", "--dump-dom", (tmp_path / "page.html").as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        found = re.search(r'data-found="([^"]*)"', shown.stdout)
        assert found, shown.stderr[-2000:]
        assert found[1].replace("&quot;", '"') == '{"svgs":5,"bad":[],"wide":false}'
