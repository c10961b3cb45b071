"""Taking entries out of a store while other processes work in it; killed at any moment, it leaves a sound store.

Objects and trees are renamed into `tmp/` while the gate is shut (see `leases`) and unlinked after it is open again: a
killed collection leaves only what every later command sweeps from `tmp/`. A record may go at any time, since whoever
misses one makes it anew.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nnenv.adapters.files import guarded, refusing_writes
from nnenv.adapters.inventory import Entry, Part
from nnenv.adapters.leases import COLLECTOR, GATE, Collector, collecting, object_name, tree_name
from nnenv.adapters.store import Store, remove, remove_if_free
from nnenv.errors import NnenvError

_AT_ONCE: Final = 128
"""Entries that are taken away while the gate is shut: a few milliseconds of renames."""

_SHARED: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "prl_fs", "smb3"}
    | {"smbfs", "vboxsf", "virtiofs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"}
)
"""File systems, as mountinfo spells them, whose other machines neither see our kernel locks nor show us theirs."""

_TEMPORARY: Final = re.compile(r"nnenv-(?:gpgv|probe)-[A-Za-z0-9_]+")
"""Folders in the system's temporary folder that a killed nnenv may have left behind."""


class Bin:
    """A collection under way in `store`: takes entries away."""

    def __init__(self, store: Store, collector: Collector) -> None:
        self._store = store
        self._collector = collector

    def in_use(self, entries: Iterable[Entry]) -> set[Path]:
        """Of these, the objects and trees that a process uses now."""
        held = self._collector.held() if guarded("lease") else ()
        return {entry.path for entry in entries if _lease_name(entry) in held}

    def remove(self, entries: Sequence[Entry], removed: Callable[[Entry], object]) -> None:
        """Take the entries away, but for those that a process uses; `removed` is told of each one that is gone.

        Raises NnenvError (`disk-full`) where the store cannot be written.
        """
        held_back = [entry for entry in entries if entry.part in (Part.OBJECT, Part.TREE)]
        for start in range(0, len(held_back), _AT_ONCE):
            for entry, aside in self._put_aside(held_back[start : start + _AT_ONCE]):
                remove(aside)
                removed(entry)
        for entry in entries:
            if entry.part not in (Part.OBJECT, Part.TREE) and self._removed(entry):
                removed(entry)

    def tidy(self) -> None:
        """Remove kernel locks and half-written files of killed processes; they hold nothing."""
        places = [path for path in (self._store.root / "locks").iterdir() if path.name not in (GATE, COLLECTOR)]
        for path in (*places, *(self._store.root / "roots").glob(".*")):
            remove_if_free(path)

    def _put_aside(self, entries: Iterable[Entry]) -> list[tuple[Entry, Path]]:
        """Those that nobody uses, each with the name in `tmp/` that it has now."""
        moved = []
        with self._collector.shut_gate() as names:
            held = names if guarded("lease") else ()
            for entry in entries:
                if _lease_name(entry) in held:
                    continue
                aside = self._store.root / "tmp" / f"gone-{os.urandom(8).hex()}"
                with refusing_writes(entry.path), suppress(FileNotFoundError):
                    if entry.part is Part.TREE:
                        # First the marker: a tree without it is not taken for a whole one.
                        entry.path.with_name(f"{entry.path.name}.ok").unlink(missing_ok=True)
                    entry.path.rename(aside)
                    moved.append((entry, aside))
        return moved

    def _removed(self, entry: Entry) -> bool:
        if entry.part in (Part.PARTIAL, Part.WORK, Part.LEFT):
            return remove_if_free(entry.path)
        with refusing_writes(entry.path):
            if entry.part is Part.RECORD:
                entry.path.unlink(missing_ok=True)
            else:
                remove(entry.path)
        return True


def _lease_name(entry: Entry) -> str:
    return tree_name(entry.name) if entry.part is Part.TREE else object_name(entry.name)


@contextmanager
def opened_bin(store: Store) -> Iterator[Bin]:
    """The only collection of the store; what must stay is read inside of the `with` (see `leases.collecting`).

    Raises NnenvError: `store-unusable` on a disk that machines share, or without kernel locks; `disk-full` where the
    store cannot be written.
    """
    refuse_shared_disk(store.root, Path("/proc/self/mountinfo"))
    with collecting(store.root) as collector:
        yield Bin(store, collector)


def refuse_shared_disk(root: Path, mounts: Path) -> None:
    """NnenvError `store-unusable` if other machines may work in the store unseen; `mounts` as in proc(5)."""
    try:
        kind = file_system(os.path.realpath(root), mounts.read_text("utf-8", "surrogateescape"))
    except OSError:
        return
    if kind not in _SHARED:
        return
    raise NnenvError(
        "store-unusable",
        f"garbage is not collected in a store on {kind}",
        where=str(root),
        because=["processes on other machines may use an entry, and their kernel locks do not show here"],
        fix=[
            "keep the store on a local disk (NNENV_STORE or --store)",
            "while nobody uses it, run `nnenv store gc` on the machine whose disk it is",
        ],
    )


def file_system(path: str, mountinfo: str) -> str:
    """The type of the file system that holds the absolute `path`, or "" (proc(5), /proc/pid/mountinfo)."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two mounts at one place the later one is seen
            best, kind = point, after.split(" ")[0]
    return kind


def temporary_leftovers(before_ns: int) -> Iterator[Path]:
    """Folders of ours in the system's temporary folder that nobody has touched since `before_ns` (since 1970)."""
    try:
        found = [entry for entry in os.scandir(tempfile.gettempdir()) if _TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return
    for entry in sorted(found, key=lambda entry: entry.name):
        with suppress(FileNotFoundError):
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and facts.st_mtime_ns < before_ns:
                yield Path(entry.path)
