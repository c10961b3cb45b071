"""Which members of which wheels are worth a look while locking: read from `nnenv/data/wheel_probes.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from nnenv import data
from nnenv.formats.wheel_outline import Probes, Statement


def probes_of(distribution: str) -> Probes:
    """By normalised name; none for most."""
    table = _table()
    return Probes(
        statements=tuple(one for pattern, one in table.statements if fnmatchcase(distribution, pattern)),
        libraries=tuple(
            member for pattern, members in table.libraries if fnmatchcase(distribution, pattern) for member in members
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    statements: tuple[tuple[str, Statement], ...]
    libraries: tuple[tuple[str, tuple[str, ...]], ...]


@lru_cache(maxsize=1)
def _table() -> _Table:
    rows = data.table("wheel_probes")
    return _Table(
        statements=tuple(
            (
                row["distribution"],
                Statement(
                    member=row["member"], reads=row["reads"], cuda=row.get("cuda", ""), cudnn=row.get("cudnn", "")
                ),
            )
            for row in rows["statements"]
        ),
        libraries=tuple((row["distribution"], tuple(row["members"])) for row in rows["libraries"]),
    )
