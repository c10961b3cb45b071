"""`nnenv diff`: what changed between two locks, of files, of git revisions, or of the working tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnenv.adapters import git
from nnenv.adapters.files import read_inside
from nnenv.errors import NnenvError
from nnenv.image.layer_difference import ImageDifference, image_difference
from nnenv.resolve.lock_difference import Change, LockDifference, TargetDifference, lock_difference
from nnenv.spec.artifact import Sha256
from nnenv.spec.lock_toml import SIZE_LIMIT, read_lock
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.session import Session

WORKING_TREE = "working tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two locks."""

    name: str
    """As a person would call it: `HEAD (1f2e3d4c5b6a)`, `working tree`, `old.lock`."""
    lockfile: Lockfile


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two locks and what is between them."""

    old: Side
    new: Side
    difference: LockDifference
    images: Mapping[str, ImageDifference]
    """Of each target in either lock."""


def compare_locks(session: Session, sides: Sequence[str]) -> Comparison:
    """The locks that `sides` name: none for HEAD and the working tree, one for it and the working tree, `A..B` or
    `A...B` for two revisions, or two.

    A side is a lock file, a folder with one, or a git revision. Raises NnenvError `usage` for three or more,
    `git-unavailable`, `revision-unknown`, `lock-missing`, `lock-edited`, `lock-version` or `file-unreadable`.
    """
    old, new = _sides(session, sides)
    names = sorted({target.name for target in (*old.lockfile.targets, *new.lockfile.targets)})
    difference = lock_difference(old.lockfile, new.lockfile)
    targets = (
        replace(target, facts=(*target.facts, *_outputs_moved(session, old, new, target)))
        for target in difference.targets
    )
    return Comparison(
        old=old,
        new=new,
        difference=replace(difference, targets=tuple(targets)),
        images={name: image_difference(_target(old, name), _target(new, name)) for name in names},
    )


def _outputs_moved(session: Session, old: Side, new: Side, target: TargetDifference) -> Iterator[Change]:
    """How far what is expected of another model file is from what was, for cases with the same inputs."""
    if target.old is None or target.new is None:
        return
    before = {model.name: model for model in old.lockfile.models_of(target.old)}
    for model in new.lockfile.models_of(target.new):
        was = before.get(model.name)
        if was is None or was.file == model.file:
            continue
        cases = {case.name: case for case in was.cases if case.against is None}
        lines = []
        for case in model.cases:
            earlier = cases.get(case.name)
            if case.against is not None or earlier is None or earlier.inputs != case.inputs:
                continue
            moved = _distance(session, earlier.expected, case.expected)
            how = "cannot be told: the store lacks a file" if moved is None else f"by {moved:.1e} of the largest"
            lines.append(f"{case.name} moved {how}" if moved != 0.0 else f"{case.name} as before")
        if lines:
            yield Change(key=f"outputs of {model.name}", gone=(), came=tuple(lines))


def _distance(session: Session, old: Sequence[Sha256], new: Sequence[Sha256]) -> float | None:
    """Largest max|a-e|/max|e| between outputs by their names; None where the store cannot tell."""
    from nnenv.verify.tensors import TensorError, read_tensor
    from nnenv.workflows.adapting import distance

    sides = []
    for digests in (old, new):
        if not all(session.store.contains(digest) for digest in digests):
            return None
        tensors = {}
        for number, digest in enumerate(digests):
            with session.store.open(digest) as stream:
                try:
                    name, array = read_tensor(stream.read())
                except TensorError:
                    return None
            tensors[name or str(number)] = array
        sides.append(tensors)
    return distance(*sides)


def _target(side: Side, name: str) -> tuple[Lockfile, TargetLock] | None:
    target = side.lockfile.target(name)
    return None if target is None else (side.lockfile, target)


def _sides(session: Session, sides: Sequence[str]) -> tuple[Side, Side]:
    match list(sides):
        case []:
            return _revision(session, "HEAD"), _working_tree(session)
        case [both] if _is_range(both):
            return _range(session, both)
        case [old]:
            return _side(session, old), _working_tree(session)
        case [old, new]:
            return _side(session, old), _side(session, new)
        case _:
            raise NnenvError("usage", "two locks are compared, not more", fix=["see `nnenv diff --help`"], exit_code=2)


def _is_range(text: str) -> bool:
    """No revision's name holds two dots (git-check-ref-format(1)), but paths do."""
    return ".." in text and "../" not in text and "/.." not in text and _named_file(text) is None


def _range(session: Session, text: str) -> tuple[Side, Side]:
    """`A..B`; with three dots from where the two went apart, as `git diff` has it. An empty end is HEAD."""
    dots = "..." if "..." in text else ".."
    first, _, second = text.partition(dots)
    new = _revision(session, second or "HEAD")
    if dots == "..":
        return _revision(session, first or "HEAD"), new
    ends = [git.commit_of(session.project, end or "HEAD", session.environment) for end in (first, second)]
    base = git.merge_base(session.project, ends[0], ends[1], session.environment)
    return _at_commit(session, f"where {first or 'HEAD'} was left", base), new


def _side(session: Session, text: str) -> Side:
    path = _named_file(text)
    if path is None:
        return _revision(session, text)
    place = path.resolve()
    return Side(name=text, lockfile=read_lock(read_inside(place.parent, place.name, SIZE_LIMIT), text))


def _named_file(text: str) -> Path | None:
    """The lock file that the text names, by itself or by its folder; None if it names none."""
    path = Path(text)
    inside = path / LOCK_NAME
    return inside if inside.is_file() else path if path.is_file() else None


def _revision(session: Session, revision: str) -> Side:
    return _at_commit(session, revision, git.commit_of(session.project, revision, session.environment))


def _at_commit(session: Session, name: str, commit: str) -> Side:
    data = git.file_at(session.project, commit, LOCK_NAME, session.environment, limit=SIZE_LIMIT, revision=name)
    shown = name if commit.startswith(name) else f"{name} ({commit[:12]})"
    return Side(name=shown, lockfile=read_lock(data, f"{name}:{LOCK_NAME}"))


def _working_tree(session: Session) -> Side:
    return Side(name=WORKING_TREE, lockfile=session.lockfile())
