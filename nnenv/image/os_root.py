"""The OS root that Debian packages ship, as entries of one layer: merged /usr, no manuals, no special permissions."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.formats.deb822 import iterate_paragraphs
from nnenv.formats.debian_version import satisfies
from nnenv.formats.tar_reader import TarEntry
from nnenv.image.tree import Entry, EntryKind, Slice, normalised_mode
from nnenv.spec.artifact import Sha256, sha256_of

MERGED: Final = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"})
"""Top-level directories that are links into /usr (Debian's merged /usr; file-hierarchy(7)); `os_state` makes them."""

STATE_DIRECTORIES: Final = frozenset({"root", "tmp", "var/tmp"})
"""Directories with a mode of their own, which `os_state` makes whether a package ships them or not."""

_LEFT_OUT: Final = tuple(f"usr/share/{name}/" for name in ("bug", "doc", "info", "lintian", "locale", "man"))
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright\Z")
_COPYRIGHT_LINK = re.compile(r"usr/share/doc/[^/]+\Z")

_RELATION = re.compile(r"\s*([a-z0-9][a-z0-9+.-]+)(?::[a-z0-9]+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*(\S+)\s*\))?\s*\Z")

_JSON_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackedDeb:
    """One .deb whose data.tar is an object of the store."""

    name: str
    version: str
    architecture: str
    control: str
    """The control file."""
    scripts: Mapping[str, str]
    """Maintainer scripts and `triggers`, by control file name."""
    data_sha256: Sha256
    """Digest of the uncompressed data.tar."""
    entries: tuple[TarEntry, ...]

    @property
    def label(self) -> str:
        """Name and version, as errors name the package."""
        return f"{self.name} {self.version}"


def unpacked_deb(
    control: str, scripts: Mapping[str, str], data_sha256: Sha256, entries: Sequence[TarEntry]
) -> UnpackedDeb:
    """The package that `control` describes; raises `archive-refused` when it lacks a mandatory field."""
    fields = _control_fields(control)
    missing = [field for field in ("Package", "Version", "Architecture") if not fields.get(field)]
    if missing:
        raise NnenvError(
            "archive-refused",
            f"the control file of a .deb has no {' and no '.join(missing)}",
            where=fields.get("Package", "DEBIAN/control"),
            because=["Debian policy 5.3 makes Package, Version and Architecture mandatory"],
            fix=["fetch the package again from a trustworthy archive"],
        )
    return UnpackedDeb(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        control=control,
        scripts=dict(scripts),
        data_sha256=data_sha256,
        entries=tuple(entries),
    )


def unpacked_to_json(deb: UnpackedDeb) -> bytes:
    """`deb` as compact JSON, equal for equal values."""
    document = {
        "format": _JSON_VERSION,
        "control": deb.control,
        "scripts": dict(deb.scripts),
        "data": deb.data_sha256,
        "entries": [[e.path, e.kind, e.mode, e.size, e.offset, e.target] for e in deb.entries],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def unpacked_from_json(raw: bytes) -> UnpackedDeb:
    """The value that `unpacked_to_json` wrote; ValueError for anything else."""
    try:
        document: dict[str, Any] = json.loads(raw)
        if document["format"] != _JSON_VERSION:
            raise ValueError(f"format {document['format']!r}, not {_JSON_VERSION}")
        entries = tuple(
            TarEntry(path=path, kind=kind, mode=mode, size=size, offset=offset, target=target)
            for path, kind, mode, size, offset, target in document["entries"]
        )
        return unpacked_deb(document["control"], document["scripts"], sha256_of(document["data"]), entries)
    except (KeyError, TypeError, AttributeError, NnenvError) as error:
        raise ValueError(f"not a recorded .deb: {error!r}") from error


def merged_path(path: str) -> str:
    """`path` (relative) as it is on a system with merged /usr: `lib/x` is `usr/lib/x`."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


def is_left_out(path: str) -> bool:
    """Whether `path` (merged) is documentation or a translation that no image holds; copyright notices stay."""
    if not path.startswith(_LEFT_OUT):
        return False
    return not _COPYRIGHT.match(path)


def os_entries(debs: Sequence[UnpackedDeb]) -> tuple[Entry, ...]:
    """What `debs` ship, as entries to compose: root-owned, 0755 or 0644, sorted by path.

    Where two packages own one path, the one whose `Replaces` names the other wins (Debian policy 7.6.1).
    Raises `layer-collision`, all at once, where neither does.
    """
    owners: dict[str, tuple[Entry, UnpackedDeb]] = {}
    errors: list[NnenvError] = []
    replaced = {deb.name: _replaced(deb) for deb in debs}
    for deb in sorted(debs, key=lambda deb: (deb.name, deb.architecture, deb.version)):
        for entry in _package_entries(deb):
            known = owners.get(entry.path)
            if known is None or _overwrites(deb, known[1], replaced):
                owners[entry.path] = (entry, deb)
            elif not (entry.kind == known[0].kind == "dir" or _overwrites(known[1], deb, replaced)):
                errors.append(_collision(known, (entry, deb)))
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    return tuple(owners[path][0] for path in sorted(owners))


def control_paragraph(deb: UnpackedDeb) -> Mapping[str, str]:
    """The fields of the package's control file."""
    return _control_fields(deb.control)


def _package_entries(deb: UnpackedDeb) -> Iterable[Entry]:
    """The package's own entries that stay, at their merged paths."""
    files = {entry.path: entry for entry in deb.entries if entry.kind == "file"}
    for entry in deb.entries:
        path = merged_path(entry.path)
        if entry.path in MERGED or (path in STATE_DIRECTORIES and entry.kind == "dir"):
            continue
        if is_left_out(path) and not (entry.kind == "symlink" and _COPYRIGHT_LINK.match(path)):
            continue
        yield _image_entry(deb, path, entry, files)


def _image_entry(deb: UnpackedDeb, path: str, entry: TarEntry, files: Mapping[str, TarEntry]) -> Entry:
    # Modes are ours: setuid, setgid and sticky bits never enter an image, and no file is private in one.
    match entry.kind:
        case "dir":
            return Entry(path=path, kind="dir", mode=0o755, owner=deb.label)
        case "symlink":
            target = _merged_target(entry.path, entry.target)
            return Entry(path=path, kind="symlink", mode=0o777, target=target, owner=deb.label)
        case "hardlink" if not is_left_out(merged_path(entry.target)):
            mode = normalised_mode(bool(entry.mode & 0o111))
            return Entry(path=path, kind="hardlink", mode=mode, target=merged_path(entry.target), owner=deb.label)
        case "hardlink":
            return _file(deb, path, files[entry.target])
        case "file":
            return _file(deb, path, entry)


def _file(deb: UnpackedDeb, path: str, entry: TarEntry) -> Entry:
    kind: EntryKind = "file"
    content = Slice(sha256=deb.data_sha256, offset=entry.offset, length=entry.size)
    mode = normalised_mode(bool(entry.mode & 0o111))
    return Entry(path=path, kind=kind, mode=mode, content=content, owner=deb.label)


def _merged_target(path: str, target: str) -> str:
    """What the symlink shipped at `path` has to say at `merged_path(path)` to name the same file.

    A target is only rewritten when the move into /usr would change what it names.
    """
    stated = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
    wanted = merged_path(stated)
    if target.startswith("/"):
        return target if wanted == stated else f"/{wanted}"
    here = posixpath.dirname(merged_path(path))
    if posixpath.normpath(posixpath.join("/", here, target)).lstrip("/") == wanted:
        return target
    return posixpath.relpath(f"/{wanted}", f"/{here}")


def _control_fields(control: str) -> Mapping[str, str]:
    return next(iter(iterate_paragraphs(control, "the control file of a .deb")), {})


def _replaced(deb: UnpackedDeb) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Package -> the (operator, version) conditions under which `deb` may overwrite its files."""
    replaced: dict[str, tuple[tuple[str, str], ...]] = {}
    for text in _control_fields(deb.control).get("Replaces", "").split(","):
        if match := _RELATION.match(text):
            condition = (match[2] or "", match[3] or "")
            replaced[match[1]] = (*replaced.get(match[1], ()), condition)
    return replaced


def _overwrites(
    deb: UnpackedDeb, other: UnpackedDeb, replaced: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]]
) -> bool:
    conditions = replaced[deb.name].get(other.name, ())
    return deb is not other and any(not op or satisfies(other.version, op, version) for op, version in conditions)


def _collision(one: tuple[Entry, UnpackedDeb], other: tuple[Entry, UnpackedDeb]) -> NnenvError:
    return NnenvError(
        "layer-collision",
        f"two Debian packages own /{one[0].path}, and neither replaces the other",
        where=f"/{one[0].path}",
        because=[f"{deb.label}: a {entry.kind}" for entry, deb in (one, other)],
        fix=["leave one of the two packages out of [requires] system"],
    )
