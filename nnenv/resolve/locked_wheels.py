"""Which locked wheel asks for which, as far as the markers hold on the target."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nnenv.resolve.dependency_graph import Edge, Node, NodeKind
from nnenv.resolve.python_target import PythonTarget
from nnenv.spec.artifact import Artifact

_START: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
"""Name and extras at the start of a requirement (PEP 508); the rest was checked when the lock was made."""
_SEPARATORS: Final = re.compile(r"[-_.]+")


def normalised(name: str) -> str:
    """A project's name in the one spelling that locks hold (PEP 503)."""
    return _SEPARATORS.sub("-", name).lower()


class LockedWheels:
    """The wheels of one target, and what they ask of each other."""

    def __init__(self, wheels: Iterable[Artifact], target: PythonTarget, overrides: Iterable[str]) -> None:
        self._wheels = {wheel.name: wheel for wheel in wheels}
        self._target = target
        self._markers: dict[tuple[str, str], bool] = {}
        self._overrides: dict[str, str] = {}
        for text in overrides:
            if self._holds(text, ()):
                self._overrides[_node(text).name] = text

    def edge(self, asker: Node, text: str) -> Edge | None:
        """What `asker` wants by the requirement `text`; None if it does not hold on the target."""
        answer = _node(text)
        # The marker comes last: most that do not hold name packages that are not here, and markers need `packaging`.
        if answer.name not in self._wheels or not self._holds(text, asker.extras):
            return None
        override = self._overrides.get(answer.name)
        because = f"policy.overrides says {override}" if override else ""
        return Edge(asker=asker, answer=answer, requirement=text.strip(), because=because)

    def requirements(self, asker: Node) -> Iterator[Edge]:
        """What a wheel asks for by its own metadata."""
        for text in self._wheels[asker.name].requires:
            edge = self.edge(asker, text)
            if edge is not None:
                yield edge

    def artifact(self, node: Node) -> Artifact:
        """The wheel."""
        return self._wheels[node.name]

    def _holds(self, text: str, extras: tuple[str, ...]) -> bool:
        marker = text.partition(";")[2].strip()
        if not marker:
            return True
        return any(self._evaluated(marker, extra) for extra in (*extras, ""))

    def _evaluated(self, marker: str, extra: str) -> bool:
        """Whether a marker holds; one that cannot be evaluated does, since the lock says that something was chosen."""
        key = (marker, extra)
        if key not in self._markers:
            from packaging.markers import Marker

            try:
                self._markers[key] = Marker(marker).evaluate({**self._target.markers, "extra": extra})
            except (ValueError, KeyError):
                self._markers[key] = True
        return self._markers[key]


def wheel_edges(wheels: LockedWheels, first: Iterable[Edge]) -> Iterator[Edge]:
    """Everything that wheels ask for, from the ones that `first` leads to; each wheel and set of extras once."""
    waiting = [edge.answer for edge in first if edge.answer.kind is NodeKind.WHEEL]
    reached = set(waiting)
    while waiting:
        for edge in wheels.requirements(waiting.pop(0)):
            yield edge
            if edge.answer not in reached:
                reached.add(edge.answer)
                waiting.append(edge.answer)


def library_edges(
    nodes: Iterable[Node], uses: Mapping[str, Mapping[str, tuple[str, ...]]], providers: Mapping[str, str]
) -> Iterator[Edge]:
    """What wheels ask of the OS: `uses` maps a wheel to the sonames it needs and its files that need them,
    `providers` a soname to the Debian package that was chosen for it."""
    for node in nodes:
        packages: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for soname, files in uses.get(node.name, {}).items():
            if soname in providers:
                packages.setdefault(providers[soname], []).append((soname, files))
        for package, libraries in packages.items():
            answer = Node(kind=NodeKind.DEB, name=package)
            yield library_edge(node, answer, tuple(sorted(libraries)))


def library_edge(asker: Node, answer: Node, libraries: tuple[tuple[str, tuple[str, ...]], ...]) -> Edge:
    """`asker` needs these (soname, its files that do) of `answer`."""
    files = list(dict.fromkeys(file for _, files in libraries for file in files))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Edge(
        asker=asker,
        answer=answer,
        requirement=", ".join(soname for soname, _ in libraries),
        because=f"needed by {files[0]}{more}" if files else "",
        libraries=libraries,
    )


def _node(text: str) -> Node:
    """What a requirement names."""
    found = _START.match(text)
    if found is None:
        return Node(kind=NodeKind.WHEEL, name="")
    extras = sorted({normalised(extra.strip()) for extra in (found[2] or "").split(",") if extra.strip()})
    return Node(kind=NodeKind.WHEEL, name=normalised(found[1]), extras=tuple(extras))
