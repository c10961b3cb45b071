"""`nnenv run`: a command inside the image."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nnenv.adapters.live import Ended, kept_streams, standard_streams
from nnenv.cli.arguments import Parser, add_frozen, add_runner, describe, positive, seconds
from nnenv.cli.output import emit, notice
from nnenv.workflows.running import Ran, RunOptions, run_command, user, variables, volume
from nnenv.workflows.session import Session

TIMED_OUT: Final = 124
"""The exit code of timeout(1)."""

_KEPT_OUTPUT: Final = 64 << 20
"""Bytes of each stream that --json shows."""


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv run`."""
    describe(
        parser,
        "Run a command inside the image of a target; what is not built is built first, from model.lock. Standard\n"
        "input, output and error are the command's own, and so is the exit code: 128+N if signal N ended it, 124\n"
        "after --timeout. Signals that nnenv gets go to the command; the third Ctrl-C kills it.\n"
        "The root is read-only, /tmp is fresh, the user is not root, and the network is off. Nothing of this machine\n"
        "is there, not even the project: --volume shows a folder. For a program that talks to a person, see\n"
        "`nnenv shell`.",
        "  nnenv run -- python3 -c 'import numpy; print(numpy.__version__)'\n"
        "  nnenv run --target cpu --volume .:/project:ro -w /project -- python3 -c 'import os; print(os.listdir())'\n"
        "  nnenv run -- python3 - <script.py   # standard input reaches the command",
    )
    add_place(parser, environment)
    parser.add_argument("--timeout", type=seconds, metavar="S", help="stop it after S seconds (default: never)")
    add_command(parser, "the command and its arguments (default: what the image runs)")


def add_place(parser: Parser, environment: Mapping[str, str]) -> None:
    """Add the options that say in which image a command runs, and what it sees there."""
    parser.add_argument(
        "-t", "--target", metavar="NAME", default="".join(environment.get("NNENV_TARGET", "").split()[:1]),
        help="the target whose image it is (default: the first)",
    )  # fmt: skip
    add_frozen(parser, environment)
    add_runner(parser, environment)
    parser.add_argument(
        "--network", action="store_true", help="let it reach the network; in the sandbox that is this machine's own"
    )
    parser.add_argument(
        "--volume", action="append", metavar="SRC:DST", default=[],
        help="show the folder or file SRC of this machine as DST; SRC:DST:ro cannot be written; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-e", "--env", action="append", metavar="KEY=VALUE", default=[],
        help="set a variable; KEY alone takes this machine's value; may be repeated",
    )  # fmt: skip
    parser.add_argument("-w", "--workdir", metavar="DIR", default="", help="folder to start in (default: the image's)")
    parser.add_argument(
        "-u", "--user", metavar="UID[:GID]", default="", help="numeric user to run as, not root (default: the image's)"
    )
    parser.add_argument("--memory", type=positive, metavar="GIB", help="memory limit (default: none)")


def add_command(parser: Parser, help: str) -> None:
    """Add the command, which is everything from its first word on."""
    parser.add_argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER, help=help)
    parser.usage = f"{parser.prog} [options] [--] [COMMAND ...]"


def options_of(arguments: argparse.Namespace, timeout: float | None = None) -> RunOptions:
    """The arguments as the workflow takes them; NnenvError `usage`."""
    command = list(arguments.arguments)
    return RunOptions(
        command=tuple(command[1:] if command[:1] == ["--"] else command),
        target=arguments.target,
        runner=arguments.runner,
        frozen=arguments.frozen,
        environment=variables(arguments.env, os.environ),
        workdir=arguments.workdir,
        user=user(arguments.user),
        volumes=tuple(volume(text, Path.cwd()) for text in arguments.volume),
        network=arguments.network,
        memory_bytes=None if arguments.memory is None else arguments.memory << 30,
        seconds=timeout,
    )


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Run it; the command's exit code comes back."""
    options = options_of(arguments, arguments.timeout)
    streams = standard_streams()
    if not arguments.json:
        ran = run_command(session, options, streams, notice(arguments))
    else:
        with kept_streams(streams.stdin, _KEPT_OUTPUT) as (files, kept):
            ran = run_command(session, options, files, notice(arguments))
            out, err = kept()
        emit(arguments, "run", run_json(ran, out, err), str)
    return exit_code(ran.ended, arguments)


def exit_code(ended: Ended, arguments: argparse.Namespace) -> int:
    """nnenv's exit code for a command's end, said aloud where a limit made it."""
    if ended.limit_hit == "time":
        notice(arguments)(f"stopped after {arguments.timeout:g} s (--timeout)")
        return TIMED_OUT
    if ended.limit_hit == "memory":
        wanted = f" (--memory {arguments.memory})" if arguments.memory else ""
        notice(arguments)(f"stopped for want of memory{wanted}")
    return ended.code


def run_json(ran: Ran, out: bytes, err: bytes) -> dict[str, Any]:
    """What `nnenv run --json` prints."""
    return {
        "ok": ran.ended.code == 0,
        "target": ran.target,
        "manifest": f"sha256:{ran.image}",
        "runner": ran.runner,
        "argv": list(ran.argv),
        "exit_code": TIMED_OUT if ran.ended.limit_hit == "time" else ran.ended.code,
        "limit_hit": ran.ended.limit_hit,
        "stdout": out.decode("utf-8", "replace"),
        "stderr": err.decode("utf-8", "replace"),
    }
