"""What we know of CUDA and no artifact states, as values: read from `nnenv/data/compat.toml`, once in a process.

What the table does not hold is None or empty, never a guess. Versions of CUDA, PTX and drivers compare number by
number. Names of distributions are normalised ones (PEP 503).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Any, Final

from nnenv import data

TABLE: Final = "compat"
"""Name of the data file."""
TOOLKIT: Final = "cuda-toolkit"
"""The metapackage whose extras pin the components of one release of the CUDA toolkit."""

_LAST_SUFFIXED: Final = 12
"""The last CUDA major whose components have it in their names: nvidia-cublas-cu12, but nvidia-cublas for 13."""
_OF_CUDA: Final = re.compile(r"nvidia-.+-cu1[0-9]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table of the data file, for whoever shows it."""

    name: str
    about: str
    source: str
    """Of every row that does not name its own."""
    date: str
    """When the source was read, ISO 8601; the same."""
    derivable: bool
    """Whether it follows from the index: `nnenv compat refresh`."""
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SonameProvider:
    """The distribution that holds a shared library of NVIDIA's."""

    distribution: str
    cuda: int
    """CUDA major that the library is of."""
    component: str
    """The extra of cuda-toolkit that pins the distribution; empty for what is no part of the toolkit, as cuDNN."""
    specifier: str
    """PEP 440: the releases that hold the library."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advisory:
    """Something known to be bad about a release."""

    id: str
    distribution: str
    versions: str
    """PEP 440; empty for all releases."""
    beside: str
    """Only together with this, PEP 508; empty if it is bad alone."""
    problem: str
    advice: str
    source: str
    date: str
    notice: bool
    """Whether whoever locks the release is told; of the others nnenv's rules take care."""


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """All tables in the order of the data file."""
    return tuple(
        Table(
            name=name,
            about=body["about"],
            source=body["source"],
            date=str(body["date"]),
            derivable=body.get("derivable", False),
            rows=tuple(body["rows"]),
        )
        for name, body in data.table(TABLE).items()
    )


def rows(name: str) -> tuple[Mapping[str, Any], ...]:
    """The rows of one table."""
    return tuple(data.table(TABLE)[name]["rows"])


# Drivers and versions


def cuda_majors() -> tuple[int, ...]:
    """Every CUDA major with a known driver floor, newest first."""
    return tuple(sorted((row["cuda"] for row in rows("driver-floors")), reverse=True))


def driver_floor(cuda_major: int) -> str | None:
    """The oldest Linux driver that runs machine code of any release of a CUDA major, `525.60.13`."""
    return next((row["driver"] for row in rows("driver-floors") if row["cuda"] == cuda_major), None)


def driver_for_cuda(version: str) -> str | None:
    """The oldest driver branch that supports a CUDA release whole, PTX included; `12.8`, `12.8.1` -> `570`."""
    wanted = numbers(version)[:2]
    return next((driver for driver, cuda in _branches() if numbers(cuda) >= wanted), None)


def newest_cuda(driver: str) -> str | None:
    """The newest CUDA that a driver is known to support whole; `535.104.05` -> `12.2`."""
    found = [cuda for branch, cuda in _branches() if numbers(branch) <= numbers(driver)]
    return found[-1] if found else None


def cuda_of_ptx(isa: str) -> str | None:
    """The first CUDA whose driver translates PTX of this version; `8.7` -> `12.8`."""
    return next((row["cuda"] for row in rows("ptx-isa") if row["isa"] == isa), None)


def older(driver: str, floor: str) -> bool:
    """Whether a driver is older than another; `535` is the first of its branch."""
    return numbers(driver) < numbers(floor)


def numbers(version: str) -> tuple[int, ...]:
    """The parts of a dotted version. ValueError for anything else."""
    return tuple(int(part) for part in version.split("."))


def _branches() -> Iterator[tuple[str, str]]:
    """(driver branch, newest CUDA), oldest first, without rows that only one source has."""
    return ((row["driver"], row["cuda"]) for row in rows("driver-branches") if not row.get("unconfirmed"))


# GPUs


def capability_of_gpu(name: str) -> str | None:
    """Compute capability of a GPU by its name, in any case and with or without `NVIDIA`: `V100` -> `7.0`."""
    wanted = name.casefold().removeprefix("nvidia ").strip()
    return next((row["capability"] for row in rows("gpus") if wanted in map(str.casefold, row["names"])), None)


@cache
def gpu_capabilities() -> tuple[str, ...]:
    """The compute capabilities of the GPUs that are known by name, by number."""
    return tuple(sorted({row["capability"] for row in rows("gpus")}, key=numbers))


@cache
def tegra_capabilities() -> frozenset[str]:
    """Compute capabilities of Tegra chips."""
    return frozenset(row["capability"] for row in rows("tegra"))


# Libraries


@cache
def driver_sonames() -> frozenset[str]:
    """Libraries that come with the host's driver."""
    return frozenset(row["soname"] for row in rows("driver-sonames"))


def driver_capability(soname: str) -> str | None:
    """Which of NVIDIA_DRIVER_CAPABILITIES brings a library of the driver: `compute`, `utility` or `video`."""
    return next((row["capability"] for row in rows("driver-sonames") if row["soname"] == soname), None)


def provider_of_soname(soname: str, cuda_major: int | None = None) -> SonameProvider | None:
    """The distribution that holds a library for a CUDA major; without one, only if no other major has that soname."""
    providers = _providers().get(soname, {})
    if cuda_major is None:
        return next(iter(providers.values())) if len(providers) == 1 else None
    return providers.get(cuda_major)


def cuda_major_of_soname(soname: str) -> int | None:
    """The CUDA major that alone has a library of this soname; None for `libcudnn.so.9`, which several have."""
    provider = provider_of_soname(soname)
    return provider.cuda if provider else None


def toolkit_component(distribution: str, cuda_major: int) -> str | None:
    """The extra of cuda-toolkit that pins a distribution: `nvidia-cublas-cu12` -> `cublas`."""
    return _components().get((distribution, cuda_major))


def distribution_of_component(component: str, cuda_major: int) -> str | None:
    """The distribution that an extra of cuda-toolkit pins: `cublas`, 12 -> `nvidia-cublas-cu12`."""
    found = (name for (name, major), extra in _components().items() if major == cuda_major and extra == component)
    return next(found, None)


def published_name(distribution: str) -> str:
    """The name under which a component has wheels: from CUDA 13 on `-cu13` names placeholders, `nvidia-cublas-cu13`."""
    base, suffix, major = distribution.rpartition("-cu")
    if suffix and major.isdigit() and int(major) > _LAST_SUFFIXED and toolkit_component(base, int(major)):
        return base
    return distribution


def component_name(base: str, cuda_major: int) -> str:
    """A component's distribution for a CUDA major: `nvidia-cublas`, 12 -> `nvidia-cublas-cu12`."""
    return f"{base}-cu{cuda_major}" if cuda_major <= _LAST_SUFFIXED else base


@cache
def _components() -> Mapping[tuple[str, int], str]:
    return {
        (component_name(row["distribution"], major), major): row["component"]
        for row in rows("toolkit-components")
        for major in row["cuda"]
    }


@cache
def _providers() -> Mapping[str, Mapping[int, SonameProvider]]:
    """Soname -> CUDA major -> who holds it."""
    found: dict[str, dict[int, SonameProvider]] = {}
    for row in rows("soname-providers"):
        found.setdefault(row["soname"], {})[row["cuda"]] = SonameProvider(
            distribution=row["distribution"],
            cuda=row["cuda"],
            component=toolkit_component(row["distribution"], row["cuda"]) or "",
            specifier=row["versions"],
        )
    return found


def optional_sonames(distribution: str) -> frozenset[str]:
    """Libraries that some file of the distribution needs, and that nothing has to provide."""
    return frozenset(soname for row in _of("optional-sonames", distribution) for soname in row["sonames"])


def lazy_sonames(distribution: str, version: str) -> tuple[str, ...]:
    """Libraries that a release loads by name, sorted; no DT_NEEDED tells of them, and they must be there."""
    found = [row for row in _of("lazy-sonames", distribution) if _is_in(version, row["versions"])]
    return tuple(sorted({soname for row in found for soname in row["sonames"]}))


def loads_by_name() -> dict[str, tuple[str, ...]]:
    """Pattern of sonames -> patterns of the CUDA libraries that such a library loads by name; others are unknown."""
    return {row["library"]: tuple(row["loads"]) for row in rows("loads-by-name")}


def uses_headers(distribution: str) -> bool:
    """Whether it may compile against the headers in CUDA's wheels when it runs."""
    return any(True for _ in _of("headers-at-runtime", distribution))


def always_loaded(distribution: str, library: str) -> bool:
    """Whether a library's GPU code counts, by its file name; without a row for the distribution every one's does."""
    found = list(_of("always-loaded", distribution))
    return not found or any(fnmatchcase(library, pattern) for row in found for pattern in row["libraries"])


def is_opaque(library: str) -> bool:
    """Whether a library's list of GPU code says nothing about where it runs, by its file name."""
    return any(fnmatchcase(library, row["library"]) for row in rows("opaque-libraries"))


# Distributions


@cache
def is_part_of_cuda(distribution: str) -> bool:
    """Whether it is one of NVIDIA's own CUDA libraries or tools, or the toolkit's metapackage."""
    return distribution == TOOLKIT or distribution in _bases() or _OF_CUDA.fullmatch(distribution) is not None


@cache
def _bases() -> frozenset[str]:
    """Distributions of the table, with and without the CUDA major in their names."""
    components = {row["distribution"] for row in rows("toolkit-components")}
    return frozenset(components | {row["distribution"] for row in rows("soname-providers")})


def is_framework(distribution: str) -> bool:
    """Whether its wheels hold GPU code or load CUDA without being a part of it."""
    return any(True for _ in _of("frameworks", distribution))


def sdist_only(distribution: str) -> str | None:
    """What to do instead of a distribution that the public index has as source packages alone."""
    return next((row["advice"] for row in _of("sdist-only", distribution)), None)


def advisories(distribution: str, version: str) -> tuple[Advisory, ...]:
    """What is known to be bad about a release, by id; those with `beside` only matter together with that."""
    return tuple(
        advisory
        for advisory in all_advisories()
        if advisory.distribution == distribution and _is_in(version, advisory.versions)
    )


@lru_cache(maxsize=1)
def all_advisories() -> tuple[Advisory, ...]:
    """Every advisory, by id."""
    table = next(table for table in tables() if table.name == "advisories")
    return tuple(
        Advisory(
            id=row["id"],
            distribution=row["distribution"],
            versions=row["versions"],
            beside=row.get("beside", ""),
            problem=row["problem"],
            advice=row["advice"],
            source=row.get("source", table.source),
            date=str(row.get("date", table.date)),
            notice=row.get("notice", False),
        )
        for row in table.rows
    )


def _of(table: str, distribution: str) -> Iterator[Mapping[str, Any]]:
    """Rows whose pattern fits the distribution."""
    return (row for row in rows(table) if fnmatchcase(distribution, row["distribution"]))


@cache
def _is_in(version: str, specifier: str) -> bool:
    """Whether PEP 440 admits the version; pre-releases count as what they lead to."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
