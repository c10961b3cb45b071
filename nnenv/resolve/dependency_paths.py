"""Paths through a dependency graph, from model.toml to a package: the shortest first, and not all of them."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nnenv.resolve.dependency_graph import BEGINNINGS, DependencyGraph, Edge, Node

COUNTED: Final = 1000
"""Paths after which counting ends: in an archive of Debian there can be more than there are atoms."""
_STEPS: Final = 50_000
"""Beginnings of paths that are looked at before giving up; each costs microseconds."""

Path = tuple[Edge, ...]
"""Edges from a key of model.toml down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """What was found."""

    shown: tuple[Path, ...]
    """The shortest, by length and then by names."""
    more: int
    """How many were counted besides."""
    all_counted: bool
    """Whether `more` is all of them."""


def paths_by(graph: DependencyGraph, last: Sequence[Edge], most: int) -> Paths:
    """Paths that end in one of the edges `last` and visit no node twice; at most `most` are returned.

    The search goes backwards, always from where the rest is known to be shortest, so no time goes into dead ends
    before the first paths are found. The order of `last` does not matter.
    """
    distances = _distances(graph)
    ends = {edge.answer for edge in last}
    waiting: list[tuple[int, tuple[Node, ...], Path]] = []
    shown: list[Path] = []
    found = steps = 0

    def consider(edge: Edge, rest: Path, visited: tuple[Node, ...]) -> None:
        if edge.asker in distances and edge.asker not in visited and edge.asker not in ends:
            length = len(rest) + 1 + distances[edge.asker]
            heapq.heappush(waiting, (length, (*visited, edge.asker), (edge, *rest)))

    for edge in {(edge.asker, edge.answer): edge for edge in last}.values():
        consider(edge, (), (edge.answer,))
    while waiting and found <= COUNTED and steps < _STEPS:
        steps += 1
        _, visited, path = heapq.heappop(waiting)
        if visited[-1].kind not in BEGINNINGS:
            for edge in graph.asking_for.get(visited[-1], ()):
                consider(edge, path, visited)
            continue
        found += 1
        if len(shown) < most:
            shown.append(path)
    return Paths(shown=tuple(shown), more=min(found, COUNTED) - len(shown), all_counted=not waiting)


def _distances(graph: DependencyGraph) -> dict[Node, int]:
    """Node -> edges from the nearest beginning; nodes that nothing leads to are not in it."""
    distances = dict.fromkeys(graph.beginnings, 0)
    waiting = deque(graph.beginnings)
    while waiting:
        node = waiting.popleft()
        for edge in graph.asked_by.get(node, ()):
            if edge.answer not in distances:
                distances[edge.answer] = distances[node] + 1
                waiting.append(edge.answer)
    return distances
