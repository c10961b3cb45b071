"""`nnenv`: arguments, one workflow call, one renderer."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nnenv.cli import render
from nnenv.cli.arguments import command, parse, top_parser
from nnenv.cli.commands import COMMANDS
from nnenv.cli.output import colours, discard_output, replace_closed_streams, write
from nnenv.errors import NnenvError

if TYPE_CHECKING:
    from nnenv.workflows.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 refused, 2 wrong usage or a bug."""
    signal.signal(signal.SIGTERM, _interrupt)
    replace_closed_streams()
    line = list(sys.argv[1:] if arguments is None else arguments)
    own = line[: line.index("--")] if "--" in line else line  # behind it stand the words of another program
    wants_json = "--json" in own or os.environ.get("NNENV_JSON", "").strip().lower() in {"1", "true", "yes", "on"}
    palette = render.Palette(colours(own, os.environ, sys.stderr))
    verbose = "-v" in own or "--verbose" in own
    try:
        return _run(line)
    except NnenvError as error:
        return _refused(error, line, wants_json, palette)
    except KeyboardInterrupt:
        exec("")  # clears CPython's note that an interrupt left an exec (a dataclass is one): it would end us by SIGINT
        return _refused(NnenvError("interrupted", "interrupted; run it again"), line, wants_json, palette)
    except BrokenPipeError:
        discard_output()
        return 1
    except Exception as bug:
        if verbose:
            import traceback

            traceback.print_exc()
        refusal = NnenvError(
            "internal",
            f"a bug in nnenv: {type(bug).__name__}: {bug}",
            fix=["report it with the output of the same command and -v"],
            exit_code=2,
        )
        return _refused(refusal, line, wants_json, palette)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _refused(error: NnenvError, line: Sequence[str], wants_json: bool, palette: render.Palette) -> int:
    name = next((word for word in line if word in COMMANDS), "")
    if wants_json:
        try:
            write(render.json_text(render.error_json(name, error)))
        except (NnenvError, BrokenPipeError):
            discard_output()
        else:
            return error.exit_code
    with suppress(OSError):
        sys.stderr.write(render.error_text(error, palette))
    return error.exit_code


def _run(line: Sequence[str]) -> int:
    arguments = parse(line, os.environ)
    if arguments.command is None:
        if arguments.json:
            raise NnenvError("usage", "no command is given", fix=["see `nnenv --help`"], exit_code=2)
        top_parser(os.environ).print_help()
        return 2
    session = _session(arguments)
    try:
        return command(arguments.command).run(session, arguments)
    finally:
        session.progress.close()
        session.store.close()


def _session(arguments: argparse.Namespace) -> Session:
    from nnenv.adapters.progress import make_progress
    from nnenv.adapters.store import Store, default_root
    from nnenv.workflows.session import Session

    project = Path(arguments.directory)
    try:
        if not project.is_dir():
            raise NnenvError("usage", f"{project} is not a folder", where="-C", fix=["name a folder"], exit_code=2)
        readable = os.access(project, os.R_OK | os.X_OK)
    except PermissionError:
        readable = False
    if not readable:
        raise NnenvError(
            "file-unreadable", f"{project} may not be read", where="-C", fix=["make the folder readable for this user"]
        )
    root = Path(arguments.store).expanduser().absolute() if arguments.store else default_root(os.environ)
    return Session(
        project=project,
        store=Store(root),
        offline=arguments.offline,
        progress=make_progress(sys.stderr, arguments.quiet, sys.stderr.isatty()),
        environment=os.environ,
        home=Path("~").expanduser(),
        workers=arguments.workers,
    )
