"""Who uses what in a store: written down before an entry is looked at, so that a collection of garbage leaves it.

    leases/TOKEN        names that one process uses, a line each; its kernel lock says whether the process lives
    locks/gate          held shared while a line is written, exclusively while entries are taken away
    locks/collector     held exclusively by a collection, shared by a process that takes its own lease back

A process writes the name down first and looks for the entry afterwards. A collection shuts the gate, reads all leases,
takes away what none of them names, and opens the gate again: whoever looks later finds the entry gone and makes it
anew. The gate is shut for the time of some renames, so neither side waits long for the other, and a session that runs
for days hinders nothing but the removal of what it uses. A lease outlives its process until a collection that was under
way is over: what the process put into a lock meanwhile may have come too late for that collection to see.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnenv.adapters.files import guarded, is_named, lock_exclusively, refusing_writes

GATE = "gate"
COLLECTOR = "collector"
"""Files of `locks/` that are never removed: both sides must mean the same file."""


def object_name(sha256: str) -> str:
    """What leases call an object."""
    return f"object {sha256}"


def tree_name(key: str) -> str:
    """What leases call an extracted directory."""
    return f"tree {key}"


class Lease:
    """What this process uses of the store at `root`. Safe to share between threads; a forked child gets its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: set[str] = set()
        self._mutex = threading.Lock()
        self._process = 0
        self._gate = -1
        self._file = -1
        self._leave: Callable[[], object] = int

    def hold(self, name: str) -> None:
        """Keep every collection away from the entry until `close` or the end of the process.

        Costs a few system calls for a name that is new to this process. Where no lease can be written (a full disk,
        a read-only store), the gate itself is held instead: a collection then waits for the end of this process.
        """
        if name in self._held and self._process == os.getpid():
            return
        if not guarded("lease"):
            return
        with self._mutex:
            if self._process != os.getpid():
                self._begin()
            if self._gate >= 0:
                self._write((name,))
            self._held.add(name)

    def close(self) -> None:
        """Hold nothing any more; a later `hold` begins anew."""
        with self._mutex:
            if self._process == os.getpid():
                self._leave()
            self._leave = int
            self._process, self._gate, self._file = 0, -1, -1
            self._held.clear()

    def _begin(self) -> None:
        """Open gate and lease; what a parent process held, its child holds too."""
        if not (self._root / "locks").is_dir():
            return  # nothing is there that could be removed
        self._process = os.getpid()
        self._gate, self._file = _open_gate(self._root), -1
        if self._gate < 0:
            return
        path = None
        with suppress(OSError):
            path, self._file = _new_lease(self._root)
        self._leave = weakref.finalize(self, _leave, self._root, path, self._file, self._gate, self._process)
        if self._held:
            self._write(tuple(self._held))

    def _write(self, names: tuple[str, ...]) -> None:
        lines = "".join(f"{name}\n" for name in names).encode()
        with suppress(OSError):  # without kernel locks there are no collections either
            fcntl.flock(self._gate, fcntl.LOCK_SH)
        try:
            if self._file >= 0 and os.write(self._file, lines) == len(lines):
                fcntl.flock(self._gate, fcntl.LOCK_UN)
                return
        except OSError:
            pass
        self._file = -1  # from now on the gate stays held


class Collector:
    """A collection under way at `root`: what others use, and the gate."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, int] = {}
        self._held: set[str] = set()

    @contextmanager
    def shut_gate(self) -> Iterator[frozenset[str] | set[str]]:
        """What any process uses, which cannot grow inside: only there may entries be taken away. Keep it short."""
        self.held()  # most of the reading is done before anybody has to wait
        descriptor = _open_gate(self._root)
        try:
            lock_exclusively(descriptor, self._root / "locks" / GATE)
            yield self.held()
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def held(self) -> set[str]:
        """The names in all leases up to now."""
        for path in _leases(self._root):
            with suppress(FileNotFoundError), path.open("rb") as stream:
                stream.seek(self._read.get(path.name, 0))
                lines = stream.read()
                whole = lines[: lines.rfind(b"\n") + 1]
                self._read[path.name] = self._read.get(path.name, 0) + len(whole)
                self._held.update(whole.decode("ascii", "replace").split("\n"))
        return self._held


@contextmanager
def collecting(root: Path) -> Iterator[Collector]:
    """The only collection of the store at `root`; waits for another one.

    Read what must stay inside the `with`: what processes put into locks before it is on the disk, and what they use
    later is in leases that stay until its end.
    Raises NnenvError: `disk-full` (not writable), `store-unusable` (no kernel locks).
    """
    path = root / "locks" / COLLECTOR
    with refusing_writes(path):
        descriptor = _permanent(path, os.O_RDWR | os.O_CREAT)
    try:
        lock_exclusively(descriptor, path)
        _drop_leases_of_the_dead(root)
        yield Collector(root)
        _drop_leases_of_the_dead(root)
    finally:
        os.close(descriptor)


def _open_gate(root: Path) -> int:
    """The gate, made if missing; -1 where that cannot be."""
    path = root / "locks" / GATE
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with suppress(OSError):
            return _permanent(path, flags)
    return -1


def _permanent(path: Path, flags: int) -> int:
    """The open file, which stays; made with mode 0600 whatever the umask."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if flags & os.O_CREAT and os.fstat(descriptor).st_mode & 0o777 != 0o600:
        os.fchmod(descriptor, 0o600)
    return descriptor


def _new_lease(root: Path) -> tuple[Path, int]:
    """An empty lease with its kernel lock; OSError where none can be written."""
    directory = root / "leases"
    with suppress(FileExistsError):
        directory.mkdir()
        directory.chmod(0o700)
    while True:
        path = directory / f"{os.getpid()}-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        os.fchmod(descriptor, 0o600)  # whatever the umask
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_named(descriptor, path):
            return path, descriptor
        os.close(descriptor)  # taken for a dead process's between its making and its lock


def _leave(root: Path, path: Path | None, file: int, gate: int, process: int) -> None:
    """Take the lease back, unless a collection is under way: that one removes it at its end."""
    if process == os.getpid() and path is not None:
        with suppress(OSError):
            descriptor = -1
            with suppress(FileNotFoundError):  # no collection ever ran here
                descriptor = os.open(root / "locks" / COLLECTOR, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if descriptor >= 0:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                path.unlink()
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
    for descriptor in (file, gate):
        if descriptor >= 0:
            os.close(descriptor)


def _leases(root: Path) -> list[Path]:
    try:
        return sorted((root / "leases").iterdir())
    except FileNotFoundError:
        return []


def _drop_leases_of_the_dead(root: Path) -> None:
    for path in _leases(root):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
