"""Throw-away keys, made once for all tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian.archive import Signer


@pytest.fixture(scope="session")
def signer() -> Iterator[Signer]:
    """The archive's key."""
    yield from _signer("archive")


@pytest.fixture(scope="session")
def stranger() -> Iterator[Signer]:
    """A key that nobody trusts."""
    yield from _signer("stranger")


def _signer(name: str) -> Iterator[Signer]:
    # Not below pytest's folder: the path of gpg-agent's socket must stay shorter than 108 bytes.
    with tempfile.TemporaryDirectory(prefix="nnenv-key-", ignore_cleanup_errors=True) as home:
        signer = Signer(Path(home), name)
        yield signer
        signer.stop()
