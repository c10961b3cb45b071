"""What the Debian resolver asks of an archive, and the records that answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nnenv.spec.artifact import Sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class DebRecord:
    """One .deb as a signed Packages file describes it."""

    name: str
    version: str
    architecture: str
    """The Debian architecture, or `all`."""
    multi_arch: str
    """`same`, `foreign`, `allowed`, or empty."""
    essential: bool
    depends: str
    pre_depends: str
    provides: str
    conflicts: str
    breaks: str
    """Relation fields as written, on one line; parse with `resolve.debian.parse_relations`."""
    path: str
    """Filename: the path below the archive's root, `pool/main/...`."""
    sha256: Sha256
    size: int
    suite: str
    """Where it was found: `bookworm`, `bookworm-security`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFacts:
    """Which statement of the archive the records come from; the lock keeps it."""

    suite: str
    """As asked for: `bookworm-updates`."""
    codename: str
    date: str
    """When the archive signed it: `2026-07-11T10:16:37Z`."""
    sha256: Sha256
    """Of the signed body, not of the InRelease file: a new signature over the same text changes nothing."""
    components: tuple[str, ...]


class DebianCatalog(Protocol):
    """An archive, for one release and architecture."""

    def releases(self) -> tuple[ReleaseFacts, ...]:
        """The suites that answer, in the order in which they are preferred at equal versions."""
        ...

    def candidates(self, name: str) -> tuple[DebRecord, ...]:
        """Every .deb of that name in all suites, newest first; equal versions in the order of `releases`."""
        ...

    def providers(self, virtual: str) -> tuple[DebRecord, ...]:
        """Every .deb whose Provides names `virtual`, by name, newest first."""
        ...
