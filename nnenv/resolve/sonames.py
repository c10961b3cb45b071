"""Which OS packages the wheels' shared libraries need: sonames as virtual packages (design, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nnenv.errors import NnenvError
from nnenv.spec.elf import ElfFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class SonameDemand:
    """A library that wheels need from outside the wheels."""

    soname: str
    wheels: tuple[str, ...]
    """Names of the distributions that need it, sorted."""


def demanded_sonames(facts: Mapping[str, Iterable[ElfFacts]], machine: str) -> tuple[SonameDemand, ...]:
    """Sonames that some wheel needs and no wheel of the target carries, sorted.

    `facts` maps a distribution's name to the ELF files of its wheel. Files for another machine are ignored: some
    wheels ship libraries for several.
    """
    own = {name: [fact for fact in files if fact.machine == machine] for name, files in facts.items()}
    carried = {
        provided
        for files in own.values()
        for fact in files
        for provided in (fact.soname, fact.path.rsplit("/", 1)[-1])
        if provided
    }
    demands: dict[str, set[str]] = {}
    for name, files in own.items():
        for fact in files:
            for soname in fact.needed:
                if soname not in carried:
                    demands.setdefault(soname, set()).add(name)
    return tuple(SonameDemand(soname=soname, wheels=tuple(sorted(demands[soname]))) for soname in sorted(demands))


def providers_of(
    demands: Iterable[SonameDemand], package_of: Callable[[str], str | None], *, target: str
) -> tuple[tuple[str, str], ...]:
    """(soname, OS package) for every demand; NnenvError `soname-missing` naming each library nothing provides."""
    found: list[tuple[str, str]] = []
    missing: list[SonameDemand] = []
    for demand in demands:
        package = package_of(demand.soname)
        if package is None:
            missing.append(demand)
        else:
            found.append((demand.soname, package))
    if missing:
        raise NnenvError(
            "soname-missing",
            f"target {target}: shared libraries that wheels need are provided by nothing",
            where=f"targets.{target}",
            because=[f"{demand.soname} is needed by {', '.join(demand.wheels)}" for demand in missing],
            fix=[
                "add the OS package that holds the library to requires.system",
                "choose another version of the wheel",
            ],
        )
    return tuple(found)
