"""Which wheels of a project a target can use at all, and why the others are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from nnenv.formats.core_metadata import normal_name
from nnenv.resolve.python_catalog import Project, WheelRecord
from nnenv.resolve.python_target import PythonTarget

_WHEEL: Final = re.compile(
    r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(?:-([0-9][A-Za-z0-9._]*))?-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)\.whl"
)
"""Name, version, build tag, and the compressed Python, ABI and platform tags (binary distribution format)."""

_LONGEST_NAME: Final = 255
"""Bytes that a file system takes."""
_MISNAMED: Final = "files whose names follow no known wheel naming"
_VARIANT: Final = re.compile(
    r"[A-Za-z0-9._]+-[A-Za-z0-9._+!]+(?:-[0-9][A-Za-z0-9._]*)?"
    r"-[a-z]{2}[0-9][A-Za-z0-9_.]*-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[a-z0-9._]+\.whl"
)
"""A wheel's name with one part more, the label of a variant (PEP 825, a draft)."""
_OF_VARIANTS: Final = "wheels of a variant, which nnenv does not read yet (PEP 825)"

Rank = tuple[int, tuple[int, str], str]
"""Smaller is better: tag, build number, file name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsableWheel:
    """The best wheel of one version."""

    record: WheelRecord
    version: Version
    text: str
    """The version in its normal spelling."""


class Offer:
    """What one project has for a target, newest version first, and looked at no further than asked.

    Of one version the wheel with the best tag counts (PEP 425), then the highest build number (PEP 427); the order of
    the project's files does not matter. Files uploaded after `exclude_newer` (RFC 3339 UTC), or at an unknown time,
    do not exist; "" lets all exist.
    """

    def __init__(self, project: Project, target: PythonTarget, exclude_newer: str) -> None:
        self._project = project
        self._judge = _Judge(project.name, target, exclude_newer)
        self._usable: dict[str, UsableWheel | None] = {}

    @property
    def known(self) -> bool:
        """Whether any source knows the name."""
        return self._project.known

    def versions(self) -> Iterator[tuple[Version, str]]:
        """Each version that may have a usable wheel, and its text: a key for `wheel`."""
        return ((_version(text), text) for text in self._project.versions)

    def wheel(self, text: str) -> UsableWheel | None:
        """The best wheel of a version, if the target can use any."""
        if text not in self._usable:
            self._usable[text] = self._best(text)
        return self._usable[text]

    @cached_property
    def wheels(self) -> tuple[UsableWheel, ...]:
        """The best wheels of all versions: a look at every file, for explanations."""
        return tuple(wheel for _, text in self.versions() if (wheel := self.wheel(text)))

    @cached_property
    def rejected(self) -> Mapping[str, int]:
        """Why other files cannot be used, and how many: a look at every file, for explanations."""
        project = self._project
        reasons = [self._judge.verdict(wheel) for text in project.versions for wheel in project.wheels_of(text)]
        reasons += [self._judge.verdict(wheel) for wheel in project.misnamed]
        reasons += [self._judge.name(name) for name in project.other_names]
        return Counter(reason for reason in reasons if isinstance(reason, str))

    @cached_property
    def of_variants(self) -> int:
        """Wheels of a variant, which nobody here can read: a look at the names of the files that no target can use."""
        names = [*(wheel.filename for wheel in self._project.misnamed), *self._project.other_names]
        return sum(name.endswith(".whl") and _match(name) is None and _is_of_variant(name) for name in names)

    @cached_property
    def has_final(self) -> bool:
        """Whether any usable wheel is not of a pre-release."""
        return any(not version.is_prerelease and self.wheel(text) for version, text in self.versions())

    def _best(self, text: str) -> UsableWheel | None:
        best: tuple[Rank, WheelRecord] | None = None
        for record in self._project.wheels_of(text):
            rank = self._judge.verdict(record)
            if not isinstance(rank, str) and (best is None or rank < best[0]):
                best = (rank, record)
        if best is None:
            return None
        # Of two spellings of one version (1.0 and 1.0.0) the chosen file's.
        return UsableWheel(record=best[1], version=_version(text), text=str(_version(best[1].version)))


@cache
def _version(text: str) -> Version:
    return Version(text)


@dataclass(slots=True)
class _Judge:
    """Judges the files of one project; remembers what many of their names share."""

    project: str
    target: PythonTarget
    exclude_newer: str
    _tags: dict[tuple[str, str, str], int | str] = field(default_factory=dict)
    _versions: dict[str, bool] = field(default_factory=dict)
    _pythons: dict[str, bool | None] = field(default_factory=dict)
    _names: dict[str, bool] = field(default_factory=dict)

    def verdict(self, record: WheelRecord) -> Rank | str:
        """Its rank, or why the wheel cannot be used."""
        match = _match(record.filename)
        if match is None:
            return _unknown_naming(record.filename)
        name, version, build, *tags = match.groups()
        rank = self._tag_rank((tags[0], tags[1], tags[2]))
        if isinstance(rank, str):
            return rank
        if not self._is_own(name):
            return "files of another project"
        if self.exclude_newer and not "" < record.upload_time <= self.exclude_newer:
            return f"files newer than {self.exclude_newer}, or of unknown age"
        supported = self._supports(record.requires_python)
        if not self._is_version(version) or supported is None:
            return "wheels whose version or Requires-Python PEP 440 does not allow"
        if not supported:
            return f"wheels that do not support Python {self.target.python}"
        return rank, _build_order(build or ""), record.filename

    def name(self, filename: str) -> str:
        """Why a file that no target can use is not used, by its name alone."""
        if not filename.endswith(".whl"):
            return "source distributions (nnenv builds none)"
        match = _match(filename)
        if match is None:
            return _unknown_naming(filename)
        reason = self._tag_rank((match[4], match[5], match[6]))
        assert isinstance(reason, str), filename
        return reason

    def _tag_rank(self, tags: tuple[str, str, str]) -> int | str:
        if tags not in self._tags:
            self._tags[tags] = _tag_rank(*tags, self.target)
        return self._tags[tags]

    def _is_own(self, name: str) -> bool:
        if name not in self._names:
            self._names[name] = normal_name(name) == self.project
        return self._names[name]

    def _is_version(self, text: str) -> bool:
        if text not in self._versions:
            try:
                Version(text)
                self._versions[text] = True
            except InvalidVersion:
                self._versions[text] = False
        return self._versions[text]

    def _supports(self, requires_python: str) -> bool | None:
        if requires_python not in self._pythons:
            self._pythons[requires_python] = supports_python(requires_python, self.target)
        return self._pythons[requires_python]


def _match(filename: str) -> re.Match[str] | None:
    return _WHEEL.fullmatch(filename) if len(filename) <= _LONGEST_NAME else None


def _unknown_naming(filename: str) -> str:
    """Why a name that is no wheel's as we know them is not used."""
    return _OF_VARIANTS if _is_of_variant(filename) else _MISNAMED


def _is_of_variant(filename: str) -> bool:
    return len(filename) <= _LONGEST_NAME and _VARIANT.fullmatch(filename) is not None


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
