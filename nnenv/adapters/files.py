"""Single files on disk: written whole or not at all, locked by the kernel, read without leaving a directory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from nnenv.errors import NnenvError

UNSAFE_VARIABLE: Final = "NNENV_TEST_UNSAFE"
"""Test-only: a comma-separated list of guards to switch off (`verify`, `fsync`, `lease`), so that a test can
show that it fails without them. Never set it outside of tests."""

_REFUSED_WRITE: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("the disk is full", "free some space and run the command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or raise the quota, then run the command again"),
    errno.EFBIG: ("the file would be larger than the limit", "raise the file-size limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "use a place that can be written, or remount it"),
    errno.EACCES: ("permission denied", "make the directory writable for this user"),
    errno.EPERM: ("permission denied", "make the directory writable for this user"),
    errno.EIO: ("the disk reported an input/output error", "check the disk (dmesg), then run the command again"),
}
_TEMPORARY_SUFFIX: Final = ".nnenv-tmp"


def guarded(guard: str) -> bool:
    """True unless `NNENV_TEST_UNSAFE` names `guard`."""
    return guard not in os.environ.get(UNSAFE_VARIABLE, "").split(",")


def write_refused(error: OSError, path: Path) -> NnenvError:
    """`error` of a write to `path` as a `disk-full` refusal that names the path, the cause and the fix."""
    cause, fix = _REFUSED_WRITE.get(
        error.errno or 0, (error.strerror or str(error), "look at the path, then run the command again")
    )
    return NnenvError("disk-full", f"cannot write: {cause}", where=str(path), because=[str(error)], fix=[fix])


@contextmanager
def refusing_writes(path: Path) -> Iterator[None]:
    """Every OSError inside as a `disk-full` refusal that names `path`."""
    try:
        yield
    except OSError as error:
        raise write_refused(error, path) from error


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data`: the kernel may take fewer at a time than it was given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(descriptor: int) -> None:
    """Bring the file to the disk. An error is final: after a failed fsync the kernel forgets what it lost."""
    if guarded("fsync"):
        os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Bring the names in `directory` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def is_named(descriptor: int, path: Path) -> bool:
    """True if `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: a reader, or a power cut, finds the old file or the new one.

    The new file has exactly `mode`, whatever the umask. A symlink at `path` is replaced, not followed.
    Raises NnenvError (`disk-full`) naming the path; the old file is then untouched and no temporary stays.
    """
    stream_atomically(path, (data,), mode=mode)


def stream_atomically(path: Path, chunks: Iterable[bytes], *, mode: int = 0o644) -> None:
    """`write_atomically` for bytes that do not fit into memory; an exception of `chunks` leaves the old file."""
    with refusing_writes(path):
        _sweep_temporaries(path)
        descriptor, temporary = _temporary_for(path)
        try:
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.fchmod(descriptor, mode)
            sync(descriptor)
            temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def _temporary_for(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked by its descriptor so that a sweep by another process leaves it alone."""
    while True:
        temporary = path.with_name(f".{path.name[:200]}.{os.urandom(8).hex()}{_TEMPORARY_SUFFIX}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        # Waits for a sweep that got here first: it has removed the file when the lock comes.
        # Without locks on this file system nobody sweeps either.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept between creation and lock


def _sweep_temporaries(path: Path) -> None:
    """Remove what killed writers of `path` left behind: the kernel has dropped their locks."""
    for temporary in path.parent.glob(f".{_literal(path.name[:200])}.*{_TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(descriptor)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def compare_and_swap(path: Path, data: bytes, expected_old: bytes | None, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` if it still holds `expected_old` (None: if it still does not exist).

    Writers exclude each other by a kernel lock on the directory. Equal bytes are not written again.
    Raises NnenvError: `changed-meanwhile`, `disk-full`, or `store-unusable` where the kernel offers no lock.
    """
    with refusing_writes(path):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock_exclusively(directory, path.parent)
        with refusing_writes(path):
            current = path.read_bytes() if path.exists() else None
        if current != expected_old:
            raise NnenvError(
                "changed-meanwhile",
                f"{path.name} changed on disk while nnenv was working",
                where=str(path),
                because=["its bytes are not the ones that were read; nothing was written"],
                fix=["run the command again"],
            )
        if data != current:
            write_atomically(path, data, mode=mode)
    finally:
        os.close(directory)


@contextmanager
def exclusive_lock(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the kernel lock of the file `path`, made if missing and removed at the end.

    A killed holder's lock is free at once. Threads of one process exclude each other too; not re-entrant.
    `waiting` is called again and again while another holds the lock: it sleeps, and may raise to give up;
    without it the call blocks. Raises NnenvError: `store-unusable` (no locks), `disk-full` (not writable).
    """
    descriptor = _locked_file(path, waiting)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits finds the name gone, or anew, and starts over.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked_file(path: Path, waiting: Callable[[], None] | None) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_refused(error, path) from error
        try:
            lock_exclusively(descriptor, path, waiting)
            if is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock_exclusively(descriptor: int, path: Path, waiting: Callable[[], None] | None = None) -> None:
    """Take the kernel lock of an open file, which `path` names in messages; it is given back when the file is closed.

    `waiting` and refusals as in `exclusive_lock`.
    """
    operation = fcntl.LOCK_EX if waiting is None else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        try:
            fcntl.flock(descriptor, operation)
            return
        except BlockingIOError:
            assert waiting is not None
            waiting()
        except OSError as error:
            raise NnenvError(
                "store-unusable",
                "the file system offers no kernel locks (flock)",
                where=str(path),
                because=[str(error)],
                fix=["use a local directory (for the store: NNENV_STORE or --store)"],
            ) from error


def read_inside(root: Path, relative: str, limit: int) -> bytes:
    """The bytes of the regular file `relative` below `root`, at most `limit` of them.

    Raises NnenvError as `open_inside`, and `file-unreadable` when the file is larger than `limit`.
    """
    with open_inside(root, relative) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise NnenvError(
            "file-unreadable",
            f"{relative} is larger than the {limit} bytes that such a file may have",
            where=relative,
            fix=["check that this is the file that you mean"],
        )
    return data


def open_inside(root: Path, relative: str) -> BinaryIO:
    """The regular file `relative` below `root`, open for reading; the caller closes it.

    Symlinks are followed as long as they stay below `root`.
    Raises NnenvError: `path-escapes` (leaves `root`, by `..`, an absolute path or a symlink),
    `file-unreadable` (missing, not a regular file, or not readable).
    """
    steps = _steps_inside(root, relative)
    try:
        descriptor = _open_steps(root, steps)
    except OSError as error:
        raise _unreadable(relative, error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unreadable(relative, "not a regular file")
    return os.fdopen(descriptor, "rb")


def open_beside(root: Path, relative: str, location: str) -> BinaryIO:
    """The file at `location` from the folder of `relative`, itself a file below `root`; the caller closes it.

    Stricter than `open_inside`: no part of `location` may be a link, and the file may have no second name, because what
    names it is a downloaded file and not the user. Raises NnenvError as `open_inside`.
    """
    steps = _steps_inside(root, relative)[:-1] + tuple(location.split("/"))
    if any(step in {"", ".", ".."} or "\0" in step for step in steps):
        raise _escapes(location, "it holds `..`, an empty part or a NUL byte")
    try:
        descriptor = _open_steps(root, steps)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise _escapes(location, "it is a symbolic link, or behind one") from error
        raise _unreadable(location, error.strerror or str(error)) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(descriptor)
        if stat.S_ISREG(facts.st_mode):
            raise _escapes(location, "it is a hard link: the file has another name somewhere")
        raise _unreadable(location, "not a regular file")
    return os.fdopen(descriptor, "rb")


def _steps_inside(root: Path, relative: str) -> tuple[str, ...]:
    """The components of `relative` below `root` after following symlinks."""
    if "\0" in relative or Path(relative).is_absolute():
        raise _escapes(relative, "it is an absolute path or holds a NUL byte")
    try:
        top = root.resolve(strict=True)
        resolved = (root / relative).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop
        raise _unreadable(relative, str(error)) from error
    if not resolved.is_relative_to(top):
        raise _escapes(relative, "after following `..` and symlinks it lies outside")
    return resolved.relative_to(top).parts


def _open_steps(root: Path, steps: tuple[str, ...]) -> int:
    """Open component by component without following symlinks: what was checked is what is opened."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, step in enumerate(steps, start=1):
        kind = os.O_DIRECTORY if number < len(steps) else os.O_NONBLOCK  # a FIFO must not block
        parent = descriptor
        try:
            descriptor = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=parent)
        finally:
            os.close(parent)
    return descriptor


def _escapes(relative: str, reason: str) -> NnenvError:
    return NnenvError(
        "path-escapes",
        f"{relative!r} leaves its directory",
        where=relative,
        because=[reason],
        fix=["use a relative path to a file inside; copy the file there if it lives elsewhere"],
    )


def _unreadable(relative: str, reason: str) -> NnenvError:
    return NnenvError(
        "file-unreadable",
        f"cannot read {relative}: {reason}",
        where=relative,
        fix=["check the path and its permissions"],
    )
