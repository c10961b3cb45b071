"""Which wheels: resolvelib over the exact wheel's metadata, for one target.

The order of candidates is: the old lock's pin, then newest version first; of one version the wheel with the best tag
(PEP 425), then the highest build number. Nothing else (cache, worker count, time) changes the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from nnenv.errors import NnenvError
from nnenv.resolve.python_catalog import Project, WheelCatalog, WheelRecord
from nnenv.resolve.python_target import PythonTarget

if TYPE_CHECKING:
    from resolvelib.resolvers import RequirementInformation

MAX_ROUNDS = 200_000
"""Steps after which the search gives up instead of running for ever (reliability notes, T15)."""


@dataclass(frozen=True, kw_only=True)
class PythonPolicy:
    """What the manifest says about choosing wheels."""

    constraints: tuple[str, ...] = ()
    """Requirements that bound a version without asking for the package."""
    overrides: tuple[str, ...] = ()
    """Requirements that replace every other requirement on the same name."""
    exclude_newer: str = ""
    """RFC 3339 UTC: files uploaded later, or at an unknown time, do not exist."""
    prereleases: frozenset[str] = frozenset()
    """Names whose pre-releases are welcome."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A requirement, and who asked."""

    requirement: Requirement
    parent: str
    """`numpy 2.4.6`, or `model.toml`."""

    @property
    def identifier(self) -> str:
        """Name with extras, `name[a,b]`: what resolvelib treats as one thing to decide."""
        return _identifier(self.requirement.name, self.requirement.extras)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One wheel that may be chosen, with the extras it is chosen for."""

    record: WheelRecord
    version: Version
    extras: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.record.project} {self.version}"


@dataclass(frozen=True, kw_only=True)
class ChosenWheel:
    """A wheel of the solution: its record (sha256 and size known) and what its metadata asks for."""

    record: WheelRecord
    version: str
    requires: tuple[str, ...]
    requires_python: str
    parents: tuple[str, ...]
    """Names that required it, sorted; `model.toml` for the manifest's own."""


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """The usable candidates of one project, newest first, and why others are not usable."""

    candidates: tuple[Candidate, ...]
    rejected: Mapping[str, int] = field(default_factory=dict)


def resolve_wheels(
    requirements: Sequence[str],
    catalog: WheelCatalog,
    target: PythonTarget,
    policy: PythonPolicy,
    *,
    pins: Mapping[str, str],
) -> tuple[ChosenWheel, ...]:
    """The wheels that meet `requirements` on `target`, sorted by name.

    `pins` maps a normalised name to the version that is preferred when it still fits.
    Raises NnenvError `python-unsatisfiable` with the packages that clash.
    """
    provider = _Provider(catalog, target, policy, pins)
    roots = [Wanted(requirement=Requirement(text), parent="model.toml") for text in requirements]
    catalog.prefetch(canonicalize_name(root.requirement.name) for root in roots)
    resolver: Resolver[Wanted, Candidate, str] = Resolver(provider, BaseReporter())
    try:
        result = resolver.resolve([root for root in roots if provider.applies(root.requirement)], max_rounds=MAX_ROUNDS)
    except ResolutionImpossible as error:
        raise _impossible(error, provider) from None
    except ResolutionTooDeep:
        raise NnenvError(
            "python-unsatisfiable",
            f"target {target.name}: no solution within {MAX_ROUNDS} steps",
            where=f"targets.{target.name}",
            fix=["narrow the versions in requires.packages"],
        ) from None
    chosen = {candidate.record.project: candidate for candidate in result.mapping.values()}
    parents = _parents(result.mapping, result.graph)
    return tuple(
        _chosen(catalog, chosen[name], tuple(sorted(parents.get(name, ())))) for name in sorted(chosen)
    )


def _chosen(catalog: WheelCatalog, candidate: Candidate, parents: tuple[str, ...]) -> ChosenWheel:
    metadata = catalog.metadata(candidate.record)
    return ChosenWheel(
        record=catalog.identify(candidate.record),
        version=str(candidate.version),
        requires=metadata.requires,
        requires_python=metadata.requires_python,
        parents=parents,
    )


def _parents(mapping: Mapping[str, Candidate], graph: Any) -> dict[str, set[str]]:
    parents: dict[str, set[str]] = {}
    for identifier, candidate in mapping.items():
        for parent in graph.iter_parents(identifier):
            name = "model.toml" if parent is None else mapping[parent].record.project
            if name != candidate.record.project:
                parents.setdefault(candidate.record.project, set()).add(name)
    return parents


def _identifier(name: str, extras: Iterable[str]) -> str:
    wanted = sorted(canonicalize_name(extra) for extra in extras)
    return canonicalize_name(name) + (f"[{','.join(wanted)}]" if wanted else "")


class _Provider(AbstractProvider[Wanted, Candidate, str]):
    """resolvelib's five questions, answered for one target."""

    def __init__(
        self, catalog: WheelCatalog, target: PythonTarget, policy: PythonPolicy, pins: Mapping[str, str]
    ) -> None:
        self.catalog = catalog
        self.target = target
        self.policy = policy
        self.pins = pins
        self.constraints = _by_name(policy.constraints)
        self.overrides = _by_name(policy.overrides)
        self._offers: dict[str, _Offer] = {}
        self._dependencies: dict[str, tuple[Requirement, ...]] = {}
        self._marker_results: dict[tuple[str, str], bool] = {}

    # resolvelib's interface

    def identify(self, requirement_or_candidate: Wanted | Candidate) -> str:
        if isinstance(requirement_or_candidate, Wanted):
            return requirement_or_candidate.identifier
        return _identifier(requirement_or_candidate.record.project, requirement_or_candidate.extras)

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[RequirementInformation[Wanted, Candidate]]],
        backtrack_causes: Sequence[RequirementInformation[Wanted, Candidate]],
    ) -> tuple[bool, bool, bool, str]:
        """Decide first what clashed, then what is pinned by `==`, then what is bounded; names break ties."""
        causes = {cause.requirement.identifier for cause in backtrack_causes} | {
            self.identify(cause.parent) for cause in backtrack_causes if cause.parent is not None
        }
        operators = {
            specifier.operator
            for entry in information[identifier]
            for specifier in entry.requirement.requirement.specifier
        }
        return (identifier not in causes, "==" not in operators, not operators, identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Wanted]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> list[Candidate]:
        wanted = list(requirements[identifier])
        name = canonicalize_name(wanted[0].requirement.name)
        specifier = self._specifier(name, wanted)
        refused = {candidate.version for candidate in incompatibilities[identifier]}
        extras = frozenset(canonicalize_name(extra) for item in wanted for extra in item.requirement.extras)
        candidates = [
            Candidate(record=candidate.record, version=candidate.version, extras=extras)
            for candidate in self.offer(name).candidates
            if candidate.version not in refused and self._usable(candidate, specifier)
        ]
        candidates = self._without_unwanted_prereleases(name, specifier, candidates)
        pin = self.pins.get(name)
        return sorted(candidates, key=lambda candidate: str(candidate.version) != pin) if pin else candidates

    def is_satisfied_by(self, requirement: Wanted, candidate: Candidate) -> bool:
        name = canonicalize_name(requirement.requirement.name)
        return self._specifier(name, [requirement]).contains(candidate.version, prereleases=True)

    def get_dependencies(self, candidate: Candidate) -> list[Wanted]:
        parent = str(candidate)
        wanted: list[Wanted] = []
        if candidate.extras:
            wanted.append(
                Wanted(requirement=Requirement(f"{candidate.record.project}=={candidate.version}"), parent=parent)
            )
        wanted += [
            Wanted(requirement=requirement, parent=parent)
            for requirement in self._requirements_of(candidate)
            if self._requirement_applies(requirement, candidate.extras)
        ]
        self.catalog.prefetch(canonicalize_name(item.requirement.name) for item in wanted)
        return wanted

    # our own

    def applies(self, requirement: Requirement) -> bool:
        """Whether the requirement's marker holds on the target without any extra."""
        return self._requirement_applies(requirement, frozenset())

    def offer(self, name: str) -> _Offer:
        """The usable candidates of `name`, best wheel of each version, newest first."""
        if name not in self._offers:
            self._offers[name] = _offer(self.catalog.project(name), self.target, self.policy)
        return self._offers[name]

    def _requirements_of(self, candidate: Candidate) -> tuple[Requirement, ...]:
        key = candidate.record.filename
        if key not in self._dependencies:
            self._dependencies[key] = tuple(self._parsed(candidate))
        return self._dependencies[key]

    def _parsed(self, candidate: Candidate) -> Iterator[Requirement]:
        for text in self.catalog.metadata(candidate.record).requires:
            try:
                requirement = Requirement(text)
            except InvalidRequirement as error:
                raise NnenvError(
                    "python-unsatisfiable",
                    f"{candidate} states a requirement that PEP 508 does not allow: {text!r}",
                    where=candidate.record.filename,
                    because=[str(error).splitlines()[0]],
                    fix=[f"exclude that version: {candidate.record.project}!={candidate.version}"],
                ) from None
            if requirement.url:
                raise NnenvError(
                    "python-unsatisfiable",
                    f"{candidate} asks for {requirement.name} by address, which a lock cannot hold",
                    where=candidate.record.filename,
                    fix=[f"add an override for {requirement.name} under [policy]"],
                )
            yield requirement

    def _requirement_applies(self, requirement: Requirement, extras: frozenset[str]) -> bool:
        """Whether a candidate chosen for `extras` brings the requirement; what needs no extra comes with the base."""
        marker = requirement.marker
        if marker is None:
            return not extras
        text = str(marker)
        if "extra" not in text:
            return not extras and self._holds(text, marker, "")
        return any(self._holds(text, marker, extra) for extra in (extras or ("",)))

    def _holds(self, text: str, marker: Any, extra: str) -> bool:
        key = (text, extra)
        if key not in self._marker_results:
            self._marker_results[key] = bool(marker.evaluate({**self.target.markers, "extra": extra}))
        return self._marker_results[key]

    def _specifier(self, name: str, wanted: Iterable[Wanted]) -> SpecifierSet:
        if name in self.overrides:
            return self.overrides[name]
        specifier = self.constraints.get(name, SpecifierSet())
        for item in wanted:
            specifier &= item.requirement.specifier
        return specifier

    def _usable(self, candidate: Candidate, specifier: SpecifierSet) -> bool:
        if not specifier.contains(candidate.version, prereleases=True):
            return False
        return not candidate.record.yanked or _pinned(specifier)

    def _without_unwanted_prereleases(
        self, name: str, specifier: SpecifierSet, candidates: list[Candidate]
    ) -> list[Candidate]:
        """PEP 440 "Handling of pre-releases": only where asked for, or where nothing else exists."""
        if name in self.policy.prereleases or specifier.prereleases:
            return candidates
        final = [candidate for candidate in candidates if not candidate.version.is_prerelease]
        anything_final = any(not candidate.version.is_prerelease for candidate in self.offer(name).candidates)
        return final if final or anything_final else candidates


def _by_name(requirements: Iterable[str]) -> dict[str, SpecifierSet]:
    found: dict[str, SpecifierSet] = {}
    for text in requirements:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        found[name] = found.get(name, SpecifierSet()) & requirement.specifier
    return found


def _pinned(specifier: SpecifierSet) -> bool:
    """PEP 592: a yanked file may be used where `==` or `===` asks for exactly it."""
    return any(part.operator in {"==", "==="} and not part.version.endswith(".*") for part in specifier)


def _offer(project: Project, target: PythonTarget, policy: PythonPolicy) -> _Offer:
    best: dict[Version, tuple[tuple[int, tuple[int, str], str], WheelRecord]] = {}
    rejected: dict[str, int] = {}
    for record in project.wheels:
        reason, version, rank = _judge(record, target, policy)
        if reason:
            rejected[reason] = rejected.get(reason, 0) + 1
        elif version not in best or rank < best[version][0]:
            best[version] = (rank, record)
    if project.sdists:
        rejected["source distributions only (nnenv builds none)"] = len(project.sdists)
    return _Offer(
        candidates=tuple(
            Candidate(record=best[version][1], version=version) for version in sorted(best, reverse=True)
        ),
        rejected=rejected,
    )


_NO_RANK = (0, (0, ""), "")


def _judge(
    record: WheelRecord, target: PythonTarget, policy: PythonPolicy
) -> tuple[str, Version, tuple[int, tuple[int, str], str]]:
    """(why the wheel cannot be used or "", its version, its rank: smaller is better)."""
    unknown = Version("0")
    parts = record.filename.removesuffix(".whl").split("-")
    if len(parts) not in {5, 6}:
        return "file names that follow no known wheel naming", unknown, _NO_RANK
    rank = _tag_rank(parts[-3], parts[-2], parts[-1], target.tags)
    if rank is None:
        return f"wheels for another Python, CPU or newer glibc than {target.glibc}", unknown, _NO_RANK
    if policy.exclude_newer and not (record.upload_time and record.upload_time <= policy.exclude_newer):
        return f"files newer than {policy.exclude_newer}, or of unknown age", unknown, _NO_RANK
    try:
        version = Version(parts[1])
        if record.requires_python and not SpecifierSet(record.requires_python).contains(target.python, prereleases=True):
            return f"versions that do not support Python {target.python}", unknown, _NO_RANK
    except (InvalidVersion, InvalidSpecifier):
        return "versions or Python requirements that PEP 440 does not allow", unknown, _NO_RANK
    return "", version, (rank, _build_order(parts[2] if len(parts) == 6 else ""), record.filename)


def _tag_rank(pythons: str, abis: str, platforms: str, tags: Mapping[str, int]) -> int | None:
    """Best rank among the compressed tag set (PEP 425), or None if the target takes none of them."""
    ranks = [
        tags[tag]
        for python in pythons.split(".")
        for abi in abis.split(".")
        for platform in platforms.split(".")
        if (tag := f"{python}-{abi}-{platform}".lower()) in tags
    ]
    return min(ranks, default=None)


def _build_order(build: str) -> tuple[int, str]:
    """Highest build number first (PEP 427: build tag sorts as a two-item tuple)."""
    digits = build[: len(build) - len(build.lstrip("0123456789"))]
    return (-int(digits) if digits else 0, build)


def _impossible(error: ResolutionImpossible[Wanted, Candidate], provider: _Provider) -> NnenvError:
    """The clash in the words of the packages that made it, with why other versions do not help."""
    causes = sorted({(str(cause.requirement.requirement), cause.requirement.parent) for cause in error.causes})
    names = sorted({canonicalize_name(cause.requirement.requirement.name) for cause in error.causes})
    because = [f"{parent} needs {requirement}" for requirement, parent in causes]
    for name in names:
        offer = provider.offer(name)
        usable = ", ".join(str(candidate.version) for candidate in offer.candidates[:5])
        because.append(
            f"{name}: usable here are {usable}{', …' if len(offer.candidates) > 5 else ''}"
            if usable
            else f"{name}: no usable wheel"
        )
        because += [f"{name}: left out {count} {reason}" for reason, count in sorted(offer.rejected.items())]
        if not offer.candidates and not offer.rejected:
            because.append(f"{name}: no configured index knows this name")
    target = provider.target
    return NnenvError(
        "python-unsatisfiable",
        f"target {target.name}: no set of wheels meets the requirements on {', '.join(names)}",
        where=f"targets.{target.name} (Python {target.python}, {target.machine}, glibc {target.glibc})",
        because=because,
        fix=["loosen one of these requirements, or add a constraint or override under [policy]"],
    )
