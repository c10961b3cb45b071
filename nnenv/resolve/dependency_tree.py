"""A dependency graph unfolded into trees: what something needs, or what needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from nnenv.resolve.dependency_graph import DependencyGraph, Edge, Node, NodeKind

_ORDER: Final = tuple(NodeKind(kind) for kind in ("model", "wheel", "deb", "tool", "unread", "key"))
"""Of the children of one branch, before their names."""
_NO_LIMIT: Final = 1 << 30
DEEPEST: Final = 100
"""Levels of a tree without a limit: nobody reads deeper ones, and each costs stack."""
_HIDDEN: Final = frozenset({NodeKind.CASE, NodeKind.FILE})
"""Not packages: a tree of thousands of files would hide them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A node where it stands in a tree."""

    node: Node
    edge: Edge | None
    """By which it hangs on what is above it; None at the top."""
    repeated: bool
    """Whether it stands elsewhere with its branches, which are left out here."""
    cut: bool
    """Whether its branches are left out because they are DEEPEST levels down."""
    branches: tuple[Branch, ...]


def needs(graph: DependencyGraph, key: Node, depth: int | None, grown: dict[Node, int]) -> Branch:
    """What a key of model.toml asks for, and so on, `depth` packages deep (None: to the end).

    `grown` is shared by the keys of one target: what was shown with its branches is not shown so again.
    """
    return _Growing(lambda node: graph.asked_by.get(node, ()), lambda edge: edge.answer, grown).branch(key, None, depth)


def needed_by(graph: DependencyGraph, node: Node, last: Iterable[Edge], depth: int | None) -> Branch:
    """What asks for `node` by the edges `last`, what asks for that, and so on up to the keys of model.toml."""
    first = tuple(last)
    return _Growing(
        lambda below: first if below == node else graph.asking_for.get(below, ()), lambda edge: edge.asker, {}
    ).branch(node, None, depth)


@dataclass(frozen=True, slots=True)
class _Growing:
    """One direction through the graph, and how deep each node was shown already."""

    edges: Callable[[Node], Iterable[Edge]]
    end: Callable[[Edge], Node]
    grown: dict[Node, int]

    def branch(self, node: Node, edge: Edge | None, depth: int | None, level: int = 0) -> Branch:
        """The node with what hangs on it, at most `depth` levels."""
        room = _NO_LIMIT if depth is None else depth
        children = sorted(
            (child for child in self.edges(node) if self.end(child).kind not in _HIDDEN),
            key=lambda child: (_ORDER.index(self.end(child).kind), self.end(child)),
        )
        # With a limit, what was cut off lower down is shown where there is more room.
        repeated = bool(children) and self.grown.get(node, 0) >= room > 0
        cut = bool(children) and not repeated and level == DEEPEST and depth is None
        shown = children if room and not repeated and not cut else []
        if shown:
            self.grown[node] = room
        below = None if depth is None else depth - 1
        return Branch(
            node=node,
            edge=edge,
            repeated=repeated,
            cut=cut,
            branches=tuple(self.branch(self.end(child), child, below, level + 1) for child in shown),
        )
