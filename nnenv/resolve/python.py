"""Which wheels: resolvelib over the exact wheel's metadata, for one target.

The order of candidates is: the old lock's pin, then newest version first; of one version the wheel with the best tag
(PEP 425), then the highest build number. Nothing else (cache, worker count, time) changes the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep
from resolvelib.resolvers import Criterion, Resolution

from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import normal_name
from nnenv.resolve import compat
from nnenv.resolve.python_catalog import Project, WheelCatalog, WheelRecord
from nnenv.resolve.python_offer import Offer, UsableWheel, supports_python
from nnenv.resolve.python_requirement import PythonMarker, PythonRequirement, read_requirement, specifier_set
from nnenv.resolve.python_target import PythonTarget
from nnenv.resolve.wheel_rules import VIRTUAL, Demand, Objection, WheelRules

if TYPE_CHECKING:
    from resolvelib.resolvers import RequirementInformation

    from nnenv.formats.core_metadata import CoreMetadata

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
    why: str = ""
    """How the need shows where no requirement states it: `states that it was built with CUDA 12.8`."""
    objection: Objection | None = None
    """Of the hardware rules, for what nothing can meet."""
    met: dict[Version, bool] = field(default_factory=dict)
    """Which versions meet it, as far as anybody asked."""

    def is_met_by(self, version: Version) -> bool:
        """Whether the version is in range."""
        if version not in self.met:
            same = self.exactly is None or self.exactly == version
            self.met[version] = same and self.specifier.contains(version, prereleases=True)
        return self.met[version]

    @cached_property
    def is_exact(self) -> bool:
        """Whether it asks for one version."""
        return self.exactly is not None or _pins_one(self.specifier)

    @cached_property
    def is_bounded(self) -> bool:
        """Whether it says anything about the version."""
        return bool(self.specifier)

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
    added: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    """(name, extras, why) of what the hardware rules made it ask for, sorted."""
    unread: int = 0
    """Wheels of the project that nnenv cannot read, because they are of a variant (PEP 825)."""


def resolve_wheels(
    requirements: Sequence[str],
    catalog: WheelCatalog,
    target: PythonTarget,
    policy: PythonPolicy,
    *,
    pins: Mapping[str, str],
    rules: WheelRules | None = None,
    max_rounds: int | None = None,
) -> tuple[ChosenWheel, ...]:
    """The wheels that meet `requirements` on `target`, sorted by name.

    `pins` maps a normalised name to the version that is preferred when it still fits; `rules` are those of the
    target's hardware; after `max_rounds` steps (MAX_ROUNDS) the search gives up.
    Raises NnenvError `python-unsatisfiable` with the packages that clash, or the code of a hardware rule.
    """
    limit = max_rounds or MAX_ROUNDS
    provider = _Provider(catalog, target, policy, pins, rules)
    roots = provider.roots(requirements)
    provider.scout.look_ahead(roots)
    try:
        result = _Resolution(provider, BaseReporter()).resolve(roots, max_rounds=limit)
    except ResolutionImpossible as error:
        raise _impossible(error.causes, provider) from None
    except ResolutionTooDeep:
        raise NnenvError(
            "python-unsatisfiable",
            f"target {target.name}: no solution within {limit} steps",
            where=f"targets.{target.name}",
            because=["the search gives up there instead of running for ever"],
            fix=["narrow the versions in requires.packages"],
        ) from None
    chosen = {candidate.wheel.record.project: candidate for candidate in result.mapping.values()}
    parents = _parents(roots, result.mapping, provider)
    return tuple(
        _chosen(provider, chosen[name], parents[name]) for name in sorted(parents) if not name.startswith(VIRTUAL)
    )


def _chosen(provider: _Provider, candidate: Candidate, parents: Iterable[str]) -> ChosenWheel:
    metadata = provider.catalog.metadata(candidate.wheel.record)
    asked = provider.get_dependencies(Candidate(wheel=candidate.wheel))
    added = {(item.name, item.extras, item.why) for item in asked if item.why and not item.name.startswith(VIRTUAL)}
    return ChosenWheel(
        record=provider.catalog.identify(candidate.wheel.record),
        version=candidate.wheel.text,
        requires=metadata.requires,
        requires_python=metadata.requires_python,
        parents=tuple(sorted(parents)),
        added=tuple(sorted(added)),
        unread=provider.offer(candidate.wheel.record.project).of_variants,
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


class _Resolution(Resolution[Wanted, Candidate, str]):
    """resolvelib's search, which in every round asks of every choice whether it still fits: answers are remembered.

    That makes rounds three times faster, and changes no answer: a criterion is never altered, only replaced.
    """

    def __init__(self, provider: _Provider, reporter: BaseReporter[Wanted, Candidate, str]) -> None:
        super().__init__(provider, reporter)
        self._judged: dict[str, tuple[Criterion[Wanted, Candidate], Candidate, bool]] = {}

    def _is_current_pin_satisfying(self, name: str, criterion: Criterion[Wanted, Candidate]) -> bool:
        pin = self.state.mapping.get(name)
        if pin is None:
            return False
        judged = self._judged.get(name)
        if judged is None or judged[0] is not criterion or judged[1] is not pin:
            fits = all(item.requirement.is_met_by(pin.wheel.version) for item in criterion.information)
            judged = self._judged[name] = (criterion, pin, fits)
        return judged[2]


class _Provider(AbstractProvider[Wanted, Candidate, str]):
    """resolvelib's five questions, answered for one target; every answer is remembered."""

    def __init__(
        self,
        catalog: WheelCatalog,
        target: PythonTarget,
        policy: PythonPolicy,
        pins: Mapping[str, str],
        rules: WheelRules | None = None,
    ) -> None:
        self.catalog = catalog
        self.rules = rules
        self.target = target
        self.policy = policy
        # A lock may be older than the rules for versions: what is none prefers nothing.
        self._pins = {name: _version_or_none(text) for name, text in pins.items()}
        self.constraints = self._by_name(policy.constraints)
        self.overrides = self._by_name(policy.overrides)
        self.scout = _Scout(self)
        self._offers: dict[str, Offer] = {}
        self._fitting: dict[tuple[str, str], Iterable[tuple[Version, str]]] = {}
        self._dependencies: dict[tuple[str, tuple[str, ...]], list[Wanted]] = {}
        self._marker_results: dict[tuple[str, str], bool] = {}

    # resolvelib's interface

    def identify(self, requirement_or_candidate: Wanted | Candidate) -> str:
        return requirement_or_candidate.identifier

    def narrow_requirement_selection(
        self,
        identifiers: Iterable[str],
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[RequirementInformation[Wanted, Candidate]]],
        backtrack_causes: Sequence[RequirementInformation[Wanted, Candidate]],
    ) -> list[str]:
        """The one that is preferred: the same as asking for each preference, without the detours."""

        def preference(identifier: str) -> tuple[bool, bool, bool, bool, str]:
            return self.get_preference(identifier, resolutions, candidates, information, backtrack_causes)

        return [min(identifiers, key=preference)]

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[RequirementInformation[Wanted, Candidate]]],
        backtrack_causes: Sequence[RequirementInformation[Wanted, Candidate]],
    ) -> tuple[bool, bool, bool, bool, str]:
        """Decide first what clashed, then what is pinned by `==`, then what is bounded; names break ties.

        Parts of CUDA that nobody pins come after all else: frameworks pin them, and a part that was chosen before its
        framework rules out one release of that after the other.
        """
        clashed = any(
            identifier == cause.requirement.identifier
            or (cause.parent is not None and identifier == cause.parent.identifier)
            for cause in backtrack_causes
        )
        exact = bounded = False
        for entry in information[identifier]:
            exact = exact or entry.requirement.is_exact
            bounded = bounded or entry.requirement.is_bounded
        is_part = not exact and compat.is_part_of_cuda(_split(identifier)[0])
        return (not clashed, not exact, is_part, not bounded, identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Wanted]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Callable[[], Iterator[Candidate]]:
        name, extras = _split(identifier)
        if name == _NOTHING:
            return lambda: iter(())
        # What other requirements on the bare name allow comes first, but the rest stays: leaving it out would hide
        # from resolvelib who is to blame when nothing is left.
        beside = list(requirements[name]) if extras and name in requirements else []
        refused = {candidate.wheel.version for candidate in incompatibilities[identifier]}
        wheels = self._wheels(name, list(requirements[identifier]), beside, refused)
        candidates = _Remembered(Candidate(wheel=wheel, extras=extras) for wheel in wheels)
        for first in candidates:
            if not name.startswith(VIRTUAL):
                self.scout.expect(first)
            break
        return candidates.__iter__

    def is_satisfied_by(self, requirement: Wanted, candidate: Candidate) -> bool:
        return requirement.is_met_by(candidate.wheel.version)

    def get_dependencies(self, candidate: Candidate) -> list[Wanted]:
        key = (candidate.wheel.record.filename, candidate.extras)
        if key not in self._dependencies:
            wanted = self.required_by(candidate)
            wanted += self._judged(candidate, wanted)
            self.scout.look_ahead(wanted)
            self._dependencies[key] = wanted
        return self._dependencies[key]

    # Requirements

    def roots(self, requirements: Iterable[str]) -> list[Wanted]:
        """The manifest's own requirements, as far as their markers hold."""
        read = [(text, read_requirement(text)) for text in requirements]
        stated = [self._wanted(text, item, _ROOT) for text, item in read if self._applies(item, (), where=_ROOT)]
        return stated + [_demanded(demand, _ROOT) for demand in (self.rules.roots() if self.rules else ())]

    def _wanted(self, text: str, requirement: PythonRequirement, parent: str) -> Wanted:
        name, extras = requirement.name, requirement.extras
        if self.rules is not None:
            name, extras = self.rules.renamed(name, extras)
            if name != requirement.name:
                text = f"{_identifier(name, extras)}{requirement.specifier}"
        return Wanted(
            name=name,
            extras=extras,
            specifier=self.overrides.get(requirement.name, self.overrides.get(name, requirement.specifier)),
            text=text,
            parent=parent,
        )

    def _judged(self, candidate: Candidate, required: Sequence[Wanted]) -> list[Wanted]:
        """What the rules add to what the candidate asks for itself; one thing that nothing can meet if they object."""
        record = candidate.wheel.record
        if self.rules is None or record.project.startswith(VIRTUAL) or any(item.name == _NOTHING for item in required):
            return []
        stated = [(item.name, str(item.specifier)) for item in required if item.exactly is None]
        judgement = self.rules.judge(record, self.catalog.metadata(record), stated)
        if judgement.objection is not None:
            return [_unmeetable(candidate, judgement.objection.why, judgement.objection)]
        return [_demanded(demand, str(candidate)) for demand in judgement.demands]

    def required_by(self, candidate: Candidate) -> list[Wanted]:
        """What the candidate asks for itself; one thing that nothing can meet if it cannot be chosen at all.

        Unlike the judgement of the rules safe to ask from any thread.
        """
        if candidate.wheel.record.project.startswith(VIRTUAL):
            return []
        try:
            metadata = self.catalog.metadata(candidate.wheel.record)
        except NnenvError as error:
            if error.code != "wheel-refused":
                raise
            return [_unmeetable(candidate, f"was refused: {error.what}")]
        if not supports_python(metadata.requires_python, self.target):
            stated = f"(Requires-Python {metadata.requires_python})"
            return [_unmeetable(candidate, f"does not support Python {self.target.python} {stated}")]
        lacking = self._lacking_builds(candidate, metadata)
        if lacking:
            return [_unmeetable(candidate, f"has no extra {', '.join(lacking)}, by which it runs on the accelerator")]
        parent = str(candidate)
        try:
            required = [
                (text, requirement)
                for text in metadata.requires
                if self._applies(requirement := read_requirement(text), candidate.extras, where=parent)
            ]
        # packaging's InvalidRequirement is a ValueError; naming it would cost its import in every run
        except (ValueError, NnenvError) as error:
            return [_unmeetable(candidate, f"states a requirement that PEP 508 does not allow: {_first_line(error)}")]
        for _, requirement in required:
            if requirement.has_address and requirement.name not in self.overrides:
                return [_unmeetable(candidate, f"asks for {requirement.name} by address, which a lock cannot hold")]
        base = [_same_version(candidate)] if candidate.extras else []
        return base + [self._wanted(text, requirement, parent) for text, requirement in required]

    def _lacking_builds(self, candidate: Candidate, metadata: CoreMetadata) -> list[str]:
        """Extras by which the target's accelerator is served, and which this release does not have: without them it
        would run on the CPU, and nobody would be told."""
        if self.rules is None or not candidate.extras:
            return []
        _, builds = self.rules.renamed(candidate.wheel.record.project, ())
        provided = {normal_name(extra) for extra in metadata.extras}
        return sorted({*builds} & {*candidate.extras} - provided)

    def _applies(self, requirement: PythonRequirement, extras: tuple[str, ...], *, where: str) -> bool:
        """Whether a candidate chosen for `extras` brings the requirement; what needs no extra comes with the base."""
        if requirement.marker is None:
            return not extras
        if "extra" not in requirement.marker_text:
            return not extras and self._holds(requirement.marker, requirement.marker_text, "", where)
        wanted = extras or ("",)
        return any(self._holds(requirement.marker, requirement.marker_text, extra, where) for extra in wanted)

    def _holds(self, marker: PythonMarker, text: str, extra: str, where: str) -> bool:
        key = (text, extra)
        if key not in self._marker_results:
            try:
                result = marker.holds({**self.target.markers, "extra": extra})
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
            requirement = read_requirement(text)
            if requirement.marker is None or requirement.marker.holds({**self.target.markers, "extra": ""}):
                found[requirement.name] = found.get(requirement.name, specifier_set("")) & requirement.specifier
        return found

    # Wheels

    def offer(self, name: str) -> Offer:
        """The usable wheels of `name`."""
        if name not in self._offers:
            if self.rules is not None and name.startswith(VIRTUAL):
                self._offers[name] = Offer(self.rules.virtual(name), self.target, "")
            else:
                self._offers[name] = Offer(self.catalog.project(name), self.target, self.policy.exclude_newer)
        return self._offers[name]

    def range_of(self, name: str, wanted: Iterable[Wanted]) -> SpecifierSet:
        """All that is asked of the versions of `name`; an override stands instead of requirements and constraints."""
        if name in self.overrides:
            return self.overrides[name]
        specifier = self.constraints.get(name, specifier_set(""))
        for item in wanted:
            if item.is_bounded:
                specifier = specifier & item.specifier if specifier else item.specifier
        return specifier

    def _wheels(
        self, name: str, wanted: Sequence[Wanted], beside: Sequence[Wanted], refused: set[Version]
    ) -> Iterator[UsableWheel]:
        """The wheels that meet everything in `wanted`, in the order in which they are tried."""
        offer = self.offer(name)
        exact = {item.exactly for item in wanted if item.exactly is not None}
        if exact:
            # A sibling was chosen in this version, by all the rules: only what is asked here counts.
            accepts_yanked = True
            versions: Iterable[tuple[Version, str]] = (
                (version, text)
                for version, text in offer.versions()
                if exact == {version} and all(item.is_met_by(version) for item in wanted)
            )
        else:
            specifier = self.range_of(name, wanted)
            # PEP 592: a yanked file may be used where `==` or `===` asks for exactly it.
            accepts_yanked = _pins_one(specifier)
            versions = self._fitting_versions(name, specifier)
        for version, text in self._in_order(name, versions, beside):
            wheel = offer.wheel(text) if version not in refused else None
            if wheel is not None and (accepts_yanked or not wheel.record.yanked):
                yield wheel

    def newest(self, wanted: Wanted) -> UsableWheel | None:
        """The first that meets one requirement alone: what will be chosen, if no other asks for the same name.

        Unlike the search's own questions safe to ask from any thread.
        """
        specifier = self.range_of(wanted.name, [wanted])
        welcome = self.welcomes_prereleases(wanted.name, specifier)
        offer = self.offer(wanted.name)
        fitting = (
            offer.wheel(text)
            for version, text in offer.versions()
            if (welcome or not version.is_prerelease) and specifier.contains(version, prereleases=True)
        )
        return next((wheel for wheel in fitting if wheel is not None and not wheel.record.yanked), None)

    def _in_order(
        self, name: str, versions: Iterable[tuple[Version, str]], beside: Sequence[Wanted]
    ) -> Iterable[tuple[Version, str]]:
        """First what `beside` allows too, of equals first the pinned version, then the newest."""
        pin = self._pins.get(name)
        if pin is None and not beside:
            return versions
        return sorted(versions, key=lambda item: (not all(one.is_met_by(item[0]) for one in beside), item[0] != pin))

    def _fitting_versions(self, name: str, specifier: SpecifierSet) -> Iterable[tuple[Version, str]]:
        key = (name, str(specifier))
        if key not in self._fitting:
            welcome = self.welcomes_prereleases(name, specifier)
            self._fitting[key] = _Remembered(
                (version, text)
                for version, text in self.offer(name).versions()
                if (welcome or not version.is_prerelease) and specifier.contains(version, prereleases=True)
            )
        return self._fitting[key]

    def welcomes_prereleases(self, name: str, specifier: SpecifierSet) -> bool:
        """PEP 440 "Handling of pre-releases": only where asked for, or where nothing else exists.

        "Nothing else" is taken of the whole project and not of the range, so that a conflict never ends in a
        pre-release that nobody asked for.
        """
        return name in self.policy.prereleases or bool(specifier.prereleases) or not self.offer(name).has_final


class _Scout:
    """Walks ahead of the search, so that what it will ask for is on its way; decides nothing.

    The catalog calls it back from other threads. All that it shares with the search are remembered answers, which
    are the same whoever asks first.
    """

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider
        self._seen: set[str] = set()

    def look_ahead(self, wanted: Iterable[Wanted]) -> None:
        """These requirements will be met soon."""
        for item in wanted:
            if item.name[:1] not in (_NOTHING, VIRTUAL) and item.identifier not in self._seen:
                self._seen.add(item.identifier)
                self._provider.catalog.prefetch(item.name, partial(self._choose, item))

    def expect(self, candidate: Candidate) -> None:
        """This candidate will probably be chosen."""
        self._provider.catalog.expect(candidate.wheel.record, partial(self._go_on, candidate))

    def _choose(self, wanted: Wanted, _: Project) -> None:
        with suppress(NnenvError):  # the search will meet the same error, if it comes here
            wheel = self._provider.newest(wanted)
            if wheel is not None:
                self.expect(Candidate(wheel=wheel, extras=wanted.extras))

    def _go_on(self, candidate: Candidate, _: CoreMetadata) -> None:
        with suppress(NnenvError):
            self.look_ahead(self._provider.required_by(candidate))


Item = TypeVar("Item")


class _Remembered(Generic[Item]):
    """What an iterator yields, each item made once, when the first reader gets there."""

    def __init__(self, source: Iterator[Item]) -> None:
        self._source = source
        self._seen: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        position = 0
        while True:
            while position < len(self._seen):
                yield self._seen[position]
                position += 1
            try:
                self._seen.append(next(self._source))
            except StopIteration:
                return


def _version_or_none(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _same_version(candidate: Candidate) -> Wanted:
    """A candidate with extras brings the bare one, in its very version."""
    wheel = candidate.wheel
    return Wanted(
        name=wheel.record.project,
        specifier=specifier_set(""),
        exactly=wheel.version,
        text=f"{wheel.record.project}=={wheel.text}",
        parent=f"{candidate.identifier} {wheel.text}",
    )


def _unmeetable(candidate: Candidate, why: str, objection: Objection | None = None) -> Wanted:
    return Wanted(name=_NOTHING, specifier=specifier_set(""), text=why, parent=str(candidate), objection=objection)


def _demanded(demand: Demand, parent: str) -> Wanted:
    text = f"{_identifier(demand.name, demand.extras)}{demand.specifier}"
    return Wanted(
        name=demand.name,
        extras=demand.extras,
        specifier=specifier_set(demand.specifier),
        text=text,
        parent=parent,
        why=demand.why,
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _pins_one(specifier: SpecifierSet) -> bool:
    return any(part.operator in {"==", "==="} and not part.version.endswith(".*") for part in specifier)


_MOST_LINES: Final = 12
"""Of one kind in an explanation."""


def _impossible(causes: Iterable[RequirementInformation[Wanted, Candidate]], provider: _Provider) -> NnenvError:
    """The clash in the words of the packages that made it, with why other versions do not help."""
    from packaging.requirements import Requirement

    asked: dict[str, list[Wanted]] = {}
    sentences = set()
    objections: list[tuple[str, Objection]] = []
    for cause in causes:
        wanted = cause.requirement
        if wanted.objection is not None:
            objections.append((wanted.parent, wanted.objection))
        if wanted.name == _NOTHING:
            asked.setdefault(wanted.parent.partition(" ")[0], [])
            sentences.add(f"{wanted.parent} {wanted.text}")
        else:
            asked.setdefault(wanted.name, []).append(wanted)
            sentences.add(f"{wanted.parent} {wanted.why or f'needs {Requirement(wanted.text)}'}")
    names = sorted(name for name in asked if not name.startswith(VIRTUAL))
    sentences.update(f"{parent}: {text}" for parent, objection in objections for text in objection.evidence)
    because = sorted(sentences)[:_MOST_LINES]
    if len(sentences) > _MOST_LINES:
        because.append(f"… and {len(sentences) - _MOST_LINES} more like these")
    for name in names:
        because += _supply(name, asked[name], provider)
    target = provider.target
    code = min((objection.code for _, objection in objections), default="python-unsatisfiable")
    if code == "cuda-on-cpu-target":
        return _cuda_on_cpu(target, because, names)
    return NnenvError(
        code,
        f"target {target.name}: no set of wheels meets the requirements on {', '.join(names)}",
        where=f"targets.{target.name} (Python {target.python}, {target.machine}, glibc {target.glibc})",
        because=because,
        fix=[
            *(f"{name}: {advice}" for name in names if (advice := _sdist_advice(name, provider))),
            "loosen one of these requirements, or add a constraint or override under [policy]",
        ],
    )


def _sdist_advice(name: str, provider: _Provider) -> str | None:
    """What to do about a name that has source packages alone; None if there is a wheel, or nothing is known."""
    return None if provider.offer(name).wheels else compat.sdist_only(name)


def _cuda_on_cpu(target: PythonTarget, because: Sequence[str], names: Sequence[str]) -> NnenvError:
    return NnenvError(
        "cuda-on-cpu-target",
        f"target {target.name}: a target without an accelerator would contain {names[0]}",
        where=f"targets.{target.name}",
        because=[line for line in because if ": usable here are" not in line and ": left out " not in line],
        fix=[
            "bind the package that needs it to an index with CPU builds, by [[index]] (torch has one)",
            'make it a target with an accelerator: cuda = "12"',
        ],
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
