"""The content-addressed store: what was acknowledged is on the disk, and what is read hashes to its name.

Layout below the root (mode 0700):

    version                         the layout's number
    objects/sha256/ab/DIGEST        artifacts and layers, mode 0444
    derived/KIND/ab/NAME            memo records with their own checksum; lost ones are made anew
    trees/KEY/, trees/KEY.ok        extracted directories, and outside of each the marker that it is complete
    locks/                          kernel locks
    leases/TOKEN                    what one process uses, so that no collection of garbage removes it
    roots/NAME                      where a project's model.lock lies, whose needs no collection removes
    tmp/TOKEN/                      what one process is writing; removed by others once its lock is free
    tmp/partial/DIGEST              downloads that were cut short
    quarantine/DIGEST.TOKEN         entries that did not hash to their names

The order of every write is: temporary file on the same file system, hash while writing, compare size and
digest, fsync, rename, fsync of the directory, only then the acknowledgement.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from nnenv.adapters.files import (
    exclusive_lock,
    guarded,
    is_named,
    refusing_writes,
    sync,
    sync_directory,
    write_all,
    write_atomically,
)
from nnenv.adapters.leases import Lease, object_name, tree_name
from nnenv.errors import NnenvError
from nnenv.spec.digest import Sha256, sha256_of

LAYOUT: Final = b"nnenv store 1\n"

_CHUNK: Final = 1 << 20
_RECORD: Final = b"nnenv record 1 "
_SETTLED_NS: Final = 20_000_000
"""Two writes within one tick of the kernel's clock (10 ms at most) leave the same times: a younger file may
still change without a trace, so its verification is not remembered."""

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime in nanoseconds. A user can set mtime back, but not ctime."""


class StoreCorrupt(NnenvError):
    """An entry did not hash to its name; it is in quarantine, so fetching or making it again heals the store."""

    def __init__(self, sha256: Sha256, path: Path, reason: str, moved: Path | None) -> None:
        super().__init__(
            "store-corrupt",
            "a store entry is damaged",
            where=str(path),
            because=[reason, f"moved to {moved}" if moved else "it could not be moved to quarantine"],
            fix=["run the command again with network access: the entry is fetched or made anew"],
        )
        self.sha256 = sha256


class StoreMissing(NnenvError):
    """An entry is not in the store."""

    def __init__(self, sha256: Sha256, path: Path) -> None:
        super().__init__(
            "store-missing",
            "an entry is not in the store",
            where=str(path),
            fix=["run the command again with network access: the entry is fetched or made anew"],
        )
        self.sha256 = sha256


def default_root(environ: Mapping[str, str]) -> Path:
    """`$NNENV_STORE`, else `$XDG_CACHE_HOME/nnenv`, else `~/.cache/nnenv`.

    A relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification, "Basics").
    Raises NnenvError (`store-unusable`) when none of the variables, HOME included, says a place.
    """
    if environ.get("NNENV_STORE"):
        return Path(environ["NNENV_STORE"]).expanduser().absolute()
    cache = Path(environ.get("XDG_CACHE_HOME", ""))
    if cache.is_absolute():
        return cache / "nnenv"
    if environ.get("HOME"):
        return Path(environ["HOME"]).absolute() / ".cache" / "nnenv"
    raise NnenvError(
        "store-unusable",
        "there is no place for the store",
        because=["neither NNENV_STORE, XDG_CACHE_HOME nor HOME is set"],
        fix=["set NNENV_STORE to a directory, or give --store"],
    )


class ObjectWriter:
    """One object on its way into the store; use it in a `with` and call `commit`, else nothing stays."""

    def __init__(
        self,
        *,
        path: Path,
        descriptor: int,
        expected: Sha256 | None,
        size: int | None,
        publish: Callable[[Path, int, Sha256], None],
        resumable: bool = False,
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._expected = expected
        self._size = size
        self._publish = publish
        self._resumable = resumable
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._open = True
        self.written = 0
        """Bytes so far, those of a resumed download included."""

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Take the chunk; its length comes back.

        Raises NnenvError: `digest-mismatch` once there are more bytes than `size`, `disk-full`.
        """
        self.written += len(chunk)
        if self._size is not None and self.written > self._size:
            raise self._mismatch(f"more than the expected {self._size} bytes")
        self._hash.update(chunk)
        self._buffer += chunk
        if len(self._buffer) >= _CHUNK:
            self._flush()
        return len(chunk)

    def matches(self) -> bool:
        """True if the bytes so far are the expected ones."""
        return self.sha256 == self._expected and self._size in (None, self.written)

    @property
    def sha256(self) -> Sha256:
        """Of the bytes so far."""
        return Sha256(self._hash.hexdigest())

    def restart(self) -> None:
        """Drop the bytes so far and begin anew."""
        with refusing_writes(self._path):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self._buffer.clear()
        self.written = 0

    def commit(self) -> tuple[Sha256, int]:
        """Publish the object and return its name and size: after this it survives a power cut
        (inside `Store.batch`: after the end of the batch).

        Raises NnenvError: `digest-mismatch`, `disk-full`.
        """
        self._flush()
        sha256 = self.sha256
        if guarded("verify"):
            self._compare(sha256)
        name = self._expected or sha256
        with refusing_writes(self._path):
            # A write that claims more than it stored would pass the hash, which saw only what was given.
            if os.fstat(self._descriptor).st_size != self.written:
                raise OSError(errno.EIO, "the file is shorter than what was written to it")
            os.fchmod(self._descriptor, 0o444)
            self._publish(self._path, self._descriptor, name)
        self._close()
        return name, self.written

    def resume(self) -> None:
        """Go on behind the bytes that an earlier process left."""
        with refusing_writes(self._path):
            while chunk := os.read(self._descriptor, _CHUNK):
                self._hash.update(chunk)
                self.written += len(chunk)
        if self._size is not None and self.written > self._size:
            self.restart()

    def _flush(self) -> None:
        with refusing_writes(self._path):
            write_all(self._descriptor, self._buffer)
        self._buffer.clear()

    def _compare(self, sha256: Sha256) -> None:
        if self._size is not None and self.written != self._size:
            raise self._mismatch(f"{self.written} bytes instead of {self._size}")
        if self._expected is not None and sha256 != self._expected:
            raise self._mismatch(f"its sha256 is {sha256}")

    def _mismatch(self, found: str) -> NnenvError:
        return NnenvError(
            "digest-mismatch",
            "the bytes are not the expected ones",
            where=f"sha256:{self._expected}" if self._expected else None,
            because=[found],
            fix=["run the command again; if it stays, the source changed: lock again and look at the difference"],
        )

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if self._resumable:
            # What is lost here is fetched again, so a full disk must not hide the first error.
            with suppress(NnenvError):
                self._flush()
        else:
            with suppress(OSError):
                self._path.unlink()
        self._close()


class Batch:
    """Many objects that become durable together, at the end of the `with`; until then none can be opened.

    One sync of the file system instead of two fsyncs for each object: 9 to 15 times faster for small ones.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: list[tuple[Path, Sha256]] = []

    def writer(self, expected: Sha256 | None = None, size: int | None = None) -> ObjectWriter:
        """As `Store.writer`; the object is published with the batch."""
        return self._store._writer(expected, size, lambda path, _, sha256: self._written.append((path, sha256)))

    def put(self, data: bytes) -> Sha256:
        """As `Store.put`; the object is published with the batch."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()[0]

    def _publish(self) -> None:
        if not self._written:
            return
        place = self._written[0][0].parent
        with refusing_writes(place):
            _sync_file_system(place)
            changed = {directory for path, sha256 in self._written for directory in self._store._rename(path, sha256)}
            for directory in sorted(changed):
                sync_directory(directory)

    def _discard(self) -> None:
        for path, _ in self._written:
            with suppress(OSError):
                path.unlink()


class Store:
    """The store at `root`, which is made by the first write; a read-only one can be read.

    Every object is hashed when a process first opens it, and again when its file changed since.
    `trust_stamps` believes a verification by an earlier process as long as the file's times, size and inode
    are the same: that misses a rotten disk, so only commands that use no bytes may ask for it.
    Safe to share between threads and processes. Raises NnenvError (`store-unusable`) on a newer layout.
    """

    def __init__(self, root: Path, *, trust_stamps: bool = False) -> None:
        self.root = root
        self._trust_stamps = trust_stamps
        self._verified: dict[Sha256, Stamp] = {}
        self._whole_trees: set[str] = set()
        self._workspace: Path | None = None
        self._workspace_process = 0
        self._leave: Callable[[], object] = int
        self._mutex = threading.Lock()
        self._lease = Lease(root)
        self._check_layout()

    # Objects

    def contains(self, sha256: Sha256) -> bool:
        """True if there is an entry of this name; nothing is read, so it may be damaged (see `check`)."""
        self._hold_object(sha256)
        return self._object(sha256).is_file()

    def check(self, sha256: Sha256) -> bool:
        """True if the entry is there and whole; a damaged one goes to quarantine and counts as absent."""
        self._hold_object(sha256)
        try:
            os.close(self._open_verified(sha256))
        except (StoreMissing, StoreCorrupt):
            return False
        return True

    def open(self, sha256: Sha256) -> BinaryIO:
        """The object's verified bytes; the caller closes.

        Raises StoreMissing, or StoreCorrupt after moving the damaged entry to quarantine.
        """
        self._hold_object(sha256)
        return os.fdopen(self._open_verified(sha256), "rb")

    @contextmanager
    def reading(self, sha256: Sha256) -> Iterator[BinaryIO]:
        """The object's bytes, verified by another thread while they are read; what was made of them may be kept only
        when the `with` has ended without an error. Half the time of `open` and reading for a large object.

        Raises as `open`, at the beginning or at the end.
        """
        found: list[Exception] = []

        def verify() -> None:
            try:
                os.close(self._open_verified(sha256))
            except Exception as error:  # told to the reader
                found.append(error)

        path = self._object(sha256)
        descriptor, reason = self._open_object(sha256, path)
        if reason:
            _close(descriptor)
            descriptor = self._open_verified(sha256)
        thread = threading.Thread(target=verify, name=f"verify {sha256[:8]}", daemon=True)
        with os.fdopen(descriptor, "rb") as stream:
            thread.start()
            try:
                yield stream
            except Exception:
                # A damaged object explains whatever went wrong with its bytes.
                thread.join()
                if found:
                    raise found[0] from None
                raise
        thread.join()
        if found:
            raise found[0]

    def path(self, sha256: Sha256) -> Path:
        """The object's file, verified now. Raises as `open`."""
        self._hold_object(sha256)
        os.close(self._open_verified(sha256))
        return self._object(sha256)

    def writer(self, expected: Sha256 | None = None, size: int | None = None) -> ObjectWriter:
        """A writer for one object; with `expected` and `size` other bytes are refused."""
        return self._writer(expected, size, self._publish)

    def partial(self, expected: Sha256, size: int | None = None) -> ObjectWriter:
        """A writer that goes on where an interrupted one stopped and, without a commit, leaves its bytes
        for the next. The caller holds a lock that makes it the only one for `expected`."""
        directory = self.root / "tmp" / "partial"
        path = directory / expected
        self._ready()
        with refusing_writes(path):
            _make_directory(directory)
            descriptor = _open_locked(path)
        writer = ObjectWriter(
            path=path, descriptor=descriptor, expected=expected, size=size, publish=self._publish, resumable=True
        )
        writer.resume()
        return writer

    def put(self, data: bytes) -> Sha256:
        """Store `data`; durable when this returns."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()[0]

    def add(self, stream: BinaryIO, expected: Sha256 | None = None, size: int | None = None) -> tuple[Sha256, int]:
        """Store what is left of `stream`; its name and size come back. Raises as `ObjectWriter.commit`."""
        with self.writer(expected, size) as writer:
            while chunk := stream.read(_CHUNK):
                writer.write(chunk)
            return writer.commit()

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Many objects at the price of few syncs; after an exception none of them is kept."""
        batch = Batch(self)
        try:
            yield batch
            batch._publish()
        finally:
            batch._discard()

    def quarantine(self, sha256: Sha256) -> Path | None:
        """Move the entry out of the way; its new path comes back, or None if it is not there or cannot move."""
        directory = self.root / "quarantine"
        moved = directory / f"{sha256}.{os.urandom(4).hex()}"
        self._verified.pop(sha256, None)
        try:
            _make_directory(directory)
            self._object(sha256).rename(moved)
        except OSError:  # a store that cannot be written can still name what is damaged
            return None
        return moved

    def objects(self) -> Iterator[Sha256]:
        """The names of all entries, sorted."""
        for path in sorted((self.root / "objects" / "sha256").glob("??/*")):
            with suppress(ValueError):
                yield sha256_of(path.name)

    def verify_all(
        self, *, workers: int = 1, advance: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[Sha256, bool]]:
        """Hash every entry again, whatever was verified before; damaged ones go to quarantine.

        `advance` is told of the bytes that were read, from any of the `workers` threads.
        """
        from concurrent.futures import ThreadPoolExecutor

        stopped = threading.Event()

        def verified(sha256: Sha256) -> bool | None:
            return None if stopped.is_set() else self._verified_again(sha256, tell)

        def tell(count: int) -> None:
            if stopped.is_set():  # a long file must not hold up an interrupt
                raise InterruptedError
            advance(count)

        names = list(self.objects())
        pool = ThreadPoolExecutor(workers)
        try:
            for sha256, whole in zip(names, pool.map(verified, names), strict=True):
                if whole is not None:
                    yield sha256, whole
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def _verified_again(self, sha256: Sha256, advance: Callable[[int], object]) -> bool | None:
        """Whether the entry is whole; None if it was removed meanwhile."""
        self._verified.pop(sha256, None)
        try:
            os.close(self._open_verified(sha256, believe=False, advance=advance))
        except StoreMissing:
            return None
        except StoreCorrupt:
            return False
        return True

    def verify_tree(self, key: str) -> bool:
        """Whether an extracted directory is what was extracted; a changed one is made anew by its next use, as one
        that is not complete, which counts as whole."""
        place = self.root / "trees" / key
        with self.lock(f"tree-{key}"):
            if not _marker(place).exists() or self._intact(place):
                return True
            _marker(place).unlink(missing_ok=True)
        self._whole_trees.discard(key)
        return False

    # Memo records

    def load(self, kind: str, key: str) -> bytes | None:
        """What `save` kept, or None; a damaged record is dropped, and its maker makes it anew."""
        path = self._record(kind, key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        header, _, data = content.partition(b"\n")
        if guarded("verify") and header != _record_header(kind, key, data):
            with suppress(OSError):
                path.unlink()
            return None
        return data

    def save(self, kind: str, key: str, data: bytes, *, durable: bool = False) -> None:
        """Keep a small result under any text `key`. A power cut may lose it unless `durable`, never alter it.

        Does nothing in a store that is read-only. Raises NnenvError (`disk-full`).
        """
        if self.root.exists() and not os.access(self.root, os.W_OK):
            return
        path = self._record(kind, key)
        content = _record_header(kind, key, data) + b"\n" + data
        temporary = self._temporary()
        with refusing_writes(path):
            # A record that may be lost may lose its directories too: a cold lock makes hundreds of each.
            _make_directory(path.parent, lasting=durable)
            if durable:
                for directory in path.parents[1:4]:
                    sync_directory(directory)
            self._write_record(temporary, path, content, durable)

    # Extracted directories

    def tree(self, key: str, build: Callable[[Path], None]) -> Path:
        """The directory that `build` fills when it is called with a new, empty one; built once for all processes.

        Everything in it is hashed when a process first uses it: a tree that was changed is built again.
        `key` is made of lower-case letters, digits, `-` and `_`.
        """
        if not re.fullmatch(r"[0-9a-z][0-9a-z_-]{0,199}", key):
            raise ValueError(f"not a tree key: {key!r}")
        place = self.root / "trees" / key
        self._lease.hold(tree_name(key))
        if key not in self._whole_trees:
            if not self._intact(place):
                with self.lock(f"tree-{key}"):
                    if not self._intact(place):
                        self._build(place, build)
            self._whole_trees.add(key)
        return place

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new, empty directory on the store's file system, removed afterwards; `sweep` removes a killed process's."""
        path = self._temporary()
        with refusing_writes(path):
            path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            remove(path)

    # Projects

    def add_root(self, lock: Path) -> None:
        """Remember where a model.lock lies: what it needs is no garbage, as long as it is there.

        Does nothing if it is known, or in a store that is read-only. Raises NnenvError (`disk-full`).
        """
        place = os.fsencode(os.path.realpath(lock.parent)) + b"/" + os.fsencode(lock.name)
        root = self.root / "roots" / hashlib.sha256(place).hexdigest()
        if root.exists() or (self.root.exists() and not os.access(self.root, os.W_OK)):
            return
        self._ready()
        with refusing_writes(root):
            _make_directory(root.parent)
        write_atomically(root, place, mode=0o600)

    def roots(self) -> dict[Path, Path]:
        """The remembered model.lock files by the entries that remember them; some may be gone."""
        found = {}
        for entry in _entries(self.root / "roots"):
            if re.fullmatch("[0-9a-f]{64}", entry.name):
                with suppress(FileNotFoundError):
                    found[entry] = Path(os.fsdecode(entry.read_bytes()))
        return found

    # The store as a whole

    def lock(self, name: str, *, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """The store-wide lock `name`; see `files.exclusive_lock`."""
        self._ready()
        return exclusive_lock(self.root / "locks" / name, waiting=waiting)

    def sweep(self, *, everything: bool = False) -> int:
        """Remove what killed processes left in `tmp/`, and with `everything` also cut downloads and the
        quarantine; the number of removed entries comes back. What a live process uses stays."""
        places = [entry for entry in _entries(self.root / "tmp") if entry.name != "partial"]
        if everything:
            places += _entries(self.root / "tmp" / "partial")
        removed = sum(remove_if_free(entry) for entry in places)
        if everything:
            rejected = _entries(self.root / "quarantine")
            removed += len(rejected)
            for entry in rejected:
                remove(entry)
        return removed

    def close(self) -> None:
        """Give up the temporary directory and the hold on what was used; a later use begins anew. The end of the
        process does the same."""
        self._lease.close()
        with self._mutex:
            if self._workspace is not None:
                self._leave()
            self._workspace = None

    def size(self) -> int:
        """Bytes of all files below the root."""
        total = 0
        for directory, _, names in os.walk(self.root):
            for name in names:
                with suppress(FileNotFoundError):
                    total += (Path(directory) / name).lstat().st_size
        return total

    # Within

    def _hold_object(self, sha256: Sha256) -> None:
        """Keep collections of garbage away from the entry, whether it is there or comes later."""
        self._lease.hold(object_name(sha256))

    def _object(self, sha256: Sha256) -> Path:
        return self.root / "objects" / "sha256" / sha256[:2] / sha256

    def _record(self, kind: str, key: str) -> Path:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", kind):
            raise ValueError(f"not a record kind: {kind!r}")
        name = record_name(kind, key).partition("/")[2]
        return self.root / "derived" / kind / name[:2] / name

    def _open_verified(
        self, sha256: Sha256, *, believe: bool = True, advance: Callable[[int], object] | None = None
    ) -> int:
        path = self._object(sha256)
        while True:
            descriptor, reason = self._open_object(sha256, path)
            try:
                if not reason:
                    reason = self._damage(descriptor, sha256, believe=believe, advance=advance)
                if not reason:
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    return descriptor
                healed = descriptor >= 0 and not is_named(descriptor, path)
            except BaseException:
                _close(descriptor)
                raise
            _close(descriptor)
            if not healed:
                raise StoreCorrupt(sha256, path, reason, self.quarantine(sha256))

    def _open_object(self, sha256: Sha256, path: Path) -> tuple[int, str]:
        """An open file (or -1) and what is wrong with it, if anything."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreMissing(sha256, path) from None
        except OSError as error:
            return -1, f"it cannot be opened: {error.strerror}"
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, "it is not a regular file"
        return descriptor, ""

    def _damage(
        self, descriptor: int, sha256: Sha256, *, believe: bool, advance: Callable[[int], object] | None
    ) -> str:
        """What is wrong with the open object's bytes, or empty."""
        stamp = _stamp(os.fstat(descriptor))  # before hashing: a change meanwhile makes it differ later
        if not guarded("verify") or (believe and self._known(sha256, stamp)):
            return ""
        try:
            found = _digest(descriptor, advance)
        except InterruptedError:
            raise
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if found != sha256:
            return f"its sha256 is {found}"
        if time.time_ns() - stamp[-1] > _SETTLED_NS:
            self._verified[sha256] = stamp
            if self._trust_stamps:
                self.save("verified", sha256, repr(stamp).encode())
        return ""

    def _known(self, sha256: Sha256, stamp: Stamp) -> bool:
        if self._verified.get(sha256) == stamp:
            return True
        return self._trust_stamps and self.load("verified", sha256) == repr(stamp).encode()

    def _writer(
        self, expected: Sha256 | None, size: int | None, publish: Callable[[Path, int, Sha256], None]
    ) -> ObjectWriter:
        path = self._temporary()
        with refusing_writes(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
        return ObjectWriter(path=path, descriptor=descriptor, expected=expected, size=size, publish=publish)

    def _publish(self, path: Path, descriptor: int, sha256: Sha256) -> None:
        sync(descriptor)
        for directory in self._rename(path, sha256):
            sync_directory(directory)

    def _rename(self, path: Path, sha256: Sha256) -> list[Path]:
        """Give the finished file its name; the directories to sync come back.

        An entry that is there already is hashed, not trusted. If another process publishes in between, the
        rename replaces equal bytes by equal bytes.
        """
        target = self._object(sha256)
        changed = [target.parent]
        self._hold_object(sha256)
        if self.check(sha256):
            path.unlink()
            return changed
        if not target.parent.is_dir():
            _make_directory(target.parent)
            changed.append(target.parent.parent)
        path.rename(target)
        return changed

    def _write_record(self, temporary: Path, path: Path, content: bytes, durable: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            write_all(descriptor, content)
            if durable:
                sync(descriptor)
            temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        if durable:
            sync_directory(path.parent)

    def _intact(self, place: Path) -> bool:
        if not guarded("verify"):
            return place.is_dir() and _marker(place).exists()
        try:
            return _marker(place).read_bytes() == _listing(place)
        except OSError:
            return False

    def _build(self, place: Path, build: Callable[[Path], None]) -> None:
        new = self._temporary()
        with refusing_writes(place):
            try:
                new.mkdir()
                new.chmod(0o700)
                build(new)
                listing = _listing(new)
                _sync_file_system(new)
                _make_directory(place.parent)
                _marker(place).unlink(missing_ok=True)
                if place.exists() or place.is_symlink():
                    old = self._temporary()
                    place.rename(old)
                    remove(old)
                new.rename(place)
                write_atomically(_marker(place), listing, mode=0o600)
            finally:
                remove(new)

    def _check_layout(self) -> None:
        try:
            layout = (self.root / "version").read_bytes()
        except OSError:
            return
        if layout != LAYOUT:
            raise NnenvError(
                "store-unusable",
                "the store was laid out by another version of nnenv",
                where=str(self.root),
                because=[f"its version file does not say {LAYOUT.decode().strip()!r}"],
                fix=["use that nnenv, or another store (NNENV_STORE or --store)"],
            )

    def _temporary(self) -> Path:
        """A new name in this process's own directory below `tmp/`."""
        with self._mutex:
            if self._workspace is None or self._workspace_process != os.getpid():
                self._workspace = self._new_workspace()
                self._workspace_process = os.getpid()
        return self._workspace / os.urandom(8).hex()

    def _new_workspace(self) -> Path:
        """A directory that is locked as long as this process lives; those of dead ones are removed first."""
        self._ready()
        self.sweep()
        while True:
            workspace = self.root / "tmp" / f"{os.getpid()}-{os.urandom(8).hex()}"
            with refusing_writes(workspace):
                workspace.mkdir()
            try:
                workspace.chmod(0o700)
                descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # swept between its making and its lock
            if _take_lock(descriptor) and is_named(descriptor, workspace):
                self._leave = weakref.finalize(self, _leave, workspace, descriptor, os.getpid())
                return workspace
            os.close(descriptor)

    def _ready(self) -> None:
        """Make what a writer needs; costs one look when it is there."""
        if (self.root / "locks").is_dir() and (self.root / "version").exists():
            return
        with refusing_writes(self.root):
            for name in ("tmp", "objects/sha256", "derived", "trees", "locks"):
                _make_directory(self.root / name)
        write_atomically(self.root / "version", LAYOUT)


def record_name(kind: str, key: str) -> str:
    """`KIND/NAME` of a memo record. Keys may be URLs with secrets in them: only their hash becomes a name."""
    return f"{kind}/{hashlib.sha256(key.encode()).hexdigest()}"


def _digest(descriptor: int, advance: Callable[[int], object] | None = None) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        digest.update(view[:count])
        if advance is not None:
            advance(count)
    return digest.hexdigest()


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """The file, made if missing, with a lock that keeps `Store.sweep` away."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        _take_lock(descriptor)
        if is_named(descriptor, path):
            return descriptor
        os.close(descriptor)  # swept between its opening and its lock


def _take_lock(descriptor: int) -> bool:
    """False if another holds it. Where there are no locks everybody has it, and nobody sweeps."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _leave(workspace: Path, descriptor: int, process: int) -> None:
    """At the end of a store's life: a forked child must not remove its parent's directory."""
    if process == os.getpid():
        remove(workspace)
    os.close(descriptor)


def remove_if_free(entry: Path) -> bool:
    """Remove a file or directory whose kernel lock nobody holds; True if it is gone by that."""
    try:
        descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(entry)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove(entry: Path) -> None:
    """Remove a file or a whole directory, also one whose modes forbid it; what cannot go, stays."""
    import shutil

    if entry.is_dir() and not entry.is_symlink():
        for directory, names, _ in os.walk(entry):
            for name in names:
                place = Path(directory) / name
                if not place.is_symlink():
                    with suppress(OSError):
                        place.chmod(0o700)
        shutil.rmtree(entry, ignore_errors=True)
        return
    with suppress(OSError):
        entry.unlink()


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _make_directory(directory: Path, *, lasting: bool = True) -> None:
    """Make the directory and its parents, mode 0700 whatever the umask; `lasting` ones survive a power cut."""
    if directory.is_dir():
        return
    _make_directory(directory.parent, lasting=lasting)
    try:
        directory.mkdir()
    except FileExistsError:
        return
    directory.chmod(0o700)
    if lasting:
        sync_directory(directory.parent)


def _sync_file_system(place: Path) -> None:
    """Bring all that was written to the file system of `place` to the disk (Linux syncfs, which Python lacks)."""
    import ctypes

    if not guarded("fsync"):
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _record_header(kind: str, key: str, data: bytes) -> bytes:
    """The record's first line: a checksum over what it is, what it is for, and its bytes."""
    digest = hashlib.sha256(f"{kind}\0{len(key.encode())}\0{key}\0".encode())
    digest.update(data)
    return _RECORD + digest.hexdigest().encode()


def _marker(place: Path) -> Path:
    """Beside the tree, so that nothing in a tree can pose as it."""
    return place.with_name(f"{place.name}.ok")


def _listing(top: Path) -> bytes:
    """The sha256 over the sorted names, modes and contents below `top`, as a marker's line.

    No times: a rename touches a directory's mtime, a hard link into a sandbox a file's ctime.
    """
    digest = hashlib.sha256()
    pending = [top]
    while pending:
        directory = pending.pop()
        for entry in sorted(os.scandir(directory), key=lambda entry: os.fsencode(entry.name)):
            path = Path(entry.path)
            mode = entry.stat(follow_symlinks=False).st_mode
            digest.update(os.fsencode(entry.path[len(str(top)) :]) + f"\0{mode:o}\0".encode())
            if entry.is_symlink():
                digest.update(os.fsencode(path.readlink()))
            elif entry.is_dir():
                pending.append(path)
            else:
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            digest.update(b"\0")
    return digest.hexdigest().encode() + b"\n"
