"""The part of `nnenv/data/compat.toml` that follows from an index, made anew; see `nnenv compat refresh`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from nnenv.resolve.compat import TOOLKIT, component_name

Row = Mapping[str, Any]
Sonames = frozenset[str]

COMPANIONS: Final = ("nvidia-cudnn", "nvidia-cusparselt", "nvidia-nccl", "nvidia-nvshmem")
"""Libraries that frameworks need and that are no part of the toolkit; their names always have the CUDA major."""

_LIBRARY: Final = re.compile(r"lib[^/]+\.so(?:\.[0-9]+)+")
_LEFT_OUT: Final = ("*.alt.so.*", "libnvrtc-builtins.so.*", "libnvvm.so.*")
"""What its own wheel loads by path, or what tells no CUDA major: libnvvm.so.4 is of several."""


def component_rows(requires: Mapping[int, Sequence[str]]) -> tuple[Row, ...]:
    """Table `toolkit-components`, from the Requires-Dist lines of one release of cuda-toolkit for each CUDA major."""
    majors: dict[tuple[str, str], set[int]] = {}
    for major, lines in requires.items():
        for component, distribution in _owners(_extras(lines)).items():
            base = distribution.removesuffix(f"-cu{major}")
            assert component_name(base, major) == distribution, f"{TOOLKIT} {major} names {distribution}"
            majors.setdefault((component, base), set()).add(major)
    return tuple(
        {"component": component, "distribution": base, "cuda": sorted(found)}
        for (component, base), found in sorted(majors.items())
    )


def _extras(lines: Sequence[str]) -> Mapping[str, frozenset[str]]:
    """Extra -> the distributions that it names, but for the extra of everything."""
    from packaging.requirements import Requirement

    found: dict[str, set[str]] = {}
    for line in lines:
        requirement = Requirement(line)
        for extra in re.findall(r"""extra == ['"]([A-Za-z0-9._-]+)['"]""", str(requirement.marker or "")):
            if extra != "all":
                found.setdefault(extra, set()).add(requirement.name)
    return {extra: frozenset(names) for extra, names in found.items()}


def _owners(extras: Mapping[str, frozenset[str]]) -> Mapping[str, str]:
    """Extra -> the one distribution that it is about; the others are what that needs, and have extras of their own."""
    owners: dict[str, str] = {}
    while True:
        taken = set(owners.values())
        left = {extra: names - taken for extra, names in extras.items() if extra not in owners}
        clear = {extra: next(iter(names)) for extra, names in sorted(left.items()) if len(names) == 1}
        if not clear:
            return owners
        owners.update(clear)


def library_distributions(components: Iterable[Row], majors: Iterable[int]) -> tuple[tuple[int, str], ...]:
    """(CUDA major, distribution) of everything that may hold libraries, sorted."""
    toolkit = {(major, component_name(row["distribution"], major)) for row in components for major in row["cuda"]}
    companions = {(major, f"{name}-cu{major}") for major in majors for name in COMPANIONS}
    return tuple(sorted(toolkit | companions))


def library_sonames(paths: Iterable[str]) -> Sonames:
    """The sonames in a wheel's file list: NVIDIA's files are called by theirs."""
    names = {path.rsplit("/", 1)[-1] for path in paths}
    return frozenset(
        name
        for name in names
        if _LIBRARY.fullmatch(name) and not any(fnmatchcase(name, pattern) for pattern in _LEFT_OUT)
    )


def sonames_by_version(versions: Sequence[str], sonames_of: Callable[[str], Sonames]) -> Mapping[str, Sonames]:
    """What each release holds; `versions` are in order.

    Where two releases hold the same, so do those between them: few of them are looked at, by bisection.
    """
    found: dict[str, Sonames] = {}

    def look(first: int, last: int) -> None:
        for number in (first, last):
            if versions[number] not in found:
                found[versions[number]] = sonames_of(versions[number])
        if found[versions[first]] == found[versions[last]]:
            found.update((version, found[versions[first]]) for version in versions[first:last])
        elif last - first > 1:
            middle = (first + last) // 2
            look(first, middle)
            look(middle, last)

    if versions:
        look(0, len(versions) - 1)
    return found


def soname_rows(held: Mapping[tuple[int, str], Mapping[str, Sonames]]) -> tuple[Row, ...]:
    """Table `soname-providers`, from what the releases of each (CUDA major, distribution) hold."""
    found = [
        {"cuda": major, "soname": soname, "distribution": name, "versions": holding_range(soname, releases)}
        for (major, name), releases in held.items()
        for soname in sorted(frozenset[str]().union(*releases.values()))
    ]
    return tuple(sorted(found, key=lambda row: (row["cuda"], row["soname"], row["distribution"])))


def holding_range(soname: str, releases: Mapping[str, Sonames]) -> str:
    """PEP 440: the releases that hold a library. One first number if they have one, since the next may hold another."""
    from packaging.version import Version

    order = sorted(releases, key=Version)
    holding = [version for version in order if soname in releases[version]]
    first, last = order.index(holding[0]), order.index(holding[-1])
    parts = []
    numbers = {Version(version).release[0] for version in holding}
    if len(numbers) == 1:
        (number,) = numbers
        parts.append(f"=={number}.*")
        order = [version for version in order if Version(version).release[0] == number]
        first, last = order.index(holding[0]), order.index(holding[-1])
    if first > 0:
        parts.append(f">={holding[0]}")
    if last + 1 < len(order):
        parts.append(f"<{order[last + 1]}")
    return ",".join(parts)


# The file


def with_rows(text: str, table: str, rows: Iterable[Row]) -> str:
    """The data file with the rows of one table replaced, every other byte as it was."""
    heading = text.index(f"\n[{table}]\n")
    start = text.index("\nrows = [\n", heading) + len("\nrows = [\n")
    end = text.index("\n]\n", start - 1) + 1
    return text[:start] + "".join(f"  {row_text(row)},\n" for row in rows) + text[end:]


def row_text(row: Row) -> str:
    """A row as the data file spells it."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in row.items()) + " }"
