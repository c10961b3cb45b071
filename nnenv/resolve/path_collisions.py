"""Files that two wheels of one target both bring, with different bytes: one would replace the other when installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnenv.spec.gpu import WheelFile, WheelOutline


@dataclass(frozen=True, kw_only=True, slots=True)
class PathCollision:
    """Two distributions, and the files that both bring."""

    distributions: tuple[str, str]
    """Sorted."""
    paths: tuple[str, ...]
    """As installed, sorted: below site-packages, or `bin/NAME` for scripts."""


def path_collisions(outlines: Mapping[str, WheelOutline]) -> tuple[PathCollision, ...]:
    """The collisions among wheels, by their distributions; files of equal size and CRC-32 are one file.

    Decided by the file lists alone, so programs that installers make for entry points are not seen here; a build
    compares the bytes of everything (`layer-collision`).
    """
    owners: dict[str, tuple[str, WheelFile]] = {}
    found: dict[tuple[str, str], list[str]] = {}
    for distribution, outline in sorted(outlines.items()):
        for file in outline.files:
            path = installed_path(file.path)
            if path is None:
                continue
            owner, other = owners.setdefault(path, (distribution, file))
            if owner != distribution and (other.size, other.crc32) != (file.size, file.crc32):
                found.setdefault((owner, distribution), []).append(path)
    return tuple(
        PathCollision(distributions=names, paths=tuple(sorted(paths))) for names, paths in sorted(found.items())
    )


def installed_path(member: str) -> str | None:
    """Where a member of a wheel goes, as `PathCollision.paths` has it; None for bytecode, which is not installed."""
    if member.endswith((".pyc", ".pyo")):
        return None
    top, _, rest = member.partition("/")
    if not (top.endswith(".data") and rest):
        return member
    scheme, _, path = rest.partition("/")
    if scheme in {"purelib", "platlib"}:
        return path
    return f"bin/{path}" if scheme == "scripts" else f"{scheme}/{path}"
