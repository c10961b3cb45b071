"""`nnenv lock`: from model.toml to model.lock.

Here: whether the lock still fits, which costs no network and few imports. How a new one is made: `resolving`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnenv.adapters.files import compare_and_swap
from nnenv.errors import NnenvError
from nnenv.spec.lock_toml import read_lock, write_lock
from nnenv.spec.lockfile import Lockfile
from nnenv.spec.manifest import Manifest, meaning
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.confirming import remember
from nnenv.workflows.inputs import Inputs, Known, read_inputs
from nnenv.workflows.session import Session
from nnenv.workflows.summarising import changes, lock_summary


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """What the user asked of `nnenv lock`."""

    upgrade: bool = False
    """Forget every pin."""
    upgrade_names: frozenset[str] = frozenset()
    """Forget the pins of these packages."""
    check: bool = False
    """Only say whether the lock is up to date; change nothing."""
    dry_run: bool = False
    exclude_newer: str = ""
    """RFC 3339 UTC; wins over the manifest's."""


@dataclass(frozen=True, kw_only=True)
class LockOutcome:
    """What `nnenv lock` did."""

    summary: Mapping[str, Any]
    """What is in it (`workflows/summarising.py`)."""
    changes: Sequence[str]
    """What moved against the file's old content, a line each."""
    first: bool
    """Whether there was no lock that could be read."""
    changed: bool
    """Whether the new bytes differ from the file's old ones."""


def lock_project(session: Session, options: LockOptions) -> LockOutcome:
    """Make or confirm model.lock; NnenvError with the reason if no lock exists that meets the manifest.

    A lock that still fits is confirmed without network. With `check`, NnenvError `lock-stale` if it does not fit.
    """
    old_bytes = session.lock_bytes()
    outcome, data = lock_for(session, session.manifest_bytes(), old_bytes, options)
    if data != old_bytes and not options.dry_run:
        compare_and_swap(session.project / LOCK_NAME, data, old_bytes)
        session.remember_project()
    return outcome


def lock_for(
    session: Session, manifest_bytes: bytes, old_bytes: bytes | None, options: LockOptions
) -> tuple[LockOutcome, bytes]:
    """What `lock_project` finds for these two files, and the bytes of the lock; nothing is written."""
    manifest = parse_manifest(manifest_bytes)
    old = _readable(old_bytes, options)
    forgotten = options.upgrade_names
    if options.upgrade:
        forgotten = frozenset(model.name for model in manifest.models)
    inputs = read_inputs(session, manifest, Known(lockfile=old))
    reasons = stale_reasons(manifest, inputs, old)
    if options.check and reasons:
        raise stale(reasons)
    wants_change = options.upgrade or options.upgrade_names or options.exclude_newer
    if old is not None and old_bytes is not None and not reasons and not wants_change:
        summary = lock_summary(old)
        remember(session, manifest_bytes, old_bytes, inputs.seen, summary)
        return LockOutcome(summary=summary, changes=(), first=False, changed=False), old_bytes
    from nnenv.workflows.resolving import resolved

    pins = None if options.upgrade else old
    _insist_on_locked_names(options, old)
    if inputs.unknown or any(not model.path and model.name in forgotten for model in manifest.models):
        inputs = read_inputs(session, manifest, Known(lockfile=old, forgotten=forgotten, ask=True))
    new = resolved(session, manifest, inputs, old, pins, options.upgrade_names, options.exclude_newer)
    data = write_lock(new)
    outcome = LockOutcome(
        summary=lock_summary(new), changes=changes(old, new), first=old is None, changed=data != old_bytes
    )
    return outcome, data


def stale_reasons(manifest: Manifest, inputs: Inputs, lockfile: Lockfile | None) -> list[str]:
    """Why the lock does not fit the manifest and the project's files; empty if it fits."""
    if lockfile is None:
        return [f"there is no {LOCK_NAME}"]
    reasons = []
    wanted = meaning(manifest)
    for key in sorted({*wanted, *lockfile.manifest}):
        if wanted.get(key) != lockfile.manifest.get(key):
            reasons.append(f"[{key}] of model.toml has changed")
    if inputs.unknown:
        reasons.append(f"models from elsewhere are not locked as they are declared: {', '.join(inputs.unknown)}")
    elif tuple(inputs.models) != lockfile.models:
        changed = {model.name for model in {*inputs.models} ^ {*lockfile.models}}
        reasons.append(f"model or test files have changed: {', '.join(sorted(changed))}")
    if tuple(inputs.files) != lockfile.files:
        reasons.append("files of [image.files] have changed")
    return reasons


def stale(reasons: Sequence[str]) -> NnenvError:
    """The refusal of a lock that does not fit."""
    return NnenvError(
        "lock-missing" if reasons[0].startswith("there is no") else "lock-stale",
        f"{LOCK_NAME} does not match model.toml",
        where=LOCK_NAME,
        because=reasons,
        fix=["run `nnenv lock`"],
    )


def _readable(data: bytes | None, options: LockOptions) -> Lockfile | None:
    """The old lock; one that was edited or merged is only a source of no pins, unless it must be checked."""
    if data is None:
        return None
    try:
        return read_lock(data)
    except NnenvError as error:
        if options.check or error.code == "lock-version":
            raise
        return None


def _insist_on_locked_names(options: LockOptions, old: Lockfile | None) -> None:
    """`-P NAME` of a package that is not locked is a slip, not a wish."""
    # Models of equal bytes are one artifact, with one of their names.
    locked = {artifact.name for artifact in old.artifacts} | {model.name for model in old.models} if old else set()
    unknown = sorted(options.upgrade_names - locked)
    if unknown and old is not None:
        raise NnenvError(
            "usage",
            f"-P names packages that {LOCK_NAME} does not hold: {', '.join(unknown)}",
            fix=["name a package of the lock, or use -U to move all"],
            exit_code=2,
        )
