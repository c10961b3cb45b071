"""Trees: what is repeated, how deep they go, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator

from nnenv.resolve.dependency_graph import DependencyGraph, Node, NodeKind
from nnenv.resolve.dependency_tree import DEEPEST, Branch, needed_by, needs
from tests.resolve.test_dependency_paths import graph, node


def outline(branch: Branch, depth: int = 0) -> Iterator[str]:
    """A line a branch, indented, with * for a repeated one."""
    yield " " * depth + branch.node.name + ("*" if branch.repeated else "")
    for inner in branch.branches:
        yield from outline(inner, depth + 1)


def tree(made: DependencyGraph, *keys: str, depth: int | None = None) -> list[str]:
    """The trees of the keys, which share what was shown."""
    grown: dict[Node, int] = {}
    return [line for key in keys for line in outline(needs(made, node(key), depth, grown))]


def test_branches_are_shown_once() -> None:
    """Sorted by name; what has branches is marked the second time, what has none is not."""
    made = graph("K>b", "K>a", "a>x", "b>a", "b>y", "b>x", "L>b", "L>y")
    assert tree(made, "K", "L") == ["K", " a", "  x", " b", "  a*", "  x", "  y", "L", " b*", " y"]


def test_cycles_end() -> None:
    """The second time round is marked."""
    assert tree(graph("K>a", "a>b", "b>a", "a>a"), "K") == ["K", " a", "  a*", "  b", "   a*"]


def test_depth_counts_packages() -> None:
    """What was cut off lower down is shown where there is room for it."""
    made = graph("K>a", "K>x", "a>x", "x>y", "y>z")
    assert tree(made, "K", depth=1) == ["K", " a", " x"]
    assert tree(made, "K", depth=2) == ["K", " a", "  x", " x", "  y"]
    assert tree(made, "K", depth=3) == ["K", " a", "  x", "   y", " x", "  y", "   z"]
    assert tree(made, "K") == ["K", " a", "  x", "   y", "    z", " x*"]


def test_test_cases_and_files_are_no_packages() -> None:
    """They are left out."""
    made = graph("K>a", "a>x")
    (first, second) = made.edges
    case = Node(kind=NodeKind.CASE, name="case")
    hidden = DependencyGraph(
        target=made.target,
        artifacts={},
        edges=(first, second, type(first)(asker=node("a"), answer=case, requirement="")),
    )
    assert tree(hidden, "K") == ["K", " a", "  x"]


def test_inverted() -> None:
    """From a package up to the keys, by the edges that are asked for only; keys come last."""
    made = graph("K>a", "K>x", "a>x", "b>x", "L>b", "b>a")
    last = made.asking_for[node("x")]
    assert list(outline(needed_by(made, node("x"), last, None))) == ["x", " a", "  b", "   L", "  K", " b*", " K"]
    assert list(outline(needed_by(made, node("x"), last, 1))) == ["x", " a", " b", " K"]
    by_b = [edge for edge in last if edge.asker == node("b")]
    assert list(outline(needed_by(made, node("x"), by_b, None))) == ["x", " b", "  L"]


def test_a_chain_that_nobody_reads_to_its_end() -> None:
    """It is cut and said to be, and does not exhaust the stack; a limit by the user is no cut."""
    made = graph("K>n0", *(f"n{number}>n{number + 1}" for number in range(5000)))
    branch = needs(made, node("K"), None, {})
    levels = 0
    while branch.branches:
        (branch,) = branch.branches
        levels += 1
    assert (levels, branch.cut, branch.repeated) == (DEEPEST, True, False)
    assert not needs(made, node("K"), 1, {}).branches[0].cut
