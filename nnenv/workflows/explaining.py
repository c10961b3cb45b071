"""`nnenv why` and `nnenv tree`: who asks for what, by model.lock and, where it is silent, by the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from nnenv.errors import NnenvError
from nnenv.resolve.dependency_graph import DependencyGraph, Edge, Node, NodeKind
from nnenv.resolve.dependency_paths import Paths, paths_by
from nnenv.resolve.dependency_tree import Branch, needed_by, needs
from nnenv.resolve.locked_graph import SonameUses, locked_graph
from nnenv.resolve.locked_wheels import library_edge, normalised
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.lock_toml import manifest_text
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.session import Session
from nnenv.workflows.targets import chosen_targets

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})\Z")
"""The start of a sha256: six digits are one chance in 16 million to mean another file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a name means in a target."""

    node: Node
    artifact: Artifact | None
    """The file; None for a test case, which is several."""
    last: tuple[Edge, ...]
    """The edges that lead to it."""
    soname: str = ""
    """The library that was asked for, when the name is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why something is in a target."""

    graph: DependencyGraph
    """Of the target."""
    subject: Subject
    paths: Paths

    @property
    def unread(self) -> tuple[str, ...]:
        """Wheels that may need it as well, but are not in the store."""
        return self.graph.unread if self.subject.node.kind is NodeKind.DEB else ()


def explain(session: Session, name: str, targets: Sequence[str], most: int) -> list[Explanation]:
    """Why `name` is in the targets, at most `most` paths for each meaning it has there.

    `name` is a package, model, test case or file, a soname, a file name, or the start of a sha256.
    Raises NnenvError `name-unknown` if none of the targets holds it.
    """
    lockfile = session.lockfile()
    chosen = chosen_targets(lockfile, targets)
    found = []
    for target in chosen:
        # Wheels never depend on libraries of the OS for being here: most questions need none of the wheels' bytes.
        graph = locked_graph(lockfile, target, {}, ())
        meant = meanings(graph, lockfile, name)
        if not meant or any(subject.node.kind is NodeKind.DEB for subject in meant):
            libraries = wheel_libraries(session, lockfile, target)
            graph = locked_graph(lockfile, target, libraries.uses, libraries.unread)
            meant = meanings(graph, lockfile, name, libraries.carried)
        found += [
            Explanation(graph=graph, subject=subject, paths=paths_by(graph, subject.last, most)) for subject in meant
        ]
    if not found:
        raise _unknown(lockfile, chosen, name)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelLibraries:
    """What the bytes of a target's wheels say, and no lock."""

    uses: SonameUses
    """Which wheels need which libraries of the OS, by which files."""
    carried: Mapping[str, tuple[str, ...]]
    """Soname or file name of a library -> the wheels that carry it."""
    unread: tuple[str, ...]
    """The wheels that are not in the store."""


def wheel_libraries(session: Session, lockfile: Lockfile, target: TargetLock) -> WheelLibraries:
    """The libraries of the target's wheels, as far as the store holds these; nothing is fetched."""
    from nnenv.adapters.store import StoreMissing
    from nnenv.workflows.facts import wheel_facts

    wanted = {soname for soname, _ in target.sonames}
    uses: dict[str, dict[str, tuple[str, ...]]] = {}
    carried: dict[str, tuple[str, ...]] = {}
    unread = []
    for wheel in lockfile.wheels_of(target):
        try:
            facts = [fact for fact in wheel_facts(session.store, wheel) if fact.machine == target.machine]
        except StoreMissing:
            unread.append(wheel.name)
            continue
        for fact in facts:
            for name in {fact.soname, fact.path.rsplit("/", 1)[-1]} - {""}:
                carried[name] = (*carried.get(name, ()), wheel.name)
            for soname in fact.needed:
                if soname in wanted:
                    files = uses.setdefault(wheel.name, {})
                    files[soname] = (*files.get(soname, ()), fact.path)
    return WheelLibraries(uses=uses, carried=carried, unread=tuple(unread))


# What a name means


def meanings(
    graph: DependencyGraph, lockfile: Lockfile, name: str, carried: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> list[Subject]:
    """What `name` means in the graph's target, in the first sense that fits: a name, a library, a file, a sha256.

    `carried` are the libraries inside of wheels, where these were read.
    """
    return (
        _by_name(graph, name)
        or _by_soname(graph, name)
        or _by_artifact(graph, lockfile, lambda artifact: name in _file_names(artifact))
        or _by_digest(graph, lockfile, name)
        or _in_wheels(graph, name, carried)
        or _by_customary_name(graph, name)
    )


def _by_name(graph: DependencyGraph, name: str) -> list[Subject]:
    spellings = {
        NodeKind.WHEEL: {name, normalised(name)},
        NodeKind.FILE: {name, f"/{name}"},
    }
    nodes = [node for node in _nodes(graph) if node.name in spellings.get(node.kind, {name})]
    return _subjects(graph, nodes)


def _by_soname(graph: DependencyGraph, name: str) -> list[Subject]:
    provider = dict(graph.target.sonames).get(name)
    if provider is None:
        return []
    node = Node(kind=NodeKind.DEB, name=provider)
    edges = graph.asking_for.get(node, ())
    needing = tuple(
        library_edge(edge.asker, node, ((soname, files),))
        for edge in edges
        for soname, files in edge.libraries
        if soname == name
    )
    # Without any the wheels were not asked yet; then everything that brings the package is said.
    return [Subject(node=node, artifact=graph.artifacts.get(node), last=needing or edges, soname=name)]


def _in_wheels(graph: DependencyGraph, name: str, carried: Mapping[str, tuple[str, ...]]) -> list[Subject]:
    wheels = carried.get(name, ())
    nodes = [node for node in _nodes(graph) if node.kind is NodeKind.WHEEL and node.name in wheels]
    return [replace(subject, soname=name) for subject in _subjects(graph, nodes)]


def _by_customary_name(graph: DependencyGraph, name: str) -> list[Subject]:
    """A library that no wheel needs, by the name that Debian would give its package."""
    from nnenv.resolve.debian_facts import debian_facts
    from nnenv.resolve.debian_soname import names_by_policy

    facts = debian_facts()
    packages = ("libc6",) if name in facts.libc_sonames else facts.soname_packages.get(name) or names_by_policy(name)
    nodes = [node for node in graph.artifacts if node.kind is NodeKind.DEB and node.name in packages]
    return [
        Subject(node=node, artifact=graph.artifacts[node], last=graph.asking_for.get(node, ()), soname=name)
        for node in nodes
    ]


def _by_digest(graph: DependencyGraph, lockfile: Lockfile, name: str) -> list[Subject]:
    found = _DIGEST.match(name)
    if found is None:
        return []
    return _by_artifact(graph, lockfile, lambda artifact: artifact.sha256.startswith(found[1]))


def _by_artifact(graph: DependencyGraph, lockfile: Lockfile, fits: Callable[[Artifact], bool]) -> list[Subject]:
    wanted = {artifact.sha256 for artifact in lockfile.artifacts_of(graph.target) if fits(artifact)}
    nodes = [node for node, artifact in graph.artifacts.items() if artifact.sha256 in wanted]
    for model in lockfile.models_of(graph.target):
        for case in model.cases:
            if wanted & {*case.inputs, *case.expected, case.settings}:
                nodes.append(Node(kind=NodeKind.CASE, name=case.name))
    return _subjects(graph, nodes)


def _file_names(artifact: Artifact) -> tuple[str, str]:
    """The base name, and the path in the project."""
    own = artifact.kind not in {Kind.WHEEL, Kind.DEB}
    return artifact.filename, artifact.origin.removeprefix("file:") if own else artifact.filename


def _nodes(graph: DependencyGraph) -> list[Node]:
    """Everything but keys of model.toml, in the order of the graph."""
    return list(dict.fromkeys([*(edge.answer for edge in graph.edges), *graph.artifacts]))


def _subjects(graph: DependencyGraph, nodes: Iterable[Node]) -> list[Subject]:
    """One subject for all nodes of one name: a wheel with and without extras is one wheel."""
    grouped: dict[tuple[NodeKind, str], list[Node]] = {}
    for node in nodes:
        grouped.setdefault((node.kind, node.name), []).append(node)
    return [
        Subject(
            node=Node(kind=kind, name=name),
            artifact=next((graph.artifacts[node] for node in members if node in graph.artifacts), None),
            last=tuple(edge for node in members for edge in graph.asking_for.get(node, ())),
        )
        for (kind, name), members in sorted(grouped.items())
    ]


def _unknown(lockfile: Lockfile, targets: Sequence[TargetLock], name: str) -> NnenvError:
    elsewhere = [
        target.name
        for target in lockfile.targets
        if target not in targets and meanings(locked_graph(lockfile, target, {}, ()), lockfile, name)
    ]
    where = f"target {targets[0].name}" if len(targets) == 1 < len(lockfile.targets) else LOCK_NAME
    return NnenvError(
        "name-unknown",
        f"{where} holds nothing called {name[:200]!r}",
        where=LOCK_NAME,
        because=[f"but target {other} does" for other in elsewhere],
        fix=[
            *(f"did you mean {similar}?" for similar in _similar(lockfile, targets, name)),
            *(f"ask with --target {other}" for other in elsewhere),
            "`nnenv tree` shows everything; `nnenv lock` brings in what was just added to model.toml",
        ],
    )


def _similar(lockfile: Lockfile, targets: Sequence[TargetLock], name: str) -> list[str]:
    from difflib import get_close_matches

    names = {artifact.name for target in targets for artifact in lockfile.artifacts_of(target)}
    names.update(soname for target in targets for soname, _ in target.sonames)
    return get_close_matches(name.lower(), sorted(names), n=3)


# Trees


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetTrees:
    """One target unfolded."""

    graph: DependencyGraph
    project: str
    """Name and version of the project."""
    trees: tuple[Branch, ...]
    """A tree for each key of model.toml that asks for something; inverted, one for each meaning of the name."""


def grow_trees(
    session: Session, targets: Sequence[str], *, depth: int | None = None, inverted: str = ""
) -> list[TargetTrees]:
    """What the targets need, or what needs `inverted`, at most `depth` levels of packages.

    Raises NnenvError `name-unknown` if none of the targets holds `inverted`.
    """
    lockfile = session.lockfile()
    chosen = chosen_targets(lockfile, targets)
    project = f"{manifest_text(lockfile, 'project', 'name')} {manifest_text(lockfile, 'project', 'version')}"
    found = []
    for target in chosen:
        libraries = wheel_libraries(session, lockfile, target)
        graph = locked_graph(lockfile, target, libraries.uses, libraries.unread)
        if inverted:
            meant = meanings(graph, lockfile, inverted, libraries.carried)
            trees = tuple(needed_by(graph, subject.node, subject.last, depth) for subject in meant)
        else:
            grown: dict[Node, int] = {}
            trees = tuple(needs(graph, key, depth, grown) for key in _shown_keys(graph))
        if trees:
            found.append(TargetTrees(graph=graph, project=project, trees=trees))
    if not found and inverted:
        raise _unknown(lockfile, chosen, inverted)
    return found


def _shown_keys(graph: DependencyGraph) -> list[Node]:
    """The keys that ask for packages or models, in the order of the graph."""
    return [key for key in graph.beginnings if any(e.answer.kind is not NodeKind.FILE for e in graph.asked_by[key])]
