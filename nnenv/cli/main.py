"""`nnenv`: arguments, one workflow call, one renderer."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from nnenv.cli import render
from nnenv.cli.arguments import parser, targets_of
from nnenv.errors import NnenvError

if TYPE_CHECKING:
    from nnenv.workflows.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 refused, 2 wrong usage or a bug."""
    signal.signal(signal.SIGTERM, _interrupt)
    _replace_closed_streams()
    line = list(sys.argv[1:] if arguments is None else arguments)
    wants_json = "--json" in line or os.environ.get("NNENV_JSON", "").strip().lower() in {"1", "true", "yes", "on"}
    palette = render.Palette(_colours(line, sys.stderr))
    verbose = "-v" in line or "--verbose" in line
    try:
        return _run(line)
    except NnenvError as error:
        return _refused(error, line, wants_json, palette)
    except KeyboardInterrupt:
        return _refused(NnenvError("interrupted", "interrupted; run it again"), line, wants_json, palette)
    except BrokenPipeError:
        _discard_output()
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
    command = next((word for word in line if word in COMMANDS), "")
    if wants_json:
        try:
            _write(render.json_text(render.error_json(command, error)))
        except (NnenvError, BrokenPipeError):
            _discard_output()
        else:
            return error.exit_code
    with suppress(OSError):
        sys.stderr.write(render.error_text(error, palette))
    return error.exit_code


def _write(text: str) -> None:
    """Put `text` on standard output; NnenvError `disk-full` if what stands behind it takes no more.

    BrokenPipeError if the reader left, as `head` does.
    """
    from nnenv.adapters.files import write_refused

    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise write_refused(error, Path("standard output")) from None


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail over it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _replace_closed_streams() -> None:
    """Streams that the caller closed (`>&-`) become the null device: Python leaves None in their place."""
    if sys.stdout is None:
        sys.stdout = _null_stream()
    if sys.stderr is None:
        sys.stderr = _null_stream()


def _null_stream() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _run(line: Sequence[str]) -> int:
    arguments = parser(os.environ).parse_args(line)
    if arguments.command is None:
        if arguments.json:
            raise NnenvError("usage", "no command is given", fix=["see `nnenv --help`"], exit_code=2)
        parser(os.environ).print_help()
        return 2
    session = _session(arguments)
    try:
        return COMMANDS[arguments.command](session, arguments)
    finally:
        session.store.close()


def _session(arguments: argparse.Namespace) -> Session:
    from nnenv.adapters.http import Http
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
        http=Http(offline=arguments.offline),
        progress=make_progress(sys.stderr, arguments.quiet, sys.stderr.isatty()),
        environment=os.environ,
        home=Path("~").expanduser(),
        workers=arguments.workers,
    )


def _colours(line: Sequence[str], stream: TextIO) -> bool:
    wanted = os.environ.get("NNENV_COLOR", "auto")
    for index, word in enumerate(line):
        if word.startswith("--color="):
            wanted = word.partition("=")[2]
        elif word == "--color" and index + 1 < len(line):
            wanted = line[index + 1]
    return wanted == "always" or (wanted == "auto" and stream.isatty() and "NO_COLOR" not in os.environ)


def _palette(arguments: argparse.Namespace) -> render.Palette:
    return render.Palette(_colours(["--color", arguments.color], sys.stdout))


def _print(arguments: argparse.Namespace, command: str, document: dict[str, Any], text: Callable[[], str]) -> None:
    if arguments.json:
        _write(render.json_text({"version": render.JSON_VERSION, "command": command, **document}))
    elif not arguments.quiet:
        _write(text())


def _notice(arguments: argparse.Namespace) -> Callable[[str], object]:
    return lambda text: None if arguments.quiet else sys.stderr.write(f"note: {text}\n")


def _lock(session: Session, arguments: argparse.Namespace) -> int:
    from nnenv.cli.summaries import lock_json, lock_text
    from nnenv.workflows.healing import healed
    from nnenv.workflows.locking import LockOptions, lock_project

    options = LockOptions(
        upgrade=arguments.upgrade,
        upgrade_names=frozenset(arguments.upgrade_package),
        check=arguments.check,
        dry_run=arguments.dry_run,
        exclude_newer=arguments.exclude_newer,
    )
    outcome = healed(lambda: lock_project(session, options), _notice(arguments))
    _print(arguments, "lock", lock_json(outcome), lambda: lock_text(outcome, options, _palette(arguments)))
    return 0


def _fetch(session: Session, arguments: argparse.Namespace) -> int:
    from nnenv.workflows.building import fetch_targets
    from nnenv.workflows.healing import healed

    fetched = healed(lambda: fetch_targets(session, targets_of(arguments), frozen=arguments.frozen), _notice(arguments))
    count, size = len(fetched), sum(artifact.size for artifact in fetched)
    document = {"ok": True, "files": count, "bytes": size}
    _print(
        arguments, "fetch", document, lambda: f"{count} files, {render.bytes_text(size)}, verified and in the store\n"
    )
    return 0


def _build(session: Session, arguments: argparse.Namespace) -> int:
    from nnenv.cli.summaries import build_json, build_text
    from nnenv.workflows.building import Output, build_targets
    from nnenv.workflows.healing import healed

    outputs = [Output.parse(text) for text in arguments.output]
    built = healed(
        lambda: build_targets(
            session,
            targets_of(arguments),
            outputs,
            frozen=arguments.frozen,
            accept_new_image=arguments.accept_new_image,
        ),
        _notice(arguments),
    )
    _print(arguments, "build", build_json(built), lambda: build_text(built, _palette(arguments)))
    return 0


def _verify(session: Session, arguments: argparse.Namespace) -> int:
    from nnenv.cli.summaries import verify_json, verify_text
    from nnenv.verify.ladder import Status
    from nnenv.verify.protocols import Limits
    from nnenv.workflows.healing import healed
    from nnenv.workflows.verifying import VerifyOptions, verify_targets

    options = VerifyOptions(
        runner=arguments.runner,
        frozen=arguments.frozen,
        limits=Limits(memory_bytes=arguments.memory << 30, seconds=arguments.timeout),
    )
    results = healed(lambda: verify_targets(session, targets_of(arguments), options), _notice(arguments))
    required = next(status for status in Status if status.label == arguments.require)
    ok = all(result.report.status >= required for result in results)
    _print(arguments, "verify", verify_json(results, ok), lambda: verify_text(results, _palette(arguments)))
    return 0 if ok else 1


def _record(session: Session, arguments: argparse.Namespace) -> int:
    from nnenv.workflows.healing import healed
    from nnenv.workflows.recording import RecordOptions, record_cases

    options = RecordOptions(
        model=arguments.model,
        target=arguments.target,
        inputs=arguments.inputs,
        count=arguments.count,
        into=arguments.into,
        cross_check=arguments.cross_check,
        runner=arguments.runner,
    )
    recorded = healed(lambda: record_cases(session, options), _notice(arguments))
    _print(
        arguments,
        "test record",
        {"ok": True, "cases": list(recorded.cases), "kind": recorded.kind, "notes": list(recorded.notes)},
        lambda: (
            "".join(f"recorded {case}\n" for case in recorded.cases)
            + "".join(f"note: {note}\n" for note in recorded.notes)
            + f"these cases are {recorded.kind}; run `nnenv lock` next\n"
        ),
    )
    return 0


COMMANDS: Final[Mapping[str, Callable[[Session, argparse.Namespace], int]]] = {
    "lock": _lock,
    "fetch": _fetch,
    "build": _build,
    "verify": _verify,
    "test": _record,
}
"""Command -> what runs it; the exit code comes back."""
