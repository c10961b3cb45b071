"""The closure verdict: statically, does every shared library in the image find what it needs inside the image?

The search follows ld.so(8): DT_RUNPATH (or DT_RPATH) with $ORIGIN, then the directories of the cache and the default
ones. A library that only another wheel directory holds is accepted with a note, because Python packages load such
libraries before the ones that need them; the load verdict proves it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from nnenv.spec.elf import ElfFacts

TRIPLETS: Final = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
"""Debian's multiarch directory names (`dpkg-architecture -qDEB_HOST_MULTIARCH`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageElf:
    """One ELF file at its place in the image."""

    path: str
    """Without the leading slash."""
    owner: str
    """The artifact it comes from, for messages: `numpy 2.4.6`."""
    facts: ElfFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerated:
    """What is different in an image for an accelerator."""

    driver: frozenset[str] = frozenset()
    """Sonames that the host's driver brings, and the image must not."""
    optional: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Owner -> sonames that only a feature needs which may be missing."""
    by_name: tuple[str, ...] = ()
    """Sonames that the linker must find by itself, whoever asks: frameworks load them by name."""
    own: frozenset[str] = frozenset()
    """Sonames of CUDA's wheels: it does not do that another package may have loaded one before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosureReport:
    """What the static check found."""

    files: int
    """ELF files of the target's machine that were checked."""
    foreign: tuple[str, ...]
    """Paths of ELF files for another machine, of artifacts that bring none for the target's."""
    missing: tuple[str, ...]
    """One sentence per library or symbol version that nothing in the image provides."""
    by_load_order: tuple[str, ...]
    """One sentence per library that is found only because another package loads it first."""
    unreachable: tuple[str, ...] = ()
    """One sentence per library of CUDA that is in the image, where the linker does not look."""
    stray: tuple[str, ...] = ()
    """One sentence per library of the driver that the linker would find in the image."""

    @property
    def passed(self) -> bool:
        """True when nothing is missing or out of reach, and no artifact is for another machine."""
        return not (self.missing or self.foreign or self.unreachable or self.stray)


NOT_ACCELERATED: Final = Accelerated()
"""An image for CPUs."""


def default_directories(machine: str) -> tuple[str, ...]:
    """Where ld.so looks without being told, in Debian's multiarch layout, after the merge of /usr."""
    triplet = TRIPLETS[machine]
    return (f"usr/lib/{triplet}", "usr/lib", f"usr/local/lib/{triplet}", "usr/local/lib")


def check_closure(
    elves: Iterable[ImageElf],
    links: Mapping[str, str],
    *,
    machine: str,
    directories: Iterable[str] = (),
    accelerated: Accelerated = NOT_ACCELERATED,
) -> ClosureReport:
    """The verdict over all ELF files of an image.

    `links` maps the path of a symbolic link to its target as written; `directories` are those of ld.so.conf, without
    leading slashes.
    """
    every = tuple(elves)
    # Some wheels bring their library for several machines at once; one that brings none for ours is mislabelled.
    at_home = {elf.owner for elf in every if elf.facts.machine == machine}
    own = [elf for elf in every if elf.facts.machine == machine]
    view = _View(own, links, (*directories, *default_directories(machine)))
    missing: dict[str, None] = {}
    by_load_order: dict[str, None] = {}
    unreachable: dict[str, None] = {}
    for elf in own:
        for soname in elf.facts.needed:
            if soname in accelerated.driver:
                continue
            provider, in_order = view.find(elf, soname)
            if provider is None:
                if soname not in accelerated.optional.get(elf.owner, ()):
                    missing[f"{soname} is needed by {elf.path} ({elf.owner}) and nothing in the image provides it"] = (
                        None
                    )
                continue
            if not in_order and soname in accelerated.own:
                unreachable[f"{soname} is needed by {elf.path} ({elf.owner}) and lies in {provider.path}"] = None
            elif not in_order:
                by_load_order[f"{soname} for {elf.path} comes from {provider.path}, which must be loaded first"] = None
            missing.update(dict.fromkeys(_missing_versions(elf, soname, provider)))
    for soname in accelerated.by_name:
        if view.first(soname) is None:
            unreachable[f"{soname} is loaded by name, and the linker does not find it"] = None
    strays = [(soname, found) for soname in sorted(accelerated.driver) if (found := view.first(soname)) is not None]
    return ClosureReport(
        files=len(own),
        foreign=tuple(sorted(elf.path for elf in every if elf.facts.machine != machine and elf.owner not in at_home)),
        missing=tuple(sorted(missing)),
        by_load_order=tuple(sorted(by_load_order)),
        unreachable=tuple(sorted(unreachable)),
        stray=tuple(f"{soname} belongs to the driver, and is in {elf.path} ({elf.owner})" for soname, elf in strays),
    )


def _missing_versions(elf: ImageElf, soname: str, provider: ImageElf) -> list[str]:
    """Symbol versions that `elf` needs of `soname` and the provider does not define; one without any is unversioned."""
    defined = set(provider.facts.version_definitions)
    if not defined:
        return []
    return [
        f"{version} of {soname} is needed by {elf.path} ({elf.owner}); {provider.path} ({provider.owner}) lacks it"
        for library, version in elf.facts.version_needs
        if library == soname and version not in defined
    ]


class _View:
    """The image's libraries by path and by name."""

    def __init__(self, elves: Iterable[ImageElf], links: Mapping[str, str], directories: tuple[str, ...]) -> None:
        self.by_path = {elf.path: elf for elf in elves}
        self.links = links
        self.directories = directories
        self.by_name: dict[str, ImageElf] = {}
        for path in sorted(self.by_path, reverse=True):
            elf = self.by_path[path]
            if path.startswith("opt/"):
                self.by_name[posixpath.basename(path)] = elf
                if elf.facts.soname:
                    self.by_name[elf.facts.soname] = elf

    def first(self, soname: str) -> ImageElf | None:
        """What ld.so finds by name alone."""
        found = (self._at(f"{directory}/{soname}") for directory in self.directories)
        return next((elf for elf in found if elf is not None), None)

    def find(self, elf: ImageElf, soname: str) -> tuple[ImageElf | None, bool]:
        """(provider or None, whether ld.so finds it without help)."""
        origin = posixpath.dirname(elf.path)
        searched = [*(_expanded(entry, origin) for entry in elf.facts.runpath), *self.directories]
        for directory in searched:
            found = self._at(posixpath.normpath(f"{directory}/{soname}"))
            if found is not None:
                return found, True
        return self.by_name.get(soname), False

    def _at(self, path: str) -> ImageElf | None:
        for _ in range(16):
            if path in self.by_path:
                return self.by_path[path]
            target = self.links.get(path)
            if target is None:
                return None
            path = posixpath.normpath(
                target.lstrip("/") if target.startswith("/") else posixpath.join(posixpath.dirname(path), target)
            )
        return None


def _expanded(entry: str, origin: str) -> str:
    return entry.replace("${ORIGIN}", "/" + origin).replace("$ORIGIN", "/" + origin).lstrip("/")
