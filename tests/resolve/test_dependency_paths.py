"""Paths from model.toml: shortest first, bounded, and safe in cycles."""

from __future__ import annotations

import random
import time
from itertools import pairwise

from nnenv.resolve.dependency_graph import DependencyGraph, Edge, Node, NodeKind
from nnenv.resolve.dependency_paths import COUNTED, Paths, paths_by
from tests.resolve.locks import target


def node(name: str) -> Node:
    """A key for names in capitals, else a Debian package."""
    return Node(kind=NodeKind.KEY if name.isupper() else NodeKind.DEB, name=name)


def graph(*edges: str) -> DependencyGraph:
    """A graph of `a>b` edges."""
    pairs = [edge.split(">") for edge in edges]
    made = tuple(Edge(asker=node(a), answer=node(b), requirement=f"{a} wants {b}") for a, b in pairs)
    return DependencyGraph(target=target(), artifacts={}, edges=made)


def found(made: DependencyGraph, name: str, most: int = 10) -> Paths:
    """Paths to a node by any edge."""
    return paths_by(made, made.asking_for.get(node(name), ()), most)


def words(paths: Paths) -> list[str]:
    """Each path as the names on it."""
    return ["".join(edge.asker.name for edge in path) + path[-1].answer.name for path in paths.shown]


def test_shortest_first_then_by_name() -> None:
    """All paths of a diamond with a short cut, in an order that does not depend on the order of the edges."""
    edges = ["K>a", "K>b", "a>x", "b>x", "K>x", "L>b"]
    for seed in range(5):
        random.Random(seed).shuffle(edges)
        paths = found(graph(*edges), "x")
        assert words(paths) == ["Kx", "Kax", "Kbx", "Lbx"]
        assert (paths.more, paths.all_counted) == (0, True)


def test_a_cycle_is_not_gone_round() -> None:
    """libc6 and libgcc-s1 need each other; no path visits a node twice, and none passes through its own end."""
    made = graph("K>c", "c>g", "g>c", "g>g", "K>s", "s>g", "s>c")
    assert words(found(made, "c")) == ["Kc", "Ksc", "Ksgc"]
    assert words(found(made, "g")) == ["Kcg", "Ksg", "Kscg"]


def test_what_nothing_leads_to_has_no_path() -> None:
    """A cycle apart from every key."""
    assert found(graph("K>a", "b>c", "c>b"), "c") == Paths(shown=(), more=0, all_counted=True)
    assert found(graph("K>a"), "K").shown == ()


def test_few_are_shown_and_the_rest_is_counted() -> None:
    """`more` is exact as long as counting ends."""
    made = graph(*(f"K>{name}" for name in "abcdef"), *(f"{name}>x" for name in "abcdef"))
    paths = found(made, "x", most=2)
    assert words(paths) == ["Kax", "Kbx"]
    assert (paths.more, paths.all_counted) == (4, True)


def test_more_paths_than_anyone_can_count() -> None:
    """Forty layers of four packages that all need each other have 4^40 paths: the first come at once, with a bound."""
    layers = [[f"{letter}{depth}" for letter in "abcd"] for depth in range(40)]
    between = [f"{up}>{down}" for upper, lower in pairwise(layers) for up in upper for down in lower]
    made = graph(*(f"K>{name}" for name in layers[0]), *between, *(f"{name}>x" for name in layers[-1]))
    begun = time.process_time()
    paths = found(made, "x", most=3)
    assert (len(paths.shown), paths.more, paths.all_counted) == (3, COUNTED - 3, False)
    assert all(len(path) == 41 for path in paths.shown)
    assert time.process_time() - begun < 60  # without the bound it would never end


def test_only_by_the_edges_that_are_asked_for() -> None:
    """The last step is one of those that are given, such as those that need one library."""
    made = graph("K>a", "K>b", "a>x", "b>x")
    last = [edge for edge in made.edges if edge.asker == node("b")]
    assert words(paths_by(made, last, 10)) == ["Kbx"]


def test_a_wheel_with_and_without_extras_is_one_end() -> None:
    """A path to one of them does not pass through the other."""
    made = graph("K>x", "x>y", "L>y")
    last = [*made.asking_for[node("x")], *made.asking_for[node("y")]]
    assert words(paths_by(made, last, 10)) == ["Kx", "Ly"]
