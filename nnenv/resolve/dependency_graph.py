"""Who asks for what in a target, as a graph: keys of model.toml, models, wheels and Debian packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from nnenv.spec.artifact import Artifact
from nnenv.spec.lockfile import TargetLock


class NodeKind(StrEnum):
    """What stands in the graph."""

    KEY = "key"
    """A key of model.toml: where everything begins."""
    UNREAD = "unread"
    """Wheels whose libraries could not be read: where libraries begin that no known wheel needs."""
    MODEL = "model"
    CASE = "case"
    FILE = "file"
    WHEEL = "wheel"
    DEB = "deb"
    TOOL = "tool"
    """A .deb that runs on the build machine and is not in the image."""


BEGINNINGS: Final = frozenset({NodeKind.KEY, NodeKind.UNREAD})


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Node:
    """One thing; a wheel with extras is another thing than the same wheel without, since it asks for more."""

    kind: NodeKind
    name: str
    extras: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name with its extras, `datasets[vision]`."""
        return f"{self.name}[{','.join(self.extras)}]" if self.extras else self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """`asker` wants `answer`."""

    asker: Node
    answer: Node
    requirement: str
    """In the asker's words: a requirement (PEP 508), `Depends: libc6 (>= 2.36)`, sonames, or the value of the key."""
    because: str = ""
    """What else a person should know: the files that need a library, or the override that stands instead."""
    libraries: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(soname, the asker's files that need it) of each library for which a wheel needs a Debian package."""


@dataclass(frozen=True, kw_only=True)
class DependencyGraph:
    """One target's nodes and edges."""

    target: TargetLock
    artifacts: Mapping[Node, Artifact]
    """What each node is; keys, cases and unread wheels are no single artifact."""
    edges: tuple[Edge, ...]
    """At most one from a node to another; those of one node in the order in which it states them."""
    unread: tuple[str, ...] = ()
    """Wheels whose libraries could not be read: edges from them to Debian packages are missing."""

    @cached_property
    def asked_by(self) -> Mapping[Node, tuple[Edge, ...]]:
        """Node -> the edges that start there."""
        return _grouped((edge.asker, edge) for edge in self.edges)

    @cached_property
    def asking_for(self) -> Mapping[Node, tuple[Edge, ...]]:
        """Node -> the edges that end there."""
        return _grouped((edge.answer, edge) for edge in self.edges)

    @cached_property
    def beginnings(self) -> tuple[Node, ...]:
        """Where everything begins, in the order of the edges."""
        return tuple(dict.fromkeys(edge.asker for edge in self.edges if edge.asker.kind in BEGINNINGS))

    def below(self, node: Node) -> set[Node]:
        """`node` and everything that it needs, directly or not."""
        found = {node}
        waiting = [node]
        while waiting:
            for edge in self.asked_by.get(waiting.pop(), ()):
                if edge.answer not in found:
                    found.add(edge.answer)
                    waiting.append(edge.answer)
        return found

    def size_below(self, node: Node) -> int:
        """Bytes of `node` and everything that it needs, each artifact once."""
        found = (self.artifacts[member] for member in self.below(node) if member in self.artifacts)
        return sum({artifact.sha256: artifact.size for artifact in found}.values())


def _grouped(pairs: Iterable[tuple[Node, Edge]]) -> dict[Node, tuple[Edge, ...]]:
    groups: dict[Node, list[Edge]] = {}
    for node, edge in pairs:
        groups.setdefault(node, []).append(edge)
    return {node: tuple(group) for node, group in groups.items()}
