"""What of CUDA's wheels an image does without: headers, static libraries, and on request libraries nothing needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

_TO_BUILD_WITH: Final = (".a", ".cuh", ".h", ".hpp", ".inl")
"""Ends of names of files that serve to compile and link alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trim:
    """What is left out of the wheels of CUDA."""

    headers: bool = False
    """Headers and static libraries."""
    unused: frozenset[str] = frozenset()
    """Paths in the image, without the leading slash, of libraries that nothing needs."""

    def leaves_out(self, path: str) -> bool:
        """Whether a file of a wheel of CUDA, by its path in the image, stays out of it."""
        return path in self.unused or (self.headers and path.endswith(_TO_BUILD_WITH))


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaLibrary:
    """One library of a wheel of CUDA."""

    path: str
    """In the image, without the leading slash."""
    soname: str
    needed: tuple[str, ...]
    """Sonames in its dynamic section."""


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of some shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unused_libraries(
    libraries: Collection[CudaLibrary], wanted: Collection[str], by_name: Mapping[str, Collection[str]]
) -> frozenset[str]:
    """Paths of those libraries that nothing needs.

    `wanted` are the sonames that everything else in the image needs or loads by name; `by_name` tells for a pattern of
    sonames which patterns of others such a library loads by name, unseen by the linker.
    """
    kept: set[str] = set()
    following = set(wanted)
    while following:
        kept |= following
        found = [library for library in libraries if library.soname in following]
        needed = {soname for library in found for soname in library.needed}
        loaded = [by_name[key] for library in found for key in by_name if fnmatchcase(library.soname, key)]
        needed |= {one.soname for one in libraries if any(matches_any(one.soname, patterns) for patterns in loaded)}
        following = needed - kept
    return frozenset(library.path for library in libraries if library.soname not in kept)
