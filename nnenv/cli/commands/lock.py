"""`nnenv lock`: from model.toml to model.lock."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnenv.cli.arguments import Parser, describe, positive
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import bytes_text, table, took
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.confirming import confirmed

if TYPE_CHECKING:
    from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv lock`."""
    describe(
        parser,
        "Resolve every target of model.toml into model.lock: wheels, Debian packages, model files, test cases.\n"
        "Old pins are kept unless -U or -P. A lock that still fits is confirmed without network.",
        "  nnenv lock                 # make or confirm model.lock\n"
        "  nnenv lock --check         # only say whether it fits; exit code 1 if not\n"
        "  nnenv lock -P numpy        # move numpy, and only what must move with it\n"
        "  nnenv lock --apply-fix 1   # make the first repair that a refused lock offers",
    )
    parser.add_argument("-U", "--upgrade", action="store_true", help="forget all pins")
    parser.add_argument(
        "-P", "--upgrade-package", action="append", metavar="NAME", default=[], help="forget the pin of this package"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the lock does not fit")
    parser.add_argument("--dry-run", action="store_true", help="resolve and report, but write nothing")
    parser.add_argument(
        "--apply-fix", type=positive, metavar="N", default=0,
        help="change model.toml as repair N of a refused lock says, and lock",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-newer", type=moment, metavar="TIME", default=environment.get("NNENV_EXCLUDE_NEWER", ""),
        help="ignore files uploaded after this moment (2026-01-31T00:00:00Z)",
    )  # fmt: skip


def moment(text: str) -> str:
    """A moment in UTC, or nothing."""
    if not text:
        return text
    from datetime import datetime

    from nnenv.spec.manifest import MOMENT

    try:
        if re.fullmatch(MOMENT, text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a moment like 2026-01-31T00:00:00Z")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Make or confirm the lock, and print what is in it and what moved."""
    if arguments.apply_fix:
        return _repair(session, arguments)
    unhurried = arguments.upgrade or arguments.upgrade_package or arguments.exclude_newer
    summary = None if unhurried else confirmed(session)
    if summary is not None:
        _print(session, arguments, summary, changed=False)
        return 0
    from nnenv.workflows.healing import healed
    from nnenv.workflows.locking import LockOptions, lock_project

    options = LockOptions(
        upgrade=arguments.upgrade,
        upgrade_names=frozenset(arguments.upgrade_package),
        check=arguments.check,
        dry_run=arguments.dry_run,
        exclude_newer=arguments.exclude_newer,
    )
    outcome = healed(lambda: lock_project(session, options), notice(arguments))
    _print(session, arguments, outcome.summary, outcome.changes, first=outcome.first, changed=outcome.changed)
    return 0


def _repair(session: Session, arguments: argparse.Namespace) -> int:
    """Change model.toml as a repair says, lock, and print both."""
    if arguments.check:
        from nnenv.errors import NnenvError

        raise NnenvError("usage", "--check changes nothing, and --apply-fix does", exit_code=2, fix=["use one of them"])
    from nnenv.cli.commands.add import edit_json, edit_text
    from nnenv.workflows.editing import apply_repair
    from nnenv.workflows.healing import healed
    from nnenv.workflows.locking import LockOptions

    options = LockOptions(
        upgrade=arguments.upgrade,
        upgrade_names=frozenset(arguments.upgrade_package),
        dry_run=arguments.dry_run,
        exclude_newer=arguments.exclude_newer,
    )
    outcome = healed(lambda: apply_repair(session, arguments.apply_fix, options), notice(arguments))
    emit(
        arguments, "lock", edit_json(outcome), lambda: edit_text(outcome, palette(arguments), dry_run=arguments.dry_run)
    )
    return 0


def _print(
    session: Session,
    arguments: argparse.Namespace,
    summary: Mapping[str, Any],
    changes: Sequence[str] = (),
    *,
    first: bool = False,
    changed: bool,
) -> None:
    document = {"ok": True, "changed": changed, "changes": list(changes), **summary}
    result = f"{LOCK_NAME} is up to date"
    if changed:
        result = f"{LOCK_NAME} would change" if arguments.dry_run else f"wrote {LOCK_NAME}"
    news = [] if first else changes  # every target of a first lock is new

    def text() -> str:
        return lock_text(summary, news, f"{palette(arguments)('green', result)} {took(session.elapsed)}")

    emit(arguments, "lock", document, text)


def _accelerators(summary: Mapping[str, Any]) -> str:
    """A line a target with an accelerator; "" without any."""
    rows = [("target", "CUDA", "cuDNN", "driver", "compute capabilities")]
    for target in summary["targets"]:
        gpu = target["gpu"]
        if gpu:
            driver = f">={gpu['driver']}" if gpu["driver"] else ""
            rows.append((target["name"], gpu["cuda"], gpu["cudnn"], driver, " ".join(gpu["compute_capabilities"])))
    return table(rows) if len(rows) > 1 else ""


def lock_text(summary: Mapping[str, Any], changes: Sequence[str], result: str) -> str:
    """What `nnenv lock` prints: what moved, a line a target, notices, the result."""
    rows = [("target", "platform", "os", "python", "glibc", "wheels", "debs", "models", "to fetch")]
    for target in summary["targets"]:
        counts = (str(len(target["wheels"])), str(len(target["debs"])), str(len(target["models"])))
        names = (target["name"], target["platform"], target["os"], target["python"], target["glibc"])
        rows.append((*names, *counts, bytes_text(target["fetched_bytes"])))
    return (
        "".join(f"{line}\n" for line in changes)
        + table(rows, right=frozenset({5, 6, 7, 8}))
        + _accelerators(summary)
        + "".join(f"note: {notice}\n" for notice in summary["notices"])
        + f"{result}\n"
    )
