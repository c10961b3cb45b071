"""Core metadata of a wheel: the few headers that resolution needs (Core metadata specification)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nnenv.errors import NnenvError


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreMetadata:
    """What a METADATA file says about dependencies."""

    name: str
    version: str
    requires: tuple[str, ...]
    """Requires-Dist lines, in file order."""
    requires_python: str
    extras: tuple[str, ...]
    """Provides-Extra, in file order."""


_SEPARATORS: Final = re.compile(r"[-_.]+")


def normal_name(name: str) -> str:
    """A project's or an extra's name as it is compared (PEP 503, PEP 685): `Foo_bar` is `foo-bar`."""
    return _SEPARATORS.sub("-", name).lower()


def read_metadata(data: bytes, what: str) -> CoreMetadata:
    """The metadata in `data`; NnenvError `wheel-refused` if Name or Version is missing or stated twice."""
    fields: dict[str, list[str]] = {}
    for name, value in _headers(_head(data).decode("utf-8", "replace")):
        fields.setdefault(name, []).append(value)
    for name in ("name", "version"):
        if len(fields.get(name, [])) != 1:
            raise NnenvError(
                "wheel-refused",
                f"the METADATA of {what} states {name.title()} {len(fields.get(name, []))} times",
                where=what,
                because=["rule: exactly one Name and one Version (Core metadata specification)"],
                fix=["choose another version of the package, or report it to its maintainers"],
            )
    return CoreMetadata(
        name=fields["name"][0],
        version=fields["version"][0],
        requires=tuple(fields.get("requires-dist", ())),
        requires_python=(fields.get("requires-python") or [""])[0],
        extras=tuple(fields.get("provides-extra", ())),
    )


def _head(data: bytes) -> bytes:
    """At least all headers, without most of the description that may follow them."""
    return data[: min(end for end in (data.find(b"\n\n"), data.find(b"\n\r\n"), len(data)) if end >= 0)]


def _headers(text: str) -> Iterator[tuple[str, str]]:
    """(lower-case name, unfolded value) pairs up to the first empty line (RFC 822 folding).

    A line of spaces alone continues a header, as licence texts in METADATA show; only LF ends a line.
    """
    name = value = ""
    for raw in text.split("\n"):
        line = raw.removesuffix("\r")
        if not line:
            break
        if line[0] in " \t":
            value += " " + line.strip()
            continue
        if name:
            yield name, value
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
    if name:
        yield name, value
