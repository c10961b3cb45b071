"""`nnenv doctor`: what this machine can do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette
from nnenv.workflows.doctoring import Line, State, examine, targets_here, usable
from nnenv.workflows.session import Session

_STYLES: Final = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "red", State.SKIPPED: "cyan"}


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv doctor`."""
    describe(
        parser,
        "Examine this machine: what it offers nnenv, and what to do where something is missing. Nothing is changed,\n"
        "and nothing is waited for longer than 5 seconds. The network is asked for one small page of the Python index\n"
        "and for the signed Release file of Debian; --offline asks for nothing.\n"
        "Exit code 1 only if nnenv can do nothing here (no place for the store, or too old a Python), or if the image\n"
        "of a --target cannot run here: driver, GPUs and container runtime are held against model.lock.",
        "  nnenv doctor\n  nnenv doctor --offline\n  nnenv doctor --target cpu\n  nnenv doctor --json",
    )
    parser.add_argument(
        "--target", action="append", metavar="NAME", default=[],
        help="whether this machine could run this target's image; may be repeated",
    )  # fmt: skip


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Examine, and print one line for each thing."""
    targets = targets_here(session, arguments.target) if arguments.target else ()
    lines = (*examine(session, offline=arguments.offline), *targets)
    emit(arguments, "doctor", doctor_json(lines), lambda: doctor_text(lines, palette(arguments)))
    return 0 if usable(lines) else 1


def doctor_json(lines: Sequence[Line]) -> dict[str, Any]:
    """What `nnenv doctor --json` prints."""
    return {
        "ok": usable(lines),
        "checks": [
            {"name": line.name, "state": str(line.state), "text": line.text, "fix": list(line.fix)} for line in lines
        ],
    }


def doctor_text(lines: Sequence[Line], palette: Palette) -> str:
    """What `nnenv doctor` prints."""
    names = max(len(line.name) for line in lines)
    states = max(len(state) for state in State)
    text = ""
    for line in lines:
        # Padded outside of the colour, whose escapes have no width.
        padding = " " * (states - len(line.state))
        text += f"{palette(_STYLES[line.state], line.state)}{padding}  {line.name:<{names}}  {line.text}\n"
        text += "".join(f"{'':<{states}}  {'':<{names}}  {palette('cyan', 'fix')}: {fix}\n" for fix in line.fix)
    return text
