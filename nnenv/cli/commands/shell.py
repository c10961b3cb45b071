"""`nnenv shell`: a conversation inside the image."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from nnenv.adapters.live import standard_streams
from nnenv.cli.arguments import Parser, describe
from nnenv.cli.commands.run import add_command, add_place, exit_code, options_of
from nnenv.cli.output import notice
from nnenv.errors import NnenvError
from nnenv.workflows.running import open_shell
from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv shell`."""
    describe(
        parser,
        "Talk to a program inside the image of a target, in a terminal of its own; what is not built is built first.\n"
        "Without COMMAND that is the best shell that the image holds. An image holds none unless model.toml asks for\n"
        'one (`shell = true` in [image], or system = ["dash"] in [requires]); then it is the image\'s Python.\n'
        "What the program can see and do is as for `nnenv run`, whose options these are.",
        "  nnenv shell\n"
        "  nnenv shell --target cpu --volume .:/project -w /project\n"
        "  nnenv shell -- python3 -q -i -c 'import numpy'",
    )
    add_place(parser, environment)
    add_command(parser, "the command and its arguments (default: a shell)")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Hold the conversation; the command's exit code comes back."""
    if arguments.json:
        raise NnenvError(
            "usage",
            "a conversation has no JSON form",
            where="--json",
            fix=["for the output of a command as JSON: `nnenv run --json -- COMMAND`"],
            exit_code=2,
        )
    ran = open_shell(session, options_of(arguments), standard_streams(), notice(arguments))
    return exit_code(ran.ended, arguments)
