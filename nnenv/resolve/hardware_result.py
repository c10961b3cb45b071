"""A choice of wheels looked at as a whole, from the facts of all libraries: what contradicts it, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from packaging.version import Version

from nnenv.resolve import compat
from nnenv.resolve.compat import TOOLKIT, numbers, older
from nnenv.resolve.debian_facts import libstdcxx_symbols
from nnenv.resolve.gpu_coverage import Code, cover_all
from nnenv.resolve.hardware import GpuTarget, floor_of, gpu_code, major_in_name, ptx_driver
from nnenv.resolve.python import ChosenWheel
from nnenv.resolve.python_requirement import read_requirement
from nnenv.resolve.python_target import PythonTarget
from nnenv.resolve.sonames import SonameDemand, demanded_sonames
from nnenv.resolve.wheel_rules import Demand, Objection
from nnenv.spec.elf import ElfFacts
from nnenv.spec.gpu import GpuCode
from nnenv.spec.lockfile import GpuLock


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What looks at whole choices have found; the search goes on with them."""

    refused: Mapping[str, Objection] = field(default_factory=dict)
    """File name of a wheel -> why it is no candidate."""
    missing: Mapping[str, tuple[Demand, ...]] = field(default_factory=dict)
    """Distribution -> what its libraries need, and neither its metadata nor its outline said."""

    def beyond(self, others: Findings) -> bool:
        """Whether there is anything in these that is not in the others."""
        new = any(name not in others.refused for name in self.refused)
        return new or any(set(demands) - set(others.missing.get(name, ())) for name, demands in self.missing.items())

    def with_more(self, others: Findings) -> Findings:
        """Both together."""
        missing = {
            name: tuple(sorted({*self.missing.get(name, ()), *others.missing.get(name, ())}, key=lambda d: d.name))
            for name in {*self.missing, *others.missing}
        }
        return Findings(refused={**self.refused, **others.refused}, missing=missing)


Facts = Mapping[str, Sequence[ElfFacts]]
"""Distribution -> its libraries for the target's machine."""


def contradictions(
    wheels: Sequence[ChosenWheel], facts: Facts, python: PythonTarget, target: GpuTarget | None
) -> Findings:
    """What the libraries say against the choice, or for more of it."""
    refused: dict[str, Objection] = {}
    for wheel in wheels:
        objection = _too_new(facts[wheel.record.project], python)
        if objection is not None:
            refused[wheel.record.filename] = objection
    return Findings(refused=refused, missing=_missing(wheels, facts, python) if target is not None else {})


def _too_new(libraries: Sequence[ElfFacts], python: PythonTarget) -> Objection | None:
    """Why libraries do not load with the C and C++ libraries of the target, by the symbol versions they ask for."""
    beyond = _beyond(libraries, "GLIBC", python.glibc)
    if beyond is not None:
        why = f"needs glibc {beyond[0]}, and the target has {python.glibc}"
        return Objection(code="glibc-too-new", why=why, evidence=(f"{beyond[1]} needs GLIBC_{beyond[0]}",))
    if any(fact.soname == _LIBSTDCXX for fact in libraries):
        return None  # it brings its own
    for prefix, newest in zip(("GLIBCXX", "CXXABI"), libstdcxx_symbols(python.libstdcxx), strict=True):
        beyond = _beyond(libraries, prefix, newest) if newest else None
        if beyond is not None:
            asked = f"{prefix}_{beyond[0]}"
            why = f"needs a libstdc++ with {asked}, and that of the target (GCC {python.libstdcxx}) ends at {newest}"
            return Objection(code="libstdcxx-too-new", why=why, evidence=(f"{beyond[1]} needs {asked}",))
    return None


def _beyond(libraries: Sequence[ElfFacts], prefix: str, newest: str) -> tuple[str, str] | None:
    """(the newest version with the prefix that a library asks for, the library), if it is newer than `newest`."""
    floor, path = max((_symbol_floor(fact, prefix) for fact in libraries), default=((0,), ""))
    return (".".join(map(str, floor)), path) if floor > numbers(newest) else None


_LIBSTDCXX: Final = "libstdc++.so.6"
_SYMBOL_VERSION: Final = re.compile(r"([A-Z]+)_([0-9]+(?:\.[0-9]+)*)")


def _symbol_floor(fact: ElfFacts, prefix: str) -> tuple[tuple[int, ...], str]:
    """(newest version with the prefix that a library asks for, the library); versions that are names do not count."""
    found = (_SYMBOL_VERSION.fullmatch(version) for _, version in fact.version_needs)
    return max((numbers(match[2]) for match in found if match and match[1] == prefix), default=(0,)), fact.path


def _missing(wheels: Sequence[ChosenWheel], facts: Facts, python: PythonTarget) -> dict[str, tuple[Demand, ...]]:
    """CUDA libraries that no chosen wheel holds, by the distribution that needs them."""
    major = major_in({wheel.record.project: wheel.version for wheel in wheels})
    found: dict[str, list[Demand]] = {}
    for demand in from_the_system(demanded_sonames(facts, python.machine), has_accelerator=True):
        provider = compat.provider_of_soname(demand.soname, major) if major is not None else None
        for name in demand.wheels if provider else ():
            assert provider is not None
            found.setdefault(name, []).append(
                Demand(name=provider.distribution, specifier=provider.specifier, why=f"needs {demand.soname}")
            )
    return {name: tuple(demands) for name, demands in found.items()}


def from_the_system(demands: Iterable[SonameDemand], has_accelerator: bool) -> tuple[SonameDemand, ...]:
    """The demands without what the host's driver brings, and without what only optional features need."""
    if not has_accelerator:
        return tuple(demands)
    needing = (
        replace(one, wheels=tuple(name for name in one.wheels if one.soname not in compat.optional_sonames(name)))
        for one in demands
        if one.soname not in compat.driver_sonames()
    )
    return tuple(demand for demand in needing if demand.wheels)


def notices(wheels: Sequence[ChosenWheel], target: GpuTarget | None) -> tuple[str, ...]:
    """What whoever locks this choice should know, a sentence each, in order of the wheels."""
    found: list[str] = []
    versions = {wheel.record.project: wheel.version for wheel in wheels}
    major = major_in(versions) if target is not None else None
    for wheel in wheels:
        name = f"{wheel.record.project} {wheel.version}"
        asked = {read_requirement(text).name for text in wheel.requires}
        if major is not None:
            placeholders = {one: compat.published_name(one) for one in asked if compat.published_name(one) != one}
            used = [f"{new} for {old}" for old, new in sorted(placeholders.items()) if new in versions]
            if used:
                found.append(f"{name} names packages that have no wheels; taken instead: {', '.join(used)}")
            lacking = sorted(_added(wheel, major) - asked - set(placeholders.values()))
            if lacking:
                found.append(f"{name} needs {', '.join(lacking)} and does not ask for it: added")
        if wheel.unread:
            what = "a wheel of a variant was" if wheel.unread == 1 else f"{wheel.unread} wheels of variants were"
            found.append(f"{wheel.record.project}: {what} skipped, nnenv does not read these yet (PEP 825)")
        found += [
            f"{name}: {one.problem} (advice: {one.advice}; `nnenv compat` has the source)"
            for one in compat.advisories(wheel.record.project, wheel.version)
            if one.notice
        ]
    return tuple(found)


def _added(wheel: ChosenWheel, major: int) -> set[str]:
    """Distributions that the rules made a wheel ask for; what the toolkit pins counts by its own name."""
    names: set[str] = set()
    for name, extras, _ in wheel.added:
        if name == TOOLKIT:
            names |= {found for one in extras if (found := compat.distribution_of_component(one, major))}
        else:
            names.add(name)
    return names - {wheel.record.project}


Versions = Mapping[str, str]
"""Distribution -> chosen version."""


def gpu_lock(target: GpuTarget, versions: Versions, facts: Facts) -> GpuLock:
    """The derived part of the lock; `facts` are those of each distribution's libraries for the target's machine."""
    codes = {name: found for name in sorted(versions) if (found := gpu_code(name, facts.get(name, ())))}
    major = major_in(versions)
    floors = sorted(_floors(target, major, versions, codes), key=lambda floor: (numbers(floor[0]), floor[1]))
    driver, reason = floors[-1] if floors else ("", "")
    needed = {soname for libraries in facts.values() for fact in libraries for soname in fact.needed}
    return GpuLock(
        cuda=cuda_in(versions),
        cudnn=next((versions[name] for name in sorted(versions) if name.startswith("nvidia-cudnn-cu")), ""),
        driver=driver,
        driver_reason=reason,
        capabilities=tuple((one, _how(codes.values(), one)) for one in target.capabilities or _covered(codes)),
        lazy=tuple(sorted(_lazy(versions, major))),
        driver_sonames=tuple(sorted(needed & compat.driver_sonames())),
    )


def major_in(versions: Versions) -> int | None:
    """The one CUDA major of all wheels; None if there is no CUDA in the target."""
    if TOOLKIT in versions:
        return Version(versions[TOOLKIT]).major
    named = (major_in_name(name) for name in sorted(versions))
    runtime = (Version(versions[name]).major for name in sorted(versions) if name.startswith("nvidia-cuda-runtime"))
    return next((major for major in (*named, *runtime) if major is not None), None)


def cuda_in(versions: Versions) -> str:
    """The toolkit's release; of toolkits that are pinned part by part the runtime tells the minor."""
    if TOOLKIT in versions:
        return versions[TOOLKIT]
    for name in sorted(versions):
        if name.startswith("nvidia-cuda-runtime"):
            version = Version(versions[name])
            return f"{version.major}.{version.minor}"
    major = major_in(versions)
    return "" if major is None else str(major)


def floor_in(versions: Versions) -> str:
    """The oldest driver that runs machine code of the CUDA major; "" without one."""
    major = major_in(versions)
    return "" if major is None else floor_of(major)


def _floors(
    target: GpuTarget, major: int | None, versions: Versions, codes: Mapping[str, Mapping[str, GpuCode]]
) -> Iterator[tuple[str, str]]:
    """(driver, why) of everything that sets one."""
    if major is not None:
        yield floor_of(major), f"CUDA {major} runs from this driver on"
    for name, code in codes.items():
        for capability in target.capabilities:
            coverage = cover_all(code, capability)
            driver = ptx_driver(coverage)
            if driver:
                yield driver, f"{name} {versions[name]} has only PTX {coverage.ptx} for compute capability {capability}"


def _covered(codes: Mapping[str, Mapping[str, GpuCode]]) -> tuple[str, ...]:
    """The compute capabilities of NVIDIA's GPUs that everything has code for, where the target declares none."""
    if not codes:
        return ()
    return tuple(
        capability
        for capability in compat.gpu_capabilities()
        if all(cover_all(code, capability).code is not Code.NONE for code in codes.values())
    )


def _how(codes: Iterable[Mapping[str, GpuCode]], capability: str) -> str:
    """How the weakest of all libraries covers the capability: `sass`, or `ptx 8.4`."""
    weakest = "sass"
    for code in codes:
        coverage = cover_all(code, capability)
        if coverage.code is Code.PTX and (weakest == "sass" or older(weakest.removeprefix("ptx "), coverage.ptx)):
            weakest = f"ptx {coverage.ptx}"
    return weakest


def _lazy(versions: Versions, major: int | None) -> Iterator[tuple[str, str]]:
    """(soname, distribution that holds it) of what is loaded by name."""
    for name, version in versions.items():
        for soname in compat.lazy_sonames(name, version):
            provider = compat.provider_of_soname(soname, major) if major is not None else None
            if provider is not None and provider.distribution in versions:
                yield soname, provider.distribution
