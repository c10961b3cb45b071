"""`nnenv add` and `nnenv remove`: requirements of model.toml, and the lock that follows from them.

The new lock is made before anything is written, so that what cannot be locked leaves both files as they were.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nnenv.adapters.files import compare_and_swap, refusing_writes
from nnenv.errors import NnenvError, Repair
from nnenv.spec.manifest import DEBIAN_PACKAGE, DISTRIBUTION, Manifest
from nnenv.spec.manifest_edit import (
    PACKAGES,
    SYSTEM,
    Edit,
    Edited,
    array_path,
    listed,
    with_requirements,
    with_value,
    without_requirements,
)
from nnenv.spec.manifest_toml import (
    RuleError,
    debian_identity,
    debian_package,
    normal_name,
    normal_requirement,
    parse_manifest,
    requirement_identity,
)
from nnenv.spec.names import LOCK_NAME, MANIFEST_NAME
from nnenv.workflows.locking import LockOptions, LockOutcome, lock_for
from nnenv.workflows.session import Session


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """What the user asked of `nnenv add` or `nnenv remove`."""

    target: str = ""
    """The target whose own requirements are meant; "" for those of every target."""
    system: bool = False
    """Whether Debian packages are meant, not Python ones."""
    lock: bool = True
    """Whether the lock is to follow."""
    exclude_newer: str = ""
    """RFC 3339 UTC; wins over the manifest's."""

    @property
    def path(self) -> tuple[str, ...]:
        """Key path of the array that is edited."""
        return array_path(self.target, SYSTEM if self.system else PACKAGES)


@dataclass(frozen=True, kw_only=True)
class EditOutcome:
    """What was done."""

    edits: tuple[Edit, ...]
    lock: LockOutcome | None
    """What became of model.lock; None if it was left alone."""


def add_requirements(session: Session, wanted: Sequence[str], options: EditOptions) -> EditOutcome:
    """Put requirements into model.toml, replacing those of the same name, and make the lock that follows.

    Raises NnenvError `usage` for what is no requirement, `target-unknown`, whatever `parse_manifest` and locking raise,
    and `changed-meanwhile` if somebody else wrote one of the files; both files are then as they were.
    """
    data = session.manifest_bytes()
    _insist_on_target(parse_manifest(data), options.target)
    same, order = (debian_identity, debian_identity) if options.system else (_identity, _name)
    edited = with_requirements(data, options.path, [_checked(text, options) for text in wanted], same, order)
    return _put(session, data, edited, options)


def remove_requirements(session: Session, names: Sequence[str], options: EditOptions) -> EditOutcome:
    """Take requirements out of model.toml by name, and make the lock that follows.

    Raises as `add_requirements`, and `usage` for a name that is not required there.
    """
    data = session.manifest_bytes()
    manifest = parse_manifest(data)
    _insist_on_target(manifest, options.target)
    wanted = [_checked_name(text, options) for text in names]
    name_of = debian_identity if options.system else _name
    present = {name_of(item) for item in listed(data, options.path)}
    for name in wanted:
        if name not in present:
            raise _not_required(data, manifest, name, sorted(present), options)
    return _put(session, data, without_requirements(data, options.path, wanted, name_of), options)


def apply_repair(session: Session, number: int, options: LockOptions) -> EditOutcome:
    """Lock; where that is refused with repairs, make the one of this number in model.toml, and lock what it says then.

    Both files are written, or none; with `options.dry_run` none. Raises `usage` for a number that no repair has, or
    where nothing is to repair; `repair-impossible` where model.toml says it in a way that cannot be edited.
    """
    data = session.manifest_bytes()
    try:
        lock_for(session, data, session.lock_bytes(), options)
    except NnenvError as error:
        conflict = next((one for one in getattr(error, "errors", (error,)) if one.repairs), error)
    else:
        what = "there is nothing to repair: the lock can be made"
        raise NnenvError("usage", what, fix=["run `nnenv lock`"], exit_code=2)
    if not 1 <= number <= len(conflict.repairs):
        known = f"there are {len(conflict.repairs)} repairs" if conflict.repairs else "nnenv knows no repair"
        raise NnenvError(
            "usage",
            f"--apply-fix {number}: {known}",
            where=conflict.where,
            because=[conflict.what, *conflict.fix],
            exit_code=2,
        )
    edited = _repaired(data, conflict.repairs[number - 1], conflict.where or "")
    if options.dry_run:
        outcome, _ = lock_for(session, edited.data, session.lock_bytes(), options)
        return EditOutcome(edits=edited.edits, lock=outcome)
    return _put(session, data, edited, EditOptions(exclude_newer=options.exclude_newer))


def _repaired(data: bytes, repair: Repair, where: str) -> Edited:
    """The manifest after a repair."""
    try:
        if not repair.old:
            return with_value(data, repair.key, repair.new)
        return _with_other_requirement(data, repair)
    except KeyError as error:
        raise NnenvError(
            "repair-impossible",
            f"{MANIFEST_NAME} cannot be edited: {error.args[0]} is not there in so many words",
            where=where or None,
            fix=[f"write it yourself: {repair.what}"],
        ) from None


def _with_other_requirement(data: bytes, repair: Repair) -> Edited:
    """The manifest with requirements replaced, in `[requires]` and in every target that asks for them."""
    edited = Edited(data=data, edits=())
    targets = [target.name for target in parse_manifest(data).targets]
    for old, new in ((repair.old, repair.new), *repair.more):
        before = len(edited.edits)
        for path in (array_path("", PACKAGES), *(array_path(name, PACKAGES) for name in targets)):
            if normal_requirement(old) in map(normal_requirement, listed(edited.data, path)):
                more = with_requirements(edited.data, path, [new], _identity, _name)
                edited = Edited(data=more.data, edits=(*edited.edits, *more.edits))
        if len(edited.edits) == before:
            raise KeyError(old)
    return edited


def _put(session: Session, old: bytes, edited: Edited, options: EditOptions) -> EditOutcome:
    """Write the manifest and, if it is wanted, the lock: both, or none of them."""
    if not options.lock:
        parse_manifest(edited.data)
        _swap_manifest(session, edited.data, old)
        return EditOutcome(edits=edited.edits, lock=None)
    old_lock = session.lock_bytes()
    outcome, lock = lock_for(session, edited.data, old_lock, LockOptions(exclude_newer=options.exclude_newer))
    # The manifest first: a process that is killed between the two leaves the user's wish, and a lock known as stale.
    _swap_manifest(session, edited.data, old)
    try:
        compare_and_swap(session.project / LOCK_NAME, lock, old_lock)
        session.remember_project()
    except BaseException:
        _swap_manifest(session, old, edited.data)
        raise
    return EditOutcome(edits=edited.edits, lock=outcome)


def _swap_manifest(session: Session, data: bytes, expected: bytes) -> None:
    """Replace model.toml, or the file that it links to, with its permissions."""
    path = (session.project / MANIFEST_NAME).resolve()
    with refusing_writes(path):
        mode = path.stat().st_mode & 0o777
    compare_and_swap(path, data, expected, mode=mode)


# What the user wrote on the command line


def _checked(text: str, options: EditOptions) -> str:
    """A requirement as it is to stand in the manifest: as it was typed, but for white space around it."""
    stripped = text.strip()
    try:
        if options.system:
            return debian_package(stripped)
        normal_requirement(stripped)
    except RuleError as error:
        because = [error.because] if error.because else []
        raise NnenvError("usage", error.what, because=because, fix=[error.fix], exit_code=2) from None
    return stripped


def _checked_name(text: str, options: EditOptions) -> str:
    stripped = text.strip()
    if options.system:
        if re.fullmatch(DEBIAN_PACKAGE, stripped) and " " not in stripped:
            return stripped
    elif re.fullmatch(DISTRIBUTION, stripped):
        return normal_name(stripped)
    raise NnenvError(
        "usage",
        f"{text[:80]!r} is not the name of a package",
        fix=["write the name alone, without version or extras"],
        exit_code=2,
    )


def _identity(requirement: str) -> str:
    return requirement_identity(normal_requirement(requirement))


def _name(requirement: str) -> str:
    return _identity(requirement).partition(";")[0]


def _insist_on_target(manifest: Manifest, target: str) -> None:
    names = [known.name for known in manifest.targets]
    if target and target not in names:
        raise NnenvError(
            "target-unknown",
            f"{MANIFEST_NAME} defines no target {target[:80]}",
            because=[f"it defines {', '.join(names)}"],
            fix=["name one of these"],
        )


def _not_required(
    data: bytes, manifest: Manifest, name: str, present: Sequence[str], options: EditOptions
) -> NnenvError:
    """The refusal to remove what is not there, with where it is instead, or with what is there."""
    fixes = []
    for target in ("", *(known.name for known in manifest.targets)):
        for system in (False, True):
            path = array_path(target, SYSTEM if system else PACKAGES)
            name_of = debian_identity if system else _name
            if path != options.path and name in map(name_of, listed(data, path)):
                words = [f"--target {target}"] * bool(target) + ["--system"] * system
                fixes.append(f"{'.'.join(path)} has it: nnenv remove {' '.join([name, *words])}")
    there = ", ".join(present) or "nothing"
    return NnenvError(
        "usage",
        f"{'.'.join(options.path)} has no {name}",
        where=MANIFEST_NAME,
        because=[f"it has {there}"],
        fix=fixes or ["name a package that is there; what others need is not listed (`nnenv why NAME`)"],
        exit_code=2,
    )
