"""What stands in a layer: entries that know where their bytes are, composed so that no path has two meanings."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.formats.zip_gate import ZipMember
from nnenv.spec.artifact import Sha256

EntryKind = Literal["file", "dir", "symlink", "hardlink"]

_DIRECTORY_MODE = 0o755
_PATH_LIMIT = 4096
_NAME_LIMIT = 255
_WHITEOUT = ".wh."
_LINKS_LIMIT = 40
"""As in Linux (path_resolution(7))."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """`length` bytes of a store object, from `offset` on."""

    sha256: Sha256
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelMember:
    """The content of one member of a wheel in the store, and the digest that the wheel's RECORD states for it."""

    wheel: Sha256
    filename: str
    """The wheel's file name, for errors."""
    member: ZipMember
    algorithm: str
    """`sha256`, `sha384` or `sha512`."""
    digest_hex: str


Content = bytes | Slice | WheelMember


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One path of a layer."""

    path: str
    """Relative to the image's root, without a leading or trailing slash."""
    kind: EntryKind
    mode: int
    """Permission bits, up to 0o7777."""
    content: Content | None = None
    """A file's bytes; None for every other kind."""
    target: str = ""
    """What a symlink says, or the path (as in `path`) that a hardlink shares its file with."""
    owner: str = ""
    """The artifact this comes from, for errors; empty for directories that were only implied."""
    uid: int = 0
    gid: int = 0


def normalised_mode(executable: bool) -> int:
    """0o755 or 0o644: the only thing a wheel or project file may decide is whether it can be executed."""
    return 0o755 if executable else 0o644


def content_size(content: Content | None) -> int:
    """How many bytes the content has; 0 for None."""
    match content:
        case None:
            return 0
        case bytes():
            return len(content)
        case Slice():
            return content.length
        case WheelMember():
            return content.member.size


def compose(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries as one tree: every parent directory there, each path once, sorted as bytes, parents first.

    Equal directories merge; files with the same bytes merge, executable if one of them is.
    Of files linked together the first path holds the bytes, so that a reader of the sorted tree has met it already.
    Raises `path-refused` for a path that no image can hold, and `layer-collision` (all of them at once)
    for a path with two meanings: different bytes, different kinds, or something below what is not a directory.
    """
    merged, errors = _merge(entries)
    if not errors:
        errors = _unresolved_hardlinks(merged)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)
    _order_hardlinks(merged)
    # Code points sort as their UTF-8 bytes do, and a parent is a prefix of its children.
    return tuple(merged[path] for path in sorted(merged))


def collisions(trees: Mapping[str, Iterable[Entry]]) -> tuple[NnenvError, ...]:
    """What the layers of one image disagree about, one `layer-collision` per path, in the order of paths.

    `trees` maps a layer's title to its composed entries; the title stands in for an owner where an entry has none.
    Files with the same bytes may differ in mode: the upper layer wins, as in any engine.
    """
    labelled = (
        entry if entry.owner else replace(entry, owner=f"layer {title}")
        for title, entries in trees.items()
        for entry in entries
    )
    return tuple(_merge(labelled)[1])


def linked_file(path: str, entries: Mapping[str, Entry]) -> Entry | None:
    """The file that opening `path` in a composed tree gives, hard and symbolic links followed; None without one.

    Only the last part of a path is followed: in a composed tree nothing lies below a link.
    """
    for _ in range(_LINKS_LIMIT):
        entry = entries.get(path)
        if entry is None or entry.kind in ("file", "dir"):
            return entry if entry is not None and entry.kind == "file" else None
        absolute = entry.kind == "hardlink" or entry.target.startswith("/")
        path = posixpath.normpath(posixpath.join("" if absolute else posixpath.dirname(path), entry.target.lstrip("/")))
    return None


def meanings(entries: Iterable[Entry]) -> bytes:
    """What each path of a composed tree means, a line each: two trees agree about a path if their lines are equal.

    A small stand-in for the entries: `disagree` finds with it what `collisions` would name.
    """
    return "\n".join(f"{entry.path}\t{_meaning(entry)}" for entry in entries).encode()


def disagree(trees: Iterable[bytes]) -> bool:
    """Whether `collisions` has anything to say of the trees with these `meanings`."""
    known: dict[str, str] = {}
    for tree in trees:
        for line in tree.decode().split("\n"):
            path, _, meaning = line.partition("\t")
            if known.setdefault(path, meaning) != meaning:
                return True
    return False


def _meaning(entry: Entry) -> str:
    """Equal for entries that `_agree`, and for no others."""
    mode = entry.mode if entry.kind == "dir" else 0
    match entry.content:
        case Slice() as content:
            identity: tuple[object, ...] = ("slice", content.sha256, content.offset, content.length)
        case content:
            identity = cast("tuple[object, ...]", _identity(content) or ())
    return " ".join(map(str, (entry.kind, mode, entry.uid, entry.gid, *identity, entry.target)))


def _merge(entries: Iterable[Entry]) -> tuple[dict[str, Entry], list[NnenvError]]:
    """Every path's entry, implied parents included, and one error per path with two meanings, sorted by path."""
    merged: dict[str, Entry] = {}
    errors: dict[str, NnenvError] = {}
    for entry in entries:
        _check(entry)
        known = merged.get(entry.path)
        if known is None:
            merged[entry.path] = entry
        elif _agree(known, entry):
            merged[entry.path] = replace(known, mode=known.mode | entry.mode)
        else:
            errors.setdefault(entry.path, _collision(known, entry))
    for entry in tuple(merged.values()):
        _add_parents(entry, merged, errors)
    return merged, [errors[path] for path in sorted(errors)]


def _add_parents(entry: Entry, merged: dict[str, Entry], errors: dict[str, NnenvError]) -> None:
    """Put the missing parent directories of `entry` into `merged`; note a parent that is no directory."""
    path = entry.path
    while "/" in path:
        path = path.rpartition("/")[0]
        parent = merged.get(path)
        if parent is None:
            merged[path] = Entry(path=path, kind="dir", mode=_DIRECTORY_MODE)
            continue
        if parent.kind != "dir":
            errors.setdefault(path, _collision(parent, entry))
        # Whatever stood here already has had its own turn, or will have it.
        return


def _agree(one: Entry, other: Entry) -> bool:
    """True if the two entries of one path mean the same."""
    if (one.kind, one.target, one.uid, one.gid) != (other.kind, other.target, other.uid, other.gid):
        return False
    if one.kind == "dir":
        return one.mode == other.mode
    return _identity(one.content) == _identity(other.content)


def _identity(content: Content | None) -> object:
    """A value that is equal for contents known to be the same bytes."""
    match content:
        case bytes():
            return "sha256", hashlib.sha256(content).hexdigest(), len(content)
        case WheelMember():
            return content.algorithm, content.digest_hex, content.member.size
        case _:
            return content


def _collision(known: Entry, entry: Entry) -> NnenvError:
    below = "" if known.path == entry.path else f", at {entry.path}"
    return NnenvError(
        "layer-collision",
        f"{known.path} has two meanings in one image",
        where=f"/{known.path}",
        because=[
            f"{known.owner or 'another entry'}: {_description(known)}",
            f"{entry.owner or 'another entry'}: {_description(entry) if not below else f'something below it{below}'}",
        ],
        fix=["leave one of the two out, or choose versions that agree on this file"],
    )


def _description(entry: Entry) -> str:
    """The entry in the words of an error line."""
    match entry.kind:
        case "dir":
            return f"a directory of mode {entry.mode:04o}, uid {entry.uid}, gid {entry.gid}"
        case "symlink":
            return f"a symbolic link to {entry.target}"
        case "hardlink":
            return f"a hard link to {entry.target}"
        case "file":
            return f"a file of {content_size(entry.content)} bytes{_digest_note(entry.content)}"


def _digest_note(content: Content | None) -> str:
    identity = _identity(content)
    return f", {identity[0]}:{identity[1]}" if isinstance(identity, tuple) else ""


def _check(entry: Entry) -> None:
    """Raise `path-refused` unless every engine and file system gives the entry the same meaning."""
    rule = broken_path_rule(entry.path) or _broken_kind_rule(entry)
    if rule:
        raise NnenvError(
            "path-refused",
            f"{entry.path[:200]!r} cannot go into an image layer: {rule}",
            where=entry.owner or None,
            fix=["rename the file, or leave the artifact out"],
        )


def broken_path_rule(path: str) -> str:
    """The rule that `path` breaks, or nothing."""
    if _has_control_character(path):
        return "it holds a control character"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if len(encoded) > _PATH_LIMIT:
        return f"it is longer than {_PATH_LIMIT} bytes"
    for name in path.split("/"):
        if name in {"", ".", ".."}:
            return "it is not a plain relative path"
        # The OCI layer format reads such a name as "delete this below" (image-spec, layer.md, Whiteouts).
        if name.startswith(_WHITEOUT):
            return f"a name that begins with {_WHITEOUT} deletes files in an image"
        if len(name) > _NAME_LIMIT // 4 and len(name.encode()) > _NAME_LIMIT:
            return f"a name in it is longer than {_NAME_LIMIT} bytes"
    return ""


def _broken_kind_rule(entry: Entry) -> str:
    """The rule that the rest of the entry breaks, or nothing."""
    if (entry.kind == "file") != (entry.content is not None):
        return "a file, and nothing else, has content"
    if (entry.kind in {"symlink", "hardlink"}) != bool(entry.target):
        return "a link, and nothing else, has a target"
    if not 0 <= entry.mode <= 0o7777:
        return "its mode has more than the permission bits"
    if entry.kind == "hardlink":
        return broken_path_rule(entry.target)
    return _broken_target_rule(entry.target)


def _broken_target_rule(target: str) -> str:
    """The rule that what a symbolic link says breaks, or nothing; it may lead anywhere inside the image."""
    if _has_control_character(target):
        return "its link target holds a control character"
    try:
        length = len(target.encode())
    except UnicodeEncodeError:
        return "its link target is not valid Unicode"
    return f"its link target is longer than {_PATH_LIMIT} bytes" if length > _PATH_LIMIT else ""


def _has_control_character(text: str) -> bool:
    return not text.isprintable() and any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


def _unresolved_hardlinks(merged: Mapping[str, Entry]) -> list[NnenvError]:
    """One error for each hard link that leads to no file of this tree."""
    return [
        NnenvError(
            "path-refused",
            f"{entry.path!r} cannot go into an image layer: it is a hard link to {entry.target!r}, "
            "which is no file of the same layer",
            where=entry.owner or None,
            fix=["leave the artifact out"],
        )
        for path, entry in sorted(merged.items())
        if entry.kind == "hardlink" and _linked_file(entry, merged) is None
    ]


def _linked_file(entry: Entry, merged: Mapping[str, Entry]) -> Entry | None:
    """The file at the end of a chain of hard links, or None if there is none."""
    seen: set[str] = set()
    found: Entry | None = entry
    while found is not None and found.kind == "hardlink":
        if found.path in seen:
            return None
        seen.add(found.path)
        found = merged.get(found.target)
    return found if found is not None and found.kind == "file" else None


def _order_hardlinks(merged: dict[str, Entry]) -> None:
    """In each group of linked paths, let the first one hold the bytes and the others point at it."""
    groups: dict[str, list[Entry]] = {}
    for entry in merged.values():
        if entry.kind == "hardlink" and (linked := _linked_file(entry, merged)) is not None:
            groups.setdefault(linked.path, [linked]).append(entry)
    for original, members in groups.items():
        file = merged[original]
        first, *others = sorted(members, key=lambda member: member.path)
        merged[first.path] = replace(file, path=first.path, owner=first.owner)
        for other in others:
            # One inode has one mode and one owner, whatever the link's own header said.
            merged[other.path] = replace(
                file, path=other.path, kind="hardlink", content=None, target=first.path, owner=other.owner
            )
