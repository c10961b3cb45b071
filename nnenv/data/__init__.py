"""Curated facts that no artifact states: tables of rows, each with a reason and a source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any


@lru_cache(maxsize=16)
def table(name: str) -> Mapping[str, Any]:
    """The parsed file `nnenv/data/NAME.toml`, read once in a process; treat it as read-only."""
    return tomllib.loads(text(name))


def text(name: str) -> str:
    """The file `nnenv/data/NAME.toml` as it is."""
    return resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def content(filename: str) -> bytes:
    """The bytes of `nnenv/data/FILENAME`."""
    return resources.files(__name__).joinpath(filename).read_bytes()
