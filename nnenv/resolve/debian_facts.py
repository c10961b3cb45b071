"""What we know of Debian and no archive states, as values: read from `nnenv/data/debian.toml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nnenv import data
from nnenv.errors import NnenvError


@dataclass(frozen=True, kw_only=True, slots=True)
class OmitRule:
    """A dependency that is not followed."""

    dependency: str
    packages: tuple[str, ...]
    """Whose dependency it is; empty: everyone's."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OmitRules:
    """Which dependencies only maintainer scripts use; nnenv runs none."""

    rows: tuple[OmitRule, ...]

    def reason(self, package: str, alternatives: Sequence[str]) -> str | None:
        """Why `package`'s relation over `alternatives` is not followed; None when it is.

        One alternative in the table is enough: the others would serve the same script.
        """
        for row in self.rows:
            if row.dependency in alternatives and (not row.packages or package in row.packages):
                return row.reason
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianRelease:
    """One release of Debian as a target's operating system."""

    number: str
    """`12`, as in `os = "debian:12"`."""
    codename: str
    suites: tuple[str, ...]
    """Preferred first at equal versions; `*-security` is in the security archive."""
    python: str
    """The Python it offers, `3.11`."""
    roots: tuple[str, ...]
    """Packages of every image: the interpreter, and what manylinux wheels take for granted."""
    shell_roots: tuple[str, ...]
    """More packages when the image is to have a shell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianFacts:
    """Everything in the table."""

    releases: Mapping[str, DebianRelease]
    omit: OmitRules
    keyrings: tuple[str, ...]
    """Files that may hold the archive's keys, first existing wins."""
    soname_packages: Mapping[str, tuple[str, ...]]
    """Soname -> package names to try, where the naming policy does not lead to the package."""
    libc_sonames: frozenset[str]
    """What the packages of the C library itself provide."""
    libstdcxx: tuple[tuple[tuple[int, ...], str, str], ...]
    """(GCC, newest GLIBCXX, newest CXXABI) of releases that brought new symbol versions, oldest first."""


@lru_cache(maxsize=1)
def debian_facts() -> DebianFacts:
    """The shipped table, read once in a process."""
    table = data.table("debian")
    return DebianFacts(
        releases={number: _release(number, row) for number, row in table["releases"].items()},
        omit=OmitRules(
            rows=tuple(
                OmitRule(dependency=row["dependency"], packages=tuple(row.get("packages", ())), reason=row["reason"])
                for row in table["omit"]
            )
        ),
        keyrings=tuple(table["keyrings"]["files"]),
        soname_packages={row["soname"]: tuple(row["packages"]) for row in table["sonames"]},
        libc_sonames=frozenset(table["libc"]["sonames"]),
        libstdcxx=tuple(
            (tuple(map(int, row["gcc"].split("."))), row["glibcxx"], row["cxxabi"])
            for row in table["libstdcxx"]["rows"]
        ),
    )


def libstdcxx_symbols(gcc: str) -> tuple[str, str]:
    """The newest (GLIBCXX, CXXABI) in the libstdc++ of a GCC, `12.2.0` -> (`3.4.30`, `1.3.13`); "" if unknown."""
    version = tuple(int(part) for part in gcc.split(".") if part.isdigit())
    found = [symbols for since, *symbols in debian_facts().libstdcxx if since <= version]
    return (found[-1][0], found[-1][1]) if found else ("", "")


def debian_release(number: str) -> DebianRelease:
    """The release called `number`; NnenvError manifest-invalid when nnenv does not know it."""
    releases = debian_facts().releases
    if number not in releases:
        raise NnenvError(
            "manifest-invalid",
            f"nnenv does not know Debian {number}",
            where=f"debian:{number}",
            because=[f"known releases: {', '.join(sorted(releases))}"],
            fix=[f'write os = "debian:{known}"' for known in sorted(releases)],
        )
    return releases[number]


def _release(number: str, row: Mapping[str, object]) -> DebianRelease:
    def names(key: str) -> tuple[str, ...]:
        listed = row[key]
        assert isinstance(listed, list), key
        return tuple(map(str, listed))

    return DebianRelease(
        number=number,
        codename=str(row["codename"]),
        suites=names("suites"),
        python=str(row["python"]),
        roots=names("roots"),
        shell_roots=names("shell-roots"),
    )
