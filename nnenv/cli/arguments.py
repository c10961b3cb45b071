"""The command line: every option, its variable, its help and an example."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from nnenv import __version__
from nnenv.errors import NnenvError

_GLOBAL_NOTE = """\
Every option can be set by a variable: NNENV_OFFLINE=1, NNENV_STORE=DIR, NNENV_TARGET=cpu, ...
Exit codes: 0 done; 1 the input or the world said no; 2 wrong usage, or a bug in nnenv."""

COLORS: Final = ("auto", "always", "never")
RUNNERS: Final = ("auto", "docker", "sandbox")
STATUSES: Final = ("closed", "loadable", "smoke", "model-valid", "verified")

_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("", "0", "false", "no", "off")

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction["_Parser"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NnenvError("usage", message, fix=[f"see `{self.prog} --help`"], exit_code=2)


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the whole command line; defaults come from NNENV_* in `environment`."""
    common = _common()
    top = _Parser(
        prog="nnenv",
        # Of its own: the defaults stand here alone, so that `nnenv -C DIR lock` and `nnenv lock -C DIR` mean the same.
        parents=[_common()],
        description="Environments for neural-network models: locked, built bit for bit, verified by inference.",
        epilog="example:\n  nnenv lock && nnenv build --target cpu && nnenv verify --target cpu\n\n" + _GLOBAL_NOTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"nnenv {__version__}")
    top.set_defaults(**_common_defaults(environment))
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    _lock(commands, common, environment)
    _fetch(commands, common, environment)
    _build(commands, common, environment)
    _verify(commands, common, environment)
    _test(commands, common, environment)
    return top


def _on(environment: Mapping[str, str], name: str) -> bool:
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


def _chosen(environment: Mapping[str, str], name: str, choices: Sequence[str], default: str) -> str:
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


def _common_defaults(environment: Mapping[str, str]) -> dict[str, object]:
    """What the options of every command are when the line does not give them."""
    return {
        "directory": environment.get("NNENV_PROJECT", "."),
        "store": environment.get("NNENV_STORE", ""),
        "offline": _on(environment, "OFFLINE"),
        "json": _on(environment, "JSON"),
        "quiet": _on(environment, "QUIET"),
        "verbose": _on(environment, "VERBOSE"),
        "color": _chosen(environment, "COLOR", COLORS, "auto"),
        "workers": environment.get("NNENV_WORKERS", "8"),
    }


def _common() -> _Parser:
    """The options of every command, without defaults: absent from the line means absent from the result."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("common options")
    group.add_argument("-C", dest="directory", metavar="DIR", help="the project's folder (default: this one)")
    group.add_argument("--store", metavar="DIR", help="the content-addressed store (default: $XDG_CACHE_HOME/nnenv)")
    group.add_argument("--offline", action="store_true", help="make no network call")
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary")
    group.add_argument("-v", "--verbose", action="store_true", help="say more; tracebacks of bugs")
    group.add_argument("--color", choices=COLORS, help="colours (default: on a terminal, unless NO_COLOR is set)")
    group.add_argument(
        "--workers", type=_positive, metavar="N", help="parallel downloads (default: 8); never changes a result"
    )
    return common


def _positive(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _command(
    commands: _Commands,
    common: _Parser,
    name: str,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        parents=[common],
        help=summary,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _target(command: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    command.add_argument(
        "-t", "--target", action="append", metavar="NAME", default=None,
        help="this target; may be repeated (default: all)",
    )  # fmt: skip
    command.set_defaults(environment_targets=environment.get("NNENV_TARGET", "").split())


def _frozen(command: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    command.add_argument(
        "--frozen", action="store_true", default=_on(environment, "FROZEN"),
        help="take model.lock as it is, without comparing it with model.toml",
    )  # fmt: skip
    command.add_argument(
        "--locked", action="store_true", default=_on(environment, "LOCKED"),
        help="insist that model.lock fits model.toml (the default here; accepted for scripts)",
    )  # fmt: skip


def _lock(commands: _Commands, common: _Parser, environment: Mapping[str, str]) -> None:
    command = _command(
        commands, common, "lock", "resolve model.toml into model.lock",
        "Resolve every target of model.toml into model.lock: wheels, Debian packages, model files, test cases.\n"
        "Old pins are kept unless -U or -P. A lock that still fits is confirmed without network.",
        "  nnenv lock                 # make or confirm model.lock\n"
        "  nnenv lock --check         # only say whether it fits; exit code 1 if not\n"
        "  nnenv lock -P numpy        # move numpy, and only what must move with it",
    )  # fmt: skip
    command.add_argument("-U", "--upgrade", action="store_true", help="forget all pins")
    command.add_argument(
        "-P", "--upgrade-package", action="append", metavar="NAME", default=[], help="forget the pin of this package"
    )
    command.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the lock does not fit")
    command.add_argument("--dry-run", action="store_true", help="resolve and report, but write nothing")
    command.add_argument(
        "--exclude-newer", type=_moment, metavar="TIME", default=environment.get("NNENV_EXCLUDE_NEWER", ""),
        help="ignore files uploaded after this moment (2026-01-31T00:00:00Z)",
    )  # fmt: skip


def _moment(text: str) -> str:
    from datetime import datetime

    from nnenv.spec.manifest import MOMENT

    try:
        if text and re.fullmatch(MOMENT, text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass
    if text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a moment like 2026-01-31T00:00:00Z")
    return text


def _fetch(commands: _Commands, common: _Parser, environment: Mapping[str, str]) -> None:
    command = _command(
        commands, common, "fetch", "bring everything that model.lock names into the store",
        "Download, in parallel and verified, every file that model.lock names; afterwards --offline works.",
        "  nnenv fetch --target cpu",
    )  # fmt: skip
    _target(command, environment)
    _frozen(command, environment)


def _build(commands: _Commands, common: _Parser, environment: Mapping[str, str]) -> None:
    command = _command(
        commands, common, "build", "turn model.lock into an image, bit for bit",
        "Build the image of each target from model.lock, without daemon, root or resolving. The first build notes the\n"
        "image digest in model.lock; a later one that differs fails and names the layer.",
        "  nnenv build --target cpu                      # into the Docker engine, if one answers\n"
        "  nnenv build --target cpu --output oci:cpu.tar # one tar for `docker load` and OCI tools",
    )  # fmt: skip
    _target(command, environment)
    _frozen(command, environment)
    command.add_argument(
        "-o", "--output", action="append", metavar="OUT", default=environment.get("NNENV_OUTPUT", "").split(),
        help="docker, oci:FILE or dir:PATH; may be repeated (default: docker if an engine answers)",
    )  # fmt: skip
    command.add_argument(
        "--accept-new-image", action="store_true", help="note the digest that comes out, even if the lock has another"
    )


def _verify(commands: _Commands, common: _Parser, environment: Mapping[str, str]) -> None:
    command = _command(
        commands, common, "verify", "prove an image by the standard inference test",
        "Check the closure of shared libraries, load everything, and run the models' test cases inside the image:\n"
        "network off, read-only root, non-root, no capabilities. The comparison happens outside of the image.\n"
        "Exit code 0 only if every target is `verified` (or --require is met).",
        "  nnenv verify --target cpu\n  nnenv verify --runner sandbox --json",
    )  # fmt: skip
    _target(command, environment)
    _frozen(command, environment)
    command.add_argument(
        "--runner", choices=RUNNERS, default=_chosen(environment, "RUNNER", RUNNERS, "auto"),
        help="where to run (default: a Docker engine if one answers, else the built-in sandbox)",
    )  # fmt: skip
    command.add_argument(
        "--require", choices=STATUSES, default=_chosen(environment, "REQUIRE", STATUSES, "verified"),
        help="least status for exit code 0 (default: verified)",
    )  # fmt: skip
    command.add_argument("--memory", type=_positive, metavar="GIB", default=4, help="memory limit (default: 4 GiB)")
    command.add_argument("--timeout", type=_seconds, metavar="S", default=600.0, help="time limit (default: 600 s)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 0 to 86400 seconds")
    return seconds


def _test(commands: _Commands, common: _Parser, environment: Mapping[str, str]) -> None:
    command = commands.add_parser("test", help="make test cases", description="Make inference test cases.")
    inner = command.add_subparsers(dest="test_command", metavar="COMMAND", required=True, parser_class=_Parser)
    record = _command(
        inner, common, "record", "make cases for a model that has none",
        "Run a model inside its target's image and record inputs and outputs as test cases. Without --inputs the\n"
        "inputs are made up from a seed. Cases that only repeat what the model said are marked `selftest` and give no\n"
        "more than the status `smoke`; with --cross-check a second implementation (the onnx package's reference\n"
        "evaluator, in 64-bit floats) must agree, and the cases are golden.",
        "  nnenv test record digits --target cpu --count 2 --cross-check",
    )  # fmt: skip
    record.add_argument("model", help="name of the model in model.toml")
    record.add_argument("-t", "--target", metavar="NAME", default="", help="the target to run in (default: the first)")
    record.add_argument("--inputs", metavar="FILE", default="", help=".npz with one array per input of the model")
    record.add_argument("--count", type=_positive, default=2, metavar="N", help="made-up cases (default: 2)")
    record.add_argument("--into", metavar="DIR", default="", help="folder for the cases (default: tests/MODEL)")
    record.add_argument("--cross-check", action="store_true", help="demand that onnx's reference evaluator agrees")
    record.add_argument(
        "--runner", choices=RUNNERS, default=_chosen(environment, "RUNNER", RUNNERS, "auto"),
        help="where to run (default: auto)",
    )  # fmt: skip


def targets_of(arguments: argparse.Namespace) -> Sequence[str]:
    """The targets the user named, on the line or by NNENV_TARGET; empty for all."""
    return list(arguments.target or arguments.environment_targets)
