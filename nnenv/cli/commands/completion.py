"""`nnenv completion`: a completion script, made from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, write
from nnenv.errors import NnenvError
from nnenv.workflows.session import Session

SHELLS: Final = ("bash", "zsh", "fish")
NAMES: Final = ("targets", "packages", "requirements", "models")


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv completion`."""
    describe(
        parser,
        "Print a script that completes commands, options, and the names of targets and packages of the project.\n"
        "For good: put its output where the shell looks for it,\n"
        "  bash  ~/.local/share/bash-completion/completions/nnenv\n"
        "  zsh   a file _nnenv in a folder of $fpath\n"
        "  fish  ~/.config/fish/completions/nnenv.fish",
        "  nnenv completion bash\n"
        "  nnenv completion zsh\n"
        "  nnenv completion fish\n"
        "for the present shell: source <(nnenv completion bash)",
    )
    parser.add_argument("shell", nargs="?", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS)}")
    parser.add_argument("--names", choices=NAMES, help=argparse.SUPPRESS)


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Print the script, or with the scripts' own option names of the project, a line each."""
    if arguments.names:
        from nnenv.workflows.naming import names

        write("".join(f"{name}\n" for name in names(session, arguments.names)))
        return 0
    if arguments.shell is None:
        raise NnenvError(
            "usage", "no shell is named", fix=[f"nnenv completion {shell}" for shell in SHELLS], exit_code=2
        )
    from nnenv.cli.completion_scripts import SCRIPTS
    from nnenv.cli.grammar import forms

    script = SCRIPTS[arguments.shell](forms())
    document = {"ok": True, "shell": arguments.shell, "script": script}
    emit(arguments, "completion", document, lambda: script)
    return 0
