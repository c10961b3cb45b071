"""The Release file of a Debian archive: what a suite is called, how old it is, and the digests of its indexes.

The text comes from `gpgv --output`, that is, only the signed part. Source: the repository format of the Debian wiki.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from nnenv.errors import NnenvError
from nnenv.formats.deb822 import iterate_paragraphs
from nnenv.spec.artifact import Sha256, sha256_of

_PATH: Final = re.compile(r"(?:[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*/)*[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """One file that the Release vouches for."""

    sha256: Sha256
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A verified Release file."""

    suite: str
    """`oldstable`, `stable-security`: moves from release to release."""
    codename: str
    """`bookworm`, `bookworm-security`."""
    date: datetime
    """When the archive was signed, UTC."""
    valid_until: datetime | None
    """When the statement ends; None where the archive makes no such promise (Debian's main suites)."""
    by_hash: bool
    """Whether indexes can be asked for by digest, which a mirror cannot change half-way."""
    architectures: tuple[str, ...]
    components: tuple[str, ...]
    files: Mapping[str, IndexEntry]
    """Path below the suite's directory -> digest and size; only the SHA256 section is read."""


def parse_release(body: bytes | str, where: str) -> Release:
    """The Release in `body`; NnenvError debian-index-invalid naming `where` and the field that is wrong."""
    paragraphs = list(iterate_paragraphs(body, where))
    if len(paragraphs) != 1:
        raise _invalid(where, f"a Release file is one paragraph, this has {len(paragraphs)}")
    fields = paragraphs[0]
    for name in ("Codename", "Date", "SHA256"):
        if name not in fields:
            raise _invalid(where, f"the field {name} is missing")
    return Release(
        suite=fields.get("Suite", ""),
        codename=fields["Codename"],
        date=_moment(fields["Date"], where, "Date"),
        valid_until=_moment(fields["Valid-Until"], where, "Valid-Until") if "Valid-Until" in fields else None,
        by_hash=fields.get("Acquire-By-Hash", "").lower() == "yes",
        architectures=tuple(fields.get("Architectures", "").split()),
        components=tuple(fields.get("Components", "").split()),
        files=_files(fields["SHA256"], where),
    )


def _moment(text: str, where: str, field: str) -> datetime:
    """RFC 5322 dates in UTC, the only zone the format allows."""
    try:
        moment = parsedate_to_datetime(text.replace("UTC", "+0000"))
    except ValueError:
        raise _invalid(where, f"{field} is not a date: {text[:80]!r}") from None
    if moment.utcoffset() != timedelta(0):
        raise _invalid(where, f"{field} is not in UTC: {text[:80]!r}")
    return moment


def _files(section: str, where: str) -> Mapping[str, IndexEntry]:
    files: dict[str, IndexEntry] = {}
    for line in section.split("\n"):
        if not line.strip():
            continue
        path, entry = _entry(line, where)
        if path in files and files[path] != entry:
            raise _invalid(where, f"two digests for {path}")
        files[path] = entry
    return files


def _entry(line: str, where: str) -> tuple[str, IndexEntry]:
    try:
        digest, size, path = line.split()
        entry = IndexEntry(sha256=sha256_of(digest), size=int(size))
    except ValueError:
        raise _invalid(where, f"not a `digest size path` line: {line[:120]!r}") from None
    if not _PATH.match(path) or entry.size < 0:
        raise _invalid(where, f"not a path below the suite: {path[:120]!r}")
    return path, entry


def _invalid(where: str, what: str) -> NnenvError:
    return NnenvError("debian-index-invalid", what, where=where, fix=["use another mirror of this archive"])
