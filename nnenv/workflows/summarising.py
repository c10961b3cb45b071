"""What people and programs are told of a lock, as plain values that can be kept."""

from __future__ import annotations

from typing import Any

from nnenv.spec.artifact import Kind
from nnenv.spec.lockfile import Lockfile, TargetLock


def lock_summary(lockfile: Lockfile) -> dict[str, Any]:
    """`targets` in the order of the lock, and `notices`, one sentence each."""
    return {
        "targets": [_target(lockfile, target) for target in lockfile.targets],
        "notices": list(lockfile.notices),
    }


def _target(lockfile: Lockfile, target: TargetLock) -> dict[str, Any]:
    return {
        "name": target.name,
        "platform": target.platform,
        "os": target.os,
        "python": target.python,
        "glibc": target.glibc,
        "wheels": {wheel.name: wheel.version for wheel in lockfile.wheels_of(target)},
        "debs": {deb.name: deb.version for deb in lockfile.debs_of(target)},
        "gpu": _gpu(target),
        "models": list(target.models),
        "bytes": sum(artifact.size for artifact in lockfile.artifacts_of(target)),
        "fetched_bytes": sum(a.size for a in lockfile.artifacts_of(target) if a.kind is not Kind.FILE),
    }


def _gpu(target: TargetLock) -> dict[str, Any] | None:
    """What the lock says of the accelerator; None for a target without one."""
    if target.gpu is None:
        return None
    return {
        "cuda": target.gpu.cuda,
        "cudnn": target.gpu.cudnn,
        "driver": target.gpu.driver,
        "driver_reason": target.gpu.driver_reason,
        "compute_capabilities": dict(target.gpu.capabilities),
    }


def changes(old: Lockfile | None, new: Lockfile) -> list[str]:
    """One line per new target, and per package that came, went or moved in another."""
    lines = _model_changes(old, new) if old is not None else []
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


def _model_changes(old: Lockfile, new: Lockfile) -> list[str]:
    """One line per model that came, went, or is another file now."""
    before, after = ({model.name: model for model in lock.models} for lock in (old, new))
    lines = []
    for name in sorted({*before, *after}):
        if name not in before:
            lines.append(f"model + {name} {after[name].file[:12]}")
        elif name not in after:
            lines.append(f"model - {name} {before[name].file[:12]}")
        elif before[name].file != after[name].file:
            lines.append(f"model {name} {before[name].file[:12]} -> {after[name].file[:12]}")
    return [*lines, *_derivation_changes(old, new)]


def _derivation_changes(old: Lockfile, new: Lockfile) -> list[str]:
    """One line per target whose adapted model came, or is another file now."""
    before, after = (
        {(one.model, target): one.file for one in lock.derivations for target in one.targets} for lock in (old, new)
    )
    lines = []
    for model, target in sorted(after):
        was, now = before.get((model, target)), after[(model, target)]
        if was != now:
            lines.append(f"{target}: model {model} adapted, {was[:12] + ' -> ' if was else ''}{now[:12]}")
    return lines


def _versions(lockfile: Lockfile, target: TargetLock | None) -> dict[str, str]:
    if target is None:
        return {}
    return {artifact.name: artifact.version for artifact in (*lockfile.wheels_of(target), *lockfile.debs_of(target))}
