"""The dependency graph of a locked target, from the keys of model.toml down.

Everything comes from the lock, but for which wheel needs which library of the OS: that is in the wheels' bytes, and is
given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from nnenv.resolve.debian_facts import DebianRelease, debian_release
from nnenv.resolve.dependency_graph import DependencyGraph, Edge, Node, NodeKind
from nnenv.resolve.locked_debs import LockedDebs
from nnenv.resolve.locked_wheels import LockedWheels, library_edge, library_edges, wheel_edges
from nnenv.resolve.python_target import RUNTIMES, PythonTarget
from nnenv.spec.artifact import Artifact
from nnenv.spec.lockfile import Lockfile, TargetLock

SonameUses = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Wheel -> soname -> the wheel's files that need it."""

UNREAD: Final = Node(kind=NodeKind.UNREAD, name="a wheel that is not in the store")


def locked_graph(lockfile: Lockfile, target: TargetLock, uses: SonameUses, unread: Sequence[str]) -> DependencyGraph:
    """The graph of `target`; `uses` holds what is known of the wheels' libraries, `unread` the wheels it lacks."""
    release = debian_release(target.os.removeprefix("debian:"))
    wheels = LockedWheels(lockfile.wheels_of(target), _python(target), _texts(lockfile, "policy", "overrides"))
    debs = LockedDebs(lockfile.debs_of(target), NodeKind.DEB)
    tools = LockedDebs(lockfile.tools_of(target), NodeKind.TOOL)
    models = tuple(_models(lockfile, target, wheels))
    packages = (*_declared_packages(lockfile, target, wheels), *models)
    between = tuple(wheel_edges(wheels, packages))
    nodes = dict.fromkeys(edge.answer for edge in (*packages, *between) if edge.answer.kind is NodeKind.WHEEL)
    edges = (
        *packages,
        *_declared_system(lockfile, target, debs),
        *_base(lockfile, target, release, debs),
        *_files(lockfile),
        *between,
        *library_edges(nodes, uses, dict(target.sonames)),
        *(_unread_libraries(target, uses) if unread else ()),
        *debs.relations(),
        *_build_tools(target, release, tools),
    )
    return DependencyGraph(
        target=target,
        artifacts={
            # A wheel that is only asked for with extras is known by its bare name too.
            **{Node(kind=node.kind, name=node.name): wheels.artifact(node) for node in nodes},
            **{node: wheels.artifact(node) for node in nodes},
            **debs.artifacts(),
            **tools.artifacts(),
            **_own_artifacts(lockfile, target),
        },
        edges=_each_once(edges),
        unread=tuple(unread),
    )


def _python(target: TargetLock) -> PythonTarget:
    return PythonTarget(name=target.name, python=target.python, machine=target.machine, glibc=target.glibc)


def _key(name: str) -> Node:
    return Node(kind=NodeKind.KEY, name=name)


def _declared_packages(lockfile: Lockfile, target: TargetLock, wheels: LockedWheels) -> Iterator[Edge]:
    for keys in (("requires", "packages"), ("targets", target.name, "requires", "packages")):
        for text in _texts(lockfile, *keys):
            edge = wheels.edge(_key(".".join(keys)), text)
            if edge is not None:
                yield edge


def _models(lockfile: Lockfile, target: TargetLock, wheels: LockedWheels) -> Iterator[Edge]:
    """Models, their cases, and what the standard inference test runs them with."""
    for model in lockfile.models_of(target):
        node, key = Node(kind=NodeKind.MODEL, name=model.name), f"models.{model.name}"
        source = _text(lockfile, "models", model.name, "source")
        yield Edge(asker=_key(key), answer=node, requirement=source or lockfile.by_digest[model.file].origin)
        for name in ("numpy", *RUNTIMES.get(model.format, ()), "tensorflow-cpu"):
            edge = wheels.edge(node, name)
            if edge is not None:
                yield Edge(asker=node, answer=edge.answer, requirement=name, because="runs the inference test")
        for case in model.cases:
            yield Edge(asker=node, answer=Node(kind=NodeKind.CASE, name=case.name), requirement=f"{key}.tests")


def _declared_system(lockfile: Lockfile, target: TargetLock, debs: LockedDebs) -> Iterator[Edge]:
    for keys in (("requires", "system"), ("targets", target.name, "requires", "system")):
        for text in _texts(lockfile, *keys):
            edge = debs.edge(_key(".".join(keys)), text)
            if edge is not None:
                yield edge


def _base(lockfile: Lockfile, target: TargetLock, release: DebianRelease, debs: LockedDebs) -> Iterator[Edge]:
    """What every image of the release holds, and what a shell brings."""
    system = _key(f"targets.{target.name}.os")
    for name in release.roots:
        because = "the interpreter" if name.removeprefix("lib").startswith("python") else "every image has it"
        edge = debs.edge(system, name, because=because)
        if edge is not None:
            yield Edge(asker=system, answer=edge.answer, requirement=target.os, because=because)
    if _value(lockfile, "image", "shell"):
        for name in release.shell_roots:
            edge = debs.edge(_key("image.shell"), name)
            if edge is not None:
                yield Edge(asker=edge.asker, answer=edge.answer, requirement="true", because="part of a shell")


def _files(lockfile: Lockfile) -> Iterator[Edge]:
    """Application files by the longest destination in `[image] files` that holds them."""
    listed = _value(lockfile, "image", "files")
    sources = listed.items() if isinstance(listed, Mapping) else ()
    places = {str(place).strip("/"): str(source) for source, place in sources}
    for file in lockfile.files:
        fitting = [place for place in places if f"{file.path}/".startswith(f"{place}/" if place else "")]
        place = max(fitting, key=len, default="")
        yield Edge(
            asker=_key("image.files"),
            answer=Node(kind=NodeKind.FILE, name=f"/{file.path}"),
            requirement=f"{places.get(place, '')} -> /{place}",
        )


def _unread_libraries(target: TargetLock, uses: SonameUses) -> Iterator[Edge]:
    """Libraries that no wheel of which we know needs."""
    known = {soname for sonames in uses.values() for soname in sonames}
    packages: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for soname, package in target.sonames:
        if soname not in known:
            packages.setdefault(package, []).append((soname, ()))
    for package, libraries in packages.items():
        yield library_edge(UNREAD, Node(kind=NodeKind.DEB, name=package), tuple(libraries))


def _build_tools(target: TargetLock, release: DebianRelease, tools: LockedDebs) -> Iterator[Edge]:
    """The interpreter for the build machine, where the target has another CPU."""
    platform = _key(f"targets.{target.name}.platform")
    edge = tools.edge(platform, f"python{release.python}-minimal")
    if edge is not None:
        because = "compiles bytecode on the build machine"
        yield Edge(asker=platform, answer=edge.answer, requirement=target.platform, because=because)
    yield from tools.relations()


def _own_artifacts(lockfile: Lockfile, target: TargetLock) -> dict[Node, Artifact]:
    """The project's models and application files."""
    found = {
        Node(kind=NodeKind.MODEL, name=model.name): lockfile.by_digest[model.file]
        for model in lockfile.models_of(target)
    }
    for file in lockfile.files:
        found[Node(kind=NodeKind.FILE, name=f"/{file.path}")] = lockfile.by_digest[file.sha256]
    return found


def _each_once(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """One edge between two nodes: a further one adds its words to the first."""
    merged: dict[tuple[Node, Node], Edge] = {}
    for edge in edges:
        first = merged.setdefault((edge.asker, edge.answer), edge)
        if first is not edge and edge.requirement not in first.requirement.split(", "):
            merged[(edge.asker, edge.answer)] = Edge(
                asker=edge.asker,
                answer=edge.answer,
                requirement=f"{first.requirement}, {edge.requirement}",
                because=first.because or edge.because,
                libraries=(*first.libraries, *edge.libraries),
            )
    return tuple(merged.values())


# The echo of model.toml in the lock


def _value(lockfile: Lockfile, *keys: str) -> object:
    value: object = lockfile.manifest
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _texts(lockfile: Lockfile, *keys: str) -> tuple[str, ...]:
    """A list of strings by its key path; empty where it is absent."""
    value = _value(lockfile, *keys)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _text(lockfile: Lockfile, *keys: str) -> str:
    value = _value(lockfile, *keys)
    return value if isinstance(value, str) else ""
