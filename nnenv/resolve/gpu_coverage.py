"""Which compute capabilities a library's GPU code covers, and how.

Rules (`nnenv compat code-rules`, with sources): machine code (SASS) for X.Y runs on X.Z with Z >= Y; with the suffix
`a` on X.Y alone; with `f` within the family. PTX for X.Y is translated by the driver for X.Y and everything newer,
with the same suffixes. Tegra chips run their own machine code alone, and nobody else runs it.
What a library lists is a union over its kernels: that a capability is covered means that code for it is there, not
that no kernel lacks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from nnenv.errors import NnenvError
from nnenv.resolve.compat import numbers, tegra_capabilities
from nnenv.spec.gpu import GpuCode

_ARCHITECTURE: Final = re.compile(r"([0-9]+)([0-9])([af]?)")
"""Major, minor and suffix of `80`, `90a`, `120f`."""
_CAPABILITY: Final = re.compile(r"([1-9][0-9]*)\.([0-9])")

Capability = tuple[int, int]


class Code(IntEnum):
    """How a capability is covered, worst first: a smaller one is weaker."""

    NONE = 0
    """There is no code for it."""
    PTX = 1
    """The driver translates PTX when the library loads."""
    SASS = 2
    """Machine code of the same major and a lower minor."""
    FAMILY = 3
    """Machine code for its family (suffix f)."""
    EXACT = 4
    """Machine code for this very capability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How one library's code covers one capability."""

    code: Code
    architecture: str = ""
    """Of the code that serves, `90` or `100f`; empty for NONE."""
    ptx: str = ""
    """Version of the PTX language that the driver must know; empty for all but PTX."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryCoverage:
    """How several libraries together cover one capability: as the weakest of them does."""

    code: Code
    library: str
    """The library that decides."""
    architecture: str = ""
    ptx: str = ""


def cover(code: GpuCode, capability: str) -> Coverage:
    """How `code` covers a capability; `capability` is `8.6`.

    Of several versions of PTX that could serve the newest counts: other kernels have other versions, and the driver
    has to know all of them. An architecture in no known spelling covers nothing.
    Raises NnenvError `usage` for what is no compute capability.
    """
    wanted = _capability(capability)
    machine = [(_how(arch, wanted), _split(arch), arch) for arch in code.sass if _ARCHITECTURE.fullmatch(arch)]
    best = max(machine, default=(Code.NONE, (0, 0, ""), ""))
    if best[0] is not Code.NONE:
        return Coverage(code=best[0], architecture=best[2])
    ptx = [(arch, isa) for arch, isa in code.ptx if _ARCHITECTURE.fullmatch(arch) and _translates(arch, wanted)]
    if not ptx:
        return Coverage(code=Code.NONE)
    architecture, isa = max(ptx, key=lambda item: (numbers(item[1]), _split(item[0])))
    return Coverage(code=Code.PTX, architecture=architecture, ptx=isa)


def cover_all(codes: Mapping[str, GpuCode], capability: str) -> LibraryCoverage:
    """How all of `codes`, by library, cover a capability; `codes` is not empty.

    The weakest decides: NONE before PTX, newer PTX before older, then the library's name.
    """
    found = [(name, cover(code, capability)) for name, code in sorted(codes.items())]
    name, weakest = min(found, key=lambda item: (item[1].code, tuple(-part for part in numbers(item[1].ptx or "0"))))
    return LibraryCoverage(code=weakest.code, library=name, architecture=weakest.architecture, ptx=weakest.ptx)


def _how(architecture: str, wanted: Capability) -> Code:
    """How machine code for an architecture covers a capability."""
    major, minor, suffix = _split(architecture)
    if (major, minor) == wanted:
        return Code.EXACT
    if suffix == "a" or major != wanted[0] or minor > wanted[1] or _is_tegra(wanted) or _is_tegra((major, minor)):
        return Code.NONE
    return Code.FAMILY if suffix == "f" else Code.SASS


def _translates(architecture: str, wanted: Capability) -> bool:
    """Whether a driver makes code for a capability from PTX for an architecture."""
    major, minor, suffix = _split(architecture)
    if suffix == "a":
        return (major, minor) == wanted
    if suffix == "f":
        return major == wanted[0] and minor <= wanted[1]
    return (major, minor) <= wanted


def _split(architecture: str) -> tuple[int, int, str]:
    """`90a` -> (9, 0, "a")."""
    match = _ARCHITECTURE.fullmatch(architecture)
    assert match is not None, architecture
    return int(match[1]), int(match[2]), match[3]


def _capability(text: str) -> Capability:
    match = _CAPABILITY.fullmatch(text)
    if match is None:
        raise NnenvError(
            "usage", f"{text[:40]!r} is no compute capability", fix=["write it as `nvidia-smi` does: 8.6"], exit_code=2
        )
    return int(match[1]), int(match[2])


def _is_tegra(capability: Capability) -> bool:
    return f"{capability[0]}.{capability[1]}" in tegra_capabilities()
