"""What lies in a store: every entry with its sizes and its age, read from names alone."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nnenv.adapters.store import Store


class Part(StrEnum):
    """Where in the store an entry lies, which says what may be done with it."""

    OBJECT = "object"
    TREE = "tree"
    RECORD = "record"
    PARTIAL = "partial"
    """A download that was cut short, or is under way."""
    QUARANTINE = "quarantine"
    WORK = "work"
    """What a living process is writing."""
    LEFT = "left"
    """What a killed process was writing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing in the store that is removed as a whole."""

    part: Part
    name: str
    """Digest of an object, key of a tree, `KIND/NAME` of a record, else the name of the file."""
    path: Path
    bytes: int
    """As the files say of themselves."""
    disk_bytes: int
    """As the file system counts blocks; a file with several names counts for the first of them."""
    modified_ns: int
    """When it was last written, in nanoseconds since 1970."""


def inventory(store: Store) -> Iterator[Entry]:
    """Every entry, by part and name; what vanishes meanwhile is left out."""
    counted: set[tuple[int, int]] = set()
    for part, name, path in _places(store.root):
        with suppress(FileNotFoundError):
            yield _entry(part, name, path, counted)


def _places(root: Path) -> Iterator[tuple[Part, str, Path]]:
    for path in sorted((root / "objects" / "sha256").glob("??/*")):
        yield Part.OBJECT, path.name, path
    for path in _children(root / "trees"):
        if path.name.startswith("."):
            yield (Part.LEFT if _is_free(path) else Part.WORK), path.name, path
        elif path.suffix != ".ok":
            yield Part.TREE, path.name, path
    for path in sorted((root / "derived").glob("*/??/*")):
        yield Part.RECORD, f"{path.parts[-3]}/{path.name}", path
    for path in _children(root / "tmp" / "partial"):
        yield Part.PARTIAL, path.name, path
    for path in _children(root / "quarantine"):
        yield Part.QUARANTINE, path.name, path
    for path in _children(root / "tmp"):
        if path.name != "partial":
            yield (Part.LEFT if _is_free(path) else Part.WORK), path.name, path


def _entry(part: Part, name: str, path: Path, counted: set[tuple[int, int]]) -> Entry:
    top = path.lstat()
    sizes = [_size(top, counted)]
    if stat.S_ISDIR(top.st_mode):
        for directory, folders, files in os.walk(path):
            for inner in (*folders, *files):
                with suppress(FileNotFoundError):
                    sizes.append(_size(os.lstat(f"{directory}/{inner}"), counted))
    return Entry(
        part=part,
        name=name,
        path=path,
        bytes=sum(size for size, _ in sizes),
        disk_bytes=sum(blocks for _, blocks in sizes),
        modified_ns=max(top.st_mtime_ns, _marked_ns(path) if part is Part.TREE else 0),
    )


def _size(status: os.stat_result, counted: set[tuple[int, int]]) -> tuple[int, int]:
    """(apparent bytes, bytes on disk); a directory has only the latter."""
    if stat.S_ISDIR(status.st_mode):
        return 0, status.st_blocks * 512
    if status.st_nlink > 1:
        inode = (status.st_dev, status.st_ino)
        if inode in counted:
            return 0, 0
        counted.add(inode)
    return status.st_size, status.st_blocks * 512


def _marked_ns(tree: Path) -> int:
    """When the tree was complete: its own times are those that an image shows."""
    try:
        return tree.with_name(f"{tree.name}.ok").lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_free(path: Path) -> bool:
    """Whether nobody holds the kernel lock of a file or directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
