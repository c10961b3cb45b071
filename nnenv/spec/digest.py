"""Digests: the names of bytes."""

from __future__ import annotations

import re
from typing import NewType

Sha256 = NewType("Sha256", str)
"""64 lower-case hexadecimal digits."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def sha256_of(text: str) -> Sha256:
    """`text` as a Sha256; ValueError if it is not 64 lower-case hex digits."""
    if not _SHA256.match(text):
        raise ValueError(f"not a sha256: {text[:80]!r}")
    return Sha256(text)
