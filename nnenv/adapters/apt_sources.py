"""Where the user's machine gets Debian from: `NNENV_*`, else the configuration of apt (sources.list(5)).

No host is built in. A machine that is configured for one release can lock another: only the archive's root is taken
from the configuration, and whether it serves the release is found out by asking it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from nnenv.errors import NnenvError
from nnenv.formats.deb822 import iterate_paragraphs

MIRROR_VARIABLE: Final = "NNENV_DEBIAN_MIRROR"
SECURITY_VARIABLE: Final = "NNENV_DEBIAN_SECURITY_MIRROR"

_SUITE: Final = re.compile(
    r"(?:buster|bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|testing|unstable)"
    r"(?P<pocket>-updates|-security|-backports|-proposed-updates)?/?\Z"
)
_ONE_LINE: Final = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)\Z"
)
_SCHEMES: Final = ("http", "https", "file")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveSources:
    """Roots of archives (what stands before `/dists`), without a slash at the end, in the order to ask them."""

    main: tuple[str, ...]
    security: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    uri: str
    suite: str


def archive_sources(environment: Mapping[str, str], apt: Path = Path("/etc/apt")) -> ArchiveSources:
    """The archives of `environment`, else those in apt's files below `apt`.

    Several URLs in a variable are separated by spaces. Where no security archive is named, it is taken to stand
    beside the main one, as on every full mirror: `.../debian` and `.../debian-security`.
    Raises NnenvError source-unconfigured when nothing names a Debian archive.
    """
    main = _urls(environment.get(MIRROR_VARIABLE, ""), MIRROR_VARIABLE)
    security = _urls(environment.get(SECURITY_VARIABLE, ""), SECURITY_VARIABLE)
    if not main:
        entries = [entry for entry in _entries(apt) if _SUITE.match(entry.suite)]
        main = _roots(entry.uri for entry in entries if not _is_security(entry))
        security = security or _roots(entry.uri for entry in entries if _is_security(entry))
    if not main:
        raise _unconfigured(apt)
    return ArchiveSources(main=main, security=security or _roots(f"{root}-security" for root in main))


def _is_security(entry: _Entry) -> bool:
    found = _SUITE.match(entry.suite)
    return found is not None and found["pocket"] == "-security"


def _urls(value: str, variable: str) -> tuple[str, ...]:
    strangers = [url for url in value.split() if urlsplit(url).scheme not in _SCHEMES]
    if strangers:
        raise NnenvError(
            "source-unconfigured",
            f"{variable} holds something that is no archive URL",
            where=variable,
            because=[f"{strangers[0][:120]!r} is not an http:, https: or file: URL"],
            fix=[f"set {variable} to the URL of the directory that holds `dists` and `pool`"],
        )
    return _roots(value.split())


def _roots(uris: Iterable[str]) -> tuple[str, ...]:
    roots = (uri.rstrip("/") for uri in uris if urlsplit(uri).scheme in _SCHEMES)
    return tuple(dict.fromkeys(roots))


def _entries(apt: Path) -> Iterator[_Entry]:
    """Enabled binary sources with the component main, in apt's order: sources.list first, then the rest by name."""
    directory = apt / "sources.list.d"
    extra = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in (apt / "sources.list", *extra):
        if path.suffix in (".list", ".sources") and path.is_file():
            read = _one_line_entries if path.suffix == ".list" else _deb822_entries
            for entry in read(path):
                yield from _expanded(entry)


def _one_line_entries(path: Path) -> Iterator[_Entry]:
    """Lines that apt would not understand are left to apt: they may be about something else."""
    for line in _text(path).splitlines():
        found = _ONE_LINE.match(line.partition("#")[0].strip())
        if found and "main" in found["components"].split():
            yield _Entry(uri=found["uri"], suite=found["suite"])


def _deb822_entries(path: Path) -> Iterator[_Entry]:
    try:
        paragraphs = [{name.lower(): value for name, value in p.items()} for p in iterate_paragraphs(_text(path))]
    except NnenvError as error:
        raise _unreadable(path, error.what) from None
    for fields in paragraphs:
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0", "off", "without", "disable")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        if "main" in fields.get("components", "").split():
            for uri in fields.get("uris", "").split():
                yield from (_Entry(uri=uri, suite=suite) for suite in fields.get("suites", "").split())


def _expanded(entry: _Entry) -> Iterator[_Entry]:
    """`mirror+file:` names a list of archives, one a line (apt-transport-mirror(1)); Debian's cloud images use it."""
    if not entry.uri.startswith("mirror+file:"):
        yield entry
        return
    path = Path(unquote(urlsplit(entry.uri.removeprefix("mirror+")).path))
    if path.is_file():
        for line in _text(path).splitlines():
            words = line.partition("#")[0].split()
            if words:
                yield _Entry(uri=words[0], suite=entry.suite)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be opened") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "the text is not UTF-8") from None


def _unreadable(path: Path, why: str) -> NnenvError:
    return NnenvError(
        "source-unconfigured",
        "a configuration file of apt cannot be read",
        where=str(path),
        because=[why],
        fix=["correct the file (`apt-get update` should accept it)", f"or set {MIRROR_VARIABLE} to an archive's URL"],
    )


def _unconfigured(apt: Path) -> NnenvError:
    return NnenvError(
        "source-unconfigured",
        "no Debian archive is configured",
        where=str(apt),
        because=[
            f"{MIRROR_VARIABLE} is not set",
            f"no enabled source below {apt} has a Debian release as its suite and main as a component",
        ],
        fix=[f"set {MIRROR_VARIABLE} to the URL of a Debian mirror: the directory that holds `dists` and `pool`"],
    )
