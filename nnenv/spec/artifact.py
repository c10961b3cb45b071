"""Artifacts: files known by sha256 and size, and how to ask a source for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nnenv.spec.digest import Sha256, sha256_of

__all__ = ["Artifact", "Kind", "Sha256", "sha256_of"]


class Kind(StrEnum):
    """What an artifact is, which decides the gate its bytes pass and the layer they go to."""

    WHEEL = "wheel"
    DEB = "deb"
    MODEL = "model"
    CASE = "case"
    FILE = "file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One locked file."""

    kind: Kind
    """What it is: `wheel`, `deb`, `model`, `case` or `file`."""
    name: str
    """Distribution, Debian package, or model name; for a case or file its path in the project."""
    version: str = field(metadata={"absent": True})
    """As its source spells it (PEP 440, Debian policy 5.6.12, or the model's own); "" for cases and files."""
    filename: str
    """Base name, without directories."""
    sha256: Sha256
    """Digest of the bytes; everything else refers to the file by it."""
    size: int
    """Bytes."""
    origin: str
    """How to ask a source, never which host: `python`, `python:NAME` (an `[[index]]`),
    `debian:SUITE:pool/path.deb`, `file:path/in/project`; of a model also `web:` with a digest of its address,
    `hf:org/name@commit:path`, `pypi:distribution==version/path`, `git:` or `oci:` with a digest of a repository's
    address, `torchhub:` with a commit, or `kaggle:` or `onnxzoo:` with the sha256 of an archive."""
    architecture: str = ""
    """Debian architecture of a .deb; empty otherwise."""
    requires_python: str = ""
    """Requires-Python of a wheel; empty otherwise."""
    requires: tuple[str, ...] = ()
    """Requirements as the artifact states them: Requires-Dist lines, or `Field: value` lines of a .deb."""
