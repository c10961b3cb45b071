"""`nnenv why`: what leads to a package, from model.toml down."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nnenv.cli.arguments import Parser, add_target, describe, positive, targets_of
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette, bytes_text, printable, short
from nnenv.resolve.dependency_graph import DependencyGraph, Edge, Node, NodeKind
from nnenv.resolve.dependency_paths import Path
from nnenv.workflows.explaining import Explanation, explain
from nnenv.workflows.healing import healed
from nnenv.workflows.session import Session

_KINDS: Final = {
    NodeKind.CASE: "test case",
    NodeKind.DEB: "Debian package",
    NodeKind.TOOL: "Debian package of the build machine",
}
"""Kinds in other words than their own."""


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv why`."""
    describe(
        parser,
        "Show every path from model.toml to a package, the shortest first, with what is asked for on each step: a\n"
        "requirement, the Depends of a Debian package, or the libraries that a wheel needs. It reads model.lock and,\n"
        "for libraries, the wheels that the store holds; it makes no network call.",
        "  nnenv why numpy                        # who asks for it, in each target\n"
        "  nnenv why libgcc-s1 --target cpu       # a Debian package, in one target\n"
        "  nnenv why libm.so.6 --paths 3          # a library: the wheels that need it, three paths",
    )
    parser.add_argument(
        "name", metavar="NAME",
        help="a wheel, Debian package, model, test case or file; a soname; a file name; or the start of a sha256",
    )  # fmt: skip
    add_target(parser, environment)
    parser.add_argument("--paths", type=positive, metavar="N", default=10, help="paths to show (default: 10)")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Look it up, and print the paths."""
    found = healed(lambda: explain(session, arguments.name, targets_of(arguments), arguments.paths), notice(arguments))
    emit(arguments, "why", why_json(found), lambda: why_text(found, palette(arguments)))
    return 0


def why_json(found: Sequence[Explanation]) -> dict[str, Any]:
    """What `nnenv why --json` prints."""
    return {"ok": True, "explanations": [_explanation_json(explanation) for explanation in found]}


def _explanation_json(explanation: Explanation) -> dict[str, Any]:
    subject, artifact = explanation.subject, explanation.subject.artifact
    return {
        "target": explanation.graph.target.name,
        "kind": str(subject.node.kind),
        "name": subject.node.name,
        "soname": subject.soname,
        "version": artifact.version if artifact else "",
        "filename": artifact.filename if artifact else "",
        "sha256": artifact.sha256 if artifact else "",
        "bytes": artifact.size if artifact else None,
        "paths": [[_step_json(edge) for edge in path] for path in explanation.paths.shown],
        "more": explanation.paths.more,
        "all_counted": explanation.paths.all_counted,
        "unread": list(explanation.unread),
    }


def _step_json(edge: Edge) -> dict[str, Any]:
    return {
        "asker": edge.asker.label,
        "asker_kind": str(edge.asker.kind),
        "requirement": edge.requirement,
        "because": edge.because,
        "answer": edge.answer.label,
        "answer_kind": str(edge.answer.kind),
    }


def why_text(found: Sequence[Explanation], palette: Palette) -> str:
    """What `nnenv why` prints: one part for all targets in which the answer is the same."""
    targets: dict[tuple[str, str], list[str]] = {}
    for explanation in found:
        part = (_title(explanation, palette), _paths_text(explanation, palette))
        targets.setdefault(part, []).append(explanation.graph.target.name)
    return "\n".join(f"{title}  in {', '.join(names)}\n{text}" for (title, text), names in targets.items())


def _title(explanation: Explanation, palette: Palette) -> str:
    subject, artifact = explanation.subject, explanation.subject.artifact
    version = f" {artifact.version}" if artifact and artifact.version else ""
    name = palette("bold", printable(subject.node.name + version))
    kind = _KINDS.get(subject.node.kind, str(subject.node.kind))
    facts = f"{kind}, {bytes_text(artifact.size)}, sha256:{short(artifact.sha256)}" if artifact else kind
    library = f"{palette('bold', subject.soname)} is in " if subject.soname else ""
    return f"{library}{name}  {facts}"


def _paths_text(explanation: Explanation, palette: Palette) -> str:
    paths = explanation.paths
    text = "".join("\n" + _path_text(path, explanation.graph, _width(explanation)) for path in paths.shown)
    if not paths.shown:
        text += "\n  nothing asks for it by the rules of this nnenv: another version made this lock\n"
    if paths.more:
        more = f"{paths.more} more" if paths.all_counted else f"more than {paths.more} more"
        text += f"\n  and {more} (--paths N shows more)\n"
    if explanation.unread:
        wheels = ", ".join(explanation.unread)
        text += f"\n{palette('yellow', 'note')}: wheels that the store lacks may need it too: {wheels}\n"
        text += "      `nnenv fetch` brings them\n"
    return text


def _width(explanation: Explanation) -> int:
    """Of the left column, over all paths."""
    return max(
        (
            4 * depth + len(_named(explanation.graph, edge.asker))
            for path in explanation.paths.shown
            for depth, edge in enumerate(path)
        ),
        default=0,
    )


def _path_text(path: Path, graph: DependencyGraph, width: int) -> str:
    """One line a step: on the left who asks, on the right for what."""
    lines = []
    for depth, edge in enumerate(path):
        because = f"  ({edge.because})" if edge.because else ""
        lines.append(f"{_indented(depth, _named(graph, edge.asker)):<{width}}  {printable(edge.requirement + because)}")
    lines.append(_indented(len(path), _named(graph, path[-1].answer)))
    return "".join(f"  {line}\n" for line in lines)


def _indented(depth: int, text: str) -> str:
    return f"{'    ' * (depth - 1)}└── {text}" if depth else text


def _named(graph: DependencyGraph, node: Node) -> str:
    """Name and version."""
    artifact = graph.artifacts.get(node)
    return printable(f"{node.label} {artifact.version}" if artifact and artifact.version else node.label)
