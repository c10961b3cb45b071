"""`nnenv tree`: what each target needs, or what needs a package, as a tree."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nnenv.cli.arguments import Parser, add_target, describe, positive, targets_of
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette, bytes_text, printable
from nnenv.resolve.dependency_graph import BEGINNINGS, DependencyGraph, Edge, NodeKind
from nnenv.resolve.dependency_tree import Branch
from nnenv.workflows.explaining import TargetTrees, grow_trees
from nnenv.workflows.healing import healed
from nnenv.workflows.session import Session

_MARKS: Final = {NodeKind.MODEL: "model", NodeKind.TOOL: "build machine"}
"""Said of what is neither a wheel nor a Debian package of the image."""


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv tree`."""
    describe(
        parser,
        "Show what each target needs as a tree: models, wheels and Debian packages, below the keys of model.toml that\n"
        "ask for them. A Debian package below a wheel stands there for the libraries that the wheel needs. What was\n"
        "shown with its branches before is marked (*). It reads model.lock and, for libraries, the wheels that the\n"
        "store holds; it makes no network call.",
        "  nnenv tree                                 # every target\n"
        "  nnenv tree --target cpu --depth 1 --sizes  # what is asked for, and how much it brings\n"
        "  nnenv tree --invert numpy                  # what needs numpy",
    )
    add_target(parser, environment)
    parser.add_argument("--depth", type=positive, metavar="N", default=None, help="packages deep at most")
    parser.add_argument("--invert", metavar="NAME", default="", help="what needs NAME instead; NAME as for `nnenv why`")
    parser.add_argument(
        "--sizes", action="store_true", help="bytes of each file, and of it with all that it needs, each file once"
    )


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Grow the trees, and print them."""
    grown = healed(
        lambda: grow_trees(session, targets_of(arguments), depth=arguments.depth, inverted=arguments.invert),
        notice(arguments),
    )
    emit(arguments, "tree", tree_json(grown), lambda: tree_text(grown, arguments.sizes, palette(arguments)))
    return 0


def tree_json(grown: Sequence[TargetTrees]) -> dict[str, Any]:
    """What `nnenv tree --json` prints."""
    return {"ok": True, "targets": [_target_json(target) for target in grown]}


def _target_json(target: TargetTrees) -> dict[str, Any]:
    sizes = _Sizes(target.graph)
    return {
        "name": target.graph.target.name,
        "platform": target.graph.target.platform,
        "os": target.graph.target.os,
        "python": target.graph.target.python,
        "unread": list(target.graph.unread),
        "trees": [_branch_json(branch, target.graph, sizes) for branch in target.trees],
    }


def _branch_json(branch: Branch, graph: DependencyGraph, sizes: _Sizes) -> dict[str, Any]:
    artifact = graph.artifacts.get(branch.node)
    return {
        "kind": str(branch.node.kind),
        "name": branch.node.label,
        "version": artifact.version if artifact else "",
        "sha256": artifact.sha256 if artifact else "",
        "bytes": artifact.size if artifact else None,
        "bytes_with_needs": sizes.below(branch),
        "requirement": branch.edge.requirement if branch.edge else "",
        "repeated": branch.repeated,
        "cut": branch.cut,
        "branches": [_branch_json(inner, graph, sizes) for inner in branch.branches],
    }


class _Sizes:
    """Sizes with all that is needed, each added up once."""

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._known: dict[object, int] = {}

    def below(self, branch: Branch) -> int:
        """Bytes of the node and everything that it needs."""
        if branch.node not in self._known:
            self._known[branch.node] = self._graph.size_below(branch.node)
        return self._known[branch.node]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    text: str
    branch: Branch | None = None
    """None for the heading."""
    style: str = ""


def tree_text(grown: Sequence[TargetTrees], with_sizes: bool, palette: Palette) -> str:
    """What `nnenv tree` prints."""
    text = "\n".join(_target_text(target, with_sizes, palette) for target in grown)
    repeated = any(_has_repeated(branch) for target in grown for branch in target.trees)
    return text + ("\n(*) shown with its branches elsewhere in the tree\n" if repeated else "")


def _has_repeated(branch: Branch) -> bool:
    return branch.repeated or any(map(_has_repeated, branch.branches))


def _target_text(trees: TargetTrees, with_sizes: bool, palette: Palette) -> str:
    graph, target = trees.graph, trees.graph.target
    title = f"{trees.project}  target {target.name} ({target.platform}, {target.os}, Python {target.python})"
    lines = [_Line(text=title, style="bold"), *(line for tree in trees.trees for line in _lines(tree, graph, "", ""))]
    columns = _size_columns(lines, graph) if with_sizes else [""] * len(lines)
    width = max(len(line.text) for line in lines)
    text = ""
    for line, column in zip(lines, columns, strict=True):
        padding = " " * (width - len(line.text) + 2) if column else ""
        text += f"{palette(line.style, line.text) if line.style else line.text}{padding}{column}\n"
    if graph.unread:
        wheels = ", ".join(graph.unread)
        text += (
            f"{palette('yellow', 'note')}: the store lacks these wheels, so their libraries are not known: {wheels}\n"
        )
        text += "      `nnenv fetch` brings them\n"
    return text


def _lines(branch: Branch, graph: DependencyGraph, first: str, rest: str) -> Iterator[_Line]:
    """The branch's own line behind `first`, and those of its branches behind `rest`."""
    at_top = branch.edge is None
    style = ("cyan" if branch.node.kind in BEGINNINGS else "bold") if at_top else ""
    yield _Line(text=first + _label(branch, graph), branch=branch, style=style)
    for number, inner in enumerate(branch.branches, 1):
        is_last = number == len(branch.branches)
        yield from _lines(inner, graph, rest + ("└── " if is_last else "├── "), rest + ("    " if is_last else "│   "))


def _label(branch: Branch, graph: DependencyGraph) -> str:
    """`numpy 2.4.6`, with what is worth knowing of the edge, and (*) where its branches are left out."""
    node, edge, artifact = branch.node, branch.edge, graph.artifacts.get(branch.node)
    text = f"{node.label} {artifact.version}" if artifact and artifact.version else node.label
    if node.kind in BEGINNINGS and edge is None:
        text = f"[{text}]"
    if node.kind in _MARKS:
        text += f" ({_MARKS[node.kind]})"
    if edge is not None and edge.asker == node:
        text += f"  [{_asked(edge)}]"
    elif edge is not None and edge.libraries:
        text += f" ({_asked(edge)})"
    return printable(text) + (" (*)" if branch.repeated else " (and deeper)" if branch.cut else "")


def _asked(edge: Edge) -> str:
    """The requirement; of many libraries the first."""
    more = len(edge.libraries) - 1
    return f"{edge.libraries[0][0]} and {more} more" if more > 1 else edge.requirement


def _size_columns(lines: Sequence[_Line], graph: DependencyGraph) -> list[str]:
    """`own size`, `size with all that is needed`, aligned below their headings."""
    sizes = _Sizes(graph)
    rows = []
    for line in lines:
        if line.branch is None:
            rows.append(("size", "with needs"))
            continue
        artifact = graph.artifacts.get(line.branch.node)
        rows.append((bytes_text(artifact.size) if artifact else "", bytes_text(sizes.below(line.branch))))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{own:>{widths[0]}}  {below:>{widths[1]}}" for own, below in rows]
