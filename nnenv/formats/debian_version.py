"""Debian version numbers: their order (Debian policy 5.6.12).

A version is `[epoch:]upstream[-revision]`. The order is the one of `dpkg --compare-versions`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from nnenv.errors import NnenvError

SortKey = tuple[int, tuple[int | str, ...], tuple[int | str, ...]]
"""Compares as the version does: epoch, upstream version, revision."""

_UPSTREAM: Final = re.compile(r"[0-9A-Za-z.+:~-]+\Z")
_REVISION: Final = re.compile(r"[0-9A-Za-z.+~]+\Z")
_EPOCH: Final = re.compile(r"[0-9]+\Z")
_LONGEST: Final = 256
_END: Final = "\x01"
_RUN: Final = re.compile(r"([^0-9]*)([0-9]*)")


def compare(a: str, b: str) -> int:
    """-1, 0 or 1 as `a` is older than, equal to or newer than `b`."""
    key_a, key_b = sort_key(a), sort_key(b)
    return (key_a > key_b) - (key_a < key_b)


@lru_cache(maxsize=65536)
def sort_key(version: str) -> SortKey:
    """A value that orders as the version does; NnenvError debian-index-invalid when it is no version.

    Policy 5.6.12: an absent epoch is 0, an absent revision equals "0".
    """
    epoch, upstream_part, revision = _split(version)
    return int(epoch), _part_key(upstream_part), _part_key(revision)


def upstream(version: str) -> str:
    """The upstream part: no epoch, no Debian revision."""
    return _split(version)[1]


def satisfies(version: str, operator: str, wanted: str) -> bool:
    """Whether `version` meets `operator wanted`; an empty operator is always met (policy 7.1)."""
    if not operator:
        return True
    order = compare(version, wanted)
    return {
        "<<": order < 0,
        "<=": order <= 0,
        "=": order == 0,
        ">=": order >= 0,
        ">>": order > 0,
    }[operator]


def _split(version: str) -> tuple[str, str, str]:
    """(epoch, upstream, revision): the epoch ends at the first colon, the revision starts after the last hyphen."""
    epoch, _, rest = version.partition(":") if ":" in version else ("0", "", version)
    upstream_part, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    well_formed = _EPOCH.match(epoch) and _UPSTREAM.match(upstream_part) and _REVISION.match(revision)
    if not well_formed or len(version) > _LONGEST:
        raise NnenvError(
            "debian-index-invalid",
            f"{version[:80]!r} is not a Debian version number",
            because=["Debian policy 5.6.12: [epoch:]upstream[-revision] of letters, digits and . + - ~"],
            fix=["correct the version where it is written"],
        )
    return epoch, upstream_part, revision


def _part_key(part: str) -> tuple[int | str, ...]:
    """Runs of non-digits and of digits in turn, the form in which policy 5.6.12 compares them.

    A run of non-digits becomes a string in which `~` sorts before the end of the run, the end before letters,
    and letters before everything else; a run of digits becomes its value. Both lists alternate, so a position
    always compares like with like. The end of the part is marked, because `~` sorts before it.
    """
    runs: list[int | str] = []
    for text, digits in _RUN.findall(part):
        runs += ["".join(map(_character_key, text)) + _END, int(digits or "0")]
    while len(runs) > 2 and runs[-2:] == [_END, 0]:
        del runs[-2:]
    return (*runs, _END)


def _character_key(character: str) -> str:
    if character == "~":
        return "\x00"
    return character if character.isalpha() else chr(ord(character) + 0x100)
