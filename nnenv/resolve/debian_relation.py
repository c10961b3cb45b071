"""Relations between Debian packages: their text, and which package meets them (Debian policy 7.1, 7.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nnenv.errors import NnenvError
from nnenv.formats.debian_version import satisfies, sort_key
from nnenv.resolve.debian_catalog import DebRecord

_ALTERNATIVE: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::(?P<qualifier>[a-z0-9-]+))?"
    r"(?:\s*\(\s*(?P<operator><<|<=|=|>=|>>)\s*(?P<version>[^\s()]+)\s*\))?\Z"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One package name with what is asked of it."""

    name: str
    op: str
    """`<<`, `<=`, `=`, `>=`, `>>`, or empty for any version."""
    version: str
    arch_qualifier: str
    """What follows the colon of `perl:any`; empty for the target's own architecture."""

    def __str__(self) -> str:
        qualifier = f":{self.arch_qualifier}" if self.arch_qualifier else ""
        return f"{self.name}{qualifier} ({self.op} {self.version})" if self.op else f"{self.name}{qualifier}"


Relation = tuple[Alternative, ...]
"""Alternatives of which one is enough."""


@lru_cache(maxsize=16384)
def parse_relations(text: str) -> tuple[Relation, ...]:
    """The relations of a field, in order; () for an empty field.

    Raises NnenvError debian-index-invalid for text that is no relation, and for architecture restrictions (`[amd64]`)
    and build profiles (`<!nocheck>`), which policy 7.1 allows in source packages only.
    """
    if not text.strip():
        return ()
    return tuple(
        tuple(_alternative(alternative.strip(), text) for alternative in relation.split("|"))
        for relation in text.strip().rstrip(",").split(",")
    )


def relation_text(relation: Relation) -> str:
    """The relation in one spelling, whatever spaces the source had."""
    return " | ".join(map(str, relation))


def meets(record: DebRecord, wanted: Alternative) -> bool:
    """Whether `record` is what `wanted` asks for, by its own name or by one of its Provides."""
    if record.name == wanted.name:
        return _qualifier_meets(record, wanted) and satisfies(record.version, wanted.op, wanted.version)
    return any(_provide_meets(record, provided, wanted) for provided in _provided(record))


def provided_names(record: DebRecord) -> tuple[str, ...]:
    """The virtual names that `record` provides."""
    return tuple(provided.name for provided in _provided(record))


def _provided(record: DebRecord) -> Iterator[Alternative]:
    for relation in parse_relations(record.provides):
        yield from relation


def _provide_meets(record: DebRecord, provided: Alternative, wanted: Alternative) -> bool:
    """Policy 7.5: a versioned relation is met by a versioned Provides (`=`) only."""
    if provided.name != wanted.name:
        return False
    if wanted.arch_qualifier != provided.arch_qualifier and not _qualifier_meets(record, wanted):
        return False
    return not wanted.op or (provided.op == "=" and satisfies(provided.version, wanted.op, wanted.version))


def _qualifier_meets(record: DebRecord, wanted: Alternative) -> bool:
    """`:any` is answered by Multi-Arch: allowed only; any other qualifier names an architecture (deb-control(5))."""
    match wanted.arch_qualifier:
        case "":
            return True
        case "any":
            return record.multi_arch == "allowed"
        case architecture:
            return record.architecture == architecture


def _alternative(text: str, field: str) -> Alternative:
    found = _ALTERNATIVE.match(text)
    if found is None:
        raise _invalid(text, field)
    version = found["version"] or ""
    if version:
        sort_key(version)
    return Alternative(
        name=found["name"], op=found["operator"] or "", version=version, arch_qualifier=found["qualifier"] or ""
    )


def _invalid(text: str, field: str) -> NnenvError:
    if "[" in text or "<!" in text or text.rstrip().endswith(">"):
        rule = "architecture restrictions and build profiles belong to source packages (policy 7.1)"
    else:
        rule = "a relation is `name`, `name:architecture` or `name (>= version)`, alternatives joined by | (policy 7.1)"
    return NnenvError(
        "debian-index-invalid",
        f"{text[:80]!r} is not a relation between Debian packages",
        where=field[:120],
        because=[rule],
        fix=["write the package as `name` or `name (>= version)`, or use another mirror if this came from an archive"],
    )
