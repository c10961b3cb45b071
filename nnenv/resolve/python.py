"""Which wheels: resolvelib over the exact wheel's metadata, for one target.

The order of candidates is: the old lock's pin, then newest version first; of one version the wheel with the best tag
(PEP 425), then the highest build number. Nothing else (cache, worker count, time) changes the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from nnenv.errors import NnenvError
from nnenv.resolve.python_catalog import WheelCatalog, WheelRecord
from nnenv.resolve.python_offer import Offer, UsableWheel, offer_of, supports_python
from nnenv.resolve.python_target import PythonTarget

if TYPE_CHECKING:
    from resolvelib.resolvers import RequirementInformation

MAX_ROUNDS = 50_000
"""Steps after which the search gives up instead of running for ever (reliability notes, T15)."""

_ROOT: Final = "model.toml"
_NOTHING: Final = ""
"""The name that no wheel has: a candidate that wants it cannot be chosen."""


@dataclass(frozen=True, kw_only=True)
class PythonPolicy:
    """What the manifest says about choosing wheels."""

    constraints: tuple[str, ...] = ()
    """Requirements that bound a version without asking for the package."""
    overrides: tuple[str, ...] = ()
    """Requirements that replace every other requirement on the same name; one whose marker does not hold on the
    target is not there."""
    exclude_newer: str = ""
    """RFC 3339 UTC: files uploaded later, or at an unknown time, do not exist."""
    prereleases: frozenset[str] = frozenset()
    """Names whose pre-releases are welcome."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """A requirement that holds on the target, and who asked. Compared by identity: each is made once."""

    name: str
    """Normalised; empty for what nothing can meet."""
    extras: tuple[str, ...] = ()
    """Normalised, sorted."""
    specifier: SpecifierSet
    exactly: Version | None = None
    """The only version that will do, because a sibling with other extras was chosen in it."""
    text: str
    """What is asked, as it was written; for what nothing can meet, why."""
    parent: str
    """`numpy 2.4.6`, or `model.toml`."""

    @cached_property
    def identifier(self) -> str:
        """Name with extras, `name[a,b]`: what resolvelib treats as one thing to decide."""
        return _identifier(self.name, self.extras)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One wheel that may be chosen, with the extras it is chosen for."""

    wheel: UsableWheel
    extras: tuple[str, ...] = ()

    @cached_property
    def identifier(self) -> str:
        """What it would be chosen for."""
        return _identifier(self.wheel.record.project, self.extras)

    def __str__(self) -> str:
        return f"{self.wheel.record.project} {self.wheel.text}"


@dataclass(frozen=True, kw_only=True)
class ChosenWheel:
    """A wheel of the solution: its record (sha256 and size known) and what its metadata asks for."""

    record: WheelRecord
    version: str
    requires: tuple[str, ...]
    requires_python: str
    parents: tuple[str, ...]
    """Names that required it, sorted; `model.toml` for the manifest's own."""


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
    roots = provider.roots(requirements)
    catalog.prefetch(root.name for root in roots)
    resolver: Resolver[Wanted, Candidate, str] = Resolver(provider, BaseReporter())
    try:
        result = resolver.resolve(roots, max_rounds=MAX_ROUNDS)
    except ResolutionImpossible as error:
        raise _impossible(error.causes, provider) from None
    except ResolutionTooDeep:
        raise NnenvError(
            "python-unsatisfiable",
            f"target {target.name}: no solution within {MAX_ROUNDS} steps",
            where=f"targets.{target.name}",
            because=["the search gives up there instead of running for ever"],
            fix=["narrow the versions in requires.packages"],
        ) from None
    chosen = {candidate.wheel.record.project: candidate for candidate in result.mapping.values()}
    parents = _parents(roots, result.mapping, provider)
    return tuple(_chosen(catalog, chosen[name], parents[name]) for name in sorted(parents))


def _chosen(catalog: WheelCatalog, candidate: Candidate, parents: Iterable[str]) -> ChosenWheel:
    metadata = catalog.metadata(candidate.wheel.record)
    return ChosenWheel(
        record=catalog.identify(candidate.wheel.record),
        version=candidate.wheel.text,
        requires=metadata.requires,
        requires_python=metadata.requires_python,
        parents=tuple(sorted(parents)),
    )


def _parents(roots: Iterable[Wanted], mapping: Mapping[str, Candidate], provider: _Provider) -> dict[str, set[str]]:
    """Name -> who required it, of all that the roots reach; `mapping` may hold left-overs of abandoned choices."""
    parents: dict[str, set[str]] = {}
    reached: set[str] = set()
    waiting = [(root, _ROOT) for root in roots]
    while waiting:
        wanted, parent = waiting.pop()
        askers = parents.setdefault(wanted.name, set())
        if parent != wanted.name:
            askers.add(parent)
        if wanted.identifier not in reached:
            reached.add(wanted.identifier)
            waiting += [(item, wanted.name) for item in provider.get_dependencies(mapping[wanted.identifier])]
    return parents


def _identifier(name: str, extras: Sequence[str]) -> str:
    return f"{name}[{','.join(extras)}]" if extras else name


def _split(identifier: str) -> tuple[str, tuple[str, ...]]:
    """Name and extras of an identifier."""
    name, _, extras = identifier.rstrip("]").partition("[")
    return name, tuple(extras.split(",")) if extras else ()


class _Provider(AbstractProvider[Wanted, Candidate, str]):
    """resolvelib's five questions, answered for one target; every answer is remembered."""

    def __init__(
        self, catalog: WheelCatalog, target: PythonTarget, policy: PythonPolicy, pins: Mapping[str, str]
    ) -> None:
        self.catalog = catalog
        self.target = target
        self.policy = policy
        self.pins = pins
        self.constraints = self._by_name(policy.constraints)
        self.overrides = self._by_name(policy.overrides)
        self._offers: dict[str, Offer] = {}
        self._fitting: dict[tuple[str, str], tuple[UsableWheel, ...]] = {}
        self._dependencies: dict[tuple[str, tuple[str, ...]], list[Wanted]] = {}
        self._satisfied: dict[tuple[Wanted, str], bool] = {}
        self._marker_results: dict[tuple[str, str], bool] = {}

    # resolvelib's interface

    def identify(self, requirement_or_candidate: Wanted | Candidate) -> str:
        return requirement_or_candidate.identifier

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[RequirementInformation[Wanted, Candidate]]],
        backtrack_causes: Sequence[RequirementInformation[Wanted, Candidate]],
    ) -> tuple[bool, bool, bool, str]:
        """Decide first what clashed, then what is pinned by `==`, then what is bounded; names break ties."""
        clashed = any(
            identifier == cause.requirement.identifier
            or (cause.parent is not None and identifier == cause.parent.identifier)
            for cause in backtrack_causes
        )
        wanted = [entry.requirement for entry in information[identifier]]
        exact = any(item.exactly is not None or _pins_one(item.specifier) for item in wanted)
        return (not clashed, not exact, not any(item.specifier for item in wanted), identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Wanted]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> list[Candidate]:
        name, extras = _split(identifier)
        if name == _NOTHING:
            return []
        wanted = list(requirements[identifier])
        refused = {candidate.wheel.version for candidate in incompatibilities[identifier]}
        wheels = [wheel for wheel in self._matching(name, wanted) if wheel.version not in refused]
        pin = self.pins.get(name)
        # What other requirements on the bare name allow comes first, but the rest stays: leaving it out would hide
        # from resolvelib who is to blame when nothing is left.
        beside = list(requirements[name]) if extras and name in requirements else []
        if pin or beside:
            wheels.sort(key=lambda wheel: (not all(self._meets(item, wheel) for item in beside), wheel.text != pin))
        if wheels:
            self.catalog.expect(wheels[0].record)
        return [Candidate(wheel=wheel, extras=extras) for wheel in wheels]

    def is_satisfied_by(self, requirement: Wanted, candidate: Candidate) -> bool:
        return self._meets(requirement, candidate.wheel)

    def get_dependencies(self, candidate: Candidate) -> list[Wanted]:
        key = (candidate.wheel.record.filename, candidate.extras)
        if key not in self._dependencies:
            wanted = self._required_by(candidate)
            self.catalog.prefetch(item.name for item in wanted if item.name != _NOTHING)
            self._dependencies[key] = wanted
        return self._dependencies[key]

    # Requirements

    def roots(self, requirements: Iterable[str]) -> list[Wanted]:
        """The manifest's own requirements, as far as their markers hold."""
        parsed = [Requirement(text) for text in requirements]
        return [self._wanted(item, _ROOT) for item in parsed if self._applies(item, (), where=_ROOT)]

    def _wanted(self, requirement: Requirement, parent: str) -> Wanted:
        name = canonicalize_name(requirement.name)
        return Wanted(
            name=name,
            extras=tuple(sorted(canonicalize_name(extra) for extra in requirement.extras)),
            specifier=self.overrides.get(name, requirement.specifier),
            text=str(requirement),
            parent=parent,
        )

    def _required_by(self, candidate: Candidate) -> list[Wanted]:
        """What choosing the candidate brings; one thing that nothing can meet if it cannot be chosen at all."""
        try:
            metadata = self.catalog.metadata(candidate.wheel.record)
        except NnenvError as error:
            if error.code != "wheel-refused":
                raise
            return [_unmeetable(candidate, f"was refused: {error.what}")]
        if not supports_python(metadata.requires_python, self.target):
            stated = f"(Requires-Python {metadata.requires_python})"
            return [_unmeetable(candidate, f"does not support Python {self.target.python} {stated}")]
        try:
            required = [
                requirement
                for text in metadata.requires
                if self._applies(requirement := Requirement(text), candidate.extras, where=str(candidate))
            ]
        except (InvalidRequirement, NnenvError) as error:
            return [_unmeetable(candidate, f"states a requirement that PEP 508 does not allow: {_first_line(error)}")]
        for requirement in required:
            if requirement.url and canonicalize_name(requirement.name) not in self.overrides:
                return [_unmeetable(candidate, f"asks for {requirement.name} by address, which a lock cannot hold")]
        base = [_same_version(candidate)] if candidate.extras else []
        return base + [self._wanted(requirement, str(candidate)) for requirement in required]

    def _applies(self, requirement: Requirement, extras: tuple[str, ...], *, where: str) -> bool:
        """Whether a candidate chosen for `extras` brings the requirement; what needs no extra comes with the base."""
        marker = requirement.marker
        if marker is None:
            return not extras
        text = str(marker)
        if "extra" not in text:
            return not extras and self._holds(text, marker, "", where)
        return any(self._holds(text, marker, extra, where) for extra in (extras or ("",)))

    def _holds(self, text: str, marker: Marker, extra: str, where: str) -> bool:
        key = (text, extra)
        if key not in self._marker_results:
            try:
                result = marker.evaluate({**self.target.markers, "extra": extra})
            except (ValueError, KeyError) as error:
                raise NnenvError(
                    "python-unsatisfiable",
                    f"the marker {text!r} compares what cannot be compared",
                    where=where,
                    because=[_first_line(error)],
                    fix=["correct the marker (PEP 508, environment markers)"],
                ) from None
            self._marker_results[key] = result
        return self._marker_results[key]

    def _by_name(self, requirements: Iterable[str]) -> dict[str, SpecifierSet]:
        """Ranges by name, of those whose markers hold on the target."""
        found: dict[str, SpecifierSet] = {}
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({**self.target.markers, "extra": ""}):
                name = canonicalize_name(requirement.name)
                found[name] = found.get(name, SpecifierSet()) & requirement.specifier
        return found

    # Wheels

    def offer(self, name: str) -> Offer:
        """The usable wheels of `name`."""
        if name not in self._offers:
            self._offers[name] = offer_of(self.catalog.project(name), self.target, self.policy.exclude_newer)
        return self._offers[name]

    def range_of(self, name: str, wanted: Iterable[Wanted]) -> SpecifierSet:
        """All that is asked of the versions of `name`; an override stands instead of requirements and constraints."""
        if name in self.overrides:
            return self.overrides[name]
        specifier = self.constraints.get(name, SpecifierSet())
        for item in wanted:
            specifier &= item.specifier
        return specifier

    def _matching(self, name: str, wanted: Sequence[Wanted]) -> tuple[UsableWheel, ...]:
        """The wheels that meet everything in `wanted`, newest first."""
        exact = {item.exactly for item in wanted if item.exactly is not None}
        if exact:
            # A sibling was chosen in this version, by all the rules: only what is asked here counts.
            return tuple(
                wheel
                for wheel in self.offer(name).wheels
                if exact == {wheel.version} and all(self._meets(item, wheel) for item in wanted)
            )
        specifier = self.range_of(name, wanted)
        key = (name, str(specifier))
        if key not in self._fitting:
            self._fitting[key] = self._fitting_wheels(name, specifier)
        return self._fitting[key]

    def _fitting_wheels(self, name: str, specifier: SpecifierSet) -> tuple[UsableWheel, ...]:
        pinned = _pins_one(specifier)
        welcome = self.welcomes_prereleases(name, specifier)
        return tuple(
            wheel
            for wheel in self.offer(name).wheels
            if (welcome or not wheel.version.is_prerelease)
            # PEP 592: a yanked file may be used where `==` or `===` asks for exactly it.
            and (pinned or not wheel.record.yanked)
            and specifier.contains(wheel.version, prereleases=True)
        )

    def welcomes_prereleases(self, name: str, specifier: SpecifierSet) -> bool:
        """PEP 440 "Handling of pre-releases": only where asked for, or where nothing else exists.

        "Nothing else" is taken of the whole project and not of the range, so that a conflict never ends in a
        pre-release that nobody asked for.
        """
        if name in self.policy.prereleases or specifier.prereleases:
            return True
        return all(wheel.version.is_prerelease for wheel in self.offer(name).wheels)

    def _meets(self, wanted: Wanted, wheel: UsableWheel) -> bool:
        key = (wanted, wheel.text)
        if key not in self._satisfied:
            same = wanted.exactly is None or wanted.exactly == wheel.version
            self._satisfied[key] = same and wanted.specifier.contains(wheel.version, prereleases=True)
        return self._satisfied[key]


def _same_version(candidate: Candidate) -> Wanted:
    """A candidate with extras brings the bare one, in its very version."""
    wheel = candidate.wheel
    return Wanted(
        name=wheel.record.project,
        specifier=SpecifierSet(),
        exactly=wheel.version,
        text=f"{wheel.record.project}=={wheel.text}",
        parent=f"{candidate.identifier} {wheel.text}",
    )


def _unmeetable(candidate: Candidate, why: str) -> Wanted:
    return Wanted(name=_NOTHING, specifier=SpecifierSet(), text=why, parent=str(candidate))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _pins_one(specifier: SpecifierSet) -> bool:
    return any(part.operator in {"==", "==="} and not part.version.endswith(".*") for part in specifier)


_MOST_LINES: Final = 12
"""Of one kind in an explanation."""


def _impossible(causes: Iterable[RequirementInformation[Wanted, Candidate]], provider: _Provider) -> NnenvError:
    """The clash in the words of the packages that made it, with why other versions do not help."""
    asked: dict[str, list[Wanted]] = {}
    sentences = set()
    for cause in causes:
        wanted = cause.requirement
        if wanted.name == _NOTHING:
            asked.setdefault(wanted.parent.partition(" ")[0], [])
            sentences.add(f"{wanted.parent} {wanted.text}")
        else:
            asked.setdefault(wanted.name, []).append(wanted)
            sentences.add(f"{wanted.parent} needs {wanted.text}")
    names = sorted(asked)
    because = sorted(sentences)[:_MOST_LINES]
    if len(sentences) > _MOST_LINES:
        because.append(f"… and {len(sentences) - _MOST_LINES} more like these")
    for name in names:
        because += _supply(name, asked[name], provider)
    target = provider.target
    return NnenvError(
        "python-unsatisfiable",
        f"target {target.name}: no set of wheels meets the requirements on {', '.join(names)}",
        where=f"targets.{target.name} (Python {target.python}, {target.machine}, glibc {target.glibc})",
        because=because,
        fix=["loosen one of these requirements, or add a constraint or override under [policy]"],
    )


def _supply(name: str, wanted: Sequence[Wanted], provider: _Provider) -> Iterator[str]:
    """What there is of `name`, and what was left out for which reason."""
    offer = provider.offer(name)
    if not offer.known:
        yield f"{name}: no configured index knows this name"
        return
    if name in provider.overrides:
        yield f"{name}: policy.overrides says {name}{provider.overrides[name]}"
    elif name in provider.constraints:
        yield f"{name}: policy.constraints says {name}{provider.constraints[name]}"
    specifier = provider.range_of(name, wanted)
    usable = [wheel for wheel in offer.wheels if _pins_one(specifier) or not wheel.record.yanked]
    yanked = len(offer.wheels) - len(usable)
    early = 0
    if not provider.welcomes_prereleases(name, specifier):
        final = [wheel for wheel in usable if not wheel.version.is_prerelease]
        usable, early = final, len(usable) - len(final)
    if usable:
        more = ", …" if len(usable) > 5 else ""
        yield f"{name}: usable here are {', '.join(wheel.text for wheel in usable[:5])}{more}"
    else:
        yield f"{name}: no usable wheel"
    left_out = {**offer.rejected, "pre-releases (policy.allow-prereleases admits them)": early, "yanked wheels": yanked}
    for reason, count in sorted(left_out.items()):
        if count:
            yield f"{name}: left out {count} {reason}"
