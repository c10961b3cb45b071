"""What changed from one lock to another, as far as it is not about image layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.lockfile import CaseLock, FileLock, Lockfile, ModelLock, TargetLock


class Move(StrEnum):
    """What happened to a package, model, case or target."""

    ADDED = "added"
    REMOVED = "removed"
    UPGRADED = "upgraded"
    DOWNGRADED = "downgraded"
    REPLACED = "replaced"
    """The same version, or one that has no order, in another file."""
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A value that is not a package: what is gone, and what came."""

    key: str
    gone: tuple[str, ...]
    came: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageChange:
    """One package of a target."""

    role: str
    """`wheel`, `deb`, or `tool` for a .deb of the build machine."""
    name: str
    move: Move
    old: Artifact | None
    new: Artifact | None

    @property
    def growth(self) -> int:
        """Bytes more than before; negative for less."""
        return _size(self.new) - _size(self.old)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChange:
    """One model: its file, and its test cases."""

    name: str
    move: Move
    old: ModelLock | None
    new: ModelLock | None
    old_file: Artifact | None
    new_file: Artifact | None
    opsets: Change | None
    cases: tuple[tuple[str, Move], ...]
    """Name of each test case that was added, removed or changed."""

    @property
    def growth(self) -> int:
        """Bytes that the file is larger than before."""
        return _size(self.new_file) - _size(self.old_file)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetDifference:
    """One target that is in either lock."""

    name: str
    old: TargetLock | None
    new: TargetLock | None
    facts: tuple[Change, ...]
    """Platform, OS, Python and so on, models, and the image that is expected."""
    packages: tuple[PackageChange, ...]
    """Wheels, then Debian packages, then those of the build machine; by name."""
    old_size: int
    """Bytes of everything that building and verifying it needs."""
    new_size: int

    @property
    def move(self) -> Move | None:
        """None if nothing is to be said of it."""
        if self.old is None:
            return Move.ADDED
        if self.new is None:
            return Move.REMOVED
        return Move.CHANGED if self.facts or self.packages or self.old_size != self.new_size else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockDifference:
    """The whole of it."""

    same: bool
    """Whether the locks say the same in every respect, also in those that are not listed here."""
    manifest: tuple[Change, ...]
    """What changed in the meaning of model.toml."""
    releases: tuple[Change, ...]
    """Dates of the Debian Release files."""
    models: tuple[ModelChange, ...]
    files: tuple[tuple[str, Move], ...]
    """Path in the image of each application file that was added, removed or changed."""
    targets: tuple[TargetDifference, ...]
    """Every target of either lock, by name."""


def lock_difference(old: Lockfile, new: Lockfile) -> LockDifference:
    """What changed from `old` to `new`."""
    names = sorted({target.name for target in (*old.targets, *new.targets)})
    return LockDifference(
        same=old == new,
        manifest=_value_changes(_flat(old.manifest), _flat(new.manifest)),
        releases=_value_changes(_release_dates(old), _release_dates(new)),
        models=tuple(_model_changes(old, new)),
        files=_moves({file.path: file for file in old.files}, {file.path: file for file in new.files}),
        targets=tuple(_target_difference(name, old, new) for name in names),
    )


def _size(artifact: Artifact | None) -> int:
    return artifact.size if artifact else 0


# Values


def _value_changes(old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> tuple[Change, ...]:
    changes = (_change(key, old.get(key, ()), new.get(key, ())) for key in sorted({*old, *new}))
    return tuple(change for change in changes if change is not None)


def _change(key: str, old: Sequence[str], new: Sequence[str]) -> Change | None:
    """What is in one and not in the other; None if the two are the same, but for their order."""
    gone = tuple(item for item in old if item not in new)
    came = tuple(item for item in new if item not in old)
    return Change(key=key, gone=gone, came=came) if gone or came else None


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, list[str]]:
    """Key path -> its value, or the items of its array, as text; empty and false mean the same as absent."""
    flat: dict[str, list[str]] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{path}."))
        elif isinstance(value, list | tuple):
            flat[path] = [_text(item) for item in value]
        elif value not in ("", False) or type(value) is float:
            flat[path] = [_text(value)]
    return flat


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _release_dates(lockfile: Lockfile) -> dict[str, list[str]]:
    return {f"{release.suite} {release.architecture}": [release.date] for release in lockfile.releases}


def _moves(
    old: Mapping[str, CaseLock | FileLock], new: Mapping[str, CaseLock | FileLock]
) -> tuple[tuple[str, Move], ...]:
    moves = []
    for name in sorted({*old, *new}):
        if name not in old:
            moves.append((name, Move.ADDED))
        elif name not in new:
            moves.append((name, Move.REMOVED))
        elif old[name] != new[name]:
            moves.append((name, Move.CHANGED))
    return tuple(moves)


# Models


def _model_changes(old: Lockfile, new: Lockfile) -> Iterator[ModelChange]:
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        move = Move.ADDED if was is None else Move.REMOVED if now is None else Move.CHANGED
        yield ModelChange(
            name=name,
            move=move,
            old=was,
            new=now,
            old_file=old.by_digest[was.file] if was else None,
            new_file=new.by_digest[now.file] if now else None,
            opsets=_change("opsets", was.opsets if was else (), now.opsets if now else ()),
            cases=_moves(_cases(was), _cases(now)),
        )


def _cases(model: ModelLock | None) -> dict[str, CaseLock | FileLock]:
    return {case.name: case for case in model.cases} if model else {}


# Targets


def _target_difference(name: str, old: Lockfile, new: Lockfile) -> TargetDifference:
    was, now = old.target(name), new.target(name)
    return TargetDifference(
        name=name,
        old=was,
        new=now,
        facts=_value_changes({**_facts(was), **_adapted(old, was)}, {**_facts(now), **_adapted(new, now)})
        if was and now
        else (),
        packages=tuple(_package_changes(_packages(old, was), _packages(new, now))),
        old_size=_bytes(old, was),
        new_size=_bytes(new, now),
    )


def _bytes(lockfile: Lockfile, target: TargetLock | None) -> int:
    return sum(artifact.size for artifact in lockfile.artifacts_of(target)) if target else 0


def _facts(target: TargetLock) -> dict[str, Sequence[str]]:
    image = target.image
    return {
        "platform": [target.platform],
        "os": [target.os],
        "python": [target.python],
        "glibc": [target.glibc],
        "moment": [target.moment],
        "models": target.models,
        "sonames": [f"{soname} ({package})" for soname, package in target.sonames],
        "omitted": target.omitted,
        "image": [f"sha256:{image.manifest} (recipe {image.recipe})" if image else "not built"],
    }


def _adapted(lockfile: Lockfile, target: TargetLock) -> dict[str, Sequence[str]]:
    """What the target's adapted models were made by, and what its models measured when they were locked."""
    said: dict[str, Sequence[str]] = {}
    for one in lockfile.derivations:
        if target.name not in one.targets:
            continue
        tools = lockfile.wheels_of(lockfile.toolchain(one.toolchain))
        said[f"adapted {one.model}"] = [f"{' + '.join(step.step for step in one.steps)} sha256:{one.file}"]
        said[f"drift of {one.model}"] = [f"{step.step} {step.drift:.1e}" for step in one.steps]
        said[f"tools for {one.model}"] = [f"{tool.name} {tool.version}" for tool in tools]
    for model in lockfile.models_of(target):
        for measure in lockfile.evaluations:
            if (measure.model, measure.file) == (model.name, model.file):
                said[f"measure {measure.number} of {model.name}"] = [f"{measure.value:.6g}"]
    return said


def _packages(lockfile: Lockfile, target: TargetLock | None) -> dict[tuple[int, str], Artifact]:
    """(position of the role, name) -> artifact."""
    if target is None:
        return {}
    groups = (lockfile.wheels_of(target), lockfile.debs_of(target), lockfile.tools_of(target))
    return {(position, artifact.name): artifact for position, group in enumerate(groups) for artifact in group}


def _package_changes(
    old: Mapping[tuple[int, str], Artifact], new: Mapping[tuple[int, str], Artifact]
) -> Iterator[PackageChange]:
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if was is not None and now is not None and was.sha256 == now.sha256:
            continue
        yield PackageChange(role=("wheel", "deb", "tool")[key[0]], name=key[1], move=_move(was, now), old=was, new=now)


def _move(old: Artifact | None, new: Artifact | None) -> Move:
    if old is None:
        return Move.ADDED
    if new is None:
        return Move.REMOVED
    if old.version == new.version:
        return Move.REPLACED
    order = _deb_order(old, new) if new.kind is Kind.DEB else _wheel_order(old, new)
    return Move.UPGRADED if order > 0 else Move.DOWNGRADED if order < 0 else Move.REPLACED


def _deb_order(old: Artifact, new: Artifact) -> int:
    from nnenv.formats.debian_version import compare

    return compare(new.version, old.version)


def _wheel_order(old: Artifact, new: Artifact) -> int:
    from packaging.version import InvalidVersion, Version

    try:
        before, after = Version(old.version), Version(new.version)
    except InvalidVersion:
        return 0
    return (after > before) - (after < before)
