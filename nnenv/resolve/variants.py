"""Which distribution a name means on a target, where several stand for one import: `nnenv/data/variants.toml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from nnenv import data
from nnenv.spec.gpu import GpuCode

ANY_CUDA: Final = 0
"""The accelerator of a target that leaves open which CUDA major it gets."""

Accelerator = int | None
"""A CUDA major, ANY_CUDA, or None for a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a group's name means on one kind of machine."""

    distribution: str
    extras: tuple[str, ...] = ()
    needs_index: str = ""
    """Why an index of its own is needed; empty if the public one has the build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Distributions of which a target can have one, since all bring the same import."""

    imports: str
    """The module, `onnxruntime`."""
    name: str
    """The word that means one of them by the machine; empty if there is none."""
    members: tuple[str, ...]
    cpu: Build | None
    cuda: Mapping[int, Build]
    """By CUDA major; under ANY_CUDA what serves every major."""
    stands_for: Mapping[str, tuple[str, ...]]
    """Member -> members that it can be taken for."""

    def build(self, accelerator: Accelerator) -> Build | None:
        """What the name means; where the CUDA major is open, the build for the newest one."""
        if accelerator is None:
            return self.cpu
        if accelerator == ANY_CUDA:
            return self.cuda.get(ANY_CUDA) or self.cuda.get(max(self.cuda, default=ANY_CUDA))
        return self.cuda.get(accelerator) or self.cuda.get(ANY_CUDA)


@dataclass(frozen=True, kw_only=True, slots=True)
class Collision:
    """Distributions that cannot be together in one target."""

    imports: str
    distributions: tuple[str, ...]
    """Two or more, sorted."""


class Variants:
    """Answers what names mean in one target."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        """`named`: distributions that the manifest names for the target itself, normalised (PEP 503).

        One that is a group's member, and not merely the group's name, decides for its group.
        """
        chosen: dict[str, list[str]] = {}
        for name in sorted(set(named)):
            group = group_of(name)
            if group is not None and name != group.name:
                chosen.setdefault(group.imports, []).append(name)
        self._chosen = {imports: names[0] for imports, names in chosen.items() if len(names) == 1}

    def mapped(self, name: str, extras: tuple[str, ...], accelerator: Accelerator) -> tuple[str, tuple[str, ...]]:
        """(distribution, its extras, sorted) that a requirement means; the same for a name in no group.

        Extras that were asked for stay; one that asks for a build of the group already (`jax[cuda12]`) decides.
        """
        group = group_of(name)
        if group is None:
            return name, extras
        chosen = self._chosen.get(group.imports)
        if chosen is not None:
            return (chosen if name in group.stands_for.get(chosen, ()) else name), extras
        build = group.build(accelerator) if name == group.name else None
        if build is None:
            return name, extras
        others = {extra for other in group.cuda.values() for extra in other.extras}
        added = () if others & set(extras) else build.extras
        return build.distribution, tuple(sorted({*extras, *added}))

    def serves(self, name: str, major: int) -> bool:
        """Whether there is a build for a CUDA major; so it is of a name in no group, which means itself."""
        group = group_of(name)
        return group is None or name != group.name or group.build(major) is not None

    def depends_on_major(self, name: str) -> bool:
        """Whether what a name means depends on the CUDA major."""
        group = group_of(name)
        named = group is not None and name == group.name and group.imports not in self._chosen
        return group is not None and named and len(group.cuda) > 1

    def needs_index(self, name: str, accelerator: Accelerator) -> str:
        """Why what a name means comes from an index of its own; "" if the public one has it."""
        group = group_of(name)
        build = group.build(accelerator) if group is not None and name == group.name else None
        return build.needs_index if build is not None and group and group.imports not in self._chosen else ""


def group_of(distribution: str) -> Group | None:
    """The group that a distribution is a member of."""
    return _groups().get(distribution)


def colliding(names: Iterable[str]) -> tuple[Collision, ...]:
    """Groups of which several members are among `names`, by import name; the group's own name counts as a member."""
    together: dict[str, set[str]] = {}
    for name in names:
        group = group_of(name)
        if group is not None:
            together.setdefault(group.imports, set()).add(name)
    return tuple(
        Collision(imports=imports, distributions=tuple(sorted(found)))
        for imports, found in sorted(together.items())
        if len(found) > 1
    )


def properties_of(*, cuda: str, code: GpuCode) -> tuple[str, ...]:
    """What is known of a wheel in the words of wheel variants (PEP 825: namespace :: feature :: value).

    `cuda` is the version that it was built with, or empty.
    """
    lower = [f"nvidia :: cuda_version_lower_bound :: {cuda}"] if cuda else []
    real = [f"nvidia :: sm_arch :: {arch}_real" for arch in code.sass]
    virtual = [f"nvidia :: sm_arch :: {arch}_virtual" for arch in sorted({arch for arch, _ in code.ptx})]
    return (*lower, *real, *virtual)


@lru_cache(maxsize=1)
def groups() -> tuple[Group, ...]:
    """All groups, by the name they have in the data file."""
    return tuple(_group(row) for _, row in sorted(data.table("variants")["groups"].items()))


@lru_cache(maxsize=1)
def _groups() -> Mapping[str, Group]:
    return {member: group for group in groups() for member in group.members}


def _group(row: Mapping[str, Any]) -> Group:
    return Group(
        imports=row["imports"],
        name=row.get("name", ""),
        members=tuple(row["members"]),
        cpu=_build(row["cpu"]) if "cpu" in row else None,
        cuda={
            ANY_CUDA if major == "any" else int(major): _build(build) for major, build in row.get("cuda", {}).items()
        },
        stands_for={name: _names(others) for name, others in row.get("stands-for", {}).items()},
    )


def _build(row: Mapping[str, Any]) -> Build:
    return Build(
        distribution=row["distribution"], extras=_names(row.get("extras", ())), needs_index=row.get("needs-index", "")
    )


def _names(listed: Sequence[str]) -> tuple[str, ...]:
    return tuple(listed)
