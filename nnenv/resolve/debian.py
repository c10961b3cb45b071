"""The dependency closure of Debian packages: which .debs a target's image needs.

Archives are consistent by construction, so the newest version of everything is nearly always the answer and no
general solver is needed. The search takes the preferred version of each package; when that fails it learns one fact
(a limit that a package must respect, or a version that cannot stay) and starts again. It ends, because facts are
finite, and the same inputs give the same answer, because every order in it is sorted or comes from the archive.
What it finds meets every relation. It is not exhaustive: in a maze of exact versions, which no release of Debian is,
it can give up where an answer exists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nnenv.errors import NnenvError
from nnenv.formats.debian_version import sort_key
from nnenv.resolve.debian_catalog import DebianCatalog, DebRecord
from nnenv.resolve.debian_facts import OmitRules
from nnenv.resolve.debian_relation import (
    Alternative,
    Relation,
    meets,
    parse_relations,
    provided_names,
    relation_text,
)

__all__ = ["Alternative", "Closure", "Edge", "Omitted", "close", "parse_relations"]

Edge = tuple[str, str, str]
"""(who asks, the relation, the package that answers); the asker of a root is the empty string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Omitted:
    """A dependency that was left out on purpose."""

    package: str
    dependency: str
    """The relation as the package states it."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Closure:
    """Packages that need nothing beyond themselves, except what was omitted."""

    packages: tuple[DebRecord, ...]
    """One version of each, sorted by name."""
    omitted: tuple[Omitted, ...]
    edges: tuple[Edge, ...]


def close(
    roots: Sequence[str],
    catalog: DebianCatalog,
    *,
    locked: Mapping[str, str] | None = None,
    upgrade: frozenset[str] | bool = False,
    omit: OmitRules | None = None,
) -> Closure:
    """The closure of `roots` (`name` or `name (>= version)`) over Pre-Depends and Depends.

    A version in `locked` is kept while it is offered and nothing that must change forbids it; `upgrade` names the
    packages whose locked version is forgotten (True: all). Otherwise the newest version over all suites is taken.
    Of alternatives, one that is in the closure anyway is taken, else a locked one, else the first that exists.
    Essential packages are not added: an image that runs no maintainer script needs only what is asked for.
    Raises NnenvError debian-unsatisfiable with the chain of who asked. The order of `roots` does not matter.
    """
    forgotten = frozenset(locked or {}) if upgrade is True else upgrade or frozenset()
    pins = {name: version for name, version in (locked or {}).items() if name not in forgotten}
    demands = sorted({_root_relation(root) for root in roots}, key=relation_text)
    search = _Search(catalog, pins, omit or OmitRules(rows=()))
    while True:
        try:
            return search.attempt(demands)
        except _AttemptError:
            continue


class _AttemptError(Exception):
    """This attempt failed, and the search now knows something that the next one will respect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Demand:
    """A relation and who states it; `asker` is None for a root."""

    asker: DebRecord | None
    relation: Relation

    @property
    def sort_key(self) -> tuple[str, str]:
        return (self.asker.name if self.asker else "", relation_text(self.relation))


class _Search:
    """What outlives an attempt: banned versions and limits; and the attempt in progress."""

    def __init__(self, catalog: DebianCatalog, pins: Mapping[str, str], omit: OmitRules) -> None:
        self._catalog = catalog
        self._pins = pins
        self._omit = omit
        self._banned: set[tuple[str, str]] = set()
        self._limits: dict[str, dict[Alternative, DebRecord | None]] = {}
        self._first_failure: NnenvError | None = None
        self._begin()

    def _begin(self) -> None:
        self._chosen: dict[str, DebRecord] = {}
        self._chosen_for: dict[str, _Demand] = {}
        self._stated: list[_Demand] = []
        self._omissions: list[tuple[_Demand, str]] = []
        self._open: deque[_Demand] = deque()

    def attempt(self, roots: Iterable[Relation]) -> Closure:
        """The closure, or _AttemptError when something was learned, or NnenvError when nothing is left to try."""
        self._begin()
        self._open.extend(_Demand(asker=None, relation=relation) for relation in roots)
        choices: list[_Demand] = []
        while self._open or choices:
            if self._open:
                demand = self._open.popleft()
            else:
                # Choices wait until everything without a choice is in, so that they can fall on what is there.
                choices.sort(key=lambda waiting: waiting.sort_key)
                demand = choices.pop(0)
                self._settle(demand, self._options(demand.relation))
                continue
            self._stated.append(demand)
            if self._answer(demand.relation) is not None:
                continue
            options = self._options(demand.relation)
            if len(options) > 1:
                choices.append(demand)
            else:
                self._settle(demand, options)
        self._refuse_conflicts()
        return self._closure()

    def _settle(self, demand: _Demand, options: Sequence[DebRecord]) -> None:
        if self._answer(demand.relation) is not None:
            return
        if not options:
            self._learn_from_dead_end(demand)
        record = next((option for option in options if option.name in self._pins), options[0])
        self._chosen[record.name] = record
        self._chosen_for[record.name] = demand
        for relation in (*parse_relations(record.pre_depends), *parse_relations(record.depends)):
            stated = _Demand(asker=record, relation=relation)
            reason = self._omit.reason(record.name, [alternative.name for alternative in relation])
            if reason is None:
                self._open.append(stated)
            else:
                self._omissions.append((stated, reason))

    def _answer(self, relation: Relation) -> DebRecord | None:
        """The chosen package that meets `relation`, in the order of its alternatives."""
        for alternative in relation:
            own = self._chosen.get(alternative.name)
            if own is not None and meets(own, alternative):
                return own
            for record in sorted(self._chosen.values(), key=lambda chosen: chosen.name):
                if alternative.name in provided_names(record) and meets(record, alternative):
                    return record
        return None

    def _options(self, relation: Relation) -> list[DebRecord]:
        """One record for each package that could be added to meet `relation`, preferred first."""
        options: dict[str, DebRecord] = {}
        for alternative in relation:
            for record in self._offers(alternative):
                if record.name not in self._chosen and self._within_limits(record):
                    options.setdefault(record.name, record)
        return list(options.values())

    def _offers(self, alternative: Alternative) -> Iterator[DebRecord]:
        """Everything in the archive that meets `alternative`: the package itself, then providers by name."""
        named = self._candidates(alternative.name)
        virtual = sorted({provider.name for provider in self._catalog.providers(alternative.name)} - {alternative.name})
        provided = [record for name in virtual for record in self._candidates(name)]
        return (record for record in (*named, *provided) if meets(record, alternative))

    def _candidates(self, name: str) -> list[DebRecord]:
        """Versions that may still be chosen: the locked one first, then newest first."""
        allowed = [r for r in self._catalog.candidates(name) if (r.name, r.version) not in self._banned]
        return sorted(allowed, key=lambda record: record.version != self._pins.get(name))

    def _within_limits(self, record: DebRecord) -> bool:
        return all(meets(record, limit) for limit in self._limits.get(record.name, ()))

    # Dead ends: what the next attempt must respect.

    def _learn_from_dead_end(self, demand: _Demand) -> None:
        """Always raises: nothing can be added that meets `demand`."""
        for alternative in demand.relation:
            demanding = self._demanding(alternative.name)
            for record in self._candidates(alternative.name):
                if meets(record, alternative) and all(meets(record, wanted) for wanted in demanding):
                    limits = self._limits.setdefault(alternative.name, {})
                    limits.update({**demanding, alternative: demand.asker})
                    raise _AttemptError
        askers = [demand.asker]
        for alternative in demand.relation:
            if any(meets(record, alternative) for record in self._candidates(alternative.name)):
                askers += self._demanding(alternative.name).values()
        self._ban_one_of([asker for asker in askers if asker is not None], self._unsatisfiable(demand))

    def _demanding(self, name: str) -> dict[Alternative, DebRecord | None]:
        """Who relies on `name` in this attempt or by a limit, with what they ask."""
        relied_on = {
            alternative: demand.asker
            for demand in self._stated
            for alternative in demand.relation
            if alternative.name == name and self._relies_on(demand.relation, name)
        }
        return {**self._limits.get(name, {}), **relied_on}

    def _relies_on(self, relation: Relation, name: str) -> bool:
        answer = self._answer(relation)
        return answer is not None and answer.name == name

    def _ban_one_of(self, suspects: Sequence[DebRecord], failure: NnenvError) -> None:
        """Always raises: _AttemptError after banning one version that has a replacement, else the failure.

        A locked version goes first: locks are preferences. Limits are forgotten, as the banned one may have set them.
        """
        replaceable = [record for record in suspects if len(self._candidates(record.name)) > 1]
        pinned = [record for record in replaceable if self._pins.get(record.name) == record.version]
        if not pinned:
            self._first_failure = self._first_failure or failure
        if not replaceable:
            raise self._first_failure or failure
        victim = (pinned or replaceable)[0]
        self._banned.add((victim.name, victim.version))
        self._limits.clear()
        raise _AttemptError

    def _refuse_conflicts(self) -> None:
        for name in sorted(self._chosen):
            record = self._chosen[name]
            for field, text in (("Conflicts", record.conflicts), ("Breaks", record.breaks)):
                for (against,) in (relation for relation in parse_relations(text) if len(relation) == 1):
                    for other in self._conflicting(record, against):
                        self._ban_one_of([other, record], self._in_conflict(record, field, against, other))

    def _conflicting(self, record: DebRecord, against: Alternative) -> list[DebRecord]:
        """Policy 7.4: a package never conflicts with itself, even when it provides the name it conflicts with."""
        others = (self._chosen[name] for name in sorted(self._chosen) if name != record.name)
        return [other for other in others if meets(other, against)]

    # What is said of it.

    def _closure(self) -> Closure:
        edges: set[Edge] = set()
        for demand in (*self._stated, *(stated for stated, _ in self._omissions)):
            answer = self._answer(demand.relation)
            if answer is not None:
                edges.add((*demand.sort_key, answer.name))
        omitted = {
            (*stated.sort_key, reason) for stated, reason in self._omissions if self._answer(stated.relation) is None
        }
        return Closure(
            packages=tuple(self._chosen[name] for name in sorted(self._chosen)),
            omitted=tuple(Omitted(package=p, dependency=d, reason=reason) for p, d, reason in sorted(omitted)),
            edges=tuple(sorted(edges)),
        )

    def _unsatisfiable(self, demand: _Demand) -> NnenvError:
        wanted = relation_text(demand.relation)
        return NnenvError(
            "debian-unsatisfiable",
            f"no Debian package can be added that meets {wanted}",
            where=demand.asker.name if demand.asker else None,
            because=[*self._chain(demand), *self._what_exists(demand.relation)],
            fix=[
                f"ask for other packages or versions in requires.system: nothing in the archive meets {wanted}"
                if demand.asker is None
                else f"remove or change what asks for {self._root_of(demand)} in requires.system",
                "run `nnenv update` if a locked version is in the way",
            ],
        )

    def _what_exists(self, relation: Relation) -> list[str]:
        lines = []
        for alternative in relation:
            versions = [f"{record.version} ({record.suite})" for record in self._catalog.candidates(alternative.name)]
            lines.append(f"{alternative.name}: the archive has {', '.join(versions) or 'no such package'}")
            for wanted, asker in sorted(self._demanding(alternative.name).items(), key=lambda item: str(item[0])):
                lines.append(f"{alternative.name}: {asker.name if asker else 'requires.system'} needs {wanted}")
        return lines

    def _chain(self, demand: _Demand) -> list[str]:
        """From the root down: one `package version needs relation` line for each step."""
        lines: list[str] = []
        step: _Demand | None = demand
        while step is not None and step.asker is not None:
            lines.append(f"{step.asker.name} {step.asker.version} needs {relation_text(step.relation)}")
            step = self._chosen_for.get(step.asker.name)
        if step is not None:
            lines.append(f"the target needs {relation_text(step.relation)}")
        return lines[::-1]

    def _root_of(self, demand: _Demand) -> str:
        step = demand
        while step.asker is not None:
            step = self._chosen_for[step.asker.name]
        return relation_text(step.relation)

    def _in_conflict(self, record: DebRecord, field: str, against: Alternative, other: DebRecord) -> NnenvError:
        return NnenvError(
            "debian-unsatisfiable",
            f"{record.name} {record.version} and {other.name} {other.version} cannot be installed together",
            where=record.name,
            because=[
                f"{record.name} states {field}: {against}",
                *self._chain(self._chosen_for[record.name]),
                *self._chain(self._chosen_for[other.name]),
            ],
            fix=["remove one of the two from requires.system, or what asks for it"],
        )


def _root_relation(text: str) -> Relation:
    relations = parse_relations(text)
    if len(relations) != 1:
        raise NnenvError(
            "debian-index-invalid",
            f"{text[:80]!r} is not one Debian package",
            because=["one entry names one package: `name` or `name (>= version)`"],
            fix=["write each package as its own entry of requires.system"],
        )
    return relations[0]


def newest(records: Iterable[DebRecord], suites: Sequence[str]) -> tuple[DebRecord, ...]:
    """`records` in the order `DebianCatalog.candidates` promises, without repetitions.

    Newest first; at equal versions in the order of `suites`, and of the same file only the first.
    """
    preferred = sorted(records, key=lambda record: (suites.index(record.suite), record.path))
    preferred.sort(key=lambda record: sort_key(record.version), reverse=True)
    first: dict[tuple[str, str, str], DebRecord] = {}
    for record in preferred:
        first.setdefault((record.name, record.version, record.sha256), record)
    return tuple(first.values())
