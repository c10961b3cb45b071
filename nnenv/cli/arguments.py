"""The command line: the options of every command, their variables, and the parser of each command.

A command is a module of `cli/commands/`; only the one that is asked for is imported.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from nnenv import __version__
from nnenv.cli.commands import COMMANDS
from nnenv.errors import NnenvError

if TYPE_CHECKING:
    from nnenv.workflows.session import Session

_EPILOG: Final = """\
commands:
{commands}

example:
  nnenv lock && nnenv build --target cpu && nnenv verify --target cpu

`nnenv COMMAND --help` explains a command.
Every option can be set by a variable: NNENV_OFFLINE=1, NNENV_STORE=DIR, NNENV_TARGET=cpu, ...
Exit codes: 0 done; 1 the input or the world said no; 2 wrong usage, or a bug in nnenv."""

COLORS: Final = ("auto", "always", "never")
RUNNERS: Final = ("auto", "docker", "sandbox")

_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("", "0", "false", "no", "off")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are NnenvError `usage`."""

    def error(self, message: str) -> NoReturn:
        """Refuse the line."""
        raise NnenvError("usage", message, fix=[f"see `{self.prog} --help`"], exit_code=2)


class Command(Protocol):
    """What a module of `cli/commands/` holds."""

    def add_arguments(self, parser: Parser, environment: Mapping[str, str]) -> None:
        """Describe the command and add its own arguments; defaults come from NNENV_* in `environment`."""
        ...

    def run(self, session: Session, arguments: argparse.Namespace) -> int:
        """Do it: one workflow, one rendering. The exit code comes back."""
        ...


def command(name: str) -> Command:
    """The module of a command."""
    return cast("Command", import_module(f"nnenv.cli.commands.{name}"))


def parse(line: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The line as values; `command` is None where it names no command.

    Common options may stand before the command and behind it. Raises NnenvError `usage`, or SystemExit after having
    printed help or version.
    """
    outer = top_parser(environment).parse_args(line)
    if outer.command is None:
        return outer
    if outer.command not in COMMANDS:
        raise NnenvError(
            "usage",
            f"there is no command {outer.command!r}",
            fix=[*_similar(outer.command), "see `nnenv --help`"],
            exit_code=2,
        )
    return command_parser(outer.command, environment).parse_args(outer.rest, outer)


def _similar(word: str) -> list[str]:
    from difflib import get_close_matches

    return [f"did you mean `nnenv {name}`?" for name in get_close_matches(word, COMMANDS, n=1)]


def top_parser(environment: Mapping[str, str]) -> Parser:
    """The parser of what stands before the command's own arguments, which stay in `rest`."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    top = Parser(
        prog="nnenv",
        usage="nnenv [options] COMMAND ...",
        description="Environments for neural-network models: locked, built bit for bit, verified by inference.",
        epilog=_EPILOG.format(commands=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"nnenv {__version__}")
    add_common(top)
    top.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    top.set_defaults(**_common_defaults(environment))
    return top


def command_parser(name: str, environment: Mapping[str, str]) -> Parser:
    """The parser of one command: its own arguments and the common ones."""
    made = Parser(prog=f"nnenv {name}")
    add_common(made)
    command(name).add_arguments(made, environment)
    return made


def describe(parser: Parser, description: str, example: str) -> None:
    """Say what a command does, in whole sentences, and show lines that can be typed, each indented by two."""
    parser.description = description
    parser.epilog = f"example:\n{example}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


# Values


def switched_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether the switch NNENV_<name> is on; NnenvError `usage` for a value that says neither on nor off."""
    value = environment.get(f"NNENV_{name}", "").strip().lower()
    if value not in {*_ON, *_OFF}:
        raise NnenvError(
            "usage",
            f"NNENV_{name} is {value[:80]!r}",
            where=f"NNENV_{name}",
            fix=["set it to 1 or 0, or unset it"],
            exit_code=2,
        )
    return value in _ON


def chosen(environment: Mapping[str, str], name: str, choices: Sequence[str], default: str) -> str:
    """The value of NNENV_<name>; NnenvError `usage` if it is none of the choices."""
    value = environment.get(f"NNENV_{name}", default)
    if value not in choices:
        raise NnenvError(
            "usage",
            f"NNENV_{name} is {value[:80]!r}",
            where=f"NNENV_{name}",
            fix=[f"set it to one of {', '.join(choices)}, or unset it"],
            exit_code=2,
        )
    return value


def positive(text: str) -> int:
    """A number from 1 to 256."""
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def seconds(text: str) -> float:
    """A time above 0, at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 0 to 86400 seconds")
    return value


# Arguments that commands share


def _common_defaults(environment: Mapping[str, str]) -> dict[str, object]:
    """What the options of every command are when the line does not give them."""
    return {
        "directory": environment.get("NNENV_PROJECT", "."),
        "store": environment.get("NNENV_STORE", ""),
        "offline": switched_on(environment, "OFFLINE"),
        "json": switched_on(environment, "JSON"),
        "quiet": switched_on(environment, "QUIET"),
        "verbose": switched_on(environment, "VERBOSE"),
        "color": chosen(environment, "COLOR", COLORS, "auto"),
        "workers": environment.get("NNENV_WORKERS", "8"),
    }


def add_common(parser: Parser) -> None:
    """Add the options of every command, without defaults: absent from the line means absent from the result, so that
    `nnenv -C DIR lock` and `nnenv lock -C DIR` mean the same."""
    group = parser.add_argument_group("common options")

    def option(*names: str, **settings: Any) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **settings)

    option("-C", dest="directory", metavar="DIR", help="the project's folder (default: this one)")
    option("--store", metavar="DIR", help="the content-addressed store (default: $XDG_CACHE_HOME/nnenv)")
    option("--offline", action="store_true", help="make no network call")
    option("--json", action="store_true", help="print one JSON object on stdout")
    option("-q", "--quiet", action="store_true", help="no progress, no summary")
    option("-v", "--verbose", action="store_true", help="say more; tracebacks of bugs")
    option("--color", choices=COLORS, help="colours (default: on a terminal, unless NO_COLOR is set)")
    option("--workers", type=positive, metavar="N", help="parallel downloads (default: 8); never changes a result")


def add_target(parser: Parser, environment: Mapping[str, str]) -> None:
    """Add `--target`, repeatable; `targets_of` reads it."""
    parser.add_argument(
        "-t", "--target", action="append", metavar="NAME", default=None,
        help="this target; may be repeated (default: all)",
    )  # fmt: skip
    parser.set_defaults(environment_targets=environment.get("NNENV_TARGET", "").split())


def targets_of(arguments: argparse.Namespace) -> Sequence[str]:
    """The targets the user named, on the line or by NNENV_TARGET; empty for all."""
    return list(arguments.target or arguments.environment_targets)


def add_frozen(parser: Parser, environment: Mapping[str, str]) -> None:
    """Add `--frozen` and `--locked`."""
    parser.add_argument(
        "--frozen", action="store_true", default=switched_on(environment, "FROZEN"),
        help="take model.lock as it is, without comparing it with model.toml",
    )  # fmt: skip
    parser.add_argument(
        "--locked", action="store_true", default=switched_on(environment, "LOCKED"),
        help="insist that model.lock fits model.toml (the default here; accepted for scripts)",
    )  # fmt: skip


def add_runner(parser: Parser, environment: Mapping[str, str]) -> None:
    """Add `--runner`."""
    parser.add_argument(
        "--runner", choices=RUNNERS, default=chosen(environment, "RUNNER", RUNNERS, "auto"),
        help="where to run (default: a Docker engine if one answers, else the built-in sandbox)",
    )  # fmt: skip
