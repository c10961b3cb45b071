"""`nnenv remove`: requirements out of model.toml, and the lock that follows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.commands.add import add_editing, edit_json, edit_text, editing_options
from nnenv.cli.output import emit, notice, palette

if TYPE_CHECKING:
    from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv remove`."""
    describe(
        parser,
        "Remove Python packages, or Debian packages with --system, from model.toml, and make the lock that follows.\n"
        "What other packages need stays locked. What cannot be locked changes neither file.",
        "  nnenv remove scipy                     # from [requires]\n"
        "  nnenv remove --target cpu numpy        # from one target's additions\n"
        "  nnenv remove --system libgomp1         # a Debian package\n"
        "  nnenv remove --no-lock pandas          # model.toml only; run `nnenv lock` later",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a package, without version or extras")
    add_editing(parser, environment)


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Remove, lock, and print what changed in both files."""
    from nnenv.workflows.editing import remove_requirements
    from nnenv.workflows.healing import healed

    options = editing_options(arguments)
    outcome = healed(lambda: remove_requirements(session, arguments.names, options), notice(arguments))
    emit(arguments, "remove", edit_json(outcome), lambda: edit_text(outcome, palette(arguments)))
    return 0
