"""`nnenv add`: requirements into model.toml, and the lock that follows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnenv.cli.arguments import Parser, describe, switched_on
from nnenv.cli.commands.lock import lock_text, moment
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette
from nnenv.spec.names import LOCK_NAME, MANIFEST_NAME

if TYPE_CHECKING:
    from nnenv.workflows.editing import EditOptions, EditOutcome
    from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv add`."""
    describe(
        parser,
        "Add Python packages, or Debian packages with --system, to model.toml, and make the lock that follows.\n"
        "A package that is there already gets the new requirement. Comments, order and style of the file are kept.\n"
        "What cannot be locked changes neither file.",
        "  nnenv add pillow 'scipy>=1.11'         # for every target\n"
        "  nnenv add --target cpu 'numpy<3'       # for one target only\n"
        "  nnenv add --system libgomp1            # a Debian package\n"
        "  nnenv add --no-lock pandas             # model.toml only; run `nnenv lock` later",
    )
    parser.add_argument(
        "requirements",
        nargs="+",
        metavar="REQUIREMENT",
        help="as requirements.txt has it: NAME, 'NAME>=1.2', NAME[EXTRA]",
    )
    add_editing(parser, environment)


def add_editing(parser: Parser, environment: Mapping[str, str]) -> None:
    """Add what `nnenv add` and `nnenv remove` have in common; `editing_options` reads it."""
    parser.add_argument(
        "-t", "--target", metavar="NAME", default="", help="for this target only (default: for all, in [requires])"
    )
    parser.add_argument("--system", action="store_true", help="Debian packages, not Python ones")
    parser.add_argument(
        "--no-lock", "--frozen", dest="no_lock", action="store_true", default=switched_on(environment, "FROZEN"),
        help="change model.toml only, and leave model.lock as it is",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-newer", type=moment, metavar="TIME", default=environment.get("NNENV_EXCLUDE_NEWER", ""),
        help="ignore files uploaded after this moment (2026-01-31T00:00:00Z)",
    )  # fmt: skip


def editing_options(arguments: argparse.Namespace) -> EditOptions:
    """What the line asked for."""
    from nnenv.workflows.editing import EditOptions

    return EditOptions(
        target=arguments.target,
        system=arguments.system,
        lock=not arguments.no_lock,
        exclude_newer=arguments.exclude_newer,
    )


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Add, lock, and print what changed in both files."""
    from nnenv.workflows.editing import add_requirements
    from nnenv.workflows.healing import healed

    options = editing_options(arguments)
    outcome = healed(lambda: add_requirements(session, arguments.requirements, options), notice(arguments))
    emit(arguments, "add", edit_json(outcome), lambda: edit_text(outcome, palette(arguments)))
    return 0


def edit_json(outcome: EditOutcome) -> dict[str, Any]:
    """What `nnenv add --json` and `nnenv remove --json` print."""
    return {
        "ok": True,
        "edits": [{"array": edit.array, "before": edit.before, "after": edit.after} for edit in outcome.edits],
        "locked": outcome.lock is not None,
        "changed": outcome.lock is not None and outcome.lock.changed,
        "changes": list(outcome.lock.changes) if outcome.lock else [],
        "targets": outcome.lock.summary["targets"] if outcome.lock else [],
    }


def edit_text(outcome: EditOutcome, palette: Palette, *, dry_run: bool = False) -> str:
    """What `nnenv add` and `nnenv remove` print: the edits, then what became of the lock; or what would."""
    lines = [_edit_line(edit.array, edit.before, edit.after) for edit in outcome.edits]
    text = "".join(f"{line}\n" for line in lines)
    written = f"wrote {MANIFEST_NAME}" if outcome.edits else f"{MANIFEST_NAME} has this already"
    if outcome.lock is None:
        return text + palette("green", written) + f"; {LOCK_NAME} is left alone: run `nnenv lock`\n"
    locked = f"wrote {LOCK_NAME}" if outcome.lock.changed else f"{LOCK_NAME} is up to date"
    joined = f"{MANIFEST_NAME} and {LOCK_NAME}"
    result = f"wrote {joined}" if outcome.edits and outcome.lock.changed else f"{written}; {locked}"
    if dry_run:
        result = f"{joined} would change"
    news = [] if outcome.lock.first else outcome.lock.changes  # every target of a first lock is new
    return text + lock_text(outcome.lock.summary, news, palette("green", result))


def _edit_line(array: str, before: str, after: str) -> str:
    if not before:
        return f"{array}: + {after}"
    return f"{array}: {before} -> {after}" if after else f"{array}: - {before}"
