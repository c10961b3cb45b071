"""Puts the tar of one of our own layers into a directory, and nothing that is not exactly such a tar.

The tar is read by rebuilding it: each header is parsed, written again with `tar_writer`, and must come out the same.
So what is extracted is what the image holds, and no field can mean something else to another reader.
Every directory is opened from its parent without following links, so nothing can land outside the destination.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from nnenv.adapters.files import refusing_writes, write_all
from nnenv.errors import NnenvError
from nnenv.formats.tar_writer import BLOCK, END_OF_ARCHIVE, TarKind, header, padding
from nnenv.image.tree import broken_path_rule

_KINDS: Final[dict[bytes, TarKind]] = {b"0": "file", b"1": "hardlink", b"2": "symlink", b"5": "dir"}
_EXTENDED: Final = b"x"
_EXTENDED_LIMIT: Final = 1 << 16
_EXTENDED_RECORD: Final = re.compile(rb"[0-9]+ (path|linkpath|size)=([^\n]*)\n")
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract_tar(chunks: Iterator[bytes], destination: Path) -> None:
    """Extract the canonical tar `chunks` (see `layers.read_layer_tar`) into the directory `destination`.

    Files become 0444 or 0555 and directories 0755, whatever the umask; owners and special bits are not kept;
    files get the tar's mtime. `destination` is made if it is missing, mode 0755; nothing in it is replaced.
    Raises `store-corrupt` for a tar that we would not have written, and what `refusing_writes` raises
    for a disk that does not take it. What was extracted until then stays: give a directory that can be dropped.
    """
    source = _Source(chunks)
    with refusing_writes(destination):
        if not destination.is_dir():
            destination.mkdir()
            destination.chmod(0o755)
        with _Place(destination) as place:
            previous = ""
            while (entry := _next_entry(source)) is not None:
                if entry.path <= previous:
                    raise _refused(f"{entry.path!r} comes after {previous!r}")
                previous = entry.path
                _extract(entry, source, place)


@dataclass(frozen=True, kw_only=True, slots=True)
class _TarEntry:
    """One header, already proven to be in our own words."""

    path: str
    kind: TarKind
    mode: int
    size: int
    target: str
    mtime: int


def _extract(entry: _TarEntry, source: _Source, place: _Place) -> None:
    directory, _, name = entry.path.rpartition("/")
    parent = place.enter(directory)
    try:
        match entry.kind:
            case "dir":
                os.mkdir(name, 0o755, dir_fd=parent)
                place.enter(entry.path, new=True)
            case "symlink":
                os.symlink(entry.target, name, dir_fd=parent)
            case "hardlink":
                place.link(entry.target, name, parent)
            case "file":
                _write_file(entry, source, name, parent)
                place.files.add(entry.path)
    except FileExistsError:
        raise _refused(f"{entry.path!r} is there already") from None


def _write_file(entry: _TarEntry, source: _Source, name: str, parent: int) -> None:
    descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        for chunk in source.chunks(entry.size):
            write_all(descriptor, chunk)
        os.fchmod(descriptor, 0o555 if entry.mode & 0o111 else 0o444)
        os.utime(descriptor, (entry.mtime, entry.mtime))
    finally:
        os.close(descriptor)
    if source.take(-entry.size % BLOCK) != padding(entry.size):
        raise _refused(f"{entry.path!r} is not padded with zeros")


class _Source:
    """The tar's bytes, taken in the portions that its reader wants."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = memoryview(b"")

    def take(self, length: int) -> bytes:
        """Exactly `length` bytes."""
        return b"".join(self.chunks(length))

    def chunks(self, length: int) -> Iterator[memoryview]:
        """Exactly `length` bytes, in the portions they come in."""
        while length:
            if not self._held and not self._refill():
                raise _refused("it ends too early")
            portion, self._held = self._held[:length], self._held[length:]
            length -= len(portion)
            yield portion

    def at_end(self) -> bool:
        """True if no byte is left."""
        return not self._held and not self._refill()

    def _refill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._held = memoryview(chunk)
                return True
        return False


class _Place:
    """The destination: a chain of open directories, from the destination to where the last entry went."""

    def __init__(self, destination: Path) -> None:
        self.files: set[str] = set()
        self._names: list[str] = []
        self._descriptors = [os.open(destination, _DIRECTORY)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_to(0)
        os.close(self._descriptors.pop())

    def enter(self, path: str, *, new: bool = False) -> int:
        """A descriptor of the directory `path`, valid until the next call; `new` gives its last part mode 0755."""
        names = path.split("/") if path else []
        self._leave_to(_common(names, self._names))
        for name in names[len(self._names) :]:
            try:
                descriptor = os.open(name, _DIRECTORY, dir_fd=self._descriptors[-1])
            except OSError as error:
                raise _refused(f"{path!r} is not a directory of the tar ({error.strerror})") from None
            self._descriptors.append(descriptor)
            self._names.append(name)
        if new:
            os.fchmod(self._descriptors[-1], 0o755)
        return self._descriptors[-1]

    def link(self, target: str, name: str, parent: int) -> None:
        """Give the file `target`, extracted before, a second name in the directory `parent`."""
        if target not in self.files:
            raise _refused(f"a hard link leads to {target!r}, which is no file before it")
        # The chain of open directories leads to `parent`; the target may lie elsewhere.
        here = os.dup(parent)
        try:
            directory, _, original = target.rpartition("/")
            there = self.enter(directory)
            os.link(original, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _leave_to(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._descriptors.pop())


def _common(one: list[str], other: list[str]) -> int:
    """How many parts two paths share from the front."""
    for index, (name, other_name) in enumerate(zip(one, other, strict=False)):
        if name != other_name:
            return index
    return min(len(one), len(other))


def _next_entry(source: _Source) -> _TarEntry | None:
    """The next header as a value, None at the end; raises `store-corrupt` unless we would write the same bytes."""
    raw = source.take(BLOCK)
    if raw == END_OF_ARCHIVE[:BLOCK]:
        if source.take(BLOCK) != raw or not source.at_end():
            raise _refused("something follows its end")
        return None
    extended: dict[bytes, bytes] = {}
    if raw[156:157] == _EXTENDED:
        extended, records = _extended(raw, source)
        raw += records + source.take(BLOCK)
    try:
        entry, rebuilt = _parsed(raw[-BLOCK:], extended)
    except (ValueError, KeyError):
        raise _refused("a header cannot be read") from None
    if rebuilt != raw:
        raise _refused(f"the header of {entry.path!r} is not one that nnenv writes")
    if rule := broken_path_rule(entry.path) or (entry.kind == "hardlink" and broken_path_rule(entry.target)):
        raise _refused(f"{entry.path!r}: {rule}")
    return entry


def _extended(block: bytes, source: _Source) -> tuple[dict[bytes, bytes], bytes]:
    """The records of a PAX header, and their bytes with padding; rebuilding the header proves them later."""
    try:
        length = int(block[124:135], 8)
    except ValueError:
        raise _refused("a PAX header cannot be read") from None
    if not 0 <= length <= _EXTENDED_LIMIT:
        raise _refused(f"a PAX header has {length} bytes")
    raw = source.take(length + -length % BLOCK)
    return dict(_EXTENDED_RECORD.findall(raw[:length])), raw


def _parsed(block: bytes, extended: dict[bytes, bytes]) -> tuple[_TarEntry, bytes]:
    """The entry of a header, and the header that we would write for it; ValueError or KeyError if it is none."""
    mode, uid, gid = (int(block[start : start + 7], 8) for start in (100, 108, 116))
    size = int(extended.get(b"size", b"%d" % int(block[124:135], 8)))
    kind = _KINDS[block[156:157]]
    path = extended.get(b"path", block[:100].rstrip(b"\0")).decode()
    target = extended.get(b"linkpath", block[157:257].rstrip(b"\0")).decode()
    entry = _TarEntry(
        path=path.removesuffix("/") if kind == "dir" else path,
        kind=kind,
        mode=mode,
        size=size,
        target=target,
        mtime=int(block[136:147], 8),
    )
    rebuilt = header(entry.path, kind, size=size, mode=mode, target=target, uid=uid, gid=gid, mtime=entry.mtime)
    return entry, rebuilt


def _refused(rule: str) -> NnenvError:
    return NnenvError(
        "store-corrupt",
        "a layer's tar is not one that nnenv writes",
        because=[rule],
        fix=["run the command again; the layer is made anew"],
    )
