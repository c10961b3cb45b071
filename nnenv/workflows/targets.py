"""The targets of a lock, by the names that the user gives."""

from __future__ import annotations

from collections.abc import Sequence

from nnenv.errors import NnenvError
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.spec.names import LOCK_NAME


def chosen_targets(lockfile: Lockfile, names: Sequence[str]) -> tuple[TargetLock, ...]:
    """The targets of those names, all without names; NnenvError `target-unknown`."""
    known = [target.name for target in lockfile.targets]
    for name in names:
        if name not in known:
            raise NnenvError(
                "target-unknown",
                f"{LOCK_NAME} has no target {name}",
                because=[f"it has {', '.join(known)}"],
                fix=["name one of these, or add it to model.toml and run `nnenv lock`"],
            )
    return tuple(target for target in lockfile.targets if not names or target.name in names)
