"""Figures in the documentation: marked blocks that the bench writes, so that no figure is typed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

PAGE = "performance.md"


def update(folder: Path, blocks: Mapping[str, str], plots: Mapping[str, str]) -> None:
    """Put each suite's block into `folder`/performance.md, and its plots beside it; KeyError, and nothing is written,
    if the page has no block of that name."""
    page = folder / PAGE
    text = page.read_text("utf-8")
    for suite, block in blocks.items():
        text = replaced(text, suite, block)
    write(page, text)
    for slug, svg in plots.items():
        write(folder / "performance" / f"{slug}.svg", svg)


def replaced(text: str, name: str, block: str) -> str:
    """`text` with what stands between `<!-- bench:NAME -->` and `<!-- end -->` replaced; KeyError without the marks."""
    pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise KeyError(f"no block bench:{name}")
    return pattern.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", text, count=1)


def write(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing, whichever threads or processes do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(data)
    temporary.replace(path)
