"""Which wheels of a project a target can use at all, and why the others are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from nnenv.resolve.python_catalog import Project, WheelRecord
from nnenv.resolve.python_target import PythonTarget

_WHEEL: Final = re.compile(
    r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(?:-([0-9][A-Za-z0-9._]*))?-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)\.whl"
)
"""Name, version, build tag, and the compressed Python, ABI and platform tags (binary distribution format)."""

_LONGEST_NAME: Final = 255
"""Bytes that a file system takes."""

Rank = tuple[int, tuple[int, str], str]
"""Smaller is better: tag, build number, file name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsableWheel:
    """The best wheel of one version."""

    record: WheelRecord
    version: Version
    text: str
    """The version in its normal spelling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What one project has for a target."""

    wheels: tuple[UsableWheel, ...]
    """Newest version first, one wheel each."""
    rejected: Mapping[str, int]
    """Why other files cannot be used, and how many, for explanations."""
    known: bool
    """Whether any source knows the name."""


def offer_of(project: Project, target: PythonTarget, exclude_newer: str) -> Offer:
    """The usable wheels of `project`; the order of its files does not matter.

    Of one version the wheel with the best tag counts (PEP 425), then the highest build number (PEP 427).
    Files uploaded after `exclude_newer` (RFC 3339 UTC), or at an unknown time, do not exist; "" lets all exist.
    """
    judge = _Judge(project.name, target, exclude_newer)
    best: dict[Version, tuple[Rank, WheelRecord]] = {}
    rejected: dict[str, int] = {}
    for record in project.wheels:
        verdict = judge.verdict(record)
        if isinstance(verdict, str):
            rejected[verdict] = rejected.get(verdict, 0) + 1
            continue
        version, rank = verdict
        if version not in best or rank < best[version][0]:
            best[version] = (rank, record)
    if project.sdists:
        rejected["source distributions (nnenv builds none)"] = len(project.sdists)
    return Offer(
        wheels=tuple(
            UsableWheel(record=best[version][1], version=version, text=str(version))
            for version in sorted(best, reverse=True)
        ),
        rejected=rejected,
        known=bool(project.wheels or project.sdists or project.known),
    )


@dataclass(slots=True)
class _Judge:
    """Judges the wheels of one project; remembers what many of their names share."""

    project: str
    target: PythonTarget
    exclude_newer: str
    _tags: dict[tuple[str, str, str], int | str] = field(default_factory=dict)
    _versions: dict[str, Version | None] = field(default_factory=dict)
    _pythons: dict[str, bool | None] = field(default_factory=dict)
    _names: dict[str, bool] = field(default_factory=dict)

    def verdict(self, record: WheelRecord) -> tuple[Version, Rank] | str:
        """Version and rank, or why the wheel cannot be used."""
        match = _WHEEL.fullmatch(record.filename) if len(record.filename) <= _LONGEST_NAME else None
        if match is None:
            return "files whose names follow no known wheel naming"
        name, version_text, build, *tags = match.groups()
        rank = self._tag_rank((tags[0], tags[1], tags[2]))
        if isinstance(rank, str):
            return rank
        if not self._is_own(name):
            return "files of another project"
        if self.exclude_newer and not "" < record.upload_time <= self.exclude_newer:
            return f"files newer than {self.exclude_newer}, or of unknown age"
        version, supported = self._version(version_text), self._supports(record.requires_python)
        if version is None or supported is None:
            return "wheels whose version or Requires-Python PEP 440 does not allow"
        if not supported:
            return f"wheels that do not support Python {self.target.python}"
        return version, (rank, _build_order(build or ""), record.filename)

    def _tag_rank(self, tags: tuple[str, str, str]) -> int | str:
        if tags not in self._tags:
            self._tags[tags] = _tag_rank(*tags, self.target)
        return self._tags[tags]

    def _is_own(self, name: str) -> bool:
        if name not in self._names:
            self._names[name] = canonicalize_name(name) == self.project
        return self._names[name]

    def _version(self, text: str) -> Version | None:
        if text not in self._versions:
            try:
                self._versions[text] = Version(text)
            except InvalidVersion:
                self._versions[text] = None
        return self._versions[text]

    def _supports(self, requires_python: str) -> bool | None:
        if requires_python not in self._pythons:
            self._pythons[requires_python] = supports_python(requires_python, self.target)
        return self._pythons[requires_python]


def supports_python(requires_python: str, target: PythonTarget) -> bool | None:
    """Whether a Requires-Python admits the target's interpreter; None if PEP 440 does not allow its text."""
    try:
        return SpecifierSet(requires_python).contains(target.python, prereleases=True)
    except InvalidSpecifier:
        return None


def _tag_rank(pythons: str, abis: str, platforms: str, target: PythonTarget) -> int | str:
    """Best rank among the compressed tag set (PEP 425), or why the target takes none of them."""
    prefixes = [f"{python}-{abi}-".lower() for python in pythons.split(".") for abi in abis.split(".")]
    names = platforms.lower().split(".")
    ranks = [target.tags[tag] for prefix in prefixes for name in names if (tag := prefix + name) in target.tags]
    if ranks:
        return min(ranks)
    if not any(f"{prefix}{name}" in target.tags for prefix in prefixes for name in ("any", f"linux_{target.machine}")):
        return f"wheels for another Python than {target.minor}"
    if any(re.fullmatch(rf"manylinux_[0-9]+_[0-9]+_{target.machine}", name) for name in names):
        return f"wheels that need a newer glibc than {target.glibc}"
    return f"wheels for another platform than Linux with glibc on {target.machine}"


def _build_order(build: str) -> tuple[int, str]:
    """Highest build number first (PEP 427: build tag sorts as a two-item tuple)."""
    digits = build[: len(build) - len(build.lstrip("0123456789"))]
    return (-int(digits) if digits else 0, build)
