"""`nnenv lock`: from model.toml to model.lock."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette, bytes_text, table
from nnenv.spec.artifact import Kind
from nnenv.spec.lockfile import LOCK_NAME, Lockfile, TargetLock
from nnenv.workflows.healing import healed
from nnenv.workflows.locking import LockOptions, LockOutcome, lock_project
from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv lock`."""
    describe(
        parser,
        "Resolve every target of model.toml into model.lock: wheels, Debian packages, model files, test cases.\n"
        "Old pins are kept unless -U or -P. A lock that still fits is confirmed without network.",
        "  nnenv lock                 # make or confirm model.lock\n"
        "  nnenv lock --check         # only say whether it fits; exit code 1 if not\n"
        "  nnenv lock -P numpy        # move numpy, and only what must move with it",
    )
    parser.add_argument("-U", "--upgrade", action="store_true", help="forget all pins")
    parser.add_argument(
        "-P", "--upgrade-package", action="append", metavar="NAME", default=[], help="forget the pin of this package"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the lock does not fit")
    parser.add_argument("--dry-run", action="store_true", help="resolve and report, but write nothing")
    parser.add_argument(
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


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Make or confirm the lock, and print what is in it and what moved."""
    options = LockOptions(
        upgrade=arguments.upgrade,
        upgrade_names=frozenset(arguments.upgrade_package),
        check=arguments.check,
        dry_run=arguments.dry_run,
        exclude_newer=arguments.exclude_newer,
    )
    outcome = healed(lambda: lock_project(session, options), notice(arguments))
    emit(arguments, "lock", lock_json(outcome), lambda: lock_text(outcome, options, palette(arguments)))
    return 0


def lock_json(outcome: LockOutcome) -> dict[str, Any]:
    """What `nnenv lock --json` prints."""
    return {
        "ok": True,
        "changed": outcome.changed,
        "targets": [_target_json(outcome.lockfile, target) for target in outcome.lockfile.targets],
        "changes": changes(outcome.previous, outcome.lockfile),
    }


def _target_json(lockfile: Lockfile, target: TargetLock) -> dict[str, Any]:
    return {
        "name": target.name,
        "platform": target.platform,
        "os": target.os,
        "python": target.python,
        "glibc": target.glibc,
        "wheels": {wheel.name: wheel.version for wheel in lockfile.wheels_of(target)},
        "debs": {deb.name: deb.version for deb in lockfile.debs_of(target)},
        "models": list(target.models),
        "bytes": sum(artifact.size for artifact in lockfile.artifacts_of(target)),
    }


def changes(old: Lockfile | None, new: Lockfile) -> list[str]:
    """One line per new target, and per package that came, went or moved in another."""
    lines = []
    for target in new.targets:
        if old is None or old.target(target.name) is None:
            lines.append(f"+ target {target.name}")
            continue
        before = _versions(old, old.target(target.name))
        after = _versions(new, target)
        for name in sorted({*before, *after}):
            if name not in before:
                lines.append(f"{target.name}: + {name} {after[name]}")
            elif name not in after:
                lines.append(f"{target.name}: - {name} {before[name]}")
            elif before[name] != after[name]:
                lines.append(f"{target.name}: {name} {before[name]} -> {after[name]}")
    return lines


def _versions(lockfile: Lockfile, target: TargetLock | None) -> dict[str, str]:
    if target is None:
        return {}
    return {artifact.name: artifact.version for artifact in (*lockfile.wheels_of(target), *lockfile.debs_of(target))}


def lock_text(outcome: LockOutcome, options: LockOptions, palette: Palette) -> str:
    """What `nnenv lock` prints."""
    lockfile = outcome.lockfile
    rows = [("target", "platform", "os", "python", "glibc", "wheels", "debs", "models", "to fetch")]
    for target in lockfile.targets:
        size = sum(artifact.size for artifact in lockfile.artifacts_of(target) if artifact.kind is not Kind.FILE)
        counts = (str(len(target.wheels)), str(len(target.debs)), str(len(target.models)))
        rows.append((target.name, target.platform, target.os, target.python, target.glibc, *counts, bytes_text(size)))
    moved = [] if outcome.previous is None else changes(outcome.previous, lockfile)
    text = "".join(f"{line}\n" for line in moved) + table(rows, right=frozenset({5, 6, 7, 8}))
    text += "".join(f"note: {notice}\n" for notice in lockfile.notices)
    if not outcome.changed:
        return text + f"{palette('green', LOCK_NAME + ' is up to date')}\n"
    return text + (f"{LOCK_NAME} would change\n" if options.dry_run else f"{palette('green', 'wrote ' + LOCK_NAME)}\n")
